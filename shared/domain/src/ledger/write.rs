//! The conditional writes on a ledger, as data, and what the table makes of each.

use std::collections::BTreeMap;

use super::{Claim, Fill, Launch, Ledger, Registration, ServerState, fill};
use crate::{
    Placement, PlayerId, Time, TokenHash,
    bug::{self, Bug},
};

/// The reason to stop a server, with what the ledger must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopBy {
    /// The server itself, by its token.
    Server(TokenHash),
    /// The task of this attempt has stopped. Refused if the ledger is at another attempt.
    Attempt(u32),
    /// The server has drained: it is empty or past its deadline. Refused if an operator has changed the deadline since.
    Drained {
        /// The attempt.
        attempt: u32,
        /// The deadline as it was read; `None` if there was none.
        drain_by: Option<Time>,
    },
}

/// One conditional write on a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LedgerWrite {
    /// Reserves a slot for a player, or renews the player's older claim. Refused if the server accepts no claims, if it
    /// has no room, or if the player's claim on it is newer, or is connected under the same placement.
    Claim {
        /// The player.
        player: PlayerId,
        /// The placement, which the player's seat already carries.
        placement: Placement,
        /// The time of the request.
        now: Time,
        /// The latest last heartbeat that the ledger may have. A later one means that this write arrived late: refused.
        seen_by: Time,
    },
    /// Reserves a slot for each of these players or for none. Refused unless the players' claims, the claims to remove
    /// and the capacity are exactly as they were read. Used for a party, for a slot of the frontier, and for a player
    /// who takes the slot of an expired claim.
    ClaimExactly {
        /// The players, at least one, and the claim that each has on this server, if any.
        players: Vec<(PlayerId, Option<Claim>)>,
        /// The new placement, newer than each of the players' claims.
        placement: Placement,
        /// The time of the request.
        now: Time,
        /// The latest last heartbeat that the ledger may have, as in [`LedgerWrite::Claim`].
        seen_by: Time,
        /// Expired claims of other players to remove.
        evict: Vec<(PlayerId, Claim)>,
        /// The capacity as it was read. A DynamoDB condition cannot add, so the limit is sent as a number.
        capacity: u32,
    },
    /// Changes a player's claim from reserved to connected under exactly this placement, as the server registers the
    /// player. A repeated write succeeds.
    Connect {
        /// The server's token.
        by: TokenHash,
        /// The player.
        player: PlayerId,
        /// The exact placement.
        placement: Placement,
        /// Whether a reservation is accepted. False if the ticket has expired, so that only a repeated write succeeds.
        reserved: bool,
    },
    /// Frees the slot of exactly this placement, and lists a ready server in the index in the same write.
    Free {
        /// The server's token; `None` if a player or an operator cancels a reservation.
        by: Option<TokenHash>,
        /// The player.
        player: PlayerId,
        /// The claim to free. `Reserved` frees only a reservation; `Connected` frees the placement in either state.
        claim: Claim,
        /// Whether the server is ready, and so is to be listed in the index. Refused if the ledger's state differs.
        ready: bool,
    },
    /// Changes a claim from connected to reserved under a new placement, to keep the slot for a reconnect.
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
    /// Registers the server: it changes from starting to ready. Refused if the registered capacity is less than the
    /// number of claims.
    Register {
        /// The server's token.
        by: TokenHash,
        /// The data that the server sent.
        registration: Registration,
        /// The time of the request.
        now: Time,
    },
    /// Extends the lease, as the server has sent a heartbeat. Refused if a later heartbeat has been applied.
    Heartbeat {
        /// The server's token.
        by: TokenHash,
        /// The time of the request.
        now: Time,
    },
    /// Stops the server and removes every claim.
    Stop {
        /// The reason.
        by: StopBy,
        /// The time of the request.
        now: Time,
    },
    /// Stops a server that sends no heartbeats. Refused if a heartbeat has arrived since, or if the claims have
    /// changed.
    StopSilent {
        /// The attempt as it was read.
        attempt: u32,
        /// The time before which the lease must have ended.
        silent_since: Time,
        /// The claims exactly as they were read; `None` if any claims may be removed, because the server has no task.
        claims: Option<BTreeMap<PlayerId, Claim>>,
        /// The time of the request.
        now: Time,
    },
    /// Removes expired claims, and lists a ready server in the index. Refused if one of the claims has changed.
    Sweep {
        /// The claims to remove, exactly as they were read.
        evict: Vec<(PlayerId, Claim)>,
        /// Whether the server is ready, and so is to be listed in the index. Refused if the ledger's state differs.
        ready: bool,
    },
    /// Notes that a ready server has no claim since `now`. Refused if a time is noted already.
    Idle {
        /// The time of the request.
        now: Time,
    },
    /// Drains the server on an operator's command: it accepts no new claims, and connected players stay. If the server
    /// drains already, it gets the new deadline. Refused if this command or a later one has been applied.
    Drain {
        /// When the operator requested the drain.
        at: Time,
        /// When the server is stopped although players are connected; `None` waits for them.
        drain_by: Option<Time>,
    },
    /// Drains a ready server whose build accepts no new players any more. An operator's deadline stays as it is.
    Retire,
    /// Drains a ready server that has had no claim since `idle_by` or earlier.
    DrainIdle {
        /// The latest time since which the server must have been idle.
        idle_by: Time,
    },
    /// Lists a ready server in the index. Refused if its build or its listing has changed.
    List {
        /// The server's build, as it was read.
        build: u32,
        /// The fill under which the index lists the server, as it was read.
        was: Option<Fill>,
        /// The new fill.
        fill: Fill,
    },
    /// Removes a server that is full, not ready, or lapsed from the index. Refused if the server has room again.
    Unlist {
        /// The server's build, as it was read.
        build: u32,
        /// The fill under which the index lists the server, as it was read.
        was: Fill,
        /// The time of the request.
        now: Time,
    },
    /// Sets the time of the next RunTask call. Only the caller whose write is applied calls RunTask now.
    Recall {
        /// The attempt.
        attempt: u32,
        /// The time at which the call was due, as it was read.
        was: Time,
        /// The time at which the next call is due.
        call_at: Time,
    },
    /// Records the task that RunTask returned.
    TaskStarted {
        /// The attempt.
        attempt: u32,
        /// The task's ARN.
        task: String,
    },
    /// Starts the next attempt after a failed one. It has its own token, so a late server of the failed attempt is
    /// refused.
    NextAttempt {
        /// The attempt that failed.
        failed: u32,
        /// The hash of the new token.
        token_hash: TokenHash,
        /// The new launch.
        launch: Launch,
    },
    /// Abandons the launch: the server is stopped without ever having registered.
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
                    same || bug::injected(Bug::FreeAnyPlacement)
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
                let superseded = old.requested_at.is_some_and(|last| last >= *at);
                (registered && !superseded).then(|| {
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
    /// Whether the server accepts a claim made `now`: it is starting, or it is ready with a lease, and its last
    /// heartbeat is not later than `seen_by`.
    fn is_open(&self, now: Time, seen_by: Time) -> bool {
        self.state == ServerState::Starting || self.takes_claims(now) && self.seen.is_some_and(|seen| seen <= seen_by)
    }

    /// Whether the ledger has exactly these claims.
    fn holds_exactly(&self, claims: &[(PlayerId, Claim)]) -> bool {
        let held = |(player, claim): &(PlayerId, Claim)| self.claims.get(player) == Some(claim);
        claims.iter().all(held) || bug::injected(Bug::EvictInexactly)
    }

    /// The fill under which the index lists the server after a slot was freed: unchanged, or the fullest if it was not
    /// listed.
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
    /// The write that corrects the index entry of this server; `None` if the entry is correct. A server with an expired
    /// claim counts as having room, so that its slot is found. A lapsed server is removed, because it accepts no claims
    /// and would be found before servers that do.
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

    /// The write that corrects the index entry after a claim of `slots` slots; `None` if that claim did not change the
    /// fill. Otherwise every claim would write the index until one write is applied. The next heartbeat corrects an
    /// entry that was missed.
    pub fn listing_fix_after_claim(&self, slots: usize, now: Time) -> Option<LedgerWrite> {
        let live = self.live_claims(now);
        let changed = fill(live, self.capacity) != fill(live.saturating_sub(slots), self.capacity);
        if changed { self.listing_fix(now) } else { None }
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

    /// The labels of the ledgers that accept `write`.
    fn taken<const N: usize>(write: &LedgerWrite, images: [(&'static str, Ledger); N]) -> Vec<&'static str> {
        which(images, |image| write.apply(Some(&image)).is_some())
    }

    #[test]
    fn a_claim_needs_an_open_server_and_a_free_slot_or_an_older_claim_of_the_player() {
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
            ("a later heartbeat has arrived", Ledger { seen: Some(NOW + TICK), ..ready(&[]) }),
            ("the lease has ended", Ledger { lease_until: Some(NOW - TICK), ..ready(&[]) }),
            ("no heartbeat has arrived", Ledger { seen: None, ..ready(&[]) }),
        ];
        assert_eq!(taken(&claim, late), NONE);
        let idle = Ledger { idle_since: Some(NOW), ..ready(&[]) };
        let taken = claim.apply(Some(&idle)).unwrap();
        assert_eq!((taken.claims, taken.idle_since), (ready(&[("a", reserved(7))]).claims, None));
        assert_eq!(claim.apply(None), None);
    }

    #[test]
    fn an_exact_claim_is_refused_if_a_claim_or_the_capacity_has_changed() {
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
            ("a claim of another player", ready(&[("c", reserved(1))])),
            ("a claim where none was read", ready(&[("a", reserved(1))])),
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
            ("the claim to evict is connected by now", ready(&[("a", reserved(2)), ("c", connected(1))])),
            ("the player's own claim is newer", ready(&[("a", reserved(3)), ("c", reserved(1))])),
        ];
        assert_eq!(taken(&evicting, others), NONE);
    }

    #[test]
    fn a_player_connects_only_under_the_exact_placement_of_the_claim() {
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
        assert_eq!(taken(&connect(false), claims()), ["connected"], "an expired ticket");
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
    fn a_free_write_frees_only_its_placement_and_lists_a_ready_server() {
        let free = |by, claim, ready| LedgerWrite::Free { by, player: player("a"), claim, ready };
        let claims = || {
            [
                ("reserved", ready(&[("a", reserved(7))])),
                ("connected", ready(&[("a", connected(7))])),
                ("a newer reservation", ready(&[("a", reserved(8))])),
            ]
        };
        assert_eq!(taken(&free(None, connected(7), true), claims()), ["reserved", "connected"]);
        assert_eq!(taken(&free(None, reserved(7), true), claims()), ["reserved"], "a connected claim stays");
        let claim = &[("a", connected(7))];
        let by = |token: &str| free(Some(TokenHash::of(token)), connected(7), true);
        let servers = || [("starting", starting(claim)), ("ready", ready(claim)), ("draining", draining(claim))];
        for (case, write, states) in [
            ("of a ready server", free(None, connected(7), true), &["ready"][..]),
            ("of a server that is not ready", free(None, connected(7), false), &["starting", "draining"]),
            ("by the server itself", by("token"), &["ready"]),
            ("by another server", by("another"), &[]),
        ] {
            assert_eq!(taken(&write, servers()), states, "{case}");
        }
        let freed = by("token").apply(Some(&ready(claim))).unwrap();
        assert_eq!((freed.claims.len(), freed.listed), (0, Some(Fill::TOP)));
        let listed = Ledger { listed: Some(Fill::EMPTY), ..ready(claim) };
        assert_eq!(by("token").apply(Some(&listed)).unwrap().listed, Some(Fill::EMPTY));
        assert_eq!(free(None, connected(7), false).apply(Some(&draining(claim))).unwrap().listed, None);
    }

    #[test]
    fn only_a_claim_connected_under_the_exact_placement_is_kept_for_a_reconnect() {
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
        let kept = keep(token()).apply(Some(&ready(&[("a", connected(7))]))).unwrap();
        assert_eq!(kept.claims, ready(&[("a", reserved(9))]).claims);
    }

    #[test]
    fn a_server_registers_once_with_a_capacity_of_at_least_its_claims() {
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
            assert_eq!(registered.is_some(), fits, "two claims and the capacity {capacity:?}");
        }
        let up = register(token(), Some(3)).apply(Some(&starting(waiting))).unwrap();
        let lease = Some(NOW + up.lease_for);
        assert_eq!((up.state, up.capacity, up.lease_until), (ServerState::Ready, 3, lease));
        assert_eq!((up.seen, up.ready_at, up.listed, up.launch), (Some(NOW), Some(NOW), Some(Fill::TOP), None));
        assert_eq!(register(token(), None).apply(Some(&starting(&[]))).unwrap().capacity, 2);
    }

    #[test]
    fn a_heartbeat_extends_the_lease_of_a_registered_server_only_and_never_shortens_it() {
        let heartbeat = LedgerWrite::Heartbeat { by: token(), now: NOW + TICK };
        assert_eq!(taken(&heartbeat, states()), ["ready", "draining"]);
        let by_another = LedgerWrite::Heartbeat { by: TokenHash::of("another"), now: NOW };
        assert_eq!(taken(&by_another, states()), NONE, "by another server");
        let extended = heartbeat.apply(Some(&ready(&[]))).unwrap();
        assert_eq!((extended.seen, extended.lease_until), (Some(NOW + TICK), Some(NOW + TICK + extended.lease_for)));
        assert_eq!(
            LedgerWrite::Heartbeat { by: token(), now: NOW }.apply(Some(&extended)),
            None,
            "a late heartbeat does not shorten the lease"
        );
        assert_eq!(heartbeat.apply(Some(&extended)), Some(extended), "a repeat");
    }

    #[test]
    fn a_server_is_stopped_once_and_only_by_its_token_its_attempt_or_its_drain() {
        let stop = |by| LedgerWrite::Stop { by, now: NOW };
        for by in [StopBy::Server(token()), StopBy::Attempt(1)] {
            assert_eq!(taken(&stop(by), states()), ["starting", "ready", "draining"], "{by:?}");
        }
        let drained = |attempt, drain_by| stop(StopBy::Drained { attempt, drain_by });
        let draining_server = Ledger { drain_by: Some(NOW), ..draining(&[("a", connected(1))]) };
        assert_eq!(drained(1, Some(NOW)).apply(Some(&draining_server)).map(|it| it.state), Some(ServerState::Stopped));
        for write in [drained(1, None), drained(1, Some(NOW + TICK)), drained(2, Some(NOW))] {
            assert_eq!(write.apply(Some(&draining_server)), None, "{write:?}");
        }
        assert_eq!(drained(1, None).apply(Some(&ready(&[]))), None, "not draining");
        for by in [StopBy::Server(TokenHash::of("another")), StopBy::Attempt(0), StopBy::Attempt(2)] {
            assert_eq!(taken(&stop(by), states()), NONE, "{by:?}");
        }
        let busy = Ledger { listed: Some(Fill::TOP), launch: Some(launch()), ..starting(&[("a", reserved(1))]) };
        let stopped = stop(StopBy::Attempt(1)).apply(Some(&busy)).unwrap();
        assert_eq!((stopped.claims.len(), stopped.listed, stopped.launch), (0, None, None));
    }

    #[test]
    fn a_silent_server_is_stopped_only_if_its_lease_attempt_and_claims_are_as_they_were_read() {
        let stop = |claims| LedgerWrite::StopSilent { attempt: 1, silent_since: NOW + TICK, claims, now: NOW };
        assert_eq!(taken(&stop(None), states()), ["ready", "draining"]);
        let images = || {
            [
                ("as it was read", ready(&[])),
                ("a heartbeat has arrived", Ledger { lease_until: Some(NOW + TICK), ..ready(&[]) }),
                ("another attempt", Ledger { attempt: 2, ..ready(&[]) }),
                ("a player has connected", ready(&[("a", connected(1))])),
                ("no lease", Ledger { lease_until: None, ..ready(&[]) }),
            ]
        };
        assert_eq!(taken(&stop(Some(BTreeMap::new())), images()), ["as it was read"]);
        assert_eq!(taken(&stop(None), images()), ["as it was read", "a player has connected"], "with any claims");
    }

    #[test]
    fn a_sweep_removes_claims_only_as_they_were_read_and_lists_a_ready_server() {
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
    fn a_server_is_noted_as_idle_once_and_drains_only_if_it_still_has_no_claim() {
        let idle = Ledger { idle_since: Some(NOW), listed: Some(Fill::EMPTY), ..ready(&[]) };
        let note = LedgerWrite::Idle { now: NOW };
        let images = [
            ("empty", ready(&[])),
            ("already noted as idle", idle.clone()),
            ("a claim", ready(&[("a", reserved(1))])),
            ("draining", draining(&[])),
        ];
        assert_eq!(taken(&note, images), ["empty"]);
        assert_eq!(note.apply(Some(&ready(&[]))).unwrap().idle_since, Some(NOW));
        let drain = |idle_by| LedgerWrite::DrainIdle { idle_by };
        let images = || {
            [
                ("idle for long", idle.clone()),
                ("a claim", Ledger { claims: ready(&[("a", reserved(1))]).claims, ..idle.clone() }),
                ("draining", Ledger { state: ServerState::Draining, ..idle.clone() }),
                ("not noted as idle", ready(&[])),
            ]
        };
        assert_eq!(taken(&drain(NOW), images()), ["idle for long"]);
        assert_eq!(taken(&drain(NOW - TICK), images()), NONE, "idle since a later time");
        let drained = drain(NOW).apply(Some(&idle)).unwrap();
        assert_eq!((drained.state, drained.listed), (ServerState::Draining, None));
    }

    #[test]
    fn a_later_operator_command_changes_the_deadline_of_a_drain_and_an_earlier_one_does_not() {
        let drain = |at, drain_by| LedgerWrite::Drain { at, drain_by };
        let by_now = drain(NOW, Some(NOW));
        assert_eq!(taken(&by_now, states()), ["ready", "draining"]);
        let drained = by_now.apply(Some(&Ledger { listed: Some(Fill::TOP), ..ready(&[]) })).unwrap();
        assert_eq!((drained.state, drained.listed, drained.drain_by), (ServerState::Draining, None, Some(NOW)));
        assert_eq!(by_now.apply(Some(&drained)), None, "the command was applied");
        let without_deadline = drain(NOW + TICK, None).apply(Some(&drained)).unwrap();
        assert_eq!(without_deadline.drain_by, None);
        assert_eq!(by_now.apply(Some(&without_deadline)), None, "an earlier command does not undo a later one");
    }

    #[test]
    fn a_ready_server_of_an_old_build_drains_and_leaves_the_index() {
        assert_eq!(taken(&LedgerWrite::Retire, states()), ["ready"]);
        assert_eq!(taken(&LedgerWrite::Retire, [("with a player", ready(&[("a", connected(1))]))]), ["with a player"]);
        let retired = LedgerWrite::Retire.apply(Some(&Ledger { listed: Some(Fill::TOP), ..ready(&[]) })).unwrap();
        assert_eq!((retired.state, retired.listed), (ServerState::Draining, None));
    }

    #[test]
    fn the_index_entry_changes_only_if_the_ledger_is_as_it_was_read() {
        let listed = |fill| Ledger { listed: fill, build: 1, ..ready(&[]) };
        let list = |build| LedgerWrite::List { build, was: Some(Fill::TOP), fill: Fill::EMPTY };
        let images = || {
            [
                ("as it was read", listed(Some(Fill::TOP))),
                ("not listed", listed(None)),
                ("draining", Ledger { build: 1, listed: Some(Fill::TOP), ..draining(&[]) }),
            ]
        };
        assert_eq!(taken(&list(1), images()), ["as it was read"]);
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
        assert_eq!(taken(&unlist(NOW + TICK), images()), ["room", "full", "draining"], "the lease has ended");
        assert_eq!(unlist(NOW).apply(Some(&full)).unwrap().listed, None);
    }

    #[test]
    fn each_step_of_a_launch_is_refused_for_another_attempt() {
        let later = Launch { call_at: NOW + TICK, ..launch() };
        let launching = || Ledger { launch: Some(launch()), ..starting(&[("a", reserved(1))]) };
        let called = || Ledger { task: Some("arn".to_owned()), ..launching() };
        let images = || {
            [
                ("without a task", launching()),
                ("with a task", called()),
                ("the next attempt", Ledger { attempt: 2, ..launching() }),
                ("ready", ready(&[])),
                ("stopped", stopped()),
            ]
        };
        let recall = |was| LedgerWrite::Recall { attempt: 1, was, call_at: NOW + TICK };
        assert_eq!(taken(&recall(NOW), images()), ["without a task"]);
        assert_eq!(taken(&recall(NOW - TICK), images()), NONE, "another caller has called RunTask since");
        assert_eq!(recall(NOW).apply(Some(&launching())).unwrap().launch, Some(later.clone()));
        let started = LedgerWrite::TaskStarted { attempt: 1, task: "task".to_owned() };
        assert_eq!(taken(&started, images()), ["without a task", "with a task", "ready"]);
        assert_eq!(started.apply(Some(&launching())).unwrap().task.as_deref(), Some("task"));
        let token_hash = TokenHash::of("next");
        let next = LedgerWrite::NextAttempt { failed: 1, token_hash, launch: later.clone() };
        assert_eq!(taken(&next, images()), ["without a task", "with a task"]);
        let second = next.apply(Some(&called())).unwrap();
        assert_eq!((second.attempt, second.task, second.token_hash), (2, None, token_hash));
        assert_eq!(second.launch, Some(later));
        let abandon = LedgerWrite::AbandonLaunch { failed: 1, now: NOW };
        assert_eq!(taken(&abandon, images()), ["without a task", "with a task"]);
        assert_eq!(abandon.apply(Some(&called())).unwrap().state, ServerState::Stopped);
    }

    #[test]
    fn the_index_lists_a_server_that_is_ready_has_room_and_has_a_lease() {
        let list = |was, fill| Some(LedgerWrite::List { build: 0, was, fill });
        let unlist = |was| Some(LedgerWrite::Unlist { build: 0, was, now: NOW });
        let of = |listed, ledger| Ledger { listed, ..ledger }.listing_fix(NOW);
        assert_eq!(of(None, ready(&[])), list(None, Fill::EMPTY));
        assert_eq!(of(Some(Fill::TOP), ready(&[])), list(Some(Fill::TOP), Fill::EMPTY));
        assert_eq!(of(Some(Fill::EMPTY), ready(&[])), None);
        let full = ready(&[("a", connected(1)), ("b", connected(1))]);
        let lapsed = Ledger { lease_until: Some(NOW - TICK), ..ready(&[]) };
        for (case, ledger) in [
            ("full", full),
            ("the lease has ended", lapsed),
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
        // The server is not listed, so a full server needs no correction.
        for (claims, updates) in [(1, false), (2, true), (3, false), (4, true), (5, false), (6, false)] {
            assert_eq!(with(claims).listing_fix_after_claim(1, NOW).is_some(), updates, "{claims} claims on six slots");
        }
        assert!(with(3).listing_fix_after_claim(2, NOW).is_some(), "the two claims of a party change the fill");
    }
}
