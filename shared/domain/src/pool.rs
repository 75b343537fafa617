//! The rules of a pool: its limits, and which builds of its servers accept players.
//!
//! A pool is a class of interchangeable servers. The parameters of its ECS tasks are in `shared::pool`, not in this
//! crate.

use super::Span;

/// How a pool treats servers that run an older build than its current one. In both cases, players are placed on servers
/// of the newest build first, as long as one has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Rollout {
    /// A server of an older build accepts players if no newer server has room, and drains once it is empty.
    #[default]
    Lazy,
    /// A server of an older build accepts no new players, and is stopped when its last player has left.
    Drain,
}

impl Rollout {
    /// Both rollouts.
    pub const ALL: [Self; 2] = [Self::Lazy, Self::Drain];

    /// The rollout's name, in the table and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Drain => "drain",
        }
    }

    /// The rollout of that name; `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rollout| rollout.as_str() == name)
    }
}

/// Deserializes a rollout from its name only. The implementation that serde derives for an enum would also accept
/// `{"lazy": null}`.
impl TryFrom<String> for Rollout {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name).ok_or("expected `lazy` or `drain`")
    }
}

/// The current build of a pool, and how the pool treats servers of older builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolBuild {
    /// The number of the build: one more each time that the task definition changes.
    pub number: u32,
    /// How the pool treats servers of an older build.
    pub rollout: Rollout,
}

impl PoolBuild {
    /// Whether a server of `build` accepts new players.
    pub const fn takes(self, build: u32) -> bool {
        matches!(self.rollout, Rollout::Lazy) || build >= self.number
    }
}

/// The limits of a pool; [`Bound`] has the range and default of each.
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
    /// How long a server may be empty before it is stopped, if the pool has its headroom without this server.
    pub idle: Span,
    /// How long a reservation holds once its server is ready.
    pub reservation: Span,
    /// How long a server may take from RunTask to its registration.
    pub launch: Span,
    /// How long a heartbeat extends a server's lease. A server has to send a heartbeat every third of this time.
    pub lease: Span,
}

/// The range and the default of a number that operators can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The name of the setting. If the number has a unit, the name ends with it.
    pub name: &'static str,
    /// The least value.
    pub least: i64,
    /// The greatest value.
    pub most: i64,
    /// The value of a pool that does not set it.
    pub default: i64,
}

impl Bound {
    /// Slots of one server. docs/internals/costs.md has the load of a ledger with 1,000 claims.
    pub const CAPACITY: Self = Self { name: "capacity", least: 1, most: 1_000, default: 50 };
    /// Servers that may live at once.
    pub const MAX_SERVERS: Self = Self { name: "maxServers", least: 1, most: 10_000, default: 100 };
    /// Servers that may be filling at once while they start. Each adds about 1,000 joins a second.
    pub const CONCURRENT_LAUNCHES: Self = Self { name: "concurrentLaunches", least: 1, most: 16, default: 1 };
    /// Free slots to keep ready ahead of demand. With 0 the pool scales to zero.
    pub const HEADROOM: Self = Self { name: "headroom", least: 0, most: 100_000, default: 0 };
    /// How long a server may be empty before it is stopped.
    pub const IDLE_SECONDS: Self = Self { name: "idleSeconds", least: 1, most: 86_400, default: 300 };
    /// How long a reservation holds once its server is ready.
    pub const RESERVATION_SECONDS: Self = Self { name: "reservationSeconds", least: 1, most: 3_600, default: 60 };
    /// How long a server may take to register.
    pub const LAUNCH_SECONDS: Self = Self { name: "launchSeconds", least: 1, most: 3_600, default: 120 };
    /// How long a heartbeat extends a server's lease.
    pub const LEASE_SECONDS: Self = Self { name: "leaseSeconds", least: 1, most: 600, default: 30 };

    /// The value as a count.
    ///
    /// # Errors
    /// The value is out of range. The error names the setting and the range.
    pub fn count(self, value: i64) -> Result<u32, String> {
        let Self { name, least, most, .. } = self;
        let in_range = u32::try_from(value).ok().filter(|_| (least..=most).contains(&value));
        in_range.ok_or_else(|| format!("`{name}` must be {least} to {most}."))
    }
}

impl PoolLimits {
    /// The limits of a pool that sets none of them.
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

    /// The interval at which a server with this lease has to send heartbeats.
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
    fn a_lazy_rollout_lets_older_builds_accept_players_and_a_draining_one_does_not() {
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
    fn a_setting_is_accepted_at_both_ends_of_its_range_and_refused_beyond() {
        let bound = Bound { name: "capacity", least: 1, most: 1_000, default: 50 };
        assert_eq!([1, 1_000].map(|value| bound.count(value)), [Ok(1), Ok(1_000)]);
        for value in [0, 1_001, -1, i64::MAX] {
            assert_eq!(bound.count(value), Err("`capacity` must be 1 to 1000.".to_owned()), "{value}");
        }
        assert_eq!(PoolLimits::DEFAULT.idle, Span::seconds(300), "the bound is in seconds, the limit in milliseconds");
        assert_eq!(PoolLimits::DEFAULT.reservation, Span::seconds(60));
        assert_eq!((PoolLimits::DEFAULT.launch, PoolLimits::DEFAULT.lease), (Span::seconds(120), Span::seconds(30)));
        assert_eq!(PoolLimits::heartbeat(Span::seconds(30)), Span::seconds(10));
    }
}
