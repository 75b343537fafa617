//! What a server needs from somebody who looks after it, decided from its ledger and what ECS says of its task.

use super::{
    Ledger, LedgerWrite, Pool, PoolLimits, ServerState, Span, StopBy, Time,
    teeth::{self, Mistake},
};

/// Servers whose leases may have lapsed at once before nothing is believed any more: five, or a fifth, whichever is
/// more. Beyond that it is the table or the network that is ill, not the servers.
const LAPSED_AT_ONCE: usize = 5;

/// Leases that a server without players may miss before it is stopped.
const LEASES_MISSED: i64 = 3;

/// What ECS says of a server's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskSight {
    /// It runs, or is on its way to.
    Alive,
    /// It has stopped.
    Stopped,
    /// ECS does not know it, which is also what ECS says of a task that it has just started. Or it was never put on record,
    /// and ECS runs none of this server's attempt.
    Missing,
    /// ECS was not asked, or did not answer.
    Unknown,
}

/// Why a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its task has stopped, and nobody was told.
    TaskStopped,
    /// It does not beat, and ECS does not know its task.
    TaskMissing,
    /// It has not beaten for long, and nobody is inside.
    Silent,
    /// It was draining, and everybody has left or the deadline has passed.
    Drained,
}

impl Reason {
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
pub enum Care {
    /// Nothing.
    None,
    /// It is stopped and still on the roster.
    CountOut,
    /// Its launch is due.
    Launch,
    /// Its task has ended while it was starting: the next attempt.
    NextAttempt,
    /// It is over: its ledger is stopped, and its task too, if it runs.
    Stop(Reason),
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

    /// Whether a reason to stop it is believed only while few leases lapse at once, as it rests on the lease. That ECS does
    /// not know the task of a server that has been silent for long does not: such a server will not come back.
    pub fn is_doubtful(&self, reason: Reason, now: Time) -> bool {
        match reason {
            Reason::Silent => true,
            Reason::TaskMissing => !self.is_silent(now),
            Reason::TaskStopped | Reason::Drained => false,
        }
    }

    /// What it needs.
    pub fn care(&self, pool: &Pool, task: TaskSight, now: Time) -> Care {
        match (self.state, task) {
            (ServerState::Stopped, _) => return Care::CountOut,
            (ServerState::Starting, TaskSight::Stopped) => return Care::NextAttempt,
            (ServerState::Starting, _) => {
                return if self.due(now).is_some() { Care::Launch } else { Care::None };
            }
            (_, TaskSight::Stopped) => return Care::Stop(Reason::TaskStopped),
            (_, TaskSight::Missing) if self.has_lapsed(now) => return Care::Stop(Reason::TaskMissing),
            _ => {}
        }
        // A lapse alone ends no game: players may well be inside.
        if self.is_silent(now) && (!self.has_players() || teeth::has(Mistake::LapseStopsPlayers)) {
            return Care::Stop(Reason::Silent);
        }
        let overdue = self.drain_by.is_some_and(|by| by <= now);
        if self.state == ServerState::Draining && (self.claims.is_empty() || overdue) {
            return Care::Stop(Reason::Drained);
        }
        if self.state == ServerState::Ready && !pool.takes(self.build) {
            return Care::Write(LedgerWrite::Retire);
        }
        // Of many it takes several looks, for which nothing above may have to wait.
        let over = self.evictable(now);
        if !over.is_empty() {
            return Care::Write(LedgerWrite::Sweep { evict: over, ready: self.state == ServerState::Ready });
        }
        if let Some(write) = self.listing_fix(now) {
            return Care::Write(write);
        }
        if self.state == ServerState::Ready && self.claims.is_empty() && self.idle_since.is_none() {
            return Care::Write(LedgerWrite::Idle { now });
        }
        Care::None
    }

