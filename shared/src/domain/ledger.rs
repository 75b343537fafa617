//! The ledger: the one item of a server, which holds its state and every claim on its slots.
//!
//! The ledger is the truth of what a server's slots are held by. A claim is keyed by its player inside the item, so it
//! is its own idempotency key, its own capacity check and its own expiry. Every change is one conditional write that
//! is safe when applied zero, one or two times, and late.

use std::{collections::BTreeMap, fmt};

use super::{
    PlayerId, PoolLimits, PoolName, ServerId, Span, Stamp, Time, TokenHash,
    teeth::{self, Mistake},
};

/// Expired claims that one write removes at the most. DynamoDB takes an expression of at most 4 KB and 300 operators
/// ("Expression parameters" in the developer guide's page on service quotas); 50 use about half of each.
pub const MAX_EVICTIONS: usize = 50;

/// How often a server's task is started before the launch is given up.
pub const MAX_LAUNCH_ATTEMPTS: u32 = 3;

/// A RunTask call whose task is not on record is repeated after this long, with the same token.
pub const REPEAT_CALL_AFTER: Span = Span::seconds(5);

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerState {
    /// Asked for; not registered yet. Its slots are given away by the frontier.
    Starting,
    /// Registered; takes players.
    Ready,
    /// Takes no new players; those inside stay until they leave.
    Draining,
    /// Over. Every claim on it is void.
    Stopped,
}

impl ServerState {
    /// Every state, in the order of a server's life.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Draining, Self::Stopped];

    /// The state's name, in the table and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A stamp with its sign: `+stamp` is a reservation, `-stamp` a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// The slot is held for a player who has not come yet.
    Reserved(Stamp),
    /// The server has registered the player.
    Connected(Stamp),
}

impl Mark {
    /// The stamp without its sign.
    pub const fn stamp(self) -> Stamp {
        match self {
            Self::Reserved(stamp) | Self::Connected(stamp) => stamp,
        }
    }

    /// Whether the server has registered the player.
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// The number that stands for it in the table.
    pub const fn number(self) -> i64 {
        match self {
            Self::Reserved(stamp) => stamp.get(),
            Self::Connected(stamp) => -stamp.get(),
        }
    }

    /// The mark that a number stands for; `None` for 0.
    pub const fn from_number(number: i64) -> Option<Self> {
        if let Some(stamp) = Stamp::new(number) {
            return Some(Self::Reserved(stamp));
        }
        match Stamp::new(number.saturating_neg()) {
            Some(stamp) => Some(Self::Connected(stamp)),
            None => None,
        }
    }
}

/// How full a ready server is, in thirds. It is part of the sort key of the index ([`Rank`]), so that changes three times
/// while a server fills up, not once a claim. A full server has none and is not listed.
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
    /// The generation of the pool's build that the server runs.
    pub generation: u32,
    /// How full it is.
    pub fill: Fill,
}

impl Rank {
    /// Numbers of one generation.
    const A_GENERATION: i64 = 4;

    /// The rank that a number stands for.
    pub fn from_number(number: i64) -> Option<Self> {
        let generation = u32::try_from(number.div_euclid(Self::A_GENERATION)).ok()?;
        Some(Self { generation, fill: Fill::from_number(number.rem_euclid(Self::A_GENERATION))? })
    }

    /// The number that stands for it in the table.
    pub fn number(self) -> i64 {
        i64::from(self.generation) * Self::A_GENERATION + self.fill.number()
    }

    /// The rank of the fullest server of a generation.
    pub const fn top(generation: u32) -> Self {
        Self { generation, fill: Fill::TOP }
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

/// Where players connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name or an IP address, 1-255 printable ASCII characters without blanks.
    pub address: String,
    /// A port, never 0.
    pub port: u16,
}

/// What a server says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Where players connect to.
    pub endpoint: Endpoint,
    /// Its slots, if it knows better than the pool.
    pub capacity: Option<u32>,
    /// Free text about it for operators.
    pub metadata: BTreeMap<String, String>,
}

/// The launch of a server that has not registered yet: all that RunTask was called with, so that a repeated call is
/// identical, and when something is due.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The server's token, for its environment. Gone from the table once the server has registered.
    pub token: String,
    /// When RunTask is to be called (again), unless its task is on record.
    pub call_at: Time,
    /// When the server must have registered.
    pub deadline: Time,
    /// How long an attempt may take, for the deadline of the next one.
    pub time_to_start: Span,
    /// The task's parameters, as text that only the launcher reads.
    pub spec: String,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Launch {{ call_at: {:?}, deadline: {:?}, .. }}", self.call_at, self.deadline)
    }
}

