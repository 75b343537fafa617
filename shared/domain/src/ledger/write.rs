//! The conditional writes on a ledger, as data, and what the table makes of each.

use std::collections::BTreeMap;

use super::{Claim, Fill, Launch, Ledger, Registration, ServerState, fill};
use crate::{
    Placement, PlayerId, Time, TokenHash,
    bug::{self, Bug},
};

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
        /// The claims, exactly as they were seen; `None` where they do not matter, because there is no task to be
        /// inside of.
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
    /// ready → draining on an operator's command: no new claims; who is inside stays. Draining already is done, with
    /// the new deadline. Refused if this command or a later one was applied already.
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

impl Ledger {
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

    /// The same for whoever has just claimed `slots` slots here: only the claim that changes the fill level updates the
    /// index, not every one that sees it wrong until that is done. What is missed the next heartbeat mends.
    pub fn listing_fix_after_claim(&self, slots: usize, now: Time) -> Option<LedgerWrite> {
        let live = self.live_claims(now);
        let crossed = fill(live, self.capacity) != fill(live.saturating_sub(slots), self.capacity);
        if crossed { self.listing_fix(now) } else { None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::Endpoint;
    use crate::fixtures::{
        NONE, NOW, TICK, connected, draining, launch, placement, player, ready, reserved, starting, states, stopped,
        token, which,
    };

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
    fn only_the_claim_that_changes_the_fill_updates_the_index() {
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
}
