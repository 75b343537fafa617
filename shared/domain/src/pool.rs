//! The rules of a pool: its limits, and which builds of its servers take players.
//!
//! A pool is a class of interchangeable servers. What ECS starts for it is not the domain's: `shared::pool` has that.

use super::Span;

/// What becomes of the servers that run an older build than the pool's. Servers of the newest build with room come
/// first either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Rollout {
    /// They go on as long as somebody is there, take players where no newer one has room, and drain once they are
    /// empty.
    #[default]
    Lazy,
    /// They take nobody new from now on, and end when the last has left.
    Drain,
}

impl Rollout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lazy, Self::Drain];

    /// Its name, in the table and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Drain => "drain",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rollout| rollout.as_str() == name)
    }
}

/// Only its name stands for it: what serde derives for an enum takes `{"lazy": null}` too.
impl TryFrom<String> for Rollout {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name).ok_or("expected `lazy` or `drain`")
    }
}

/// The current build of a pool, and what becomes of servers of older builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolBuild {
    /// The number of the build: one more each time that the task definition changes.
    pub number: u32,
    /// What becomes of servers of an older build.
    pub rollout: Rollout,
}

impl PoolBuild {
    /// Whether a server of that build takes new players.
    pub const fn takes(self, build: u32) -> bool {
        matches!(self.rollout, Rollout::Lazy) || build >= self.number
    }
}

/// The numbers of a pool; [`Bound`] has the range and default of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolLimits {
    /// Slots of one server.
    pub capacity: u32,
    /// Servers that may live at once.
    pub max_servers: u32,
    /// Servers that may be filling at once while they start.
    pub concurrent_launches: u32,
    /// Free slots to keep ready ahead of demand.
    pub headroom: u32,
    /// How long a server may be empty before it is stopped, if the headroom is there without it.
    pub idle: Span,
    /// How long a reservation holds once its server is ready.
    pub reservation: Span,
    /// How long a server may take from RunTask to its registration.
    pub launch: Span,
    /// How long a heartbeat keeps a server's lease. Servers are told to beat three times as often.
    pub lease: Span,
}

/// The range of a number that operators set, and what it is if they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The name of the setting; its unit is its last word, if it has one.
    pub name: &'static str,
    /// The least value.
    pub least: i64,
    /// The greatest value.
    pub most: i64,
    /// The value where nothing is said.
    pub default: i64,
}

impl Bound {
    /// Slots of one server. The bound is what one DynamoDB item bears: docs/internals/costs.md.
    pub const CAPACITY: Self = Self { name: "capacity", least: 1, most: 1_000, default: 50 };
    /// Servers that may live at once.
    pub const MAX_SERVERS: Self = Self { name: "maxServers", least: 1, most: 10_000, default: 100 };
    /// Servers that may be filling at once while they start. One bears about 1,000 joins a second.
    pub const CONCURRENT_LAUNCHES: Self = Self { name: "concurrentLaunches", least: 1, most: 16, default: 1 };
    /// Free slots to keep ready ahead of demand. With 0 the pool scales to zero.
    pub const HEADROOM: Self = Self { name: "headroom", least: 0, most: 100_000, default: 0 };
    /// How long a server may be empty before it is stopped.
    pub const IDLE_SECONDS: Self = Self { name: "idleSeconds", least: 1, most: 86_400, default: 300 };
    /// How long a reservation holds once its server is ready.
    pub const RESERVATION_SECONDS: Self = Self { name: "reservationSeconds", least: 1, most: 3_600, default: 60 };
    /// How long a server may take to register.
    pub const LAUNCH_SECONDS: Self = Self { name: "launchSeconds", least: 1, most: 3_600, default: 120 };
    /// How long a heartbeat keeps a server's lease.
    pub const LEASE_SECONDS: Self = Self { name: "leaseSeconds", least: 1, most: 600, default: 30 };

    /// The value as a count.
    ///
    /// # Errors
    /// It is out of range; the error names the setting.
    pub fn count(self, value: i64) -> Result<u32, String> {
        let Self { name, least, most, .. } = self;
        let in_range = u32::try_from(value).ok().filter(|_| (least..=most).contains(&value));
        in_range.ok_or_else(|| format!("`{name}` must be {least} to {most}."))
    }
}

impl PoolLimits {
    /// The limits of a pool of which nothing is said.
    pub const DEFAULT: Self = Self {
        capacity: Bound::CAPACITY.default as u32,
        max_servers: Bound::MAX_SERVERS.default as u32,
        concurrent_launches: Bound::CONCURRENT_LAUNCHES.default as u32,
        headroom: Bound::HEADROOM.default as u32,
        idle: Span(Bound::IDLE_SECONDS.default * 1_000),
        reservation: Span(Bound::RESERVATION_SECONDS.default * 1_000),
        launch: Span(Bound::LAUNCH_SECONDS.default * 1_000),
        lease: Span(Bound::LEASE_SECONDS.default * 1_000),
    };

    /// How often servers are told to beat.
    pub const fn heartbeat(lease: Span) -> Span {
        Span(lease.0 / 3)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::which;

    #[test]
    fn a_rollout_decides_whether_an_old_build_takes_players() {
        let taken = |rollout| {
            let current = PoolBuild { number: 1, rollout };
            which([("older", 0), ("the pool's", 1), ("newer", 2)], |build| current.takes(build))
        };
        assert_eq!(taken(Rollout::Lazy), ["older", "the pool's", "newer"], "lazy");
        assert_eq!(taken(Rollout::Drain), ["the pool's", "newer"], "drain");
        assert_eq!(Rollout::ALL.map(Rollout::as_str), ["lazy", "drain"]);
        assert_eq!(["lazy", "drain", "Lazy"].map(Rollout::parse), [Some(Rollout::Lazy), Some(Rollout::Drain), None]);
        let read = |name: &str| Rollout::try_from(name.to_owned());
        assert_eq!((read("drain"), read("soon")), (Ok(Rollout::Drain), Err("expected `lazy` or `drain`")));
    }

    #[test]
    fn a_number_is_taken_at_both_ends_of_its_range_and_refused_beyond() {
        let bound = Bound { name: "capacity", least: 1, most: 1_000, default: 50 };
        assert_eq!([1, 1_000].map(|value| bound.count(value)), [Ok(1), Ok(1_000)]);
        for value in [0, 1_001, -1, i64::MAX] {
            assert_eq!(bound.count(value), Err("`capacity` must be 1 to 1000.".to_owned()), "{value}");
        }
        assert_eq!(PoolLimits::DEFAULT.idle, Span::seconds(300), "seconds in the bound, milliseconds in the limits");
        assert_eq!(PoolLimits::DEFAULT.reservation, Span::seconds(60));
        assert_eq!((PoolLimits::DEFAULT.launch, PoolLimits::DEFAULT.lease), (Span::seconds(120), Span::seconds(30)));
        assert_eq!(PoolLimits::heartbeat(Span::seconds(30)), Span::seconds(10));
    }
}