    /// The write that ends it. For a drain, only if its deadline is still as it was seen; for a lapsed lease, only if the
    /// lease is over still and nobody has come: a beat or a connection that arrives in between wins.
    pub fn stop_for(&self, reason: Reason, now: Time) -> LedgerWrite {
        let attempt = self.attempt;
        match reason {
            Reason::TaskStopped => LedgerWrite::Stop { by: StopBy::Attempt(attempt), now },
            Reason::Drained => LedgerWrite::Stop { by: StopBy::Drained { attempt, drain_by: self.drain_by }, now },
            Reason::TaskMissing => LedgerWrite::StopSilent { attempt, silent_since: now, claims: None, now },
            Reason::Silent => {
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
        fixtures::{NOW, TICK, configured, connected, draining, launch, ready, reserved, starting, stopped},
    };

    const ALL: [TaskSight; 4] = [TaskSight::Alive, TaskSight::Stopped, TaskSight::Missing, TaskSight::Unknown];

    /// A server as it is long after everybody has come and the index was told.
    fn in_order() -> Ledger {
        Ledger { listed: Some(Fill::EMPTY), idle_since: Some(NOW), ..ready(&[]) }
    }

    fn care(ledger: &Ledger, task: TaskSight, now: Time) -> Care {
        ledger.care(&configured(), task, now)
    }

    #[test]
    fn a_server_in_good_order_needs_nothing_whatever_ecs_says_short_of_its_end() {
        for task in [TaskSight::Alive, TaskSight::Missing, TaskSight::Unknown] {
            assert_eq!(care(&in_order(), task, NOW), Care::None, "{task:?}");
        }
    }

    #[test]
    fn a_task_that_has_stopped_ends_its_server_or_its_attempt() {
        for ledger in [in_order(), draining(&[("a", connected(1_000))])] {
            assert_eq!(care(&ledger, TaskSight::Stopped, NOW), Care::Stop(Reason::TaskStopped));
        }
        assert_eq!(care(&starting(&[]), TaskSight::Stopped, NOW), Care::NextAttempt);
    }

    #[test]
    fn a_stopped_server_is_counted_out_and_a_starting_one_is_launched_when_it_is_due() {
        let launching = Ledger { launch: Some(launch()), ..starting(&[]) };
        for task in [TaskSight::Alive, TaskSight::Missing, TaskSight::Unknown] {
            assert_eq!(care(&launching, task, NOW - TICK), Care::None);
            assert_eq!(care(&launching, task, NOW), Care::Launch);
        }
        for task in ALL {
            assert_eq!(care(&stopped(), task, NOW), Care::CountOut);
        }
    }

    #[test]
    fn a_lapse_is_the_end_only_of_a_server_whose_task_ecs_does_not_know() {
        let inside = Ledger { listed: None, ..ready(&[("a", connected(1_000))]) };
        let over = NOW + TICK;
        assert_eq!(care(&inside, TaskSight::Missing, over), Care::Stop(Reason::TaskMissing));
        for task in [TaskSight::Alive, TaskSight::Unknown] {
            assert_eq!(care(&inside, task, NOW + Span::seconds(10_000)), Care::None, "players may be inside");
        }
        assert!(inside.has_lapsed(over) && !inside.has_lapsed(NOW) && !starting(&[]).has_lapsed(over));
        assert!(Ledger { lease_until: None, ..in_order() }.has_lapsed(NOW));
    }

    #[test]
    fn an_empty_server_is_over_after_three_more_leases() {
        let empty = Ledger { listed: None, idle_since: Some(NOW), ..ready(&[]) };
        let long = NOW + empty.lease_for.times(3);
        assert_eq!(care(&empty, TaskSight::Unknown, long), Care::None);
        assert_eq!(care(&empty, TaskSight::Unknown, long + TICK), Care::Stop(Reason::Silent));
        let on_the_way = Ledger { reservation: Span::seconds(1_000), ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(care(&on_the_way, TaskSight::Alive, long + TICK), Care::Stop(Reason::Silent));
    }

    #[test]
    fn that_ecs_does_not_know_a_task_is_doubted_only_as_long_as_its_server_may_come_back() {
        let long = NOW + in_order().lease_for.times(LEASES_MISSED);
        assert!(in_order().is_doubtful(Reason::TaskMissing, long));
        assert!(!in_order().is_doubtful(Reason::TaskMissing, long + TICK));
        assert!(in_order().is_doubtful(Reason::Silent, long + TICK), "the lease is all that says so");
        assert!(!in_order().is_doubtful(Reason::TaskStopped, NOW) && !in_order().is_doubtful(Reason::Drained, NOW));
    }

    #[test]
    fn claims_whose_time_is_up_are_swept() {
        for (ledger, is_ready) in
            [(ready(&[("a", reserved(1_000))]), true), (draining(&[("a", reserved(1_000))]), false)]
        {
            let now = NOW + ledger.reservation;
            let ledger = Ledger { lease_until: Some(now), ..ledger };
            let sweep = LedgerWrite::Sweep { evict: ledger.evictable(now), ready: is_ready };
            assert_eq!(care(&ledger, TaskSight::Alive, now), Care::Write(sweep));
        }
    }

    #[test]
    fn a_draining_server_is_over_when_it_is_empty_or_its_time_is() {
        assert_eq!(care(&draining(&[]), TaskSight::Alive, NOW), Care::Stop(Reason::Drained));
        let inside = Ledger { drain_by: Some(NOW), ..draining(&[("a", connected(1_000))]) };
        assert_eq!(care(&inside, TaskSight::Alive, NOW - TICK), Care::None);
        assert_eq!(care(&inside, TaskSight::Alive, NOW), Care::Stop(Reason::Drained));
        let coming = draining(&[("a", connected(1_000)), ("b", reserved(1))]).claims;
        let coming = Ledger { claims: coming, drain_by: Some(NOW), lease_until: None, ..inside.clone() };
        assert_eq!(
            care(&coming, TaskSight::Unknown, NOW + coming.reservation),
            Care::Stop(Reason::Drained),
            "first of all"
        );
        let without_end = Ledger { drain_by: None, ..inside.clone() };
        assert_eq!(care(&without_end, TaskSight::Alive, NOW), Care::None);
        let ready = Ledger { state: ServerState::Ready, listed: Some(Fill::TOP), capacity: 1, ..inside };
        assert_ne!(care(&ready, TaskSight::Alive, NOW), Care::Stop(Reason::Drained));
    }

    #[test]
    fn an_old_build_drains_if_its_pool_says_so() {
        let pool = Pool { build: 1, rollout: Rollout::Drain, ..configured() };
        let drain = Care::Write(LedgerWrite::Retire);
        assert_eq!(in_order().care(&pool, TaskSight::Alive, NOW), drain);
        assert_eq!(
            in_order().care(&Pool { rollout: Rollout::Lazy, ..pool.clone() }, TaskSight::Alive, NOW),
            Care::None
        );
        assert_eq!(Ledger { build: 1, ..in_order() }.care(&pool, TaskSight::Alive, NOW), Care::None);
        let going = draining(&[("a", connected(1_000))]);
        assert_eq!(going.care(&pool, TaskSight::Alive, NOW), Care::None, "it drains already");
    }

    #[test]
    fn the_index_and_the_time_without_players_are_put_right() {
        let unlisted = Ledger { listed: None, ..in_order() };
        let fix = unlisted.listing_fix(NOW).map(Care::Write);
        assert_eq!(Some(care(&unlisted, TaskSight::Alive, NOW)), fix);
        let idle = Care::Write(LedgerWrite::Idle { now: NOW });
        assert_eq!(care(&Ledger { idle_since: None, ..in_order() }, TaskSight::Alive, NOW), idle);
        let inside = Ledger { listed: fill(1, 2), ..ready(&[("a", connected(1_000))]) };
        assert_eq!(care(&inside, TaskSight::Alive, NOW), Care::None, "somebody is inside");
        assert_eq!(
            care(&Ledger { idle_since: None, ..draining(&[("a", connected(1))]) }, TaskSight::Alive, NOW),
            Care::None
        );
    }

    #[test]
    fn slots_are_free_where_a_claim_would_be_taken() {
        let one_inside = ready(&[("a", connected(1_000))]);
        assert_eq!((one_inside.free_slots(NOW), one_inside.free_slots(NOW + TICK)), (1, 0));
        assert_eq!(ready(&[("a", reserved(1_000)), ("b", reserved(1_000))]).free_slots(NOW), 0);
        assert_eq!(
            (starting(&[]).free_slots(NOW), draining(&[]).free_slots(NOW), stopped().free_slots(NOW)),
            (2, 0, 0)
        );
        assert!(one_inside.has_players() && !ready(&[("a", reserved(1_000))]).has_players());
    }

    #[test]
    fn only_a_server_that_is_ready_and_has_been_empty_for_long_is_scaled_in() {
        let idle = Span(500);
        let drain = LedgerWrite::DrainIdle { idle_by: NOW };
        assert_eq!(in_order().scale_in(idle, NOW + idle), Some(drain));
        assert_eq!(in_order().scale_in(idle, NOW + idle - TICK), None);
        let others = [
            Ledger { idle_since: None, ..in_order() },
            Ledger { state: ServerState::Draining, ..in_order() },
            Ledger { claims: ready(&[("a", reserved(1_000))]).claims, ..in_order() },
        ];
        for other in others {
            assert_eq!(other.scale_in(idle, NOW + idle), None, "{other:?}");
        }
    }

    #[test]
    fn as_many_servers_are_wanted_as_the_headroom_lacks_slots() {
        let limits = PoolLimits { headroom: 10, capacity: 4, ..PoolLimits::DEFAULT };
        let wanted = [0, 1, 2, 3, 6, 9, 10, 11].map(|free| servers_wanted(&limits, free));
        assert_eq!(wanted, [3, 3, 2, 2, 1, 1, 0, 0]);
    }

    #[test]
    fn a_mass_lapse_is_more_than_five_and_more_than_a_fifth() {
        assert!(!is_mass_lapse(5, 5));
        assert!(is_mass_lapse(6, 6));
        assert!(is_mass_lapse(6, 29));
        assert!(!is_mass_lapse(6, 30));
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let all = [Reason::TaskStopped, Reason::TaskMissing, Reason::Silent, Reason::Drained];
        assert_eq!(all.map(Reason::as_str), ["task_stopped", "task_missing", "silent", "drained"]);
    }
}
