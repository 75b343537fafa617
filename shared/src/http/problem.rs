//! Refusals as the caller sees them: RFC 9457 problem details with a stable code. What only operators may see goes to the
//! log instead.

use lambda_http::http::StatusCode;

use crate::{
    Failure, ServerOutcome,
    domain::{BadId, PlayerId},
    table::TableError,
};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// The code of a problem. Codes are API: they do not change, and clients may decide by them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it means, in words that never change.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not the JSON that the route takes; nothing was written.
    InvalidBody = "invalid_body", BAD_REQUEST, "The body is not what this call takes";
    /// A path or query parameter is out of range; nothing was written.
    InvalidParameter = "invalid_parameter", BAD_REQUEST, "A parameter is out of range";
    /// No credentials, or none of the right kind; nothing was written.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Credentials are missing";
    /// Credentials that do not allow this call; nothing was written.
    Forbidden = "forbidden", FORBIDDEN, "These credentials do not allow this call";
    /// The token is not this server's; nothing was written.
    WrongToken = "wrong_token", FORBIDDEN, "The token is not this server's";
    /// The ticket was not issued for this player on this server; nothing was written.
    InvalidTicket = "invalid_ticket", FORBIDDEN, "The ticket is not valid here";
    /// There is no such route.
    NotFound = "not_found", NOT_FOUND, "There is no such route";
    /// No operator has configured this pool.
    UnknownPool = "unknown_pool", NOT_FOUND, "There is no such pool";
    /// No player of this id has been placed, or not for long.
    UnknownPlayer = "unknown_player", NOT_FOUND, "There is no such player";
    /// No server has this id, or it has been gone for long.
    UnknownServer = "unknown_server", NOT_FOUND, "There is no such server";
    /// The route takes other methods.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The player holds no live claim on this server.
    NoClaim = "no_claim", CONFLICT, "The player holds no live claim on this server";
    /// The player is placed elsewhere: inside another pool, or by seat on another server.
    PlacedElsewhere = "placed_elsewhere", CONFLICT, "The player is placed elsewhere";
    /// The player is connected to a server, and only that server can disconnect the player; nothing was written.
    PlayerInside = "player_inside", CONFLICT, "The player is connected to a server";
    /// The pool may not have as many servers as that; nothing was started.
    AtMaximum = "at_maximum", CONFLICT, "The pool may not have that many servers";
    /// The server has not registered itself yet.
    NotRegistered = "not_registered", CONFLICT, "The server has not registered itself";
    /// The server has registered with another address or port.
    AlreadyRegistered = "already_registered", CONFLICT, "The server has registered with another address";
    /// More players hold slots already than the capacity would allow.
    CapacityTooSmall = "capacity_too_small", CONFLICT, "More slots are held than that capacity has";
    /// The server is stopped for good; its process should end.
    ServerStopped = "server_stopped", GONE, "The server is stopped";
    /// The body is longer than 192 KiB.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// As many servers live as the pool allows, and none has room. Nothing is held.
    PoolFull = "pool_full", SERVICE_UNAVAILABLE, "The pool is full";
    /// Servers of the pool have failed to start repeatedly, or an operator has paused launching. Nothing is held.
    LaunchPaused = "launch_paused", SERVICE_UNAVAILABLE, "Launching is paused";
    /// Tries are used up, or a dependency does not answer. Ask again: every call may be repeated.
    Busy = "busy", SERVICE_UNAVAILABLE, "Busy, ask again";
    /// Our mistake. The log has more under the request id.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something is wrong on our side";
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// Its code.
    pub code: Code,
    /// What is wrong with this request, for the person who made it.
    pub detail: String,
    /// When asking again makes sense, in seconds.
    pub retry_after_seconds: Option<i64>,
    /// The players whom it is about, where not all of the call's are.
    pub players: Vec<PlayerId>,
    /// What only the log says.
    pub internals: Option<String>,
}

impl Problem {
    /// A refusal with these words.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after_seconds: None, players: Vec::new(), internals: None }
    }

    /// The same, with the time after which asking again makes sense.
    pub fn retry_after(self, seconds: i64) -> Self {
        Self { retry_after_seconds: Some(seconds.max(1)), ..self }
    }

    /// The same, naming the players whom it is about.
    pub fn about(self, players: Vec<PlayerId>) -> Self {
        Self { players, ..self }
    }

    /// Ask again; the log says why.
    pub fn busy(internals: impl Into<String>) -> Self {
        let busy = Self::new(Code::Busy, "Too much is going on right now. The call may be repeated as it is.");
        Self { internals: Some(internals.into()), ..busy.retry_after(1) }
    }

    /// Our mistake; the log says which.
    pub fn internal(internals: impl Into<String>) -> Self {
        let internal = Self::new(Code::Internal, "The request could not be handled. Its id is in our log.");
        Self { internals: Some(internals.into()), ..internal }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Table(TableError::Busy(why)) => Self::busy(why),
            Failure::UnknownPool(pool) => Self::new(Code::UnknownPool, format!("No pool is called `{pool}`.")),
            Failure::Table(TableError::Broken(why)) => Self::internal(why),
            Failure::Protocol(_) => Self::internal(failure.to_string()),
            Failure::Ticket(why) => Self::internal(why.to_string()),
        }
    }
}

impl From<ServerOutcome> for Problem {
    fn from(outcome: ServerOutcome) -> Self {
        match outcome {
            ServerOutcome::Unknown => Self::new(Code::UnknownServer, "No server has this id. Its process should end."),
            ServerOutcome::WrongToken => {
                Self::new(Code::WrongToken, "Send the OWMM_SERVER_TOKEN of the attempt that started this server last.")
            }
            ServerOutcome::Stopped => Self::new(Code::ServerStopped, "The server is stopped for good. Its process should end."),
            ServerOutcome::NotRegistered => {
                Self::new(Code::NotRegistered, "Register the server first, with PUT /servers/{serverId}.")
            }
            ServerOutcome::AlreadyRegistered => {
                Self::new(Code::AlreadyRegistered, "A server keeps the address and port that it has registered with.")
            }
            ServerOutcome::CapacityTooSmall => {
                Self::new(Code::CapacityTooSmall, "Players hold more slots already than that capacity has.")
            }
        }
    }
}

impl From<BadId> for Problem {
    fn from(bad: BadId) -> Self {
        Self::new(Code::InvalidParameter, format!("{bad}."))
    }
}
