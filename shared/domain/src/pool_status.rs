//! The status of a pool: how many servers live, which launches have failed, and whether launching is paused.

use super::{Span, Time};

/// Launches that may fail in a row before launching pauses.
pub const PAUSE_AFTER_FAILURES: u32 = 3;

/// The longest pause.
const LONGEST_PAUSE: Span = Span::seconds(600);

/// Until when an operator's pause holds that names no end.
pub const UNTIL_RESUMED: Time = Time(i64::MAX);

/// An operator may end a pause at any moment, so nobody is told to wait for longer than this.
const LOOK_AGAIN: Span = Span::seconds(30);

/// The image of a pool's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct PoolStatus {
    /// Servers that live: started and not stopped yet.
    pub live: u32,
    /// Servers that have ever been counted in or out, so that whoever sees the same number twice has missed none.
    pub changes: u32,
    /// Launches that have failed since a server last registered.
    pub failures: u32,
    /// No server is started before this, because launches have failed.
    pub backoff_until: Option<Time>,
    /// No server is started before this, because an operator says so.
    pub paused_until: Option<Time>,
    /// When an operator last paused or resumed. Newer wins, late loses.
    pub requested_at: Option<Time>,
}

/// Why no server may be started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoLaunch {
    /// As many servers live as the pool allows.
    AtMaximum,
    /// Launches have failed repeatedly, or an operator has paused launching; the time at which to ask again.
    Paused(Time),
}

impl PoolStatus {
    /// Why a server may not be started now, if so.
    pub fn no_launch(&self, max_servers: u32, now: Time) -> Option<NoLaunch> {
        let held = self.operator_pause(now).map(|until| until.min(now + LOOK_AGAIN));
        match self.backoff_until.filter(|until| *until > now).max(held) {
            Some(until) => Some(NoLaunch::Paused(until)),
            None => (self.live >= max_servers).then_some(NoLaunch::AtMaximum),
        }
    }

    /// Until when an operator's pause holds, if one does; [`UNTIL_RESUMED`] if it has no end.
    pub fn operator_pause(&self, now: Time) -> Option<Time> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Timestamp for the next operator command: now, or just after the last one.
    pub fn operator_timestamp(&self, now: Time) -> Time {
        now.operator_timestamp(self.requested_at)
    }

    /// The fleet after a server has come or gone.
    fn counting(&self, live: u32) -> Self {
        Self { live, changes: self.changes.saturating_add(1), ..self.clone() }
    }

    /// Whether an operator command of that time or a later one was applied already.
    fn supersedes(&self, at: Time) -> bool {
        self.requested_at.is_some_and(|last| last >= at)
    }
}

/// How long launching pauses after the `failures`-th failure in a row: not at all at first, then 30 seconds,
/// doubling, up to ten minutes.
pub fn pause_after(failures: u32) -> Option<Span> {
    let doublings = failures.checked_sub(PAUSE_AFTER_FAILURES)?;
    Some(Span::seconds(30).times(1 << doublings.min(10)).min(LONGEST_PAUSE))
}

/// One conditional write on a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolStatusWrite {
    /// Counts a new server, in the transaction that advances a frontier.
    Started {
        /// Servers that the pool allows.
        max_servers: u32,
        /// The time of the request.
        now: Time,
    },
    /// Counts a server that no frontier asked for, if no server has come or gone since the fleet was seen.
    StartedAhead {
        /// The changes that were seen.
        changes: u32,
        /// Servers that the pool allows.
        max_servers: u32,
        /// The time of the request.
        now: Time,
    },
    /// Puts the count right, if no server has come or gone since before the roster was read. The count alone does not tell:
    /// one that comes and one that goes leave it as it was.
    Recount {
        /// The changes that were seen before.
        changes: u32,
        /// The entries of the roster.
        live: u32,
    },
    /// Counts a server out, in the transaction that takes it off the roster.
    Ended,
    /// The same for a server that never registered, which counts as a failure.
    Failed {
        /// The failures that were seen.
        was: u32,
        /// Until when launching pauses, if it does.
        backoff_until: Option<Time>,
    },
    /// A server has registered: failures are forgotten, and a pause for them is over. An operator's pause is not.
    Recovered,
    /// An operator pauses launching. Refused if this command or a later one was applied already.
    Pause {
        /// When the operator requested it.
        at: Time,
        /// Until when.
        until: Time,
    },
    /// An operator resumes launching: no pause of either kind, and failures are forgotten. Refused like
    /// [`PoolStatusWrite::Pause`].
    Resume {
        /// When the operator requested it.
        at: Time,
    },
}

