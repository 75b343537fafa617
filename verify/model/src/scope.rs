//! What is explored: how the world begins, and how often each thing may happen in it.

use std::{array::from_fn, sync::LazyLock};

use domain::{
    Endpoint, Fill, Ledger, PlayerId, PoolLimits, PoolName, ServerId, ServerState, Span, Time, TokenHash, bug::Bug,
};

/// One step of the clock. A reservation is over after two, so its end falls between any two other events.
pub(super) const TICK: Span = Span(1_000);

/// Players in a world, and servers at the most, those that are started in it included.
pub(super) const PLAYERS: usize = 2;
pub(super) const SERVERS: usize = 5;

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// Joins begun; all may be in flight at once.
    pub joins: u8,
    /// Joins of both players as a party.
    pub parties: u8,
    /// Players who show their last ticket to a server.
    pub arrivals: u8,
    /// Players who leave a server for good.
    pub leaves: u8,
    /// Players who drop, and whose slot the server holds.
    pub drops: u8,
    /// Players who cancels a reservation.
    pub cancels: u8,
    /// Operators who release a player.
    pub releases: u8,
    /// Looks of reconcile at one server.
    pub looks: u8,
    /// Heartbeats of one server, with who is inside.
    pub beats: u8,
    /// Servers that die.
    pub deaths: u8,
    /// Answers lost and requests that arrive a second time, later.
    pub faults: u8,
    /// Servers that repeat a call while its first try still runs.
    pub repeats: u8,
    /// Functions killed between two calls.
    pub crashes: u8,
    /// Steps of the clock.
    pub ticks: u8,
    /// Answers of the index that are out of date.
    pub stales: u8,
    /// New builds of the pool.
    pub builds: u8,
}

/// One world to explore to its end.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub about: &'static str,
    /// Players.
    pub players: u8,
    /// Servers that are ready at the beginning.
    pub ready: u8,
    /// How often each thing may happen.
    pub left: Left,
    /// The pool.
    pub pool: Pool,
    /// The bug that is injected.
    pub bug: Option<Bug>,
}

/// A count in the model; there are only a few of anything.
pub(super) fn small(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// The number in a player's id, as [`Scope::player`] has made it.
pub(super) fn player_of(id: &PlayerId) -> usize {
    id.as_str().trim_start_matches('p').parse().unwrap_or(usize::MAX)
}

/// The number in a server's id, as [`Scope::server`] has made it.
pub(super) fn server_of(id: &ServerId) -> usize {
    id.as_str().trim_start_matches('s').parse().unwrap_or(usize::MAX)
}

/// The time before the first tick.
pub(super) const BEGIN: Time = Time(1_000);

/// The pool of a world.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: PoolName,
    pub limits: PoolLimits,
}

fn pool(capacity: u32, max_servers: u32) -> Pool {
    Pool {
        name: named(PoolName::parse("pool")),
        limits: PoolLimits {
            capacity,
            max_servers,
            concurrent_launches: 1,
            headroom: 0,
            idle: Span(500),
            reservation: Span(1_500),
            launch: TICK.times(100),
            lease: TICK.times(50),
        },
    }
}

/// Names that are written here are well formed.
#[allow(clippy::expect_used, reason = "a constant of this file, not input")]
fn named<T>(name: Result<T, domain::BadId>) -> T {
    name.expect("a name")
}

impl Scope {
    /// The `n`-th server's id.
    pub fn server(n: u8) -> ServerId {
        static IDS: LazyLock<[ServerId; SERVERS]> =
            LazyLock::new(|| from_fn(|n| named(ServerId::parse(&format!("s{n}")))));
        IDS.get(usize::from(n)).cloned().unwrap_or_else(|| named(ServerId::parse("nobody")))
    }

    /// The `n`-th player's id.
    pub fn player(n: u8) -> PlayerId {
        static IDS: LazyLock<[PlayerId; PLAYERS]> =
            LazyLock::new(|| from_fn(|n| named(PlayerId::parse(&format!("p{n}")))));
        IDS.get(usize::from(n)).cloned().unwrap_or_else(|| named(PlayerId::parse("nobody")))
    }

    /// A ledger as the launcher makes it.
    pub fn starting(&self, n: u8, build: u32) -> Ledger {
        Ledger {
            build,
            task: Some(String::new()),
            ..Ledger::new(Self::server(n), self.pool.name.clone(), &self.pool.limits, TokenHash::of("token"))
        }
    }

    /// A ledger of a server that has registered.
    pub fn registered(&self, n: u8) -> Ledger {
        Ledger {
            state: ServerState::Ready,
            lease_until: Some(BEGIN + self.pool.limits.lease),
            seen: Some(BEGIN),
            ready_at: Some(BEGIN),
            endpoint: Some(Self::endpoint()),
            listed: Some(Fill::EMPTY),
            ..self.starting(n, 0)
        }
    }

    /// Where a server listens.
    pub fn endpoint() -> Endpoint {
        Endpoint { address: "a".into(), port: 1 }
    }

    /// The same world with a bug injected.
    pub fn with(mut self, bug: Option<Bug>) -> Self {
        self.bug = bug;
        self
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds: for every change.
    Small,
    /// Minutes: more of everything at once.
    Full,
}

/// The worlds of a size.
pub fn scopes(size: Size) -> Vec<Scope> {
    let full = size == Size::Full;
    // The first number is the small world's, the second the full one's.
    let n = |small: u8, big: u8| if full { big } else { small };
    let world = |name, about, ready, capacity, left| Scope {
        name,
        about,
        players: 2,
        ready,
        left,
        pool: pool(capacity, 2),
        bug: None,
    };
    let none = Left::default();
    let moves = Left { joins: n(2, 3), arrivals: 2, leaves: 1, ticks: 2, ..none };
    let faults = Left { joins: 2, arrivals: 1, leaves: 1, faults: n(1, 2), repeats: 1, crashes: 1, ..none };
    let drops = Left { joins: 2, arrivals: n(1, 2), drops: 1, cancels: n(0, 1), releases: 1, ticks: 1, ..none };
    let launches = Left { joins: n(2, 3), arrivals: n(0, 1), cancels: 1, deaths: n(0, 1), ..none };
    let scale_in =
        Left { joins: 1, arrivals: 1, leaves: 1, looks: n(2, 3), builds: n(0, 1), stales: n(0, 1), ticks: 2, ..none };
    let deaths = Left { joins: n(2, 3), arrivals: 1, deaths: 1, looks: 1, beats: n(0, 1), ..none };
    let parties = Left { joins: 1, parties: n(1, 2), arrivals: n(0, 1), cancels: 1, ..none };
    let lapses = Left { joins: 1, arrivals: 1, looks: n(1, 2), beats: 1, ticks: 5, ..none };
    let mut lapse = world("lapses", "leases run out, servers fall silent and come back", 1, 2, lapses);
    lapse.players = n(1, 2);
    lapse.pool.limits.lease = TICK;
    lapse.pool.limits.reservation = TICK.times(3);
    vec![
        world("moves", "two players, two servers with one slot, reservations that run out", 2, 1, moves),
        world("faults", "answers lost, requests repeated and late, functions killed", 2, 1, faults),
        world("drops", "players drop, come back, give up, and are released", 1, 1, drops),
        world("launches", "an empty pool: servers are started, register and die", 0, 2, launches),
        world("scale-in", "servers fall idle and drain, a new build comes, the index is stale", 2, 2, scale_in),
        world("deaths", "servers die with players on them", 2, 1, deaths),
        world("parties", "a party, beside its players' own joins", 1, 2, parties),
        lapse,
    ]
}
