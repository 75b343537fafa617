//! The EventBridge schedule: reconciles every pool and server, each minute.

use serde::Deserialize;
use shared::{Failure, Owmm, Reconciled};

/// Event of the schedule. None of its fields is read.
#[derive(Debug, Deserialize)]
pub struct Tick {}

/// Performs one reconcile run, which logs its result as one record.
///
/// # Errors
/// The table did not answer. The schedule starts the next run a minute later.
pub async fn handle(owmm: &Owmm) -> Result<Reconciled, Failure> {
    owmm.reconcile().await
}
