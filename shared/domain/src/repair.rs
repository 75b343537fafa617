//! The next repair of a server, decided from its ledger and the status of its ECS task. Reconcile performs the repairs.

use super::{Ledger, LedgerWrite, PoolBuild, PoolLimits, ServerState, Span, StopBy, Time};

/// Lapsed leases at once that do not count as a mass lapse, whatever the number of servers. If more leases have lapsed,
/// and more than a fifth of all, the fault is probably in the table or the network and not in the servers.
const LAPSED_AT_ONCE: usize = 5;

/// Lease times without a heartbeat, after the lease has ended, before a server without players is stopped.
const LEASES_MISSED: i64 = 3;

/// The status of a server's task, as ECS reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskStatus {
    /// The task runs or is being started.
    Alive,
    /// The task has stopped.
    Stopped,
    /// ECS does not know the task, which ECS also reports for a task that it has just started. Or the ledger has no
    /// task, and ECS runs none for this attempt of the server.
    Missing,
    /// The status was not queried, or ECS did not answer.
    Unknown,
}

/// Why a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopReason {
    /// Its task has stopped, and the server was not deregistered.
    TaskStopped,
    /// Its lease has lapsed, and ECS does not know its task.
    TaskMissing,
    /// Its lease lapsed several lease times ago, and no player is connected.
    Silent,
    /// It was draining, and either no claim is left or its deadline has passed.
    Drained,
}

impl StopReason {
    /// The reason's name, in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TaskStopped => "task_stopped",
            Self::TaskMissing => "task_missing",
            Self::Silent => "silent",
            Self::Drained => "drained",
        }
    }
}

/// The next repair of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The server needs no repair.
    None,
    /// Remove the stopped server from the roster and count it out.
    CountOut,
    /// Advance the launch, which has a step due.
    Launch,
    /// Start the next attempt, because the task ended before the server registered.
    NextAttempt,
    /// Stop the server: its ledger, and its task if it still runs.
    Stop(StopReason),
    /// Correct the ledger with this write.
    Write(LedgerWrite),
}

impl Ledger {
    /// Whether the server has registered and its lease has ended without a heartbeat.
    pub fn has_lapsed(&self, now: Time) -> bool {
        let registered = matches!(self.state, ServerState::Ready | ServerState::Draining);
        registered && self.lease_until.is_none_or(|until| until < now)
    }

    /// Whether a player is connected.
    pub fn has_players(&self) -> bool {
        self.claims.values().any(|claim| claim.is_connected())
    }

    /// Whether the lease ended more than [`LEASES_MISSED`] lease times ago.
    fn is_silent(&self, now: Time) -> bool {
        let long = self.lease_for.times(LEASES_MISSED);
        self.has_lapsed(now) && self.lease_until.is_none_or(|until| until + long < now)
    }

    /// Whether the server is only suspected dead, because `reason` depends on the lapsed lease alone. Such a server is
    /// not stopped during a mass lapse ([`is_mass_lapse`]). A server that has been silent for long and whose task ECS
    /// does not know is certainly dead.
    pub fn is_only_suspected(&self, reason: StopReason, now: Time) -> bool {
        match reason {
            StopReason::Silent => true,
            StopReason::TaskMissing => !self.is_silent(now),
            StopReason::TaskStopped | StopReason::Drained => false,
        }
    }

    /// The most urgent repair of this server, given the current build of its pool and the status of its task.
    pub fn next_repair(&self, pool: PoolBuild, task: TaskStatus, now: Time) -> Repair {
        match (self.state, task) {
            (ServerState::Stopped, _) => return Repair::CountOut,
            (ServerState::Starting, TaskStatus::Stopped) => return Repair::NextAttempt,
            (ServerState::Starting, _) => {
                return if self.due(now).is_some() { Repair::Launch } else { Repair::None };
            }
            (_, TaskStatus::Stopped) => return Repair::Stop(StopReason::TaskStopped),
            (_, TaskStatus::Missing) if self.has_lapsed(now) => return Repair::Stop(StopReason::TaskMissing),
            _ => {}
        }
        // A lapsed lease alone stops no server with connected players: their game may still run.
        if self.is_silent(now) && !self.has_players() {
            return Repair::Stop(StopReason::Silent);
        }
        let overdue = self.drain_by.is_some_and(|by| by <= now);
        if self.state == ServerState::Draining && (self.claims.is_empty() || overdue) {
            return Repair::Stop(StopReason::Drained);
        }
        if self.state == ServerState::Ready && !pool.takes(self.build) {
            return Repair::Write(LedgerWrite::Retire);
        }
        // One write removes a limited number of claims, so a sweep may take several reconcile runs. The repairs above
        // must not wait for them.
        let evict = self.evictable(now);
        if !evict.is_empty() {
            return Repair::Write(LedgerWrite::Sweep { evict, ready: self.state == ServerState::Ready });
        }
        if let Some(write) = self.listing_fix(now) {
            return Repair::Write(write);
        }
        if self.state == ServerState::Ready && self.claims.is_empty() && self.idle_since.is_none() {
            return Repair::Write(LedgerWrite::Idle { now });
        }
        Repair::None
    }

