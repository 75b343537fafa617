//! The status of a pool: how many servers live, which launches have failed, and whether launching is paused.

use super::{Span, Time};

/// Failures in a row at which launching pauses.
pub const PAUSE_AFTER_FAILURES: u32 = 3;

/// The longest pause after failed launches.
const LONGEST_PAUSE: Span = Span::seconds(600);

/// End of an operator's pause that lasts until an operator resumes launching.
pub const UNTIL_RESUMED: Time = Time(i64::MAX);

/// The longest wait that a caller gets for an operator's pause, because an operator may end the pause at any moment.
const LONGEST_RETRY: Span = Span::seconds(30);

/// The image of a pool's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct PoolStatus {
    /// Live servers: started and not yet counted out.
    pub live: u32,
    /// Number of times that a server was counted in or out. If two reads return the same number, no server was counted
    /// in between.
    pub changes: u32,
    /// Launches that have failed since a server last registered.
    pub failures: u32,
    /// No server is started before this time, because launches have failed.
    pub backoff_until: Option<Time>,
    /// No server is started before this time, because an operator has paused launching.
    pub paused_until: Option<Time>,
    /// When an operator last paused or resumed launching. A command with an older or equal time is refused.
    pub requested_at: Option<Time>,
}

/// Why no server may be started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoLaunch {
    /// The pool has as many live servers as it allows.
    AtMaximum,
    /// Launches have failed repeatedly, or an operator has paused launching; the value is the time at which to retry.
    Paused(Time),
}

impl PoolStatus {
    /// Why no server may be started now; `None` if one may.
    pub fn no_launch(&self, max_servers: u32, now: Time) -> Option<NoLaunch> {
        let paused = self.operator_pause(now).map(|until| until.min(now + LONGEST_RETRY));
        match self.backoff_until.filter(|until| *until > now).max(paused) {
            Some(until) => Some(NoLaunch::Paused(until)),
            None => (self.live >= max_servers).then_some(NoLaunch::AtMaximum),
        }
    }

    /// The end of an operator's pause; [`UNTIL_RESUMED`] if the pause has no end, `None` if launching is not paused.
    pub fn operator_pause(&self, now: Time) -> Option<Time> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Timestamp for the next operator command: now, or 1 ms after the last command's, whichever is later.
    pub fn operator_timestamp(&self, now: Time) -> Time {
        now.operator_timestamp(self.requested_at)
    }

    /// The status after a server was counted in or out, with the new number of live servers.
    fn counting(&self, live: u32) -> Self {
        Self { live, changes: self.changes.saturating_add(1), ..self.clone() }
    }

    /// Whether an operator command of this time or a later one has been applied.
    fn supersedes(&self, at: Time) -> bool {
        self.requested_at.is_some_and(|last| last >= at)
    }
}

/// How long launching pauses after the `failures`-th failure in a row: not at all before [`PAUSE_AFTER_FAILURES`], then
/// 30 seconds, doubled with each further failure, up to ten minutes.
pub fn pause_after(failures: u32) -> Option<Span> {
    let doublings = failures.checked_sub(PAUSE_AFTER_FAILURES)?;
    Some(Span::seconds(30).times(1 << doublings.min(10)).min(LONGEST_PAUSE))
}

/// One conditional write on a pool's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolStatusWrite {
    /// Counts a new server in, in the transaction that advances a frontier.
    Started {
        /// Live servers that the pool allows.
        max_servers: u32,
        /// The time of the request.
        now: Time,
    },
    /// Counts in a server that is started ahead of demand, without a frontier. Refused if a server was counted in or
    /// out since the status was read.
    StartedAhead {
        /// [`PoolStatus::changes`] as it was read.
        changes: u32,
        /// Live servers that the pool allows.
        max_servers: u32,
        /// The time of the request.
        now: Time,
    },
    /// Corrects the number of live servers. Refused if a server was counted in or out since before the roster was read;
    /// that is compared by `changes`, because one server in and one out leave the number of live servers unchanged.
    Recount {
        /// [`PoolStatus::changes`] as it was read before the roster.
        changes: u32,
        /// The number of roster entries.
        live: u32,
    },
    /// Counts a server out, in the transaction that removes it from the roster.
    Ended,
    /// Counts out a server that never registered, and counts a failure.
    Failed {
        /// [`PoolStatus::failures`] as it was read.
        was: u32,
        /// End of the pause after this failure, if launching pauses.
        backoff_until: Option<Time>,
    },
    /// Resets the failures and ends the pause for them, because a server has registered. An operator's pause stays.
    Recovered,
    /// Pauses launching on an operator's command. Refused if this command or a later one has been applied.
    Pause {
        /// When the operator requested the pause.
        at: Time,
        /// End of the pause.
        until: Time,
    },
    /// Resumes launching on an operator's command: ends pauses of both kinds and resets the failures. Refused if this
    /// command or a later one has been applied.
    Resume {
        /// When the operator requested the resumption.
        at: Time,
    },
}

