//! The operations of OWMM: the protocols of the domain, performed against the table and ECS.
//!
//! | module | owns |
//! |---|---|
//! | [`players`] | operations about a player, called by players, servers and operators |
//! | [`servers`] | operations about a server, called by servers and operators |
//! | [`pools`] | operations about a pool, called by operators |
//! | `reconcile` | the run, once a minute, that repairs what failed calls have left behind |
//! | `driver` | performs the effects of a protocol |
//! | `frontier` | takes slots from frontiers and starts servers |
//!
//! Must not know HTTP, nor the layout of the table's items.

mod driver;
mod frontier;
mod players;
mod pools;
mod reconcile;
mod servers;

use std::sync::Arc;

pub use self::{
    players::{JoinOutcome, PartyOutcome, PlayerView, Slot},
    pools::LaunchOutcome,
    reconcile::Reconciled,
    servers::{Heartbeat, Registered, ServerOutcome, UnknownPlayer},
};
use crate::{
    clock::{Clock, Rng},
    domain::{PoolName, Span, Time},
    hints::Hints,
    launching::Launcher,
    metrics::Outcome,
    pool::Pool,
    table::{Table, TableError},
};

/// Retries of an operator command after it has lost a race against another one.
const OPERATOR_RETRIES: u32 = 5;
/// Longest random wait after a race that was lost against another process.
const RACE_JITTER: Span = Span(100);

/// Why an operation has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call to the table failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No operator has configured this pool.
    #[error("there is no pool `{0}`: configure it first")]
    UnknownPool(PoolName),
    /// A protocol was given a reply that does not match its effect: a programming error.
    #[error("{0} was given a reply that does not match its effect")]
    Protocol(&'static str),
    /// A ticket could not be signed.
    #[error("a ticket could not be signed: {0}")]
    Ticket(#[from] jsonwebtoken::errors::Error),
}

impl Failure {
    /// The outcome under which the metrics count this failure.
    pub(crate) const fn outcome(&self) -> Outcome {
        match self {
            Self::Table(TableError::Busy(_)) => Outcome::Busy,
            Self::UnknownPool(_) => Outcome::Refused,
            Self::Table(TableError::Broken(_)) | Self::Protocol(_) | Self::Ticket(_) => Outcome::Failed,
        }
    }
}

/// The operations of OWMM, with the clients and hints that all calls of one process share.
#[derive(Clone, Debug)]
pub struct Owmm {
    table: Table,
    launcher: Launcher,
    clock: Clock,
    rng: Rng,
    hints: Arc<Hints>,
    default_pool: PoolName,
}

impl Owmm {
    /// Creates OWMM on a table and a launcher, with empty hints.
    pub fn new(table: Table, launcher: Launcher, clock: Clock, rng: Rng, default_pool: PoolName) -> Self {
        Self { table, launcher, clock, rng, hints: Arc::default(), default_pool }
    }

    /// Returns a copy that acts like another process: it shares the table and the launcher, but no hints.
    pub fn another_copy(&self) -> Self {
        Self { hints: Arc::default(), ..self.clone() }
    }

    /// The table.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The launcher, which starts and stops servers.
    pub(crate) const fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// The random number generator.
    pub(crate) const fn rng(&self) -> &Rng {
        &self.rng
    }

    /// The time now, by the clock of the functions.
    pub fn time(&self) -> Time {
        self.clock.now()
    }

    async fn pool(&self, name: &PoolName) -> Result<Arc<Pool>, Failure> {
        let pool = self.hints.pool(&self.table, name, self.clock.now()).await?;
        pool.ok_or_else(|| Failure::UnknownPool(name.clone()))
    }
}
