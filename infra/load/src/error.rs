//! Errors that end a measurement. Depends on no other module.

use shared::{
    domain::{BadId, ServerId},
    table::{Malformed, TableError},
};

/// An error that ends a measurement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The stack failed to start.
    #[error(transparent)]
    Stack(#[from] local::Error),
    /// A table request failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table has an item that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The table could not be read for the audit.
    #[error("the table cannot be audited: {0}")]
    Scan(String),
    /// A write of the floor failed.
    #[error("the floor cannot be measured: {0}")]
    Floor(String),
    /// A reconcile run could not be prepared, failed, or had an unexpected outcome.
    #[error("the reconcile run cannot be measured: {0}")]
    Reconcile(String),
    /// The HTTP client could not be created.
    #[error("cannot create an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// An id is malformed.
    #[error(transparent)]
    Id(#[from] BadId),
    /// The table does not exist or is not a stack's.
    #[error("the table does not exist or has no default pool: give --dynamodb and --table as the stack printed them")]
    NoStack,
    /// A server could not register.
    #[error("server {0} is not registered: {1}")]
    Server(ServerId, String),
    /// The async task of a player panicked.
    #[error("the task of a simulated player panicked: {0}")]
    Player(#[from] tokio::task::JoinError),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
