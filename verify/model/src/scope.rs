//! The worlds to explore: their initial state, and their budget of each kind of event.

use std::{array::from_fn, sync::LazyLock};

use domain::{
    Endpoint, Fill, Ledger, PlayerId, PoolLimits, PoolName, ServerId, ServerState, Span, Time, TokenHash, bug::Bug,
};

/// One step of the clock. A reservation expires after two steps, so it can expire between any two other events.
pub(super) const TICK: Span = Span(1_000);

/// Players in a world at most, and servers at most, including those that are started in the world.
pub(super) const PLAYERS: usize = 2;
pub(super) const SERVERS: usize = 5;

/// The remaining budget of each kind of event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// Joins; all may be in flight at once.
    pub joins: u8,
    /// Joins of both players as a party.
    pub parties: u8,
    /// Connects with a player's last ticket.
    pub arrivals: u8,
    /// Disconnects without grace.
    pub leaves: u8,
    /// Disconnects with grace, after a lost connection.
    pub drops: u8,
    /// Cancellations of a reservation by its player.
    pub cancels: u8,
    /// Releases of a player by an operator.
    pub releases: u8,
    /// Reads of one server by reconcile.
    pub reconciles: u8,
    /// Heartbeats of one server, with its connected players.
    pub heartbeats: u8,
    /// Deaths of a server.
    pub deaths: u8,
    /// Lost answers, and requests that arrive a second time later.
    pub faults: u8,
    /// Calls that a server repeats while the first attempt still runs.
    pub repeats: u8,
    /// Kills of a function between two effects.
    pub crashes: u8,
    /// Steps of the clock.
    pub ticks: u8,
    /// Outdated answers of the index.
    pub stales: u8,
    /// New builds of the pool.
    pub builds: u8,
}

/// One world to explore to its end.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The world's name.
    pub name: &'static str,
    /// Description of the world.
    pub about: &'static str,
    /// Number of players.
    pub players: u8,
    /// Number of servers that are ready in the initial state.
    pub ready: u8,
    /// Budget of each kind of event.
    pub left: Left,
    /// The pool.
    pub pool: Pool,
    /// The injected bug, if any.
    pub bug: Option<Bug>,
}

/// Converts a count or index to `u8`; all of them are small.
pub(super) fn small(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// Returns the number of a player from an id of [`Scope::player`].
pub(super) fn player_of(id: &PlayerId) -> usize {
    id.as_str().trim_start_matches('p').parse().unwrap_or(usize::MAX)
}

/// Returns the number of a server from an id of [`Scope::server`].
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

/// Unwraps a name that is a constant of this file and therefore well formed.
#[allow(clippy::expect_used, reason = "a constant of this file, not input")]
fn named<T>(name: Result<T, domain::BadId>) -> T {
    name.expect("a name")
}

impl Scope {
    /// Returns the id of the `n`-th server.
    pub fn server(n: u8) -> ServerId {
        static IDS: LazyLock<[ServerId; SERVERS]> =
            LazyLock::new(|| from_fn(|n| named(ServerId::parse(&format!("s{n}")))));
        IDS.get(usize::from(n)).cloned().unwrap_or_else(|| named(ServerId::parse("nobody")))
    }

    /// Returns the id of the `n`-th player.
    pub fn player(n: u8) -> PlayerId {
        static IDS: LazyLock<[PlayerId; PLAYERS]> =
            LazyLock::new(|| from_fn(|n| named(PlayerId::parse(&format!("p{n}")))));
        IDS.get(usize::from(n)).cloned().unwrap_or_else(|| named(PlayerId::parse("nobody")))
    }

    /// Returns the ledger of a server that has just been started.
    pub fn starting(&self, n: u8, build: u32) -> Ledger {
        Ledger {
            build,
            task: Some(String::new()),
            ..Ledger::new(Self::server(n), self.pool.name.clone(), &self.pool.limits, TokenHash::of("token"))
        }
    }

    /// Returns the ledger of a server that has just registered.
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

    /// Returns the endpoint of every server.
    pub fn endpoint() -> Endpoint {
        Endpoint { address: "a".into(), port: 1 }
    }

    /// Injects a bug into the world, or none.
    pub fn with(mut self, bug: Option<Bug>) -> Self {
        self.bug = bug;
        self
    }
}

/// Size of the worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Takes seconds, and runs on every change.
    Small,
    /// Takes minutes, with larger budgets.
    Full,
}

/// Returns the worlds of a size.
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
    let scale_in = Left {
        joins: 1,
        arrivals: 1,
        leaves: 1,
        reconciles: n(2, 3),
        builds: n(0, 1),
        stales: n(0, 1),
        ticks: 2,
        ..none
    };
    let deaths = Left { joins: n(2, 3), arrivals: 1, deaths: 1, reconciles: 1, heartbeats: n(0, 1), ..none };
    let parties = Left { joins: 1, parties: n(1, 2), arrivals: n(0, 1), cancels: 1, ..none };
    let lapses = Left { joins: 1, arrivals: 1, reconciles: n(1, 2), heartbeats: 1, ticks: 5, ..none };
    let mut lapse = world("lapses", "leases run out, servers are silent and send heartbeats again", 1, 2, lapses);
    lapse.players = n(1, 2);
    lapse.pool.limits.lease = TICK;
    lapse.pool.limits.reservation = TICK.times(3);
    vec![
        world("moves", "two players, two servers with one slot, reservations that expire", 2, 1, moves),
        world("faults", "answers lost, requests repeated and late, functions killed", 2, 1, faults),
        world("drops", "players lose the connection, reconnect, cancel, and are released", 1, 1, drops),
        world("launches", "an empty pool: servers are started, register and die", 0, 2, launches),
        world("scale-in", "servers are idle and drain, a new build, outdated index answers", 2, 2, scale_in),
        world("deaths", "servers die with connected players", 2, 1, deaths),
        world("parties", "a party, and joins of its members at the same time", 1, 2, parties),
        lapse,
    ]
}