/// What a launch needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// No task is on record: call RunTask again with the same token.
    Call,
    /// The deadline has passed: start the next attempt.
    NextAttempt,
    /// The deadline of the last attempt has passed: give the launch up.
    GiveUp,
}

/// The image of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The server.
    pub id: ServerId,
    /// Its pool.
    pub pool: PoolName,
    /// The part of the pool's index that lists it: the number of the frontier that it was started for.
    pub shard: u32,
    /// The generation of the pool's build that it runs.
    pub generation: u32,
    /// Where it is in its life.
    pub state: ServerState,
    /// Its slots.
    pub capacity: u32,
    /// Who holds them.
    pub claims: BTreeMap<PlayerId, Mark>,
    /// How long a reservation holds, as the pool said when the server was started.
    pub hold: Span,
    /// How long a heartbeat keeps the lease, likewise.
    pub lease_for: Span,
    /// Until when the server is believed alive. Unknown before it registers.
    pub lease_until: Option<Time>,
    /// The time of the last heartbeat.
    pub seen: Option<Time>,
    /// Since when it has been seen without a claim; a claim ends that.
    pub idle_since: Option<Time>,
    /// When a draining server is stopped although players are inside.
    pub drain_by: Option<Time>,
    /// When it registered.
    pub ready_at: Option<Time>,
    /// Where players connect to, once it has registered.
    pub endpoint: Option<Endpoint>,
    /// What it said of itself.
    pub metadata: BTreeMap<String, String>,
    /// The hash of its token.
    pub token_hash: TokenHash,
    /// Which attempt to start it this is, from 1.
    pub attempt: u32,
    /// The task that it runs in, once RunTask has answered.
    pub task: Option<String>,
    /// Its launch, until it has registered.
    pub launch: Option<Launch>,
    /// How the index lists it, if it does.
    pub listed: Option<Fill>,
}

impl Ledger {
    /// A server of that pool that is about to be started: nobody holds a slot, and there is no launch yet.
    pub fn new(id: ServerId, pool: PoolName, limits: &PoolLimits, token_hash: TokenHash) -> Self {
        Self {
            id,
            pool,
            shard: 0,
            generation: 0,
            state: ServerState::Starting,
            capacity: limits.capacity,
            claims: BTreeMap::new(),
            hold: limits.reservation,
            lease_for: limits.lease,
            lease_until: None,
            seen: None,
            idle_since: None,
            drain_by: None,
            ready_at: None,
            endpoint: None,
            metadata: BTreeMap::new(),
            token_hash,
            attempt: 1,
            task: None,
            launch: None,
            listed: None,
        }
    }

    /// When a mark's time is up; `None` if it has no end of its own: the player is inside, or the server is still
    /// starting.
    pub fn expires(&self, mark: Mark) -> Option<Time> {
        match (mark, self.ready_at) {
            (Mark::Reserved(stamp), Some(ready_at)) => Some(stamp.time().max(ready_at) + self.hold),
            _ => None,
        }
    }

    /// Whether a claim is over: a reservation whose time is up, or any claim on a stopped server.
    pub fn is_over(&self, mark: Mark, now: Time) -> bool {
        self.state == ServerState::Stopped || self.expires(mark).is_some_and(|end| end <= now)
    }

    /// Whether it takes new claims as far as its state and lease go.
    pub fn takes_claims(&self, now: Time) -> bool {
        match self.state {
            ServerState::Starting => true,
            ServerState::Ready => self.lease_until.is_some_and(|until| now <= until),
            ServerState::Draining | ServerState::Stopped => false,
        }
    }

    /// Whether it never was up. Stopped all the same, it is a launch that has failed, whoever counts it out.
    pub const fn never_registered(&self) -> bool {
        self.ready_at.is_none()
    }

    /// Whether every slot is held by some entry, over or not.
    pub fn is_full(&self) -> bool {
        self.claims.len() >= self.capacity as usize
    }

    /// Claims that are not over.
    pub fn live_claims(&self, now: Time) -> usize {
        self.claims.values().filter(|mark| !self.is_over(**mark, now)).count()
    }

