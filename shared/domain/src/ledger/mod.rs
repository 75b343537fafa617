//! The ledger: the one item of a server, which holds its state and every claim on its slots. The ledger decides which
//! player holds a slot of the server. Its claims are keyed by player, so one claim per player is the idempotency key,
//! the number of claims is the capacity check, and the placement of a claim gives its expiry. Every change is one
//! conditional write that is safe when it is applied late, twice, or not at all.

mod launch;
mod rank;
mod write;

use std::collections::BTreeMap;

pub use launch::{Due, Launch, MAX_LAUNCH_ATTEMPTS, REPEAT_CALL_AFTER};
pub use rank::{Fill, Rank, fill};
pub use write::{LedgerWrite, StopBy};

use crate::{Placement, PlayerId, PoolLimits, PoolName, ServerId, Span, Time, TokenHash};

/// The most expired claims that one write removes. DynamoDB limits an expression to 4 KB and 300 operators ("Expression
/// parameters" on the service quotas page of its developer guide); 50 claims use about half of each.
pub const MAX_EVICTIONS: usize = 50;

/// The state of a server in its life cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerState {
    /// Being started, not registered yet. The frontier hands out its slots.
    Starting,
    /// Registered, and accepts players.
    Ready,
    /// Accepts no new players; connected players stay until they leave.
    Draining,
    /// Stopped for good. It has no valid claims.
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

    /// The state of that name; `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A player's claim on a slot: reserved or connected, under one placement. The table stores it as a number: the
/// placement for a reservation, the negated placement for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// The slot is held for a player who is not connected yet.
    Reserved(Placement),
    /// The server has registered the player.
    Connected(Placement),
}

impl Claim {
    /// The placement of the claim.
    pub const fn placement(self) -> Placement {
        match self {
            Self::Reserved(placement) | Self::Connected(placement) => placement,
        }
    }

    /// Whether the server has registered the player.
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// The number of the claim in the table: the placement, negated for a connection.
    pub const fn number(self) -> i64 {
        match self {
            Self::Reserved(placement) => placement.get(),
            Self::Connected(placement) => -placement.get(),
        }
    }

    /// The claim for a number of the table; `None` for 0.
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

/// The network address to which players connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name or an IP address, 1-255 printable ASCII characters without blanks.
    pub address: String,
    /// The port, never 0.
    pub port: u16,
}

/// The data that a server sends when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The address to which players connect.
    pub endpoint: Endpoint,
    /// The number of slots, if it differs from the pool's `capacity`.
    pub capacity: Option<u32>,
    /// Free text for operators, by name.
    pub metadata: BTreeMap<String, String>,
}

/// The image of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The server.
    pub id: ServerId,
    /// The server's pool.
    pub pool: PoolName,
    /// The shard of the pool's index that lists the server: the number of the frontier for which it was started.
    pub shard: u32,
    /// The build that the server runs.
    pub build: u32,
    /// The server's state.
    pub state: ServerState,
    /// The number of slots.
    pub capacity: u32,
    /// The claims on the slots, by player.
    pub claims: BTreeMap<PlayerId, Claim>,
    /// How long a reservation holds: the pool's setting when the server was started.
    pub reservation: Span,
    /// How long a heartbeat extends the lease: the pool's setting when the server was started.
    pub lease_for: Span,
    /// The end of the lease, until which the server counts as alive. `None` before the server registers.
    pub lease_until: Option<Time>,
    /// The time of the last heartbeat or of the registration.
    pub seen: Option<Time>,
    /// Since when the server has had no claim, as noted by a reconcile run; a new claim resets it.
    pub idle_since: Option<Time>,
    /// When the draining server is stopped although players are connected; `None` if it waits for them.
    pub drain_by: Option<Time>,
    /// When an operator last requested a drain. A command with an older or equal time is refused.
    pub requested_at: Option<Time>,
    /// When the server registered.
    pub ready_at: Option<Time>,
    /// The address to which players connect, once the server has registered.
    pub endpoint: Option<Endpoint>,
    /// The metadata that the server sent when it registered.
    pub metadata: BTreeMap<String, String>,
    /// The hash of the server's token.
    pub token_hash: TokenHash,
    /// The number of the current attempt to start the server, from 1.
    pub attempt: u32,
    /// The ARN of the server's task, once RunTask has answered.
    pub task: Option<String>,
    /// The server's launch, until the server has registered.
    pub launch: Option<Launch>,
    /// The fill under which the index lists the server; `None` if it is not listed.
    pub listed: Option<Fill>,
}

