//! The operations of OWMM: the protocols of the domain, performed against the table and ECS.
//!
//! | module | owns |
//! |---|---|
//! | [`players`] | what players, and servers and operators about a player, call |
//! | [`servers`] | what servers and operators call about a server |
//! | [`pools`] | what operators call about a pool |
//! | `reconcile` | the run of each minute that repairs what calls have left behind |
//! | `driver` | performs the effects of a protocol |
//! | `frontier` | takes slots from frontiers and starts servers |
//!
//! Must not know HTTP, nor how an item is laid out.

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
/// The longest random wait of a caller that lost a race against a caller of another process.
const RACE_JITTER: Span = Span(100);

/// Why an operation has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The table gave no answer.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nobody has configured this pool.
    #[error("there is no pool {0}")]
    UnknownPool(PoolName),
    /// A protocol was given a reply that does not match its effect: a programming error.
    #[error("{0} was given a reply that does not match its effect")]
    Protocol(&'static str),
    /// A ticket could not be signed.
    #[error("a ticket could not be signed: {0}")]
    Ticket(#[from] jsonwebtoken::errors::Error),
}

impl Failure {
    /// What it is in the metrics.
    pub(crate) const fn outcome(&self) -> Outcome {
        match self {
            Self::Table(TableError::Busy(_)) => Outcome::Busy,
            Self::UnknownPool(_) => Outcome::Refused,
            Self::Table(TableError::Broken(_)) | Self::Protocol(_) | Self::Ticket(_) => Outcome::Failed,
        }
    }
}

/// OWMM: what all functions share in one process.
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
    /// OWMM over a table and a launcher.
    pub fn new(table: Table, launcher: Launcher, clock: Clock, rng: Rng, default_pool: PoolName) -> Self {
        Self { table, launcher, clock, rng, hints: Arc::default(), default_pool }
    }

    /// The same functions in another process: shares nothing that this one remembers.
    pub fn another_copy(&self) -> Self {
        Self { hints: Arc::default(), ..self.clone() }
    }

    /// The table.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// What starts servers.
    pub(crate) const fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Chance.
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