    /// Players who are inside.
    pub fn players(&self) -> usize {
        self.claims.values().filter(|mark| mark.is_connected()).count()
    }

    /// Players who are on their way: reservations that are not over.
    pub fn reserved(&self, now: Time) -> usize {
        self.claims.values().filter(|mark| !mark.is_connected() && !self.is_over(**mark, now)).count()
    }

    /// The claims whose time is up, as the exact values to remove: at most [`MAX_EVICTIONS`].
    pub fn evictable(&self, now: Time) -> Vec<(PlayerId, Mark)> {
        let over = self.claims.iter().filter(|(_, mark)| self.is_over(**mark, now));
        over.take(MAX_EVICTIONS).map(|(player, mark)| (player.clone(), *mark)).collect()
    }

    /// Players that the ledger holds as connected and that are not in `inside`.
    pub fn connected_but_not<'a>(&'a self, inside: &'a [PlayerId]) -> impl Iterator<Item = (&'a PlayerId, Stamp)> + 'a {
        let connected = self.claims.iter().filter(|(_, mark)| mark.is_connected());
        connected.filter(|(player, _)| !inside.contains(player)).map(|(player, mark)| (player, mark.stamp()))
    }

    /// The claim of a player whose seat carries `seat` for this server, if it is live and the two agree. A connected seat
    /// whose ledger does not say connected is a goodbye that got half way: the placement is over.
    pub fn kept(&self, player: &PlayerId, seat: Mark, now: Time) -> Option<Mark> {
        self.claims.get(player).copied().filter(|mark| {
            let agree = mark.stamp() == seat.stamp() && (mark.is_connected() || !seat.is_connected());
            agree && !self.is_over(*mark, now)
        })
    }

    /// The write that puts the index right about this server, if it is wrong. A server with an expired claim counts
    /// as having room, so that its slot is found; one whose lease is over takes nobody, and would hide those that do.
    pub fn listing_fix(&self, now: Time) -> Option<LedgerWrite> {
        let generation = self.generation;
        let fill = match self.state {
            ServerState::Ready if self.takes_claims(now) => fill(self.live_claims(now), self.capacity),
            _ => None,
        };
        match (self.listed, fill) {
            (was, Some(fill)) if was != Some(fill) => Some(LedgerWrite::List { generation, was, fill }),
            (Some(was), None) => Some(LedgerWrite::Unlist { generation, was, now }),
            _ => None,
        }
    }

    /// The same for whoever has just claimed `slots` slots here: only the claim that crosses a mark puts the index right,
    /// not every one that sees it wrong until that is done. What is missed the next heartbeat mends.
    pub fn listing_fix_after_claim(&self, slots: usize, now: Time) -> Option<LedgerWrite> {
        let live = self.live_claims(now);
        let crossed = fill(live, self.capacity) != fill(live.saturating_sub(slots), self.capacity);
        if crossed { self.listing_fix(now) } else { None }
    }

    /// What the launch needs now, if anything.
    pub fn due(&self, now: Time) -> Option<Due> {
        let launch = self.launch.as_ref().filter(|_| self.state == ServerState::Starting)?;
        if now >= launch.deadline {
            let last = self.attempt >= MAX_LAUNCH_ATTEMPTS;
            Some(if last { Due::GiveUp } else { Due::NextAttempt })
        } else {
            (self.task.is_none() && now >= launch.call_at).then_some(Due::Call)
        }
    }
}

/// Who says that a server is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopBy {
    /// The server itself, by its token.
    Server(TokenHash),
    /// OWMM, which has seen the task of this attempt dead. News of an older attempt stop nothing.
    Attempt(u32),
}

