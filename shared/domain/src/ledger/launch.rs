//! The launch of a server, which the ledger holds until the server has registered.

use std::fmt;

use crate::{Span, Time};

/// A RunTask call is repeated after this time with the same client token, if the ledger has no task by then.
pub const REPEAT_CALL_AFTER: Span = Span::seconds(5);

/// Attempts to start a server's task before the launch is abandoned.
pub const MAX_LAUNCH_ATTEMPTS: u32 = 3;

/// The launch of a server that has not registered yet: all parameters of its RunTask call, so that a repeated call is
/// identical, and the times at which the next steps are due.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The server's token, for its environment. The registration removes it from the table.
    pub token: String,
    /// When RunTask is to be called or called again, unless the ledger has a task.
    pub call_at: Time,
    /// Deadline for the registration of the server.
    pub deadline: Time,
    /// How long an attempt may take, for the deadline of the next one.
    pub time_to_start: Span,
    /// The task's parameters, as text that only the launching code parses.
    pub spec: String,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Launch {{ call_at: {:?}, deadline: {:?}, .. }}", self.call_at, self.deadline)
    }
}

/// The step of a launch that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// Call RunTask (again, with the same client token), because the ledger has no task.
    Call,
    /// Start the next attempt, because the deadline has passed.
    NextAttempt,
    /// Abandon the launch, because the deadline of the last attempt has passed.
    AbandonLaunch,
}
