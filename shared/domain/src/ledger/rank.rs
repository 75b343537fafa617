//! The place of a server in the index of servers with room.

/// How full a ready server is, in thirds. It is part of the sort key of the index ([`Rank`]), so that changes three
/// times while a server fills up, not once a claim. A full server has none and is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fill(u8);

impl Fill {
    /// The fill of a server with the most players that still has room.
    pub const TOP: Self = Self(2);
    /// The fill of an empty server.
    pub const EMPTY: Self = Self(0);

    /// The fill that a number stands for.
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self(0)),
            1 => Some(Self(1)),
            2 => Some(Self(2)),
            _ => None,
        }
    }

    /// The number that stands for it in the table.
    pub const fn number(self) -> i64 {
        self.0 as i64
    }

    /// The room that a server of this fill has at most.
    pub fn most_room(self, capacity: u32) -> u32 {
        capacity.saturating_sub((u32::from(self.0).saturating_mul(capacity)).div_ceil(3))
    }

    /// A room that a server of this fill has at least.
    pub fn least_room(self, capacity: u32) -> u32 {
        let most_claims = (u32::from(self.0) + 1).saturating_mul(capacity).saturating_sub(1) / 3;
        capacity.saturating_sub(most_claims).max(1)
    }
}

/// Where a server stands in the index: newest build first, and among those the fullest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// The build that the server runs.
    pub build: u32,
    /// How full it is.
    pub fill: Fill,
}

impl Rank {
    /// Numbers of one build.
    const A_BUILD: i64 = 4;

    /// The rank that a number stands for.
    pub fn from_number(number: i64) -> Option<Self> {
        let build = u32::try_from(number.div_euclid(Self::A_BUILD)).ok()?;
        Some(Self { build, fill: Fill::from_number(number.rem_euclid(Self::A_BUILD))? })
    }

    /// The number that stands for it in the table.
    pub fn number(self) -> i64 {
        i64::from(self.build) * Self::A_BUILD + self.fill.number()
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
    fn a_fill_is_read_as_it_was_written() {
        for (number, fill) in [(0, Some(Fill::EMPTY)), (1, Some(Fill(1))), (2, Some(Fill::TOP)), (3, None), (-1, None)]
        {
            assert_eq!(Fill::from_number(number), fill, "{number}");
            assert!(fill.is_none_or(|fill| fill.number() == number), "{fill:?}");
        }
    }

    #[test]
    fn in_the_index_the_newest_build_comes_first_and_in_it_the_fullest() {
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
    fn a_fill_says_between_which_bounds_the_room_is() {
        for capacity in 1..=100 {
            for claims in 0..capacity {
                let (fill, room) = (fill(claims as usize, capacity).unwrap(), capacity - claims);
                let bounds = (fill.least_room(capacity), fill.most_room(capacity));
                assert!(bounds.0 <= room && room <= bounds.1, "{claims} of {capacity}: {fill:?} says {bounds:?}");
            }
            assert_eq!(fill(capacity as usize, capacity), None, "a full server has none");
        }
        for (fill, bounds) in [(0, (7, 9)), (1, (4, 6)), (2, (1, 3))] {
            let fill = Fill(fill);
            assert_eq!((fill.least_room(9), fill.most_room(9)), bounds, "{fill:?}: as close as they can be");
        }
    }
}