impl PoolStatusWrite {
    /// Whether this operator command is the last one applied. If the write is refused and this returns true, an earlier
    /// call applied the command and its answer was lost.
    pub fn stands(&self, status: &PoolStatus) -> bool {
        match self {
            Self::Pause { at, until } => status.requested_at == Some(*at) && status.paused_until == Some(*until),
            Self::Resume { at } => status.requested_at == Some(*at) && status.paused_until.is_none(),
            _ => false,
        }
    }

    /// What the table makes of this write: the new status, or `None` when the condition refuses it.
    pub fn apply(&self, status: Option<&PoolStatus>) -> Option<PoolStatus> {
        let old = status.cloned().unwrap_or_default();
        match self {
            Self::Started { max_servers, now } => {
                old.no_launch(*max_servers, *now).is_none().then(|| old.counting(old.live.saturating_add(1)))
            }
            Self::StartedAhead { changes, max_servers, now } => {
                let as_seen = old.changes == *changes && old.no_launch(*max_servers, *now).is_none();
                as_seen.then(|| old.counting(old.live.saturating_add(1)))
            }
            Self::Recount { changes, live } => {
                status.filter(|_| old.changes == *changes).map(|_| PoolStatus { live: *live, ..old.clone() })
            }
            Self::Ended => old.live.checked_sub(1).map(|live| old.counting(live)),
            Self::Failed { was, backoff_until } => {
                let live = old.live.checked_sub(1).filter(|_| old.failures == *was)?;
                let backoff_until = backoff_until.or(old.backoff_until);
                Some(PoolStatus { failures: was.saturating_add(1), backoff_until, ..old.counting(live) })
            }
            Self::Recovered => (old.failures > 0).then_some(PoolStatus { failures: 0, backoff_until: None, ..old }),
            Self::Pause { at, until } => (!old.supersedes(*at)).then_some(PoolStatus {
                paused_until: Some(*until),
                requested_at: Some(*at),
                ..old
            }),
            Self::Resume { at } => (!old.supersedes(*at)).then_some(PoolStatus {
                failures: 0,
                backoff_until: None,
                paused_until: None,
                requested_at: Some(*at),
                ..old
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, TICK};

    #[test]
    fn a_server_is_started_only_below_the_maximum_and_while_launching_is_not_paused() {
        let status = |live| PoolStatus { live, ..PoolStatus::default() };
        let started = PoolStatusWrite::Started { max_servers: 2, now: NOW };
        let ahead = PoolStatusWrite::StartedAhead { changes: 0, max_servers: 2, now: NOW };
        let live =
            |write: &PoolStatusWrite, status: PoolStatus| write.apply(Some(&status)).map(|it| (it.live, it.changes));
        for (servers, expected) in [(0, Some((1, 1))), (1, Some((2, 1))), (2, None), (3, None)] {
            assert_eq!(live(&started, status(servers)), expected, "{servers} servers of at most two");
            assert_eq!(live(&ahead, status(servers)), expected, "{servers} servers of at most two, ahead of demand");
        }
        assert_eq!(live(&ahead, PoolStatus { changes: 2, ..status(1) }), None, "one server was counted in and one out");
        assert_eq!(started.apply(None), Some(PoolStatus { changes: 1, ..status(1) }));
        for (case, pause) in [
            ("for failures", PoolStatus { backoff_until: Some(NOW + TICK), ..status(1) }),
            ("by an operator", PoolStatus { paused_until: Some(NOW + TICK), ..status(1) }),
        ] {
            assert_eq!((live(&started, pause.clone()), live(&ahead, pause)), (None, None), "paused {case}");
        }
        let over = PoolStatus { backoff_until: Some(NOW), paused_until: Some(NOW), ..status(1) };
        assert_eq!((live(&started, over.clone()), live(&ahead, over)), (Some((2, 1)), Some((2, 1))));
        assert_eq!(status(2).no_launch(2, NOW), Some(NoLaunch::AtMaximum));
    }

    #[test]
    fn a_server_is_counted_out_once_and_a_failed_launch_adds_one_failure() {
        let status = PoolStatus { live: 1, failures: 2, backoff_until: Some(NOW), ..PoolStatus::default() };
        let out = PoolStatus { live: 0, changes: 1, ..status };
        assert_eq!(PoolStatusWrite::Ended.apply(Some(&status)), Some(out.clone()));
        assert_eq!(PoolStatusWrite::Ended.apply(Some(&out)), None);
        let failed = |was, backoff_until| PoolStatusWrite::Failed { was, backoff_until };
        let third = PoolStatus { failures: 3, ..out };
        assert_eq!(failed(2, None).apply(Some(&status)), Some(third.clone()));
        let paused = Some(NOW + TICK);
        assert_eq!(failed(2, paused).apply(Some(&status)), Some(PoolStatus { backoff_until: paused, ..third }));
        for (case, was) in [("fewer failures were read", 1), ("more failures were read", 3)] {
            assert_eq!(failed(was, None).apply(Some(&status)), None, "{case}");
        }
        assert_eq!(failed(2, None).apply(Some(&out)), None);
    }

    #[test]
    fn a_registration_resets_failures_and_an_operators_resume_ends_every_pause() {
        let live = PoolStatus { live: 1, changes: 1, requested_at: Some(NOW), ..PoolStatus::default() };
        let failed = PoolStatus { failures: 3, backoff_until: Some(NOW), paused_until: Some(UNTIL_RESUMED), ..live };
        let paused = PoolStatus { paused_until: Some(UNTIL_RESUMED), ..live };
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&failed)), Some(paused.clone()));
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&paused)), None, "there are no failures to reset");
        let at = NOW + TICK;
        assert_eq!(
            PoolStatusWrite::Resume { at }.apply(Some(&failed)),
            Some(PoolStatus { requested_at: Some(at), ..live })
        );
    }

    #[test]
    fn an_operator_command_stands_only_in_the_status_that_it_was_the_last_to_change() {
        let (pause, resume) =
            (PoolStatusWrite::Pause { at: NOW, until: NOW + TICK }, PoolStatusWrite::Resume { at: NOW });
        let paused = pause.apply(None).unwrap();
        let resumed = resume.apply(None).unwrap();
        let stands = |write: &PoolStatusWrite| {
            (write.stands(&paused), write.stands(&resumed), write.stands(&PoolStatus::default()))
        };
        assert_eq!((stands(&pause), stands(&resume)), ((true, false, false), (false, true, false)));
        for (case, write) in [
            ("an earlier pause", PoolStatusWrite::Pause { at: NOW - TICK, until: NOW + TICK }),
            ("a pause until another time", PoolStatusWrite::Pause { at: NOW, until: NOW }),
            ("an earlier resumption", PoolStatusWrite::Resume { at: NOW - TICK }),
            ("a write that is no operator command", PoolStatusWrite::Ended),
        ] {
            assert_eq!(stands(&write), (false, false, false), "{case}");
        }
        for (case, write) in [("pause", &pause), ("resume", &resume)] {
            assert_eq!(write.apply(Some(&paused)), None, "{case}: a command of the same time was applied");
        }
    }

    #[test]
    fn launching_pauses_only_after_repeated_failures_and_for_ten_minutes_at_most() {
        for (case, failures, pause) in [
            ("none", 0, None),
            ("one below the threshold", PAUSE_AFTER_FAILURES - 1, None),
            ("the threshold", PAUSE_AFTER_FAILURES, Some(Span::seconds(30))),
            ("one above the threshold", PAUSE_AFTER_FAILURES + 1, Some(Span::seconds(60))),
            ("the greatest number", u32::MAX, Some(LONGEST_PAUSE)),
        ] {
            assert_eq!(pause_after(failures), pause, "{case}");
        }
    }

    #[test]
    fn an_operators_pause_is_retried_within_30_seconds_and_outlasts_a_pause_for_failures() {
        let (now, soon) = (Time(1_000), Time(1_000) + LONGEST_RETRY);
        let paused = |until| PoolStatus { paused_until: Some(until), ..PoolStatus::default() };
        assert_eq!(paused(UNTIL_RESUMED).no_launch(1, now), Some(NoLaunch::Paused(soon)));
        assert_eq!(paused(Time(1_001)).no_launch(1, now), Some(NoLaunch::Paused(Time(1_001))));
        assert_eq!(paused(now).no_launch(1, now), None);
        let both = PoolStatus { backoff_until: Some(soon + Span(1)), ..paused(UNTIL_RESUMED) };
        assert_eq!(both.no_launch(1, now), Some(NoLaunch::Paused(soon + Span(1))));
        let failed = PoolStatus { failures: 3, ..both };
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&failed)), Some(paused(UNTIL_RESUMED)));
    }

    #[test]
    fn a_recount_is_refused_if_one_server_was_counted_out_and_another_in_since_the_status_was_read() {
        let seen = PoolStatus { live: 1, changes: 7, ..PoolStatus::default() };
        let recount = PoolStatusWrite::Recount { changes: 7, live: 0 };
        assert_eq!(recount.apply(Some(&seen)), Some(PoolStatus { live: 0, ..seen.clone() }));
        let left = PoolStatusWrite::Ended.apply(Some(&seen)).unwrap();
        let as_many = PoolStatusWrite::Started { max_servers: 1, now: Time(0) }.apply(Some(&left)).unwrap();
        assert_eq!((as_many.live, recount.apply(Some(&as_many))), (1, None));
    }

    #[test]
    fn of_two_operator_commands_the_later_wins_in_whichever_order_they_arrive() {
        let (pause, resume) =
            (PoolStatusWrite::Pause { at: Time(5), until: UNTIL_RESUMED }, PoolStatusWrite::Resume { at: Time(6) });
        let paused = pause.apply(None).unwrap();
        assert!(paused.operator_pause(Time(9)).is_some());
        let resumed = resume.apply(Some(&paused)).unwrap();
        assert_eq!(pause.apply(Some(&resumed)), None, "a late repeat");
        assert_eq!(resumed.operator_timestamp(Time(2)), Time(7), "a later timestamp although the clock is behind");
    }
}