    /// The write that stops the server for `reason`. After a drain, the write is refused if the deadline has changed
    /// since the ledger was read. After a lapsed lease, it is refused if a heartbeat or, for a silent server, a change
    /// of the claims arrived in between.
    pub fn stop_for(&self, reason: StopReason, now: Time) -> LedgerWrite {
        let attempt = self.attempt;
        match reason {
            StopReason::TaskStopped => LedgerWrite::Stop { by: StopBy::Attempt(attempt), now },
            StopReason::Drained => LedgerWrite::Stop { by: StopBy::Drained { attempt, drain_by: self.drain_by }, now },
            StopReason::TaskMissing => LedgerWrite::StopSilent { attempt, silent_since: now, claims: None, now },
            StopReason::Silent => {
                let silent_since = now - self.lease_for.times(LEASES_MISSED);
                LedgerWrite::StopSilent { attempt, silent_since, claims: Some(self.claims.clone()), now }
            }
        }
    }

    /// Slots that a player can claim now; 0 if the server accepts no claims.
    pub fn free_slots(&self, now: Time) -> u32 {
        let free = self.capacity.saturating_sub(u32::try_from(self.live_claims(now)).unwrap_or(u32::MAX));
        if self.takes_claims(now) { free } else { 0 }
    }

    /// The write that drains a server without claims for `idle` or longer; `None` if the server is not idle for so
    /// long. The condition of the write includes the claims, so a join at the last moment and the scale-in cannot both
    /// succeed.
    pub fn scale_in(&self, idle: Span, now: Time) -> Option<LedgerWrite> {
        let since = self.idle_since.filter(|_| self.state == ServerState::Ready && self.claims.is_empty())?;
        let idle_by = now - idle;
        (since <= idle_by).then_some(LedgerWrite::DrainIdle { idle_by })
    }
}

/// Whether so many leases have lapsed at once (more than five, and more than a fifth of the servers) that no server is
/// stopped for its lapsed lease.
pub fn is_mass_lapse(lapsed: usize, servers: usize) -> bool {
    lapsed > LAPSED_AT_ONCE && lapsed.saturating_mul(5) > servers
}

