//! Injected bugs that are not in a conditional write: the simulation does what a function with the bug would do.

use serde_json::Value;
use shared::{
    domain::{
        TaskStatus, Time,
        bug::{self, Bug},
    },
    table::{Table, TableError},
};

/// Replaces the `clientToken` of a RunTask body by `invocation`, if [`Bug::FreshRunTaskToken`] is injected.
///
/// `invocation` is the id that the SDK gives to each call and repeats in retries of that call. `None` without the bug.
pub(super) fn fresh_client_token(body: &[u8], invocation: Option<&str>) -> Option<Vec<u8>> {
    if !bug::injected(Bug::FreshRunTaskToken) {
        return None;
    }
    let mut body = serde_json::from_slice::<Value>(body).ok()?;
    *body.get_mut("clientToken")? = invocation?.into();
    serde_json::to_vec(&body).ok()
}

/// Stops each server with connected players whose lease ran out long ago, if [`Bug::LapseStopsPlayers`] is injected.
/// Does nothing without the bug.
///
/// # Errors
/// The table gave no answer.
pub(super) async fn stop_lapsed(table: &Table, now: Time) -> Result<(), TableError> {
    if !bug::injected(Bug::LapseStopsPlayers) {
        return Ok(());
    }
    for pool in table.pools().await? {
        // The pools of a simulation have fewer servers than a page.
        let (roster, _) = table.roster(&pool.name, None).await?;
        for ledger in table.ledgers(&roster).await? {
            if let Some(stop) = ::model::stops_although_connected(&ledger, pool.current(), TaskStatus::Alive, now) {
                table.write_ledger(&ledger.id, &stop).await?;
            }
        }
    }
    Ok(())
}
