//! The rank of a server in the index of servers with room: its build and its fill.

/// How full a ready server is, in thirds. The fill is part of the index's sort key ([`Rank`]), so the key changes three
/// times while a server fills up instead of with every claim. A full server has no fill and is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fill(u8);

impl Fill {
    /// The fill of the fullest servers that have room: two thirds of the slots or more are claimed.
    pub const TOP: Self = Self(2);
    /// The fill of the emptiest servers: less than a third of the slots is claimed.
    pub const EMPTY: Self = Self(0);

    /// The fill for a number of the table; `None` if there is none.
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self(0)),
            1 => Some(Self(1)),
            2 => Some(Self(2)),
            _ => None,
        }
    }

    /// The number of the fill in the table, 0 to 2.
    pub const fn number(self) -> i64 {
        self.0 as i64
    }

    /// The most free slots that a server with this fill and capacity has.
    pub fn most_room(self, capacity: u32) -> u32 {
        capacity.saturating_sub((u32::from(self.0).saturating_mul(capacity)).div_ceil(3))
    }

    /// The fewest free slots that a server with this fill and capacity has, at least 1.
    pub fn least_room(self, capacity: u32) -> u32 {
        let most_claims = (u32::from(self.0) + 1).saturating_mul(capacity).saturating_sub(1) / 3;
        capacity.saturating_sub(most_claims).max(1)
    }
}

/// The position of a server in the index: the newest build comes first, and within a build the fullest server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// The build that the server runs.
    pub build: u32,
    /// How full the server is.
    pub fill: Fill,
}

impl Rank {
    /// Rank numbers that each build has.
    const PER_BUILD: i64 = 4;

    /// The rank for a number of the table; `None` if there is none.
    pub fn from_number(number: i64) -> Option<Self> {
        let build = u32::try_from(number.div_euclid(Self::PER_BUILD)).ok()?;
        Some(Self { build, fill: Fill::from_number(number.rem_euclid(Self::PER_BUILD))? })
    }

    /// The number of the rank in the table.
    pub fn number(self) -> i64 {
        i64::from(self.build) * Self::PER_BUILD + self.fill.number()
    }

    /// The rank of the fullest server of a build.
    pub const fn top(build: u32) -> Self {
        Self { build, fill: Fill::TOP }
    }
}

/// The fill of a server with this many claims; `None` when it is full.
pub fn fill(claims: usize, capacity: u32) -> Option<Fill> {
    let claims = u32::try_from(claims).unwrap_or(u32::MAX);
    if claims >= capacity {
        return None;
    }
    Some(match claims.saturating_mul(3) / capacity {
        0 => Fill(0),
        1 => Fill(1),
        _ => Fill(2),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_fill_is_restored_from_its_number_and_other_numbers_are_refused() {
        for (number, fill) in [(0, Some(Fill::EMPTY)), (1, Some(Fill(1))), (2, Some(Fill::TOP)), (3, None), (-1, None)]
        {
            assert_eq!(Fill::from_number(number), fill, "{number}");
            assert!(fill.is_none_or(|fill| fill.number() == number), "{fill:?}");
        }
    }

    #[test]
    fn a_rank_orders_by_build_and_then_by_fill() {
        let rank = |build, fill| Rank { build, fill: Fill(fill) };
        for (rank, number) in [(rank(0, 0), 0), (rank(0, 2), 2), (rank(1, 0), 4), (rank(3, 1), 13)] {
            assert_eq!((rank.number(), Rank::from_number(number)), (number, Some(rank)), "{rank:?}");
        }
        for number in [3, -1] {
            assert_eq!(Rank::from_number(number), None, "{number}");
        }
        assert_eq!(Rank::top(3), rank(3, 2));
    }

    #[test]
    fn a_fill_gives_the_closest_bounds_of_the_free_slots() {
        for capacity in 1..=100 {
            for claims in 0..capacity {
                let (fill, room) = (fill(claims as usize, capacity).unwrap(), capacity - claims);
                let bounds = (fill.least_room(capacity), fill.most_room(capacity));
                assert!(bounds.0 <= room && room <= bounds.1, "{claims} of {capacity}: {fill:?} gives {bounds:?}");
            }
            assert_eq!(fill(capacity as usize, capacity), None, "a full server has no fill");
        }
        for (fill, bounds) in [(0, (7, 9)), (1, (4, 6)), (2, (1, 3))] {
            let fill = Fill(fill);
            assert_eq!((fill.least_room(9), fill.most_room(9)), bounds, "{fill:?} of nine slots");
        }
    }
}
