//! What a server needs from somebody who looks after it, decided from its ledger and what ECS says of its task.

use super::{Ledger, LedgerWrite, PoolBuild, PoolLimits, ServerState, Span, StopBy, Time};

/// Servers whose leases may have lapsed at once before nothing is believed any more: five, or a fifth, whichever is
/// more. Beyond that it is the table or the network that is ill, not the servers.
const LAPSED_AT_ONCE: usize = 5;

/// Leases that a server without players may miss before it is stopped.
const LEASES_MISSED: i64 = 3;

/// What ECS says of a server's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskStatus {
    /// It runs, or is on its way to.
    Alive,
    /// It has stopped.
    Stopped,
    /// ECS does not know it, which is also what ECS says of a task that it has just started. Or it was never put on
    /// record, and ECS runs none of this server's attempt.
    Missing,
    /// ECS was not asked, or did not answer.
    Unknown,
}

/// Why a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopReason {
    /// Its task has stopped, and nobody was told.
    TaskStopped,
    /// It does not beat, and ECS does not know its task.
    TaskMissing,
    /// It has not beaten for long, and nobody is inside.
    Silent,
    /// It was draining, and everybody has left or the deadline has passed.
    Drained,
}

impl StopReason {
    /// For the log and the count.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TaskStopped => "task_stopped",
            Self::TaskMissing => "task_missing",
            Self::Silent => "silent",
            Self::Drained => "drained",
        }
    }
}

/// What a server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// It is stopped and still on the roster.
    CountOut,
    /// Its launch is due.
    Launch,
    /// Its task has ended while it was starting: the next attempt.
    NextAttempt,
    /// It is over: its ledger is stopped, and its task too, if it runs.
    Stop(StopReason),
    /// A write on its ledger puts something right.
    Write(LedgerWrite),
}

impl Ledger {
    /// Whether it should have beaten and has not.
    pub fn has_lapsed(&self, now: Time) -> bool {
        let registered = matches!(self.state, ServerState::Ready | ServerState::Draining);
        registered && self.lease_until.is_none_or(|until| until < now)
    }

    /// Whether somebody is inside.
    pub fn has_players(&self) -> bool {
        self.claims.values().any(|claim| claim.is_connected())
    }

    /// Whether its lease has been over for long.
    fn is_silent(&self, now: Time) -> bool {
        let long = self.lease_for.times(LEASES_MISSED);
        self.has_lapsed(now) && self.lease_until.is_none_or(|until| until + long < now)
    }

    /// Whether a reason to stop it is believed only while few leases lapse at once, as it rests on the lease. That ECS
    /// does not know the task of a server that has been silent for long does not: such a server will not come back.
    pub fn is_only_suspected(&self, reason: StopReason, now: Time) -> bool {
        match reason {
            StopReason::Silent => true,
            StopReason::TaskMissing => !self.is_silent(now),
            StopReason::TaskStopped | StopReason::Drained => false,
        }
    }

    /// What it needs.
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
        // A lapse alone ends no game: players may well be inside.
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
        // Of many it takes several looks, for which nothing above may have to wait.
        let over = self.evictable(now);
        if !over.is_empty() {
            return Repair::Write(LedgerWrite::Sweep { evict: over, ready: self.state == ServerState::Ready });
        }
        if let Some(write) = self.listing_fix(now) {
            return Repair::Write(write);
        }
        if self.state == ServerState::Ready && self.claims.is_empty() && self.idle_since.is_none() {
            return Repair::Write(LedgerWrite::Idle { now });
        }
        Repair::None
    }

    /// The write that ends it. For a drain, only if its deadline is still as it was seen; for a lapsed lease, only if
    /// the lease is over still and nobody has come: a beat or a connection that arrives in between wins.
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

    /// Slots that can be had, now or once it is ready.
    pub fn free_slots(&self, now: Time) -> u32 {
        let free = self.capacity.saturating_sub(u32::try_from(self.live_claims(now)).unwrap_or(u32::MAX));
        if self.takes_claims(now) { free } else { 0 }
    }

    /// The write that ends a server nobody has used for `idle`; `None` if it is not such a one. In one condition with
    /// the claims, so that a last-moment joiner and this cannot both win.
    pub fn scale_in(&self, idle: Span, now: Time) -> Option<LedgerWrite> {
        let since = self.idle_since.filter(|_| self.state == ServerState::Ready && self.claims.is_empty())?;
        let idle_by = now - idle;
        (since <= idle_by).then_some(LedgerWrite::DrainIdle { idle_by })
    }
}

