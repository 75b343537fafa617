//! The ledger: the one item of a server, which holds its state and every claim on its slots.
//!
//! The ledger is the truth of what a server's slots are held by. A claim is keyed by its player inside the item, so it
//! is its own idempotency key, its own capacity check and its own expiry. Every change is one conditional write that
//! is safe when applied zero, one or two times, and late.

mod launch;
mod rank;
mod write;

use std::collections::BTreeMap;

pub use launch::{Due, Launch, MAX_LAUNCH_ATTEMPTS, REPEAT_CALL_AFTER};
pub use rank::{Fill, Rank, fill};
pub use write::{LedgerWrite, StopBy};

use crate::{Placement, PlayerId, PoolLimits, PoolName, ServerId, Span, Time, TokenHash};

/// Expired claims that one write removes at the most. DynamoDB takes an expression of at most 4 KB and 300 operators
/// ("Expression parameters" in the developer guide's page on service quotas); 50 use about half of each.
pub const MAX_EVICTIONS: usize = 50;

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

    /// The claim of a player whose seat carries `seat` for this server, if it is live and the two agree. A connected
    /// seat whose ledger does not say connected is a disconnect that got half way: the placement is over.
    pub fn kept(&self, player: &PlayerId, seat: Claim, now: Time) -> Option<Claim> {
        self.claims.get(player).copied().filter(|claim| {
            let agree = claim.placement() == seat.placement() && (claim.is_connected() || !seat.is_connected());
            agree && !self.is_over(*claim, now)
        })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::{
        NOW, TICK, connected, launch, placement, player, ready, reserved, starting, states, stopped, which,
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
}
