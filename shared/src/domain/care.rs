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
    /// ECS does not know it, which is also what ECS says of a task that it has just started.
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
        self.claims.values().any(|mark| mark.is_connected())
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
        let over = self.evictable(now);
        if !over.is_empty() {
            return Care::Write(LedgerWrite::Sweep { evict: over, ready: self.state == ServerState::Ready });
        }
        let overdue = self.drain_by.is_some_and(|by| by <= now);
        if self.state == ServerState::Draining && (self.claims.is_empty() || overdue) {
            return Care::Stop(Reason::Drained);
        }
        if self.state == ServerState::Ready && !pool.takes(self.generation) {
            return Care::Write(LedgerWrite::Drain { drain_by: None });
        }
        if let Some(write) = self.listing_fix(now) {
            return Care::Write(write);
        }
        if self.state == ServerState::Ready && self.claims.is_empty() && self.idle_since.is_none() {
            return Care::Write(LedgerWrite::Idle { now });
        }
        Care::None
    }

    /// The write that ends it. For a lapsed lease, only if the lease is over still and nobody has come: a beat or a
    /// connection that arrives in between wins.
    pub fn stop_for(&self, reason: Reason, now: Time) -> LedgerWrite {
        let attempt = self.attempt;
        match reason {
            Reason::TaskStopped | Reason::Drained => LedgerWrite::Stop { by: StopBy::Attempt(attempt), now },
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
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::domain::{PoolName, ServerId, TokenHash};

    #[test]
    fn that_ecs_does_not_know_a_task_is_doubted_only_as_long_as_its_server_may_come_back() {
        let (id, pool) = (ServerId::parse("s").unwrap(), PoolName::parse("p").unwrap());
        let ledger = Ledger {
            state: ServerState::Ready,
            lease_until: Some(Time(1_000)),
            ..Ledger::new(id, pool, &PoolLimits::DEFAULT, TokenHash::of("token"))
        };
        let long = Time(1_000) + ledger.lease_for.times(LEASES_MISSED);
        assert!(ledger.is_doubtful(Reason::TaskMissing, long));
        assert!(!ledger.is_doubtful(Reason::TaskMissing, long + Span(1)));
        assert!(ledger.is_doubtful(Reason::Silent, long + Span(1)), "the lease is all that says so");
        assert!(!ledger.is_doubtful(Reason::TaskStopped, Time(0)) && !ledger.is_doubtful(Reason::Drained, Time(0)));
    }

    #[test]
    fn a_mass_lapse_is_more_than_five_and_more_than_a_fifth() {
        assert!(!is_mass_lapse(5, 5));
        assert!(is_mass_lapse(6, 6));
        assert!(is_mass_lapse(6, 29));
        assert!(!is_mass_lapse(6, 30));
    }
}
