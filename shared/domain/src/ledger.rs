//! The ledger: the one item of a server, which holds its state and every claim on its slots.
//!
//! The ledger is the truth of what a server's slots are held by. A claim is keyed by its player inside the item, so it
//! is its own idempotency key, its own capacity check and its own expiry. Every change is one conditional write that
//! is safe when applied zero, one or two times, and late.

use std::{collections::BTreeMap, fmt};

use super::{
    Placement, PlayerId, PoolLimits, PoolName, ServerId, Span, Time, TokenHash,
    bug::{self, Bug},
};

/// Expired claims that one write removes at the most. DynamoDB takes an expression of at most 4 KB and 300 operators
/// ("Expression parameters" in the developer guide's page on service quotas); 50 use about half of each.
pub const MAX_EVICTIONS: usize = 50;

/// How often a server's task is started before the launch is abandoned.
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

/// A placement with its sign: `+placement` is a reservation, `-placement` a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// The slot is held for a player who has not come yet.
    Reserved(Placement),
    /// The server has registered the player.
    Connected(Placement),
}

impl Claim {
    /// The placement without its sign.
    pub const fn placement(self) -> Placement {
        match self {
            Self::Reserved(placement) | Self::Connected(placement) => placement,
        }
    }

    /// Whether the server has registered the player.
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// The number that stands for it in the table.
    pub const fn number(self) -> i64 {
        match self {
            Self::Reserved(placement) => placement.get(),
            Self::Connected(placement) => -placement.get(),
        }
    }