/// One conditional write on a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LedgerWrite {
    /// Reserves a slot for a player, or renews the player's older claim. Refused if the server takes no claims, has
    /// no room, or holds a newer claim of the player, or one of this very stamp that is connected by now.
    Claim {
        /// The player.
        player: PlayerId,
        /// The placement's stamp, which the seat carries already.
        stamp: Stamp,
        /// The time of the request.
        now: Time,
        /// The last heartbeat may be at most this: later means that this write is a late one.
        seen_by: Time,
    },
    /// Reserves a slot for each of these players or for none, if everything that matters is exactly as it was seen. For
    /// one player who needs the slot of a claim whose time is up, and for a party.
    ClaimExactly {
        /// The players, at least one, and the claim that each has on this server, if any.
        players: Vec<(PlayerId, Option<Mark>)>,
        /// The placement's stamp, later than any of those claims'.
        stamp: Stamp,
        /// The time of the request.
        now: Time,
        /// As in [`LedgerWrite::Claim`].
        seen_by: Time,
        /// Claims of others to remove, because their time is up.
        evict: Vec<(PlayerId, Mark)>,
        /// The capacity that was seen: a condition cannot add, so the limit goes out as a number.
        capacity: u32,
    },
    /// The server registers a player: reserved → connected under exactly this stamp. Done already is done.
    Connect {
        /// The server's token.
        by: TokenHash,
        /// The player.
        player: PlayerId,
        /// The exact stamp.
        stamp: Stamp,
        /// Whether a reservation will do; false when the ticket's time is up, so that only a repeat succeeds.
        reserved: bool,
    },
    /// Frees the slot of exactly this placement, and puts the server back into the index in the same write.
    Release {
        /// The server's token; `None` when it is the player who gives up a reservation.
        by: Option<TokenHash>,
        /// The player.
        player: PlayerId,
        /// `Reserved` frees only a reservation, `Connected` the placement of that stamp in either state.
        mark: Mark,
        /// Whether the server is ready, and so belongs into the index. Refused if it is not as said.
        ready: bool,
    },
    /// connected → reserved under a new stamp, for a reconnect.
    Hold {
        /// The server's token.
        by: TokenHash,
        /// The player.
        player: PlayerId,
        /// The stamp of the connection that ended.
        from: Stamp,
        /// The stamp of the reservation.
        to: Stamp,
    },
    /// starting → ready.
    Register {
        /// The server's token.
        by: TokenHash,
        /// What it says of itself.
        registration: Registration,
        /// The time of the request.
        now: Time,
    },
    /// A heartbeat: extends the lease.
    Beat {
        /// The server's token.
        by: TokenHash,
        /// The time of the request.
        now: Time,
    },
    /// The server is over: every claim is void.
    Stop {
        /// Who says so.
        by: StopBy,
        /// The time of the request.
        now: Time,
    },
    /// The server has fallen silent, and is over: refused if it has beaten since, or if anybody has come.
    StopSilent {
        /// The attempt that was seen.
        attempt: u32,
        /// The lease must have ended before that.
        silent_since: Time,
        /// The claims, exactly as they were seen; `None` where they do not matter, because there is no task to be inside of.
        claims: Option<BTreeMap<PlayerId, Mark>>,
        /// The time of the request.
        now: Time,
    },
    /// Removes claims whose time is up, if they are exactly as they were seen, and lists a ready server.
    Sweep {
        /// The claims.
        evict: Vec<(PlayerId, Mark)>,
        /// Whether the server is ready, and so belongs into the index. Refused if it is not as said.
        ready: bool,
    },
    /// Notes since when a ready server has had no claim.
    Idle {
        /// The time of the request.
        now: Time,
    },
    /// ready → draining on an operator's word: no new claims; who is inside stays. Draining already is done, with the
    /// new deadline.
    Drain {
        /// When it is stopped although players are inside; `None` waits for them.
        drain_by: Option<Time>,
    },
    /// ready → draining for a server that has had no claim at all since before `idle_by`.
    DrainIdle {
        /// It must have been idle by then.
        idle_by: Time,
    },
    /// Lists a ready server in the index.
    List {
        /// Its generation, as it was seen.
        generation: u32,
        /// How it was listed.
        was: Option<Fill>,
        /// How it is to be listed.
        fill: Fill,
    },
    /// Takes a server that is full, or whose lease is over, out of the index. Refused if it has room again.
    Unlist {
        /// Its generation, as it was seen.
        generation: u32,
        /// How it was listed.
        was: Fill,
        /// The time of the request.
        now: Time,
    },
    /// RunTask is about to be called again: whoever wins this calls.
    Recall {
        /// The attempt.
        attempt: u32,
        /// When the call was due.
        was: Time,
        /// When the next one will be.
        call_at: Time,
    },
    /// RunTask has answered with a task.
    TaskStarted {
        /// The attempt.
        attempt: u32,
        /// The task's ARN.
        task: String,
    },
    /// The attempt has failed; the next one has a token of its own, so a late server of the old one is refused.
    NextAttempt {
        /// The attempt that failed.
        failed: u32,
        /// The hash of the new token.
        token_hash: TokenHash,
        /// The new launch.
        launch: Launch,
    },
    /// The launch is given up: the server is stopped before it ever was.
    GiveUp {
        /// The attempt that failed.
        failed: u32,
        /// The time of the request.
        now: Time,
    },
}

