//! Injected bugs that no conditional write can have: what the functions would do is done here, outside of them.

use serde_json::Value;
use shared::{
    domain::{
        TaskStatus, Time,
        bug::{self, Bug},
    },
    table::{Table, TableError},
};

/// With [`Bug::FreshRunTaskToken`], the body of a RunTask whose `clientToken` is `invocation`: the id that the SDK gives to
/// each call, and repeats when it sends the same call again. `None` without the bug.
pub(super) fn fresh_client_token(body: &[u8], invocation: Option<&str>) -> Option<Vec<u8>> {
    if !bug::injected(Bug::FreshRunTaskToken) {
        return None;
    }
    let mut body = serde_json::from_slice::<Value>(body).ok()?;
    *body.get_mut("clientToken")? = invocation?.into();
    serde_json::to_vec(&body).ok()
}

/// With [`Bug::LapseStopsPlayers`], stops each server with connected players whose lease ran out long ago. Nothing without
/// the bug.
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