/// Whether so many leases have lapsed at once that none of it is believed.
pub fn is_mass_lapse(lapsed: usize, servers: usize) -> bool {
    lapsed > LAPSED_AT_ONCE && lapsed.saturating_mul(5) > servers
}

/// Servers to start so that `headroom` slots are free.
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

    /// A server as it is long after everybody has come and the index was told.
    fn in_order() -> Ledger {
        Ledger { listed: Some(Fill::EMPTY), idle_since: Some(NOW), ..ready(&[]) }
    }

    fn next_repair(ledger: &Ledger, task: TaskStatus, now: Time) -> Repair {
        ledger.next_repair(PoolBuild { number: 0, rollout: Rollout::Lazy }, task, now)
    }

    #[test]
    fn a_server_in_good_order_needs_nothing_whatever_ecs_says_short_of_its_end() {
        for task in [TaskStatus::Alive, TaskStatus::Missing, TaskStatus::Unknown] {
            assert_eq!(next_repair(&in_order(), task, NOW), Repair::None, "{task:?}");
        }
    }

    #[test]
    fn a_task_that_has_stopped_ends_its_server_or_its_attempt() {
        for (case, ledger) in [("ready", in_order()), ("draining", draining(&[("a", connected(1_000))]))] {
            assert_eq!(next_repair(&ledger, TaskStatus::Stopped, NOW), Repair::Stop(StopReason::TaskStopped), "{case}");
        }
        assert_eq!(next_repair(&starting(&[]), TaskStatus::Stopped, NOW), Repair::NextAttempt);
    }

    #[test]
    fn a_stopped_server_is_counted_out_and_a_starting_one_is_launched_when_it_is_due() {
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
    fn a_lapse_is_the_end_only_of_a_server_whose_task_ecs_does_not_know() {
        let inside = Ledger { listed: None, ..ready(&[("a", connected(1_000))]) };
        let over = NOW + TICK;
        assert_eq!(next_repair(&inside, TaskStatus::Missing, over), Repair::Stop(StopReason::TaskMissing));
        for task in [TaskStatus::Alive, TaskStatus::Unknown] {
            assert_eq!(
                next_repair(&inside, task, NOW + Span::seconds(10_000)),
                Repair::None,
                "{task:?}: players may be inside"
            );
        }
        assert!(inside.has_lapsed(over) && !inside.has_lapsed(NOW) && !starting(&[]).has_lapsed(over));
        assert!(Ledger { lease_until: None, ..in_order() }.has_lapsed(NOW));
    }

    #[test]
    fn an_empty_server_is_over_after_three_more_leases() {
        let empty = Ledger { listed: None, idle_since: Some(NOW), ..ready(&[]) };
        let long = NOW + empty.lease_for.times(3);
        assert_eq!(next_repair(&empty, TaskStatus::Unknown, long), Repair::None);
        assert_eq!(next_repair(&empty, TaskStatus::Unknown, long + TICK), Repair::Stop(StopReason::Silent));
        let on_the_way = Ledger { reservation: Span::seconds(1_000), ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(next_repair(&on_the_way, TaskStatus::Alive, long + TICK), Repair::Stop(StopReason::Silent));
    }

    #[test]
    fn that_ecs_does_not_know_a_task_is_doubted_only_as_long_as_its_server_may_come_back() {
        let long = NOW + in_order().lease_for.times(LEASES_MISSED);
        assert!(in_order().is_only_suspected(StopReason::TaskMissing, long));
        assert!(!in_order().is_only_suspected(StopReason::TaskMissing, long + TICK));
        assert!(in_order().is_only_suspected(StopReason::Silent, long + TICK), "the lease is all that says so");
        assert!(
            !in_order().is_only_suspected(StopReason::TaskStopped, NOW)
                && !in_order().is_only_suspected(StopReason::Drained, NOW)
        );
    }

    #[test]
    fn claims_whose_time_is_up_are_swept() {
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
    fn a_draining_server_is_over_when_it_is_empty_or_its_time_is() {
        assert_eq!(next_repair(&draining(&[]), TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
        let inside = Ledger { drain_by: Some(NOW), ..draining(&[("a", connected(1_000))]) };
        assert_eq!(next_repair(&inside, TaskStatus::Alive, NOW - TICK), Repair::None);
        assert_eq!(next_repair(&inside, TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
        let coming = draining(&[("a", connected(1_000)), ("b", reserved(1))]).claims;
        let coming = Ledger { claims: coming, drain_by: Some(NOW), lease_until: None, ..inside.clone() };
        assert_eq!(
            next_repair(&coming, TaskStatus::Unknown, NOW + coming.reservation),
            Repair::Stop(StopReason::Drained),
            "first of all"
        );
        let without_end = Ledger { drain_by: None, ..inside.clone() };
        assert_eq!(next_repair(&without_end, TaskStatus::Alive, NOW), Repair::None);
        let ready = Ledger { state: ServerState::Ready, listed: Some(Fill::TOP), capacity: 1, ..inside };
        assert_ne!(next_repair(&ready, TaskStatus::Alive, NOW), Repair::Stop(StopReason::Drained));
    }

    #[test]
    fn an_old_build_drains_if_its_pool_says_so() {
        let pool = PoolBuild { number: 1, rollout: Rollout::Drain };
        let drain = Repair::Write(LedgerWrite::Retire);
        assert_eq!(in_order().next_repair(pool, TaskStatus::Alive, NOW), drain);
        assert_eq!(
            in_order().next_repair(PoolBuild { rollout: Rollout::Lazy, ..pool }, TaskStatus::Alive, NOW),
            Repair::None
        );
        assert_eq!(Ledger { build: 1, ..in_order() }.next_repair(pool, TaskStatus::Alive, NOW), Repair::None);
        let going = draining(&[("a", connected(1_000))]);
        assert_eq!(going.next_repair(pool, TaskStatus::Alive, NOW), Repair::None, "it drains already");
    }

    #[test]
    fn the_index_and_the_time_without_players_are_put_right() {
        let unlisted = Ledger { listed: None, ..in_order() };
        let fix = unlisted.listing_fix(NOW).map(Repair::Write);
        assert_eq!(Some(next_repair(&unlisted, TaskStatus::Alive, NOW)), fix);
        let idle = Repair::Write(LedgerWrite::Idle { now: NOW });
        assert_eq!(next_repair(&Ledger { idle_since: None, ..in_order() }, TaskStatus::Alive, NOW), idle);
        let inside = Ledger { listed: fill(1, 2), ..ready(&[("a", connected(1_000))]) };
        assert_eq!(next_repair(&inside, TaskStatus::Alive, NOW), Repair::None, "somebody is inside");
        assert_eq!(
            next_repair(&Ledger { idle_since: None, ..draining(&[("a", connected(1))]) }, TaskStatus::Alive, NOW),
            Repair::None
        );
    }

    #[test]
    fn slots_are_free_where_a_claim_would_be_taken() {
        let one_inside = ready(&[("a", connected(1_000))]);
        assert_eq!((one_inside.free_slots(NOW), one_inside.free_slots(NOW + TICK)), (1, 0));
        assert_eq!(ready(&[("a", reserved(1_000)), ("b", reserved(1_000))]).free_slots(NOW), 0);
        let slots = [("starting", 2), ("ready", 2), ("draining", 0), ("stopped", 0)];
        assert_eq!(states().map(|(state, ledger)| (state, ledger.free_slots(NOW))), slots);
        assert!(one_inside.has_players() && !ready(&[("a", reserved(1_000))]).has_players());
    }

    #[test]
    fn only_a_server_that_is_ready_and_has_been_empty_for_long_is_scaled_in() {
        let idle = Span(500);
        let drain = LedgerWrite::DrainIdle { idle_by: NOW };
        assert_eq!(in_order().scale_in(idle, NOW + idle), Some(drain));
        assert_eq!(in_order().scale_in(idle, NOW + idle - TICK), None);
        let others = [
            ("it is not noted as empty", Ledger { idle_since: None, ..in_order() }),
            ("it drains", Ledger { state: ServerState::Draining, ..in_order() }),
            ("it has a claim", Ledger { claims: ready(&[("a", reserved(1_000))]).claims, ..in_order() }),
        ];
        for (case, other) in others {
            assert_eq!(other.scale_in(idle, NOW + idle), None, "{case}");
        }
    }

    #[test]
    fn as_many_servers_are_wanted_as_the_headroom_lacks_slots() {
        let limits = PoolLimits { headroom: 10, capacity: 4, ..PoolLimits::DEFAULT };
        for (free, wanted) in [(0, 3), (1, 3), (2, 2), (3, 2), (6, 1), (9, 1), (10, 0), (11, 0)] {
            assert_eq!(servers_wanted(&limits, free), wanted, "{free} free slots");
        }
    }

    #[test]
    fn a_mass_lapse_is_more_than_five_and_more_than_a_fifth() {
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
    fn reasons_have_names_of_their_own() {
        let all = [StopReason::TaskStopped, StopReason::TaskMissing, StopReason::Silent, StopReason::Drained];
        assert_eq!(all.map(StopReason::as_str), ["task_stopped", "task_missing", "silent", "drained"]);
    }
}
