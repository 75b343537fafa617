//! The EventBridge rule on `ECS Task State Change`: a task has stopped.
//!
//! A server that was starting gets its next attempt. A server that was up is stopped.
//!
//! EventBridge delivers each event at least once and in any order. The `version` of an event, which orders the events
//! of a task, is not needed here: the function only uses `STOPPED`, the last state of a task. A late or repeated event
//! changes nothing, because the write is conditional on the server and the attempt that the task was started for.

use serde::Deserialize;
use shared::{Failure, Owmm, launching::parse_started_by};

/// The fields of the event that this function reads.
#[derive(Debug, Deserialize)]
pub struct Event {
    detail: Task,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    task_arn: String,
    last_status: String,
    started_by: Option<String>,
    #[serde(default)]
    stopped_reason: String,
}

/// Handles one event. Ignores tasks that OWMM did not start.
///
/// # Errors
/// The table did not answer. Lambda then delivers the event again.
pub async fn handle(owmm: &Owmm, event: Event) -> Result<(), Failure> {
    let Task { task_arn, last_status, started_by, stopped_reason } = event.detail;
    if last_status != "STOPPED" {
        return Ok(());
    }
    let Some((server, attempt)) = started_by.as_deref().and_then(parse_started_by) else { return Ok(()) };
    let server_stopped = owmm.task_stopped(&server, attempt).await?;
    tracing::info!(%server, attempt, task = task_arn, reason = stopped_reason, server_stopped, "task_stopped: event handled");
    Ok(())
}