/// Number of servers to start so that the pool has its headroom, given `free` slots now.
pub fn servers_wanted(limits: &PoolLimits, free: u32) -> u32 {
    limits.headroom.saturating_sub(free).div_ceil(limits.capacity.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Fill, Rollout, fill,
        fixtures::{NOW, TICK, connected, draining, launch, ready, reserved, starting, states, stopped},
    };

    const ALL: [TaskStatus; 4] = [TaskStatus::Alive, TaskStatus::Stopped, TaskStatus::Missing, TaskStatus::Unknown];

    /// A ready server that needs no repair: empty, noted as idle, and listed by the index with the correct fill.
    fn in_order() -> Ledger {
        Ledger { listed: Some(Fill::EMPTY), idle_since: Some(NOW), ..ready(&[]) }
    }

    fn next_repair(ledger: &Ledger, task: TaskStatus, now: Time) -> Repair {
        ledger.next_repair(PoolBuild { number: 0, rollout: Rollout::Lazy }, task, now)
    }

    #[test]
    fn a_server_in_order_needs_no_repair_unless_its_task_has_stopped() {
        for task in [TaskStatus::Alive, TaskStatus::Missing, TaskStatus::Unknown] {
            assert_eq!(next_repair(&in_order(), task, NOW), Repair::None, "{task:?}");
        }
    }

    #[test]
    fn a_stopped_task_stops_its_registered_server_or_starts_the_next_attempt() {
        for (case, ledger) in [("ready", in_order()), ("draining", draining(&[("a", connected(1_000))]))] {
            assert_eq!(next_repair(&ledger, TaskStatus::Stopped, NOW), Repair::Stop(StopReason::TaskStopped), "{case}");
        }
        assert_eq!(next_repair(&starting(&[]), TaskStatus::Stopped, NOW), Repair::NextAttempt);
    }

    #[test]
    fn a_stopped_server_is_counted_out_and_a_starting_server_is_launched_once_its_call_is_due() {
        let launching = Ledger { launch: Some(launch()), ..starting(&[]) };
        for task in [TaskStatus::Alive, TaskStatus::Missing, TaskStatus::Unknown] {
            assert_eq!(next_repair(&launching, task, NOW - TICK), Repair::None, "{task:?}");
            assert_eq!(next_repair(&launching, task, NOW), Repair::Launch, "{task:?}");
        }
        for task in ALL {
            assert_eq!(next_repair(&stopped(), task, NOW), Repair::CountOut, "{task:?}");
        }
    }

    #[test]
    fn a_lapsed_lease_stops_a_server_with_players_only_if_ecs_does_not_know_its_task() {
        let with_player = Ledger { listed: None, ..ready(&[("a", connected(1_000))]) };
        let lapsed = NOW + TICK;
        assert_eq!(next_repair(&with_player, TaskStatus::Missing, lapsed), Repair::Stop(StopReason::TaskMissing));
        for task in [TaskStatus::Alive, TaskStatus::Unknown] {
            assert_eq!(
                next_repair(&with_player, task, NOW + Span::seconds(10_000)),
                Repair::None,
                "{task:?}: a player is connected"
            );
        }
        assert!(with_player.has_lapsed(lapsed) && !with_player.has_lapsed(NOW) && !starting(&[]).has_lapsed(lapsed));
        assert!(Ledger { lease_until: None, ..in_order() }.has_lapsed(NOW));
    }

    #[test]
    fn a_server_without_connected_players_is_stopped_three_lease_times_after_its_lease() {
        let empty = Ledger { listed: None, idle_since: Some(NOW), ..ready(&[]) };
        let long = NOW + empty.lease_for.times(3);
        assert_eq!(next_repair(&empty, TaskStatus::Unknown, long), Repair::None);
        assert_eq!(next_repair(&empty, TaskStatus::Unknown, long + TICK), Repair::Stop(StopReason::Silent));
        let with_reservation = Ledger { reservation: Span::seconds(1_000), ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(next_repair(&with_reservation, TaskStatus::Alive, long + TICK), Repair::Stop(StopReason::Silent));
    }

    #[test]
    fn a_server_with_a_missing_task_is_only_suspected_until_three_lease_times_after_its_lease() {
        let long = NOW + in_order().lease_for.times(LEASES_MISSED);
        assert!(in_order().is_only_suspected(StopReason::TaskMissing, long));
        assert!(!in_order().is_only_suspected(StopReason::TaskMissing, long + TICK));
        assert!(in_order().is_only_suspected(StopReason::Silent, long + TICK), "a silent server");
        assert!(
            !in_order().is_only_suspected(StopReason::TaskStopped, NOW)
                && !in_order().is_only_suspected(StopReason::Drained, NOW)
        );
    }

    #[test]
    fn expired_claims_are_swept_from_ready_and_draining_servers() {
        for (case, ledger, is_ready) in [
            ("ready", ready(&[("a", reserved(1_000))]), true),
            ("draining", draining(&[("a", reserved(1_000))]), false),
        ] {
            let now = NOW + ledger.reservation;
            let ledger = Ledger { lease_until: Some(now), ..ledger };
            let sweep = LedgerWrite::Sweep { evict: ledger.evictable(now), ready: is_ready };
            assert_eq!(next_repair(&ledger, TaskStatus::Alive, now), Repair::Write(sweep), "{case}");
        }
    }

    #[test]
    fn a_draining_server_is_stopped_once_it_is_empty_or_its_deadline_has_passed() {
        assert_eq!(next_repair(&draining(&[]), TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
        let with_player = Ledger { drain_by: Some(NOW), ..draining(&[("a", connected(1_000))]) };
        assert_eq!(next_repair(&with_player, TaskStatus::Alive, NOW - TICK), Repair::None);
        assert_eq!(next_repair(&with_player, TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
        let claims = draining(&[("a", connected(1_000)), ("b", reserved(1))]).claims;
        let with_reservation = Ledger { claims, drain_by: Some(NOW), lease_until: None, ..with_player.clone() };
        assert_eq!(
            next_repair(&with_reservation, TaskStatus::Unknown, NOW + with_reservation.reservation),
            Repair::Stop(StopReason::Drained),
            "the deadline comes before the sweep of expired claims"
        );
        let without_deadline = Ledger { drain_by: None, ..with_player.clone() };
        assert_eq!(next_repair(&without_deadline, TaskStatus::Alive, NOW), Repair::None);
        let ready = Ledger { state: ServerState::Ready, listed: Some(Fill::TOP), capacity: 1, ..with_player };
        assert_ne!(next_repair(&ready, TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
    }

    #[test]
    fn a_ready_server_of_an_old_build_drains_if_its_pool_has_a_draining_rollout() {
        let pool = PoolBuild { number: 1, rollout: Rollout::Drain };
        let drain = Repair::Write(LedgerWrite::Retire);
        assert_eq!(in_order().next_repair(pool, TaskStatus::Alive, NOW), drain);
        assert_eq!(
            in_order().next_repair(PoolBuild { rollout: Rollout::Lazy, ..pool }, TaskStatus::Alive, NOW),
            Repair::None
        );
        assert_eq!(Ledger { build: 1, ..in_order() }.next_repair(pool, TaskStatus::Alive, NOW), Repair::None);
        let draining = draining(&[("a", connected(1_000))]);
        assert_eq!(draining.next_repair(pool, TaskStatus::Alive, NOW), Repair::None, "already draining");
    }

    #[test]
    fn a_wrong_index_entry_and_a_missing_idle_time_are_corrected() {
        let unlisted = Ledger { listed: None, ..in_order() };
        let fix = unlisted.listing_fix(NOW).map(Repair::Write);
        assert_eq!(Some(next_repair(&unlisted, TaskStatus::Alive, NOW)), fix);
        let idle = Repair::Write(LedgerWrite::Idle { now: NOW });
        assert_eq!(next_repair(&Ledger { idle_since: None, ..in_order() }, TaskStatus::Alive, NOW), idle);
        let with_player = Ledger { listed: fill(1, 2), ..ready(&[("a", connected(1_000))]) };
        assert_eq!(next_repair(&with_player, TaskStatus::Alive, NOW), Repair::None, "a player is connected");
        assert_eq!(
            next_repair(&Ledger { idle_since: None, ..draining(&[("a", connected(1))]) }, TaskStatus::Alive, NOW),
            Repair::None
        );
    }

    #[test]
    fn free_slots_are_counted_only_on_servers_that_accept_claims() {
        let with_player = ready(&[("a", connected(1_000))]);
        assert_eq!((with_player.free_slots(NOW), with_player.free_slots(NOW + TICK)), (1, 0));
        assert_eq!(ready(&[("a", reserved(1_000)), ("b", reserved(1_000))]).free_slots(NOW), 0);
        let slots = [("starting", 2), ("ready", 2), ("draining", 0), ("stopped", 0)];
        assert_eq!(states().map(|(state, ledger)| (state, ledger.free_slots(NOW))), slots);
        assert!(with_player.has_players() && !ready(&[("a", reserved(1_000))]).has_players());
    }

    #[test]
    fn only_a_ready_server_that_has_been_empty_for_the_idle_time_is_scaled_in() {
        let idle = Span(500);
        let drain = LedgerWrite::DrainIdle { idle_by: NOW };
        assert_eq!(in_order().scale_in(idle, NOW + idle), Some(drain));
        assert_eq!(in_order().scale_in(idle, NOW + idle - TICK), None);
        let others = [
            ("no idle time is noted", Ledger { idle_since: None, ..in_order() }),
            ("draining", Ledger { state: ServerState::Draining, ..in_order() }),
            ("with a claim", Ledger { claims: ready(&[("a", reserved(1_000))]).claims, ..in_order() }),
        ];
        for (case, other) in others {
            assert_eq!(other.scale_in(idle, NOW + idle), None, "{case}");
        }
    }

    #[test]
    fn servers_are_started_for_the_free_slots_that_the_headroom_lacks() {
        let limits = PoolLimits { headroom: 10, capacity: 4, ..PoolLimits::DEFAULT };
        for (free, wanted) in [(0, 3), (1, 3), (2, 2), (3, 2), (6, 1), (9, 1), (10, 0), (11, 0)] {
            assert_eq!(servers_wanted(&limits, free), wanted, "{free} free slots");
        }
    }

    #[test]
    fn a_mass_lapse_is_more_than_five_servers_and_more_than_a_fifth_of_all() {
        for (case, lapsed, servers, is_mass) in [
            ("five of five", 5, 5, false),
            ("six of six", 6, 6, true),
            ("more than a fifth", 6, 29, true),
            ("exactly a fifth", 6, 30, false),
        ] {
            assert_eq!(is_mass_lapse(lapsed, servers), is_mass, "{case}");
        }
    }

    #[test]
    fn each_stop_reason_has_its_own_name() {
        let all = [StopReason::TaskStopped, StopReason::TaskMissing, StopReason::Silent, StopReason::Drained];
        assert_eq!(all.map(StopReason::as_str), ["task_stopped", "task_missing", "silent", "drained"]);
    }
}