impl Ledger {
    /// The ledger of a server of `pool` that is about to be started, without claims and without a launch.
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

    /// When a claim expires; `None` if it does not, because the player is connected or the server is still starting.
    pub fn expires(&self, claim: Claim) -> Option<Time> {
        match (claim, self.ready_at) {
            (Claim::Reserved(placement), Some(ready_at)) => Some(placement.time().max(ready_at) + self.reservation),
            _ => None,
        }
    }

    /// Whether a claim has ended: it is an expired reservation, or the server is stopped.
    pub fn is_over(&self, claim: Claim, now: Time) -> bool {
        self.state == ServerState::Stopped || self.expires(claim).is_some_and(|end| end <= now)
    }

    /// Slots without a claim on a starting server of `build`; 0 for any other server.
    pub fn room_to_start(&self, build: u32) -> u32 {
        let counts = self.state == ServerState::Starting && self.build == build;
        let claims = u32::try_from(self.claims.len()).unwrap_or(u32::MAX);
        if counts { self.capacity.saturating_sub(claims) } else { 0 }
    }

    /// Whether the state and the lease allow new claims, whatever the number of free slots.
    pub fn takes_claims(&self, now: Time) -> bool {
        match self.state {
            ServerState::Starting => true,
            ServerState::Ready => self.lease_until.is_some_and(|until| now <= until),
            ServerState::Draining | ServerState::Stopped => false,
        }
    }

    /// Whether the server has never registered. If such a server is stopped, its launch has failed.
    pub const fn never_registered(&self) -> bool {
        self.ready_at.is_none()
    }

    /// Whether every slot has a claim, expired claims included.
    pub fn is_full(&self) -> bool {
        self.claims.len() >= self.capacity as usize
    }

    /// Number of claims that have not ended.
    pub fn live_claims(&self, now: Time) -> usize {
        self.claims.values().filter(|claim| !self.is_over(**claim, now)).count()
    }

    /// Number of connected players.
    pub fn connected(&self) -> usize {
        self.claims.values().filter(|claim| claim.is_connected()).count()
    }

    /// Number of reservations that have not ended.
    pub fn reserved(&self, now: Time) -> usize {
        self.claims.values().filter(|claim| !claim.is_connected() && !self.is_over(**claim, now)).count()
    }

    /// The ended claims with their exact values, for a write that removes them; at most [`MAX_EVICTIONS`].
    pub fn evictable(&self, now: Time) -> Vec<(PlayerId, Claim)> {
        let ended = self.claims.iter().filter(|(_, claim)| self.is_over(**claim, now));
        ended.take(MAX_EVICTIONS).map(|(player, claim)| (player.clone(), *claim)).collect()
    }

