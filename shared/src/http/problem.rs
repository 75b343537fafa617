//! Refusals as RFC 9457 problem details with a stable code. Details that only operators may see go to the log instead.

use lambda_http::http::StatusCode;

use crate::{
    Failure, ServerOutcome,
    domain::{BadId, PlayerId},
    table::TableError,
};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// The code of a problem. Codes are part of the API: they do not change, and clients may branch on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as clients receive it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status of the code.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// Meaning of the code as a fixed text.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not the JSON object that the route takes; nothing was written.
    InvalidBody = "invalid_body", BAD_REQUEST, "The body is not what this call takes";
    /// A path or query parameter is out of range; nothing was written.
    InvalidParameter = "invalid_parameter", BAD_REQUEST, "A parameter is out of range";
    /// Credentials are missing or of the wrong kind; nothing was written.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Credentials are missing";
    /// The credentials do not allow this call; nothing was written.
    Forbidden = "forbidden", FORBIDDEN, "These credentials do not allow this call";
    /// The bearer token is not this server's token; nothing was written.
    WrongToken = "wrong_token", FORBIDDEN, "The token is not this server's";
    /// The ticket was not issued for this player on this server; nothing was written.
    InvalidTicket = "invalid_ticket", FORBIDDEN, "The ticket is not valid here";
    /// The path belongs to no route.
    NotFound = "not_found", NOT_FOUND, "There is no such route";
    /// No operator has configured this pool.
    UnknownPool = "unknown_pool", NOT_FOUND, "There is no such pool";
    /// The player was never placed, or so long ago that the seat was deleted.
    UnknownPlayer = "unknown_player", NOT_FOUND, "There is no such player";
    /// No server has this id, or the server stopped so long ago that its ledger was deleted.
    UnknownServer = "unknown_server", NOT_FOUND, "There is no such server";
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The player holds no live claim on this server.
    NoClaim = "no_claim", CONFLICT, "The player holds no live claim on this server";
    /// The player is connected in another pool, or the player's seat names another server.
    PlacedElsewhere = "placed_elsewhere", CONFLICT, "The player is placed elsewhere";
    /// The player is connected to a live server, and only that server can disconnect the player; nothing was written.
    PlayerInside = "player_inside", CONFLICT, "The player is connected to a server";
    /// The pool's maximum does not allow that many servers; nothing was started.
    AtMaximum = "at_maximum", CONFLICT, "The pool may not have that many servers";
    /// The server has not registered itself yet.
    NotRegistered = "not_registered", CONFLICT, "The server has not registered itself";
    /// The server has registered with another address or port.
    AlreadyRegistered = "already_registered", CONFLICT, "The server has registered with another address";
    /// Players hold more slots already than that capacity allows.
    CapacityTooSmall = "capacity_too_small", CONFLICT, "More slots are held than that capacity has";
    /// The server is stopped for good; its process should end.
    ServerStopped = "server_stopped", GONE, "The server is stopped";
    /// The body is longer than 192 KiB.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The pool has its maximum of live servers, and none has room. No slot is reserved.
    PoolFull = "pool_full", SERVICE_UNAVAILABLE, "The pool is full";
    /// Repeated launches of the pool failed, or an operator paused launching. No slot is reserved.
    LaunchPaused = "launch_paused", SERVICE_UNAVAILABLE, "Launching is paused";
    /// The request lost too many races, or a dependency did not answer. Every call may be repeated.
    Busy = "busy", SERVICE_UNAVAILABLE, "Busy, repeat the call";
    /// The request failed through a fault of OWMM. The log has details under the request id.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something is wrong on our side";
}

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// Code of the problem.
    pub code: Code,
    /// What is wrong with this request, and what its sender can do.
    pub detail: String,
    /// Time after which the client should repeat the call, in seconds.
    pub retry_after_seconds: Option<i64>,
    /// The players concerned, if the problem does not concern every player of the call.
    pub players: Vec<PlayerId>,
    /// Details for the log alone.
    pub internals: Option<String>,
}

impl Problem {
    /// Creates a problem with a code and a detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after_seconds: None, players: Vec::new(), internals: None }
    }

    /// Sets the time after which the client should repeat the call, in seconds, at least 1.
    pub fn retry_after(self, seconds: i64) -> Self {
        Self { retry_after_seconds: Some(seconds.max(1)), ..self }
    }

    /// Sets the players concerned.
    pub fn about(self, players: Vec<PlayerId>) -> Self {
        Self { players, ..self }
    }

    /// Creates the problem `busy`: the client should repeat the call after 1 s. `internals` goes to the log.
    pub fn busy(internals: impl Into<String>) -> Self {
        let busy = Self::new(Code::Busy, "OWMM is busy. Repeat the call as it is.");
        Self { internals: Some(internals.into()), ..busy.retry_after(1) }
    }

    /// Creates the problem `internal`. `internals` goes to the log.
    pub fn internal(internals: impl Into<String>) -> Self {
        let internal =
            Self::new(Code::Internal, "The request failed inside OWMM. Give its `requestId` to the operator of OWMM.");
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
            ServerOutcome::Stopped => Self::new(Code::ServerStopped, "This server is stopped. Its process should end."),
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