    /// The claim that a number stands for; `None` for 0.
    pub const fn from_number(number: i64) -> Option<Self> {
        if let Some(placement) = Placement::new(number) {
            return Some(Self::Reserved(placement));
        }
        match Placement::new(number.saturating_neg()) {
            Some(placement) => Some(Self::Connected(placement)),
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
    /// The deadline of the last attempt has passed: abandon the launch.
    AbandonLaunch,
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
    /// The build that it runs.
    pub build: u32,
    /// Where it is in its life.
    pub state: ServerState,
    /// Its slots.
    pub capacity: u32,
    /// Who holds them.
    pub claims: BTreeMap<PlayerId, Claim>,
    /// How long a reservation holds, as the pool said when the server was started.
    pub reservation: Span,
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
    /// When an operator last said that it is to drain. Newer wins, late loses.
    pub requested_at: Option<Time>,
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
            build: 0,
            state: ServerState::Starting,
            capacity: limits.capacity,
            claims: BTreeMap::new(),
            reservation: limits.reservation,
            lease_for: limits.lease,
            lease_until: None,
            seen: None,
            idle_since: None,
            drain_by: None,
            requested_at: None,
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

    /// When a claim's time is up; `None` if it has no end of its own: the player is inside, or the server is still
    /// starting.
    pub fn expires(&self, claim: Claim) -> Option<Time> {
        match (claim, self.ready_at) {
            (Claim::Reserved(placement), Some(ready_at)) => Some(placement.time().max(ready_at) + self.reservation),
            _ => None,
        }
    }

    /// Whether a claim is over: a reservation whose time is up, or any claim on a stopped server.
    pub fn is_over(&self, claim: Claim, now: Time) -> bool {
        self.state == ServerState::Stopped || self.expires(claim).is_some_and(|end| end <= now)
    }

    /// Slots that nobody holds on a server of that build that is still starting; 0 of any other.
    pub fn room_to_start(&self, build: u32) -> u32 {
        let counts = self.state == ServerState::Starting && self.build == build;
        let held = u32::try_from(self.claims.len()).unwrap_or(u32::MAX);
        if counts { self.capacity.saturating_sub(held) } else { 0 }
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
        self.claims.values().filter(|claim| !self.is_over(**claim, now)).count()
    }

    /// Players who are inside.
    pub fn connected(&self) -> usize {
        self.claims.values().filter(|claim| claim.is_connected()).count()
    }

    /// Players who are on their way: reservations that are not over.
    pub fn reserved(&self, now: Time) -> usize {
        self.claims.values().filter(|claim| !claim.is_connected() && !self.is_over(**claim, now)).count()
    }

    /// The claims whose time is up, as the exact values to remove: at most [`MAX_EVICTIONS`].
    pub fn evictable(&self, now: Time) -> Vec<(PlayerId, Claim)> {
        let over = self.claims.iter().filter(|(_, claim)| self.is_over(**claim, now));
        over.take(MAX_EVICTIONS).map(|(player, claim)| (player.clone(), *claim)).collect()
    }

    /// Players that the ledger holds as connected and that are not in `inside`.
    pub fn connected_but_not<'a>(
        &'a self,
        inside: &'a [PlayerId],
    ) -> impl Iterator<Item = (&'a PlayerId, Placement)> + 'a {
        let connected = self.claims.iter().filter(|(_, claim)| claim.is_connected());
        connected.filter(|(player, _)| !inside.contains(player)).map(|(player, claim)| (player, claim.placement()))
    }

    /// The claim of a player whose seat carries `seat` for this server, if it is live and the two agree. A connected seat
    /// whose ledger does not say connected is a disconnect that got half way: the placement is over.
    pub fn kept(&self, player: &PlayerId, seat: Claim, now: Time) -> Option<Claim> {
        self.claims.get(player).copied().filter(|claim| {
            let agree = claim.placement() == seat.placement() && (claim.is_connected() || !seat.is_connected());
            agree && !self.is_over(*claim, now)
        })
    }

    /// The write that puts the index right about this server, if it is wrong. A server with an expired claim counts
    /// as having room, so that its slot is found; one whose lease is over takes nobody, and would hide those that do.
    pub fn listing_fix(&self, now: Time) -> Option<LedgerWrite> {
        let build = self.build;
        let fill = match self.state {
            ServerState::Ready if self.takes_claims(now) => fill(self.live_claims(now), self.capacity),
            _ => None,
        };
        match (self.listed, fill) {
            (was, Some(fill)) if was != Some(fill) => Some(LedgerWrite::List { build, was, fill }),
            (Some(was), None) => Some(LedgerWrite::Unlist { build, was, now }),
            _ => None,
        }
    }

    /// The same for whoever has just claimed `slots` slots here: only the claim that changes the fill level updates the index,
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
            Some(if last { Due::AbandonLaunch } else { Due::NextAttempt })
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
    /// OWMM, as it has drained: empty, or past its deadline. An operator may have moved that.
    Drained {
        /// The attempt.
        attempt: u32,
        /// The deadline that was seen, if there was one.
        drain_by: Option<Time>,
    },
}

/// One conditional write on a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LedgerWrite {
    /// Reserves a slot for a player, or renews the player's older claim. Refused if the server takes no claims, has
    /// no room, or holds a newer claim of the player, or one of this very placement that is connected by now.
    Claim {
        /// The player.
        player: PlayerId,
        /// The placement, which the seat carries already.
        placement: Placement,
        /// The time of the request.
        now: Time,
        /// The last heartbeat may be at most this: later means that this write is a late one.
        seen_by: Time,
    },
    /// Reserves a slot for each of these players or for none, if everything that matters is exactly as it was seen. For
    /// one player who needs the slot of a claim whose time is up, and for a party.
    ClaimExactly {
        /// The players, at least one, and the claim that each has on this server, if any.
        players: Vec<(PlayerId, Option<Claim>)>,
        /// The placement, later than any of those claims'.
        placement: Placement,
        /// The time of the request.
        now: Time,
        /// As in [`LedgerWrite::Claim`].
        seen_by: Time,
        /// Claims of others to remove, because their time is up.
        evict: Vec<(PlayerId, Claim)>,
        /// The capacity that was seen: a condition cannot add, so the limit goes out as a number.
        capacity: u32,
    },
    /// The server registers a player: reserved → connected under exactly this placement. Done already is done.
    Connect {
        /// The server's token.
        by: TokenHash,
        /// The player.
        player: PlayerId,
        /// The exact placement.
        placement: Placement,
        /// Whether a reservation will do; false when the ticket's time is up, so that only a repeat succeeds.
        reserved: bool,
    },
    /// Frees the slot of exactly this placement, and puts the server back into the index in the same write.
    Free {
        /// The server's token; `None` when it is the player who cancels a reservation.
        by: Option<TokenHash>,
        /// The player.
        player: PlayerId,
        /// `Reserved` frees only a reservation, `Connected` that placement in either state.
        claim: Claim,
        /// Whether the server is ready, and so belongs into the index. Refused if it is not as said.
        ready: bool,
    },
    /// connected → reserved under a new placement, for a reconnect.
    KeepForReconnect {
        /// The server's token.
        by: TokenHash,
        /// The player.
        player: PlayerId,
        /// The placement of the connection that ended.
        from: Placement,
        /// The placement of the reservation.
        to: Placement,
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
    /// A heartbeat: extends the lease. Refused once a later one has been heard.
    Heartbeat {
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
        claims: Option<BTreeMap<PlayerId, Claim>>,
        /// The time of the request.
        now: Time,
    },
    /// Removes claims whose time is up, if they are exactly as they were seen, and lists a ready server.
    Sweep {
        /// The claims.
        evict: Vec<(PlayerId, Claim)>,
        /// Whether the server is ready, and so belongs into the index. Refused if it is not as said.
        ready: bool,
    },
    /// Notes since when a ready server has had no claim.
    Idle {
        /// The time of the request.
        now: Time,
    },
    /// ready → draining on an operator's command: no new claims; who is inside stays. Draining already is done, with the
    /// new deadline. Refused if this command or a later one was applied already.
    Drain {
        /// When the operator requested it.
        at: Time,
        /// When it is stopped although players are inside; `None` waits for them.
        drain_by: Option<Time>,
    },
    /// ready → draining for a server of a build that takes no new players any more. An operator's drain stays as it is.
    Retire,
    /// ready → draining for a server that has had no claim at all since before `idle_by`.
    DrainIdle {
        /// It must have been idle by then.
        idle_by: Time,
    },
    /// Lists a ready server in the index.
    List {
        /// Its build, as it was seen.
        build: u32,
        /// How it was listed.
        was: Option<Fill>,
        /// How it is to be listed.
        fill: Fill,
    },
    /// Takes a server that is full, or whose lease is over, out of the index. Refused if it has room again.
    Unlist {
        /// Its build, as it was seen.
        build: u32,
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
    /// The launch is abandoned: the server is stopped before it ever was.
    AbandonLaunch {
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
            Self::Claim { player, placement, now, seen_by } => {
                let slot = match old.claims.get(player) {
                    None => !old.is_full(),
                    Some(claim) => {
                        let mine = *claim == Claim::Reserved(*placement) || bug::injected(Bug::ReserveAgain);
                        claim.placement() < *placement || claim.placement() == *placement && mine
                    }
                };
                (old.is_open(*now, *seen_by) && slot).then(|| {
                    new.claims.insert(player.clone(), Claim::Reserved(*placement));
                    new.idle_since = None;
                    new
                })
            }
            Self::ClaimExactly { players, placement, now, seen_by, evict, capacity } => {
                let added = players.iter().filter(|(_, held)| held.is_none()).count();
                let room = old.claims.len() + added <= *capacity as usize + evict.len();
                let exact = old.holds_exactly(evict)
                    && players.iter().all(|(player, held)| old.claims.get(player) == held.as_ref());
                (old.is_open(*now, *seen_by) && old.capacity == *capacity && room && exact).then(|| {
                    for (player, _) in evict {
                        new.claims.remove(player);
                    }
                    for (player, _) in players {
                        new.claims.insert(player.clone(), Claim::Reserved(*placement));
                    }
                    new.idle_since = None;
                    new
                })
            }
            Self::Connect { by, player, placement, reserved } => {
                let held = match old.claims.get(player) {
                    Some(Claim::Connected(held)) => held == placement,
                    Some(Claim::Reserved(held)) => *reserved && held == placement,
                    None => false,
                };
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                (knows(by) && registered && held).then(|| {
                    new.claims.insert(player.clone(), Claim::Connected(*placement));
                    new
                })
            }
            Self::Free { by, player, claim, ready } => {
                let held = old.claims.get(player).is_some_and(|held| {
                    let same = held == claim || (claim.is_connected() && held.placement() == claim.placement());
                    same || bug::injected(Bug::ReleaseAnyStamp)
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
            Self::KeepForReconnect { by, player, from, to } => {
                let held = old.claims.get(player) == Some(&Claim::Connected(*from));
                (knows(by) && held).then(|| {
                    new.claims.insert(player.clone(), Claim::Reserved(*to));
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
            Self::Heartbeat { by, now } => {
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                let newer = old.seen.is_some_and(|seen| seen <= *now);
                (knows(by) && registered && newer).then(|| {
                    new.seen = Some(*now);
                    new.lease_until = Some(*now + old.lease_for);
                    new
                })
            }
            Self::Stop { by, now: _ } => {
                let entitled = match by {
                    StopBy::Server(by) => knows(by),
                    StopBy::Attempt(attempt) => *attempt == old.attempt,
                    StopBy::Drained { attempt, drain_by } => {
                        let as_seen = old.state == ServerState::Draining && old.drain_by == *drain_by;
                        *attempt == old.attempt && as_seen
                    }
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
            Self::Drain { at, drain_by } => {
                let registered = matches!(old.state, ServerState::Ready | ServerState::Draining);
                let heard = old.requested_at.is_some_and(|last| last >= *at);
                (registered && !heard).then(|| {
                    new.state = ServerState::Draining;
                    new.listed = None;
                    new.drain_by = *drain_by;
                    new.requested_at = Some(*at);
                    new
                })
            }
            Self::Retire => (old.state == ServerState::Ready).then(|| {
                new.state = ServerState::Draining;
                new.listed = None;
                new
            }),
            Self::DrainIdle { idle_by } => {
                let idle = old.idle_since.is_some_and(|since| since <= *idle_by);
                let unused = old.claims.is_empty() && idle || bug::injected(Bug::CheckedScaleIn);
                (old.state == ServerState::Ready && unused).then(|| {
                    new.state = ServerState::Draining;
                    new.listed = None;
                    new
                })
            }
            Self::List { build, was, fill } => {
                let as_seen = old.build == *build && old.listed == *was;
                (old.state == ServerState::Ready && as_seen).then(|| {
                    new.listed = Some(*fill);
                    new
                })
            }
            Self::Unlist { build, was, now } => {
                let lapsed = old.lease_until.is_some_and(|until| until < *now);
                let no_room = old.state != ServerState::Ready || old.is_full() || lapsed;
                (old.build == *build && old.listed == Some(*was) && no_room).then(|| {
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
            Self::AbandonLaunch { failed, now: _ } => old.is_attempt(*failed).then(|| new.stopped()),
        }
    }
}

impl Ledger {
    fn is_open(&self, now: Time, seen_by: Time) -> bool {
        self.state == ServerState::Starting || self.takes_claims(now) && self.seen.is_some_and(|seen| seen <= seen_by)
    }

    /// Whether these claims are exactly as they were seen.
    fn holds_exactly(&self, claims: &[(PlayerId, Claim)]) -> bool {
        let held = |(player, claim): &(PlayerId, Claim)| self.claims.get(player) == Some(claim);
        claims.iter().all(held) || bug::injected(Bug::EvictInexactly)
    }

    /// How the index lists it once a slot is free: as it did, or else among the fullest.
    fn listed_with_room(&self) -> Option<Fill> {
        if bug::injected(Bug::FreeUnlisted) { self.listed } else { self.listed.or(Some(Fill::TOP)) }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::{
        NONE, NOW, TICK, connected, draining, launch, placement, player, ready, reserved, starting, states, stopped,
        token, which,
    };

    #[test]
    fn what_the_table_holds_is_read_as_it_was_written() {
        assert_eq!(ServerState::ALL.map(ServerState::as_str), ["starting", "ready", "draining", "stopped"]);
        assert_eq!(ServerState::ALL.map(|state| ServerState::parse(state.as_str())), ServerState::ALL.map(Some));
        assert_eq!(ServerState::parse("Ready"), None);
        for (number, claim) in [(7, Some(reserved(7))), (-7, Some(connected(7))), (0, None)] {
            assert_eq!(Claim::from_number(number), claim, "{number}");
            assert!(claim.is_none_or(|claim| claim.number() == number), "{claim:?}");
        }
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

    #[test]
    fn a_reservation_counts_from_when_its_server_was_ready() {
        let ledger = ready(&[]);
        let until = NOW + ledger.reservation;
        assert_eq!(ledger.expires(reserved(1_000)), Some(until), "made while it was starting");
        assert_eq!(ledger.expires(reserved(NOW.0 + 5)), Some(until + Span(5)));
        assert_eq!(ledger.expires(connected(1_000)), None);
        assert_eq!(starting(&[]).expires(reserved(1_000)), None);
        assert!(ledger.is_over(reserved(1_000), until) && !ledger.is_over(reserved(1_000), until - TICK));
        assert!(stopped().is_over(connected(1_000), NOW));
    }

    #[test]
    fn who_is_inside_and_who_is_on_the_way_is_counted_without_those_whose_time_is_up() {
        let ledger = ready(&[("a", connected(1_000)), ("b", reserved(1_000)), ("c", reserved(NOW.0 + 5))]);
        let count = |now| (ledger.connected(), ledger.reserved(now), ledger.live_claims(now));
        assert_eq!(count(NOW), (1, 2, 3));
        assert_eq!((ready(&[]).connected(), ready(&[]).reserved(NOW)), (0, 0));
        assert_eq!(count(NOW + ledger.reservation), (1, 1, 2));
        assert_eq!(ledger.evictable(NOW + ledger.reservation), [(player("b"), reserved(1_000))]);
        let inside = [player("b")];
        assert_eq!(ledger.connected_but_not(&inside).collect::<Vec<_>>(), [(&player("a"), placement(1_000))]);
        assert_eq!(ledger.connected_but_not(&[player("a")]).count(), 0);
    }

    #[test]
    fn claims_are_taken_while_starting_and_until_the_lease_is_over() {
        assert_eq!(which(states(), |ledger| ledger.takes_claims(NOW)), ["starting", "ready"]);
        assert_eq!(which(states(), |ledger| ledger.takes_claims(NOW + TICK)), ["starting"], "its lease is over");
        assert!(!Ledger { lease_until: None, ..ready(&[]) }.takes_claims(NOW));
        assert!(starting(&[]).never_registered() && !ready(&[]).never_registered());
        let full = ready(&[("a", reserved(1_000)), ("b", reserved(1_000))]);
        assert!(full.is_full() && !ready(&[("a", reserved(1_000))]).is_full());
    }

    #[test]
    fn a_claim_is_kept_if_the_seat_agrees_and_its_time_is_not_up() {
        let kept = |claim, seat, now| ready(&[("a", claim)]).kept(&player("a"), seat, now);
        assert_eq!(kept(reserved(7), reserved(7), NOW), Some(reserved(7)));
        assert_eq!(kept(connected(7), reserved(7), NOW), Some(connected(7)), "the seat is still to be written");
        assert_eq!(kept(connected(7), connected(7), NOW), Some(connected(7)));
        assert_eq!(kept(reserved(7), connected(7), NOW), None, "a disconnect that got half way");
        assert_eq!(kept(reserved(8), reserved(7), NOW), None);
        assert_eq!(kept(reserved(7), reserved(7), NOW + ready(&[]).reservation), None);
        assert_eq!(ready(&[]).kept(&player("a"), reserved(7), NOW), None);
    }

    #[test]
    fn the_index_lists_who_is_ready_has_room_and_is_alive() {
        let list = |was, fill| Some(LedgerWrite::List { build: 0, was, fill });
        let unlist = |was| Some(LedgerWrite::Unlist { build: 0, was, now: NOW });
        let of = |listed, ledger| Ledger { listed, ..ledger }.listing_fix(NOW);
        assert_eq!(of(None, ready(&[])), list(None, Fill::EMPTY));
        assert_eq!(of(Some(Fill::TOP), ready(&[])), list(Some(Fill::TOP), Fill::EMPTY));
        assert_eq!(of(Some(Fill::EMPTY), ready(&[])), None);
        let full = ready(&[("a", connected(1)), ("b", connected(1))]);
        let late = Ledger { lease_until: Some(NOW - TICK), ..ready(&[]) };
        for (case, ledger) in [
            ("full", full),
            ("its lease is over", late),
            ("draining", draining(&[])),
            ("stopped", stopped()),
            ("starting", starting(&[])),
        ] {
            assert_eq!(of(Some(Fill::EMPTY), ledger.clone()), unlist(Fill::EMPTY), "{case}");
            assert_eq!(of(None, ledger), None, "{case}, not listed");
        }
    }

    #[test]
    fn only_the_claim_that_crosses_a_claim_tells_the_index() {
        let with = |claims: usize| {
            let names = ["a", "b", "c", "d", "e", "f"];
            let claims = names.iter().take(claims).map(|name| (*name, connected(1))).collect::<Vec<_>>();
            Ledger { capacity: 6, ..ready(&claims) }
        };
        // Nothing is listed here, so a full one is in order.
        for (claims, tells) in [(1, false), (2, true), (3, false), (4, true), (5, false), (6, false)] {
            assert_eq!(with(claims).listing_fix_after_claim(1, NOW).is_some(), tells, "{claims} claims of six");
        }
        assert!(with(3).listing_fix_after_claim(2, NOW).is_some(), "a party crosses it with its last two");
    }

    #[test]
    fn a_launch_is_called_again_until_its_task_is_on_record_and_then_has_its_time() {
        let reply = format!("{:?}", launch());
        assert!(reply.contains("deadline") && !reply.contains("secret"), "{reply}");
        let ledger = Ledger { launch: Some(launch()), ..starting(&[]) };
        let due = |case: &str, ledger: &Ledger, at: Time, due: Due| {
            assert_eq!((ledger.due(at - TICK), ledger.due(at)), (None, Some(due)), "{case}: a moment before, and then");
        };
        due("the call", &ledger, NOW, Due::Call);
        let called = Ledger { task: Some("arn".to_owned()), ..ledger.clone() };
        let deadline = NOW + Span(1_000);
        assert_eq!(called.due(NOW), None, "its task is on record");
        due("the next attempt", &called, deadline, Due::NextAttempt);
        let last = Ledger { attempt: MAX_LAUNCH_ATTEMPTS, ..called };
        due("the end", &last, deadline, Due::AbandonLaunch);
        assert_eq!(Ledger { state: ServerState::Ready, ..ledger }.due(deadline), None);
        assert_eq!(starting(&[]).due(deadline), None);
    }

    /// The labels of the ledgers on which a write takes.
    fn taken<const N: usize>(write: &LedgerWrite, images: [(&'static str, Ledger); N]) -> Vec<&'static str> {
        which(images, |image| write.apply(Some(&image)).is_some())
    }

    #[test]
    fn a_claim_needs_an_open_server_and_a_slot_or_an_older_claim() {
        let claim = LedgerWrite::Claim { player: player("a"), placement: placement(7), now: NOW, seen_by: NOW };
        assert_eq!(taken(&claim, states()), ["starting", "ready"]);
        let full = |claim| ready(&[("a", claim), ("b", connected(1))]);
        let images = [
            ("an older reservation", full(reserved(6))),
            ("an older connection", full(connected(6))),
            ("the same reservation", full(reserved(7))),
            ("the same connection", full(connected(7))),
            ("a newer reservation", full(reserved(8))),
            ("full of others", ready(&[("b", connected(1)), ("c", connected(1))])),
        ];
        assert_eq!(taken(&claim, images), ["an older reservation", "an older connection", "the same reservation"]);
        let late = [
            ("it has beaten since", Ledger { seen: Some(NOW + TICK), ..ready(&[]) }),
            ("its lease is over", Ledger { lease_until: Some(NOW - TICK), ..ready(&[]) }),
            ("it has never beaten", Ledger { seen: None, ..ready(&[]) }),
        ];
        assert_eq!(taken(&claim, late), NONE);
        let idle = Ledger { idle_since: Some(NOW), ..ready(&[]) };
        let taken = claim.apply(Some(&idle)).unwrap();
        assert_eq!((taken.claims, taken.idle_since), (ready(&[("a", reserved(7))]).claims, None));
        assert_eq!(claim.apply(None), None);
    }

    #[test]
    fn an_exact_claim_needs_everything_as_it_was_seen() {
        let claim = |evict: &[(&str, Claim)], held, capacity| LedgerWrite::ClaimExactly {
            players: vec![(player("a"), held), (player("b"), None)],
            placement: placement(7),
            now: NOW,
            seen_by: NOW,
            evict: evict.iter().map(|(name, claim)| (player(name), *claim)).collect(),
            capacity,
        };
        let plain = claim(&[], None, 2);
        assert_eq!(taken(&plain, states()), ["starting", "ready"]);
        let others = [
            ("another's claim", ready(&[("c", reserved(1))])),
            ("a claim where none was seen", ready(&[("a", reserved(1))])),
            ("another capacity", Ledger { capacity: 3, ..ready(&[]) }),
        ];
        assert_eq!(taken(&plain, others), NONE);
        let evicting = claim(&[("c", reserved(1))], Some(reserved(2)), 2);
        let seen = ready(&[("a", reserved(2)), ("c", reserved(1))]);
        assert_eq!(
            evicting.apply(Some(&seen)).unwrap().claims,
            ready(&[("a", reserved(7)), ("b", reserved(7))]).claims
        );
        let others = [
            ("the one to evict is connected by now", ready(&[("a", reserved(2)), ("c", connected(1))])),
            ("the player's own claim is newer", ready(&[("a", reserved(3)), ("c", reserved(1))])),
        ];
        assert_eq!(taken(&evicting, others), NONE);
    }

    #[test]
    fn a_player_connects_under_the_very_placement_of_the_claim() {
        let connect =
            |reserved| LedgerWrite::Connect { by: token(), player: player("a"), placement: placement(7), reserved };
        let claims = || {
            [
                ("reserved", ready(&[("a", reserved(7))])),
                ("connected", ready(&[("a", connected(7))])),
                ("a newer reservation", ready(&[("a", reserved(8))])),
                ("a newer connection", ready(&[("a", connected(8))])),
            ]
        };
        assert_eq!(taken(&connect(true), claims()), ["reserved", "connected"]);
        assert_eq!(taken(&connect(false), claims()), ["connected"], "a ticket that has run out");
        let claim = &[("a", reserved(7))];
        let servers = [
            ("starting", starting(claim)),
            ("draining", draining(claim)),
            ("another token", Ledger { token_hash: TokenHash::of("another"), ..ready(claim) }),
        ];
        assert_eq!(taken(&connect(true), servers), ["draining"]);
        assert_eq!(connect(true).apply(Some(&ready(claim))).unwrap().claims, ready(&[("a", connected(7))]).claims);
    }

    #[test]
    fn a_release_frees_that_placement_only_and_lists_a_ready_server() {
        let release = |by, claim, ready| LedgerWrite::Free { by, player: player("a"), claim, ready };
        let claims = || {
            [
                ("reserved", ready(&[("a", reserved(7))])),
                ("connected", ready(&[("a", connected(7))])),
                ("a newer reservation", ready(&[("a", reserved(8))])),
            ]
        };
        assert_eq!(taken(&release(None, connected(7), true), claims()), ["reserved", "connected"]);
        assert_eq!(taken(&release(None, reserved(7), true), claims()), ["reserved"], "one connected by now stays");
        let claim = &[("a", connected(7))];
        let by = |token: &str| release(Some(TokenHash::of(token)), connected(7), true);
        let servers = || [("starting", starting(claim)), ("ready", ready(claim)), ("draining", draining(claim))];
        for (case, write, states) in [
            ("of a ready server", release(None, connected(7), true), &["ready"][..]),
            ("of a server that is not ready", release(None, connected(7), false), &["starting", "draining"]),
            ("by the server itself", by("token"), &["ready"]),
            ("by another server", by("another"), &[]),
        ] {
            assert_eq!(taken(&write, servers()), states, "{case}");
        }
        let freed = by("token").apply(Some(&ready(claim))).unwrap();
        assert_eq!((freed.claims.len(), freed.listed), (0, Some(Fill::TOP)));
        let listed = Ledger { listed: Some(Fill::EMPTY), ..ready(claim) };
        assert_eq!(by("token").apply(Some(&listed)).unwrap().listed, Some(Fill::EMPTY));
        assert_eq!(release(None, connected(7), false).apply(Some(&draining(claim))).unwrap().listed, None);
    }

    #[test]
    fn only_who_is_inside_under_that_placement_is_held() {
        let keep = |by| LedgerWrite::KeepForReconnect { by, player: player("a"), from: placement(7), to: placement(9) };
        let claims = || {
            [
                ("connected", ready(&[("a", connected(7))])),
                ("reserved", ready(&[("a", reserved(7))])),
                ("a newer connection", ready(&[("a", connected(8))])),
            ]
        };
        assert_eq!(taken(&keep(token()), claims()), ["connected"]);
        assert_eq!(taken(&keep(TokenHash::of("another")), claims()), NONE, "by another server");
        let held = keep(token()).apply(Some(&ready(&[("a", connected(7))]))).unwrap();
        assert_eq!(held.claims, ready(&[("a", reserved(9))]).claims);
    }

    #[test]
    fn a_server_registers_once_with_room_for_those_who_wait() {
        let register = |by, capacity| {
            let endpoint = Endpoint { address: "192.0.2.1".to_owned(), port: 7_777 };
            let registration = Registration { endpoint, capacity, metadata: BTreeMap::new() };
            LedgerWrite::Register { by, registration, now: NOW }
        };
        let waiting = &[("a", reserved(1)), ("b", reserved(1))];
        assert_eq!(taken(&register(token(), None), states()), ["starting"]);
        assert_eq!(taken(&register(TokenHash::of("another"), None), states()), NONE, "by another server");
        for (capacity, fits) in [(None, true), (Some(1), false), (Some(2), true), (Some(3), true)] {
            let registered = register(token(), capacity).apply(Some(&starting(waiting)));
            assert_eq!(registered.is_some(), fits, "two wait, and its capacity is {capacity:?}");
        }
        let up = register(token(), Some(3)).apply(Some(&starting(waiting))).unwrap();
        let lease = Some(NOW + up.lease_for);
        assert_eq!((up.state, up.capacity, up.lease_until), (ServerState::Ready, 3, lease));
        assert_eq!((up.seen, up.ready_at, up.listed, up.launch), (Some(NOW), Some(NOW), Some(Fill::TOP), None));
        assert_eq!(register(token(), None).apply(Some(&starting(&[]))).unwrap().capacity, 2);
    }

    #[test]
    fn a_registered_server_beats_and_no_other() {
        let heartbeat = LedgerWrite::Heartbeat { by: token(), now: NOW + TICK };
        assert_eq!(taken(&heartbeat, states()), ["ready", "draining"]);
        let by_another = LedgerWrite::Heartbeat { by: TokenHash::of("another"), now: NOW };
        assert_eq!(taken(&by_another, states()), NONE, "by another server");
        let beaten = heartbeat.apply(Some(&ready(&[]))).unwrap();
        assert_eq!((beaten.seen, beaten.lease_until), (Some(NOW + TICK), Some(NOW + TICK + beaten.lease_for)));
        assert_eq!(
            LedgerWrite::Heartbeat { by: token(), now: NOW }.apply(Some(&beaten)),
            None,
            "a late one takes no lease away"
        );
        assert_eq!(heartbeat.apply(Some(&beaten)), Some(beaten), "a repeat");
    }

    #[test]
    fn a_server_is_stopped_once_by_itself_or_by_news_of_its_own_attempt() {
        let stop = |by| LedgerWrite::Stop { by, now: NOW };
        for by in [StopBy::Server(token()), StopBy::Attempt(1)] {
            assert_eq!(taken(&stop(by), states()), ["starting", "ready", "draining"], "{by:?}");
        }
        let drained = |attempt, drain_by| stop(StopBy::Drained { attempt, drain_by });
        let going = Ledger { drain_by: Some(NOW), ..draining(&[("a", connected(1))]) };
        assert_eq!(drained(1, Some(NOW)).apply(Some(&going)).map(|it| it.state), Some(ServerState::Stopped));
        for write in [drained(1, None), drained(1, Some(NOW + TICK)), drained(2, Some(NOW))] {
            assert_eq!(write.apply(Some(&going)), None, "{write:?}");
        }
        assert_eq!(drained(1, None).apply(Some(&ready(&[]))), None, "it does not drain");
        for by in [StopBy::Server(TokenHash::of("another")), StopBy::Attempt(0), StopBy::Attempt(2)] {
            assert_eq!(taken(&stop(by), states()), NONE, "{by:?}");
        }
        let busy = Ledger { listed: Some(Fill::TOP), launch: Some(launch()), ..starting(&[("a", reserved(1))]) };
        let over = stop(StopBy::Attempt(1)).apply(Some(&busy)).unwrap();
        assert_eq!((over.claims.len(), over.listed, over.launch), (0, None, None));
    }

    #[test]
    fn a_silent_server_is_stopped_only_as_it_was_seen() {
        let stop = |claims| LedgerWrite::StopSilent { attempt: 1, silent_since: NOW + TICK, claims, now: NOW };
        assert_eq!(taken(&stop(None), states()), ["ready", "draining"]);
        let images = || {
            [
                ("as it was seen", ready(&[])),
                ("it has beaten", Ledger { lease_until: Some(NOW + TICK), ..ready(&[]) }),
                ("another attempt", Ledger { attempt: 2, ..ready(&[]) }),
                ("a player has come", ready(&[("a", connected(1))])),
                ("no lease", Ledger { lease_until: None, ..ready(&[]) }),
            ]
        };
        assert_eq!(taken(&stop(Some(BTreeMap::new())), images()), ["as it was seen"]);
        assert_eq!(taken(&stop(None), images()), ["as it was seen", "a player has come"], "whoever is inside");
    }

    #[test]
    fn a_sweep_takes_exactly_what_it_saw_and_lists_a_ready_server() {
        let sweep = |ready| LedgerWrite::Sweep { evict: vec![(player("a"), reserved(1))], ready };
        let seen = &[("a", reserved(1)), ("b", connected(1))];
        let images = || {
            [
                ("ready", ready(seen)),
                ("draining", draining(seen)),
                ("connected by now", ready(&[("a", connected(1))])),
                ("no claim", ready(&[])),
            ]
        };
        assert_eq!(taken(&sweep(true), images()), ["ready"]);
        assert_eq!(taken(&sweep(false), images()), ["draining"]);
        let swept = sweep(true).apply(Some(&Ledger { idle_since: Some(NOW), ..ready(seen) })).unwrap();
        assert_eq!(
            (swept.claims, swept.listed, swept.idle_since),
            (ready(&[("b", connected(1))]).claims, Some(Fill::TOP), None)
        );
        assert_eq!(sweep(false).apply(Some(&draining(seen))).unwrap().listed, None);
    }

    #[test]
    fn an_empty_server_is_noted_once_and_drains_in_one_condition_with_its_claims() {
        let idle = Ledger { idle_since: Some(NOW), listed: Some(Fill::EMPTY), ..ready(&[]) };
        let note = LedgerWrite::Idle { now: NOW };
        let images = [
            ("empty", ready(&[])),
            ("noted already", idle.clone()),
            ("a claim", ready(&[("a", reserved(1))])),
            ("draining", draining(&[])),
        ];
        assert_eq!(taken(&note, images), ["empty"]);
        assert_eq!(note.apply(Some(&ready(&[]))).unwrap().idle_since, Some(NOW));
        let drain = |idle_by| LedgerWrite::DrainIdle { idle_by };
        let images = || {
            [
                ("empty for long", idle.clone()),
                ("a claim", Ledger { claims: ready(&[("a", reserved(1))]).claims, ..idle.clone() }),
                ("draining", Ledger { state: ServerState::Draining, ..idle.clone() }),
                ("not noted", ready(&[])),
            ]
        };
        assert_eq!(taken(&drain(NOW), images()), ["empty for long"]);
        assert_eq!(taken(&drain(NOW - TICK), images()), NONE, "it became empty later");
        let drained = drain(NOW).apply(Some(&idle)).unwrap();
        assert_eq!((drained.state, drained.listed), (ServerState::Draining, None));
    }

    #[test]
    fn an_operators_drain_may_be_given_another_deadline() {
        let drain = |at, drain_by| LedgerWrite::Drain { at, drain_by };
        let by_now = drain(NOW, Some(NOW));
        assert_eq!(taken(&by_now, states()), ["ready", "draining"]);
        let drained = by_now.apply(Some(&Ledger { listed: Some(Fill::TOP), ..ready(&[]) })).unwrap();
        assert_eq!((drained.state, drained.listed, drained.drain_by), (ServerState::Draining, None, Some(NOW)));
        assert_eq!(by_now.apply(Some(&drained)), None, "it has been heard");
        let without_end = drain(NOW + TICK, None).apply(Some(&drained)).unwrap();
        assert_eq!(without_end.drain_by, None);
        assert_eq!(by_now.apply(Some(&without_end)), None, "a late word does not undo a later one");
    }

    #[test]
    fn a_server_of_an_old_build_drains_and_an_operators_deadline_stays() {
        assert_eq!(taken(&LedgerWrite::Retire, states()), ["ready"]);
        assert_eq!(taken(&LedgerWrite::Retire, [("with a player", ready(&[("a", connected(1))]))]), ["with a player"]);
        let retired = LedgerWrite::Retire.apply(Some(&Ledger { listed: Some(Fill::TOP), ..ready(&[]) })).unwrap();
        assert_eq!((retired.state, retired.listed), (ServerState::Draining, None));
    }

    #[test]
    fn the_index_is_told_only_of_what_is_as_it_was_seen() {
        let listed = |fill| Ledger { listed: fill, build: 1, ..ready(&[]) };
        let list = |build| LedgerWrite::List { build, was: Some(Fill::TOP), fill: Fill::EMPTY };
        let images = || {
            [
                ("as it was seen", listed(Some(Fill::TOP))),
                ("not listed", listed(None)),
                ("draining", Ledger { build: 1, listed: Some(Fill::TOP), ..draining(&[]) }),
            ]
        };
        assert_eq!(taken(&list(1), images()), ["as it was seen"]);
        assert_eq!(taken(&list(0), images()), NONE, "of another build");
        assert_eq!(list(1).apply(Some(&listed(Some(Fill::TOP)))).unwrap().listed, Some(Fill::EMPTY));
        let unlist = |now| LedgerWrite::Unlist { build: 0, was: Fill::TOP, now };
        let of = |ledger| Ledger { listed: Some(Fill::TOP), ..ledger };
        let full = of(ready(&[("a", connected(1)), ("b", connected(1))]));
        let images = || {
            [
                ("room", of(ready(&[]))),
                ("full", full.clone()),
                ("draining", of(draining(&[]))),
                ("full and not listed", Ledger { listed: None, ..full.clone() }),
                ("full, of another build", Ledger { build: 1, ..full.clone() }),
            ]
        };
        assert_eq!(taken(&unlist(NOW), images()), ["full", "draining"]);
        assert_eq!(taken(&unlist(NOW + TICK), images()), ["room", "full", "draining"], "its lease is over");
        assert_eq!(unlist(NOW).apply(Some(&full)).unwrap().listed, None);
    }

    #[test]
    fn each_step_of_a_launch_is_bound_to_its_attempt() {
        let later = Launch { call_at: NOW + TICK, ..launch() };
        let launching = || Ledger { launch: Some(launch()), ..starting(&[("a", reserved(1))]) };
        let called = || Ledger { task: Some("arn".to_owned()), ..launching() };
        let images = || {
            [
                ("to be called", launching()),
                ("called", called()),
                ("the next attempt", Ledger { attempt: 2, ..launching() }),
                ("ready", ready(&[])),
                ("stopped", stopped()),
            ]
        };
        let recall = |was| LedgerWrite::Recall { attempt: 1, was, call_at: NOW + TICK };
        assert_eq!(taken(&recall(NOW), images()), ["to be called"]);
        assert_eq!(taken(&recall(NOW - TICK), images()), NONE, "another has called since");
        assert_eq!(recall(NOW).apply(Some(&launching())).unwrap().launch, Some(later.clone()));
        let started = LedgerWrite::TaskStarted { attempt: 1, task: "task".to_owned() };
        assert_eq!(taken(&started, images()), ["to be called", "called", "ready"]);
        assert_eq!(started.apply(Some(&launching())).unwrap().task.as_deref(), Some("task"));
        let token_hash = TokenHash::of("next");
        let next = LedgerWrite::NextAttempt { failed: 1, token_hash, launch: later.clone() };
        assert_eq!(taken(&next, images()), ["to be called", "called"]);
        let second = next.apply(Some(&called())).unwrap();
        assert_eq!((second.attempt, second.task, second.token_hash), (2, None, token_hash));
        assert_eq!(second.launch, Some(later));
        let abandon = LedgerWrite::AbandonLaunch { failed: 1, now: NOW };
        assert_eq!(taken(&abandon, images()), ["to be called", "called"]);
        assert_eq!(abandon.apply(Some(&called())).unwrap().state, ServerState::Stopped);
    }
}
