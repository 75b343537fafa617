//! The EventBridge rule on `ECS Task State Change`: a task has stopped, and with it its server.
//!
//! EventBridge delivers at least once and in any order, and each event of a task carries a version, so that an older one
//! can be told from a newer. Here that is not needed: only `STOPPED` counts, which is the last state of a task, so there is
//! no newer event that one could be older than. It can be late or twice, and what it does is bound to the server and the
//! attempt that the task was for, so then it changes nothing.

use serde::Deserialize;
use shared::{Failure, Owmm, launching::parse_started_by};

/// The event: the parts that matter.
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

/// Handles one event. Tasks that are nobody's server are none of its business.
///
/// # Errors
/// The table gave no answer: Lambda repeats the event.
pub async fn handle(owmm: &Owmm, event: Event) -> Result<(), Failure> {
    let Task { task_arn, last_status, started_by, stopped_reason } = event.detail;
    if last_status != "STOPPED" {
        return Ok(());
    }
    let Some((server, attempt)) = started_by.as_deref().and_then(parse_started_by) else { return Ok(()) };
    let over = owmm.task_stopped(&server, attempt).await?;
    tracing::info!(%server, attempt, task = task_arn, reason = stopped_reason, over, "task stopped");
    Ok(())
}
