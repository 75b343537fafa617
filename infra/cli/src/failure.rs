//! Why a command did not do what it was told, and the exit code that says so.

use std::{
    fmt::{self, Display, Formatter},
    io::{self, ErrorKind, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use crate::terminal::plain;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, the environment or a file does not do.
    #[error("{0}")]
    Usage(String),
    /// The API has said no, or that it does not know.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// What the command was to change has changed meanwhile.
    #[error("{0}")]
    Stale(String),
    /// No answer, or one that is not OWMM's: whether anything happened is unknown.
    #[error("{0}")]
    Unknown(String),
    /// Nobody has confirmed it.
    #[error("{0}")]
    Unconfirmed(String),
    /// The terminal or the pipe does not take what is to be said.
    #[error("the output cannot be written: {0}")]
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

    /// Whether the same command comes to the same end as long as nobody changes anything.
    pub(crate) fn is_for_good(&self) -> bool {
        self.code() < 3
    }

    /// How long the API asks to be left alone.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Problem(problem) => problem.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// Tells it on stderr, and is the exit code.
    pub(crate) fn told(&self, json: bool) -> ExitCode {
        let text = match self {
            // `owmm servers | head`: who reads has seen enough.
            Self::Output(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Problem(problem) if json && problem.body.is_object() => problem.body.to_string(),
            other => format!("error: {other}"),
        };
        say(&text);
        ExitCode::from(self.code())
    }
}

/// A line for the person at the terminal. If stderr is gone, so is the person.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An answer of the API that is no success.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// HTTP status.
    pub(crate) status: u16,
    /// The whole answer; null if it is not JSON.
    pub(crate) body: Value,
    /// The request's id, from the answer or from API Gateway's header.
    pub(crate) request: Option<String>,
    /// What `Retry-After` says.
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }

    /// The stable code; none where the answer is API Gateway's own.
    pub(crate) fn code(&self) -> Option<&str> {
        self.text("code")
    }

    /// Whether the API has decided, so that nothing has happened.
    fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status) || matches!(self.code(), Some("launch_paused" | "pool_full"))
    }

    /// Whether the same call may succeed in a moment. A pause is not over in a moment, nor is a full pool.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status == 429 || (self.status == 503 && matches!(self.code(), None | Some("busy")))
    }

    /// The command that helps.
    fn hint(&self) -> Option<&'static str> {
        match (self.code()?, self.status) {
            ("launch_paused", _) => Some("`owmm pool show POOL` says why, `owmm resume POOL` ends the pause."),
            ("at_maximum", _) => Some("`owmm pool set POOL maxServers=N` changes how many there may be."),
            ("player_inside", _) => Some("`owmm server drain SERVER --deadline 0` is that drain."),
            ("unknown_pool", _) => Some("`owmm pools` lists them, `owmm pool set POOL ...` makes one."),
            _ => None,
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let title = self.text("title").unwrap_or("the API answers with an error");
        write!(f, "{} ({}", plain(title), self.status)?;
        if let Some(code) = self.code() {
            write!(f, " {}", plain(code))?;
        }
        f.write_str(")")?;
        // API Gateway's own answers have a `message`, and nothing else.
        if let Some(detail) = self.text("detail").or_else(|| self.text("message")) {
            write!(f, "\n  {}", plain(detail))?;
        }
        if let Some(request) = &self.request {
            write!(f, "\n  request {}", plain(request))?;
        }
        if self.status == 403 {
            f.write_str("\n  hint: the identity needs execute-api:Invoke on this route, and the request must be signed for the API's region")?;
        } else if let Some(hint) = self.hint() {
            write!(f, "\n  hint: {hint}")?;
        }
        if !self.is_refusal() {
            f.write_str("\n  Whether the call took effect is unknown. It may be repeated.")?;
        }
        Ok(())
    }
}
