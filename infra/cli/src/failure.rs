//! Errors of a command and their exit codes.

use std::{
    fmt::{self, Display, Formatter},
    io::{self, ErrorKind, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use crate::terminal::plain;

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, the environment, a file or the AWS credentials are not usable.
    #[error("{0}")]
    Usage(String),
    /// The API answered with an error: a refusal, or a failure whose outcome is unknown.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Another operator changed the same pool before this command did.
    #[error("{0}")]
    Stale(String),
    /// No answer, or one that is not OWMM's: whether the call took effect is unknown.
    #[error("{0}")]
    Unknown(String),
    /// The command was not confirmed.
    #[error("{0}")]
    Unconfirmed(String),
    /// The runtime did not start, or reading from or writing to the terminal or pipe failed.
    #[error("terminal, pipe or runtime failed: {0}")]
    Output(io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Problem(problem) if problem.is_refusal() => 1,
            Self::Stale(_) => 1,
            Self::Usage(_) => 2,
            Self::Problem(_) | Self::Unknown(_) | Self::Output(_) => 3,
            Self::Unconfirmed(_) => 4,
        }
    }

    /// Whether repeating the same command fails the same way as long as nothing else changes.
    pub(crate) fn is_for_good(&self) -> bool {
        self.code() < 3
    }

    /// Returns the pause that the API's `Retry-After` requests; zero if there is none.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Problem(problem) => problem.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// Prints the error on stderr and returns the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let text = match self {
            // `owmm servers | head`: `head` closes the pipe after ten lines, which is no failure.
            Self::Output(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Problem(problem) if json && problem.body.is_object() => problem.body.to_string(),
            other => format!("error: {other}"),
        };
        say(&text);
        ExitCode::from(self.code())
    }
}

/// Prints a line on stderr. A failed write is ignored: there is no other place to report it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An answer of the API with an error status.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body; null if it is not JSON.
    pub(crate) body: Value,
    /// The request's id, from the body or from API Gateway's header.
    pub(crate) request: Option<String>,
    /// The `Retry-After` header.
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }

    /// Returns the stable problem code; none if the answer is API Gateway's own.
    pub(crate) fn code(&self) -> Option<&str> {
        self.text("code")
    }

    /// Whether the API refused the call, so that it changed nothing.
    fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status) || matches!(self.code(), Some("launch_paused" | "pool_full"))
    }

    /// Whether the same call may succeed within seconds. A paused launch or a full pool lasts longer.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status == 429 || (self.status == 503 && matches!(self.code(), None | Some("busy")))
    }

    /// Returns the command that helps.
    fn hint(&self) -> Option<&'static str> {
        match (self.code()?, self.status) {
            ("launch_paused", _) => Some("`owmm pool show POOL` says why, `owmm resume POOL` ends the pause."),
            ("at_maximum", _) => Some("`owmm pool set POOL maxServers=N` changes the limit of live servers."),
            ("player_inside", _) => {
                Some("`owmm server drain SERVER --deadline 0` stops that server and frees its players.")
            }
            ("unknown_pool", _) => Some("`owmm pools` lists the pools, `owmm pool set POOL ...` creates one."),
            _ => None,
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let title = self.text("title").unwrap_or("the API answered with an error");
        write!(f, "{} ({}", plain(title), self.status)?;
        if let Some(code) = self.code() {
            write!(f, " {}", plain(code))?;
        }
        f.write_str(")")?;
        // API Gateway's own answers have a `message` and no `detail`.
        if let Some(detail) = self.text("detail").or_else(|| self.text("message")) {
            write!(f, "\n  {}", plain(detail))?;
        }
        if let Some(request) = &self.request {
            write!(f, "\n  request {}", plain(request))?;
        }
        if self.status == 403 {
            f.write_str(
                "\n  hint: the AWS identity needs execute-api:Invoke on this route, and the request must be signed for \
                 the API's region",
            )?;
        } else if let Some(hint) = self.hint() {
            write!(f, "\n  hint: {hint}")?;
        }
        if !self.is_refusal() {
            f.write_str("\n  Whether the call took effect is unknown. It may be repeated.")?;
        }
        Ok(())
    }
}
