//! Why there is no figure. Depends on no other module.

use shared::{
    domain::{BadId, ServerId},
    table::{Malformed, TableError},
};

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The stack does not start.
    #[error(transparent)]
    Stack(#[from] local::Error),
    /// The table gave no answer.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table has an item that does not read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The table could not be read for the audit.
    #[error("the table cannot be audited: {0}")]
    Scan(String),
    /// A write of the floor failed.
    #[error("the floor cannot be measured: {0}")]
    Floor(String),
    /// A look at the fleet was not what it was to be.
    #[error("the look at the fleet cannot be measured: {0}")]
    Look(String),
    /// No HTTP client.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// A name is out of range.
    #[error(transparent)]
    Id(#[from] BadId),
    /// The table is not a stack's.
    #[error(
        "there is no such table, or it has no default pool: are --dynamodb and --table what the stack has printed?"
    )]
    NoStack,
    /// A server could not register.
    #[error("server {0} is not registered: {1}")]
    Server(ServerId, String),
    /// A player's task has panicked.
    #[error("a player is lost: {0}")]
    Player(#[from] tokio::task::JoinError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