impl LedgerWrite {
    /// What the table makes of this write: the new ledger, or `None` when the condition refuses it.
    pub fn apply(&self, ledger: Option<&Ledger>) -> Option<Ledger> {
        let old = ledger?;
        let mut new = old.clone();
        let knows = |by: &TokenHash| *by == old.token_hash;
        match self {
            Self::Claim { player, stamp, now, seen_by } => {
                let slot = match old.claims.get(player) {
                    None => !old.is_full(),
                    Some(mark) => {
                        let mine = *mark == Mark::Reserved(*stamp) || teeth::has(Mistake::ReserveAgain);
                        mark.stamp() < *stamp || mark.stamp() == *stamp && mine
                    }
                };
                (old.is_open(*now, *seen_by) && slot).then(|| {
                    new.claims.insert(player.clone(), Mark::Reserved(*stamp));
                    new.idle_since = None;
                    new
                })
            }
            Self::ClaimExactly { players, stamp, now, seen_by, evict, capacity } => {
                let added = players.iter().filter(|(_, held)| held.is_none()).count();
                let room = old.claims.len() + added <= *capacity as usize + evict.len();
                let exact = old.holds_exactly(evict)
                    && players.iter().all(|(player, held)| old.claims.get(player) == held.as_ref());
                (old.is_open(*now, *seen_by) && old.capacity == *capacity && room && exact).then(|| {
                    for (player, _) in evict {
                        new.claims.remove(player);
                    }
                    for (player, _) in players {
                        new.claims.insert(player.clone(), Mark::Reserved(*stamp));
                    }
                    new.idle_since = None;
                    new
                })
            }
            Self::Connect { by, player, stamp, reserved } => {
                let held = match old.claims.get(player) {
                    Some(Mark::Connected(held)) => held == stamp,
                    Some(Mark::Reserved(held)) => *reserved && held == stamp,
                    None => false,
                };
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                (knows(by) && registered && held).then(|| {
                    new.claims.insert(player.clone(), Mark::Connected(*stamp));
                    new
                })
            }
            Self::Release { by, player, mark, ready } => {
                let held = old.claims.get(player).is_some_and(|held| {
                    let same = held == mark || (mark.is_connected() && held.stamp() == mark.stamp());
                    same || teeth::has(Mistake::ReleaseAnyStamp)
                });
                let as_said = (old.state == ServerState::Ready) == *ready;
                (by.as_ref().is_none_or(knows) && as_said && held).then(|| {
                    new.claims.remove(player);
                    if *ready {
                        new.listed = old.listed_with_room();
                    }
                    new
                })
            }
            Self::Hold { by, player, from, to } => {
                let held = old.claims.get(player) == Some(&Mark::Connected(*from));
                (knows(by) && held).then(|| {
                    new.claims.insert(player.clone(), Mark::Reserved(*to));
                    new
                })
            }
            Self::Register { by, registration, now } => {
                let fits = registration.capacity.is_none_or(|capacity| old.claims.len() <= capacity as usize);
                (knows(by) && old.state == ServerState::Starting && fits).then(|| {
                    new.state = ServerState::Ready;
                    new.endpoint = Some(registration.endpoint.clone());
                    new.metadata.clone_from(&registration.metadata);
                    new.capacity = registration.capacity.unwrap_or(old.capacity);
                    new.ready_at = Some(*now);
                    new.seen = Some(*now);
                    new.lease_until = Some(*now + old.lease_for);
                    new.listed = Some(Fill::TOP);
                    new.launch = None;
                    new
                })
            }
            Self::Beat { by, now } => {
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                (knows(by) && registered).then(|| {
                    new.seen = Some(*now);
                    new.lease_until = Some(*now + old.lease_for);
                    new
                })
            }
            Self::Stop { by, now: _ } => {
                let entitled = match by {
                    StopBy::Server(by) => knows(by),
                    StopBy::Attempt(attempt) => *attempt == old.attempt,
                };
                (entitled && old.state != ServerState::Stopped).then(|| new.stopped())
            }
            Self::StopSilent { attempt, silent_since, claims, now: _ } => {
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                let silent = old.lease_until.is_some_and(|until| until < *silent_since);
                let as_seen = claims.as_ref().is_none_or(|claims| *claims == old.claims);
                (registered && old.attempt == *attempt && silent && as_seen).then(|| new.stopped())
            }
            Self::Sweep { evict, ready } => {
                let exact = old.holds_exactly(evict);
                let as_said = (old.state == ServerState::Ready) == *ready;
                (exact && as_said).then(|| {
                    for (player, _) in evict {
                        new.claims.remove(player);
                    }
                    new.idle_since = None;
                    if *ready {
                        new.listed = old.listed_with_room();
                    }
                    new
                })
            }
            Self::Idle { now } => {
                let idle = old.state == ServerState::Ready && old.claims.is_empty() && old.idle_since.is_none();
                idle.then(|| {
                    new.idle_since = Some(*now);
                    new
                })
            }
            Self::Drain { drain_by } => matches!(old.state, ServerState::Ready | ServerState::Draining).then(|| {
                new.state = ServerState::Draining;
                new.listed = None;
                new.drain_by = *drain_by;
                new
            }),
            Self::DrainIdle { idle_by } => {
                let idle = old.idle_since.is_some_and(|since| since <= *idle_by);
                let unused = old.claims.is_empty() && idle || teeth::has(Mistake::CheckedScaleIn);
                (old.state == ServerState::Ready && unused).then(|| {
                    new.state = ServerState::Draining;
                    new.listed = None;
                    new
                })
            }
            Self::List { generation, was, fill } => {
                let as_seen = old.generation == *generation && old.listed == *was;
                (old.state == ServerState::Ready && as_seen).then(|| {
                    new.listed = Some(*fill);
                    new
                })
            }
            Self::Unlist { generation, was, now } => {
                let lapsed = old.lease_until.is_some_and(|until| until < *now);
                let no_room = old.state != ServerState::Ready || old.is_full() || lapsed;
                (old.generation == *generation && old.listed == Some(*was) && no_room).then(|| {
                    new.listed = None;
                    new
                })
            }
            Self::Recall { attempt, was, call_at } => {
                let due = old.launch.as_ref().is_some_and(|launch| launch.call_at == *was);
                (old.is_attempt(*attempt) && old.task.is_none() && due).then(|| {
                    new.launch = new.launch.map(|launch| Launch { call_at: *call_at, ..launch });
                    new
                })
            }
            Self::TaskStarted { attempt, task } => {
                (old.attempt == *attempt && old.state != ServerState::Stopped).then(|| {
                    new.task = Some(task.clone());
                    new
                })
            }
            Self::NextAttempt { failed, token_hash, launch } => old.is_attempt(*failed).then(|| {
                new.attempt = failed.saturating_add(1);
                new.token_hash = *token_hash;
                new.launch = Some(launch.clone());
                new.task = None;
                new
            }),
            Self::GiveUp { failed, now: _ } => old.is_attempt(*failed).then(|| new.stopped()),
        }
    }
}

impl Ledger {
    fn is_open(&self, now: Time, seen_by: Time) -> bool {
        self.state == ServerState::Starting || self.takes_claims(now) && self.seen.is_some_and(|seen| seen <= seen_by)
    }

    /// Whether these claims are exactly as they were seen.
    fn holds_exactly(&self, claims: &[(PlayerId, Mark)]) -> bool {
        let held = |(player, mark): &(PlayerId, Mark)| self.claims.get(player) == Some(mark);
        claims.iter().all(held) || teeth::has(Mistake::EvictInexactly)
    }

    /// How the index lists it once a slot is free: as it did, or else among the fullest.
    fn listed_with_room(&self) -> Option<Fill> {
        if teeth::has(Mistake::FreeUnlisted) { self.listed } else { self.listed.or(Some(Fill::TOP)) }
    }

    fn is_attempt(&self, attempt: u32) -> bool {
        self.state == ServerState::Starting && self.attempt == attempt
    }

    fn stopped(mut self) -> Self {
        self.state = ServerState::Stopped;
        self.claims.clear();
        self.listed = None;
        self.launch = None;
        self
    }
}