    /// Players whose claim is connected and who are not in `present`, with their placements.
    pub fn connected_but_not<'a>(
        &'a self,
        present: &'a [PlayerId],
    ) -> impl Iterator<Item = (&'a PlayerId, Placement)> + 'a {
        let connected = self.claims.iter().filter(|(_, claim)| claim.is_connected());
        connected.filter(|(player, _)| !present.contains(player)).map(|(player, claim)| (player, claim.placement()))
    }

    /// The player's claim, if it has not ended and agrees with `seat`, the claim that the player's seat carries for
    /// this server. A connected seat with a claim that is not connected is left by an unfinished disconnect: the
    /// placement has ended, and the result is `None`.
    pub fn kept(&self, player: &PlayerId, seat: Claim, now: Time) -> Option<Claim> {
        self.claims.get(player).copied().filter(|claim| {
            let agree = claim.placement() == seat.placement() && (claim.is_connected() || !seat.is_connected());
            agree && !self.is_over(*claim, now)
        })
    }

    /// The step of the launch that is due now, if any.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::{
        NOW, TICK, connected, launch, placement, player, ready, reserved, starting, states, stopped, which,
    };

    #[test]
    fn states_and_claims_are_restored_from_the_names_and_numbers_of_the_table() {
        assert_eq!(ServerState::ALL.map(ServerState::as_str), ["starting", "ready", "draining", "stopped"]);
        assert_eq!(ServerState::ALL.map(|state| ServerState::parse(state.as_str())), ServerState::ALL.map(Some));
        assert_eq!(ServerState::parse("Ready"), None);
        for (number, claim) in [(7, Some(reserved(7))), (-7, Some(connected(7))), (0, None)] {
            assert_eq!(Claim::from_number(number), claim, "{number}");
            assert!(claim.is_none_or(|claim| claim.number() == number), "{claim:?}");
        }
    }

    #[test]
    fn a_reservation_expires_after_its_time_counted_from_when_its_server_became_ready() {
        let ledger = ready(&[]);
        let until = NOW + ledger.reservation;
        assert_eq!(ledger.expires(reserved(1_000)), Some(until), "reserved while the server was starting");
        assert_eq!(ledger.expires(reserved(NOW.0 + 5)), Some(until + Span(5)));
        assert_eq!(ledger.expires(connected(1_000)), None);
        assert_eq!(starting(&[]).expires(reserved(1_000)), None);
        assert!(ledger.is_over(reserved(1_000), until) && !ledger.is_over(reserved(1_000), until - TICK));
        assert!(stopped().is_over(connected(1_000), NOW));
    }

    #[test]
    fn connected_and_reserved_players_are_counted_without_expired_reservations() {
        let ledger = ready(&[("a", connected(1_000)), ("b", reserved(1_000)), ("c", reserved(NOW.0 + 5))]);
        let count = |now| (ledger.connected(), ledger.reserved(now), ledger.live_claims(now));
        assert_eq!(count(NOW), (1, 2, 3));
        assert_eq!((ready(&[]).connected(), ready(&[]).reserved(NOW)), (0, 0));
        assert_eq!(count(NOW + ledger.reservation), (1, 1, 2));
        assert_eq!(ledger.evictable(NOW + ledger.reservation), [(player("b"), reserved(1_000))]);
        let present = [player("b")];
        assert_eq!(ledger.connected_but_not(&present).collect::<Vec<_>>(), [(&player("a"), placement(1_000))]);
        assert_eq!(ledger.connected_but_not(&[player("a")]).count(), 0);
    }

    #[test]
    fn claims_are_accepted_while_the_server_starts_and_until_its_lease_ends() {
        assert_eq!(which(states(), |ledger| ledger.takes_claims(NOW)), ["starting", "ready"]);
        assert_eq!(which(states(), |ledger| ledger.takes_claims(NOW + TICK)), ["starting"], "the lease has ended");
        assert!(!Ledger { lease_until: None, ..ready(&[]) }.takes_claims(NOW));
        assert!(starting(&[]).never_registered() && !ready(&[]).never_registered());
        let full = ready(&[("a", reserved(1_000)), ("b", reserved(1_000))]);
        assert!(full.is_full() && !ready(&[("a", reserved(1_000))]).is_full());
    }

    #[test]
    fn a_claim_is_kept_if_the_seat_agrees_and_it_has_not_expired() {
        let kept = |claim, seat, now| ready(&[("a", claim)]).kept(&player("a"), seat, now);
        assert_eq!(kept(reserved(7), reserved(7), NOW), Some(reserved(7)));
        assert_eq!(kept(connected(7), reserved(7), NOW), Some(connected(7)), "the seat is not written yet");
        assert_eq!(kept(connected(7), connected(7), NOW), Some(connected(7)));
        assert_eq!(kept(reserved(7), connected(7), NOW), None, "an unfinished disconnect");
        assert_eq!(kept(reserved(8), reserved(7), NOW), None);
        assert_eq!(kept(reserved(7), reserved(7), NOW + ready(&[]).reservation), None);
        assert_eq!(ready(&[]).kept(&player("a"), reserved(7), NOW), None);
    }

    #[test]
    fn run_task_is_due_until_the_ledger_has_a_task_and_the_next_attempt_at_the_deadline() {
        let debug = format!("{:?}", launch());
        assert!(debug.contains("deadline") && !debug.contains("secret"), "{debug}");
        let ledger = Ledger { launch: Some(launch()), ..starting(&[]) };
        let due = |case: &str, ledger: &Ledger, at: Time, due: Due| {
            assert_eq!((ledger.due(at - TICK), ledger.due(at)), (None, Some(due)), "{case}: 1 ms before, and when due");
        };
        due("the call", &ledger, NOW, Due::Call);
        let called = Ledger { task: Some("arn".to_owned()), ..ledger.clone() };
        let deadline = NOW + Span(1_000);
        assert_eq!(called.due(NOW), None, "the ledger has a task");
        due("the next attempt", &called, deadline, Due::NextAttempt);
        let last = Ledger { attempt: MAX_LAUNCH_ATTEMPTS, ..called };
        due("abandoning the launch", &last, deadline, Due::AbandonLaunch);
        assert_eq!(Ledger { state: ServerState::Ready, ..ledger }.due(deadline), None);
        assert_eq!(starting(&[]).due(deadline), None);
    }
}
