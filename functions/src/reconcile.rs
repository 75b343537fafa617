//! The EventBridge schedule: the fleet is looked after, each minute.

use serde::Deserialize;
use shared::{Failure, Owmm, Reconciled};

/// The schedule's event, of which nothing matters but that it came.
#[derive(Debug, Deserialize)]
pub struct Tick {}

/// Looks after the fleet once. What it came to is in the log, one record a run.
///
/// # Errors
/// The table gave no answer: the next minute tries again.
pub async fn handle(owmm: &Owmm) -> Result<Reconciled, Failure> {
    owmm.reconcile().await
}
