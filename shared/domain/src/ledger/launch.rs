//! The launch of a server, which the ledger holds until the server has registered.

use std::fmt;

use crate::{Span, Time};

/// A RunTask call whose task is not on record is repeated after this long, with the same token.
pub const REPEAT_CALL_AFTER: Span = Span::seconds(5);

/// How often a server's task is started before the launch is abandoned.
pub const MAX_LAUNCH_ATTEMPTS: u32 = 3;

/// The launch of a server that has not registered yet: all that RunTask was called with, so that a repeated call is
/// identical, and when something is due.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The server's token, for its environment. Gone from the table once the server has registered.
    pub token: String,
    /// When RunTask is to be called (again), unless its task is on record.
    pub call_at: Time,
    /// When the server must have registered.
    pub deadline: Time,
    /// How long an attempt may take, for the deadline of the next one.
    pub time_to_start: Span,
    /// The task's parameters, as text that only the launcher reads.
    pub spec: String,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Launch {{ call_at: {:?}, deadline: {:?}, .. }}", self.call_at, self.deadline)
    }
}

/// What a launch needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// No task is on record: call RunTask again with the same token.
    Call,
    /// The deadline has passed: start the next attempt.
    NextAttempt,
    /// The deadline of the last attempt has passed: abandon the launch.
    AbandonLaunch,
}