impl PoolStatusWrite {
    /// Whether this operator command is the last one applied: an earlier call applied it, and its answer was lost.
    pub fn stands(&self, status: &PoolStatus) -> bool {
        match self {
            Self::Pause { at, until } => status.requested_at == Some(*at) && status.paused_until == Some(*until),
            Self::Resume { at } => status.requested_at == Some(*at) && status.paused_until.is_none(),
            _ => false,
        }
    }

    /// What the table makes of this write: the new fleet, or `None` when the condition refuses it.
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
    fn a_server_is_started_within_the_maximum_and_while_nothing_is_paused() {
        let status = |live| PoolStatus { live, ..PoolStatus::default() };
        let started = PoolStatusWrite::Started { max_servers: 2, now: NOW };
        let ahead = PoolStatusWrite::StartedAhead { changes: 0, max_servers: 2, now: NOW };
        let live =
            |write: &PoolStatusWrite, status: PoolStatus| write.apply(Some(&status)).map(|it| (it.live, it.changes));
        for (servers, expected) in [(0, Some((1, 1))), (1, Some((2, 1))), (2, None), (3, None)] {
            assert_eq!(live(&started, status(servers)), expected, "{servers} servers of at most two");
            assert_eq!(live(&ahead, status(servers)), expected, "{servers} servers of at most two, ahead of demand");
        }
        assert_eq!(live(&ahead, PoolStatus { changes: 2, ..status(1) }), None, "one has come and one has gone");
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
    fn a_server_is_counted_out_and_its_failure_remembered_once() {
        let status = PoolStatus { live: 1, failures: 2, backoff_until: Some(NOW), ..PoolStatus::default() };
        let out = PoolStatus { live: 0, changes: 1, ..status };
        assert_eq!(PoolStatusWrite::Ended.apply(Some(&status)), Some(out.clone()));
        assert_eq!(PoolStatusWrite::Ended.apply(Some(&out)), None);
        let failed = |was, backoff_until| PoolStatusWrite::Failed { was, backoff_until };
        let third = PoolStatus { failures: 3, ..out };
        assert_eq!(failed(2, None).apply(Some(&status)), Some(third.clone()));
        let paused = Some(NOW + TICK);
        assert_eq!(failed(2, paused).apply(Some(&status)), Some(PoolStatus { backoff_until: paused, ..third }));
        for (case, was) in [("fewer failures than were seen", 1), ("more failures than were seen", 3)] {
            assert_eq!(failed(was, None).apply(Some(&status)), None, "{case}");
        }
        assert_eq!(failed(2, None).apply(Some(&out)), None);
    }

    #[test]
    fn a_registration_forgets_failures_and_an_operator_who_resumes_every_pause() {
        let live = PoolStatus { live: 1, changes: 1, requested_at: Some(NOW), ..PoolStatus::default() };
        let failed = PoolStatus { failures: 3, backoff_until: Some(NOW), paused_until: Some(UNTIL_RESUMED), ..live };
        let held = PoolStatus { paused_until: Some(UNTIL_RESUMED), ..live };
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&failed)), Some(held.clone()));
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&held)), None, "there is nothing to forget");
        let at = NOW + TICK;
        assert_eq!(
            PoolStatusWrite::Resume { at }.apply(Some(&failed)),
            Some(PoolStatus { requested_at: Some(at), ..live })
        );
    }

    #[test]
    fn an_answer_that_was_lost_is_known_by_the_word_that_stands() {
        let (hold, resume) =
            (PoolStatusWrite::Pause { at: NOW, until: NOW + TICK }, PoolStatusWrite::Resume { at: NOW });
        let held = hold.apply(None).unwrap();
        let resumed = resume.apply(None).unwrap();
        let stands = |write: &PoolStatusWrite| {
            (write.stands(&held), write.stands(&resumed), write.stands(&PoolStatus::default()))
        };
        assert_eq!((stands(&hold), stands(&resume)), ((true, false, false), (false, true, false)));
        for (case, write) in [
            ("an earlier pause", PoolStatusWrite::Pause { at: NOW - TICK, until: NOW + TICK }),
            ("a pause until another time", PoolStatusWrite::Pause { at: NOW, until: NOW }),
            ("an earlier resumption", PoolStatusWrite::Resume { at: NOW - TICK }),
            ("no word of an operator", PoolStatusWrite::Ended),
        ] {
            assert_eq!(stands(&write), (false, false, false), "{case}");
        }
        for (case, write) in [("pause", &hold), ("resume", &resume)] {
            assert_eq!(write.apply(Some(&held)), None, "{case}: once each");
        }
    }

    #[test]
    fn launching_pauses_only_after_repeated_failures_and_never_for_long() {
        for (case, failures, pause) in [
            ("none", 0, None),
            ("one too few", PAUSE_AFTER_FAILURES - 1, None),
            ("just enough", PAUSE_AFTER_FAILURES, Some(Span::seconds(30))),
            ("one more", PAUSE_AFTER_FAILURES + 1, Some(Span::seconds(60))),
            ("as many as can be", u32::MAX, Some(LONGEST_PAUSE)),
        ] {
            assert_eq!(pause_after(failures), pause, "{case}");
        }
    }

    #[test]
    fn an_operators_pause_is_asked_about_again_soon_and_outlives_one_for_failures() {
        let (now, soon) = (Time(1_000), Time(1_000) + LOOK_AGAIN);
        let held = |until| PoolStatus { paused_until: Some(until), ..PoolStatus::default() };
        assert_eq!(held(UNTIL_RESUMED).no_launch(1, now), Some(NoLaunch::Paused(soon)));
        assert_eq!(held(Time(1_001)).no_launch(1, now), Some(NoLaunch::Paused(Time(1_001))));
        assert_eq!(held(now).no_launch(1, now), None);
        let both = PoolStatus { backoff_until: Some(soon + Span(1)), ..held(UNTIL_RESUMED) };
        assert_eq!(both.no_launch(1, now), Some(NoLaunch::Paused(soon + Span(1))));
        let failed = PoolStatus { failures: 3, ..both };
        assert_eq!(PoolStatusWrite::Recovered.apply(Some(&failed)), Some(held(UNTIL_RESUMED)));
    }

    #[test]
    fn a_count_is_not_put_right_by_who_has_missed_a_server_that_came_as_another_went() {
        let seen = PoolStatus { live: 1, changes: 7, ..PoolStatus::default() };
        let recount = PoolStatusWrite::Recount { changes: 7, live: 0 };
        assert_eq!(recount.apply(Some(&seen)), Some(PoolStatus { live: 0, ..seen.clone() }));
        let left = PoolStatusWrite::Ended.apply(Some(&seen)).unwrap();
        let as_many = PoolStatusWrite::Started { max_servers: 1, now: Time(0) }.apply(Some(&left)).unwrap();
        assert_eq!((as_many.live, recount.apply(Some(&as_many))), (1, None));
    }

    #[test]
    fn of_two_words_the_later_counts_in_whichever_order_they_arrive() {
        let (pause, resume) =
            (PoolStatusWrite::Pause { at: Time(5), until: UNTIL_RESUMED }, PoolStatusWrite::Resume { at: Time(6) });
        let paused = pause.apply(None).unwrap();
        assert!(paused.operator_pause(Time(9)).is_some());
        let resumed = resume.apply(Some(&paused)).unwrap();
        assert_eq!(pause.apply(Some(&resumed)), None, "a late repeat");
        assert_eq!(resumed.operator_timestamp(Time(2)), Time(7), "a clock that is behind is heard all the same");
    }
}
