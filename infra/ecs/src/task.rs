//! One task: its lifecycle and its description in the format of ECS. The module is pure: callers pass the time.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use ulid::Ulid;

use crate::wire::{ACCOUNT, REGION, Spec, arn, without_nulls};

/// Address of every process.
const ADDRESS: &str = "127.0.0.1";

/// Milliseconds since 1970.
pub(crate) type EpochMs = u64;

/// Returns the time of the system clock.
#[expect(
    clippy::disallowed_methods,
    reason = "real processes need the real time; a simulation does not call this function"
)]
pub(crate) fn now() -> EpochMs {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// Lifecycle status of a task. It only moves forward, and may skip a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Status {
    Provisioning,
    Pending,
    Activating,
    Running,
    Deactivating,
    Stopping,
    Deprovisioning,
    Stopped,
}

/// Why a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum StopCode {
    EssentialContainerExited,
    UserInitiated,
    TaskFailedToStart,
}

/// One task.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) arn: String,
    pub(crate) status: Status,
    pub(crate) spec: Arc<Spec>,
    cluster_arn: String,
    version: u64,
    created_at: EpochMs,
    updated_at: EpochMs,
    started_at: Option<EpochMs>,
    stopping_at: Option<EpochMs>,
    execution_stopped_at: Option<EpochMs>,
    stopped_at: Option<EpochMs>,
    stop: Option<(StopCode, String)>,
    exit_code: Option<i32>,
}

impl Task {
    pub(crate) fn new(id: &str, cluster: &str, spec: Arc<Spec>, now: EpochMs) -> Self {
        Self {
            arn: arn(&format!("task/{cluster}/{id}")),
            status: Status::Provisioning,
            spec,
            cluster_arn: arn(&format!("cluster/{cluster}")),
            version: 1,
            created_at: now,
            updated_at: now,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            stop: None,
            exit_code: None,
        }
    }

    /// Increments the version. Call it once per change, regardless of the number of changed fields.
    pub(crate) fn changed(&mut self, now: EpochMs) {
        self.version += 1;
        self.updated_at = now;
    }

    /// Moves the task forward to `status`.
    pub(crate) fn advance(&mut self, status: Status, now: EpochMs) {
        self.status = self.status.max(status);
        match status {
            Status::Running => self.started_at = Some(now),
            Status::Stopped => self.stopped_at = Some(now),
            _ => {}
        }
    }

    /// Records why the task is stopping. Only the first reason is kept.
    pub(crate) fn end(&mut self, code: StopCode, reason: &str, now: EpochMs) {
        if self.stop.is_none() {
            self.stop = Some((code, reason.to_owned()));
            self.stopping_at = Some(now);
        }
    }

    /// Records the exit code of the process, if it is known.
    pub(crate) fn exited(&mut self, exit_code: Option<i32>, now: EpochMs) {
        self.exit_code = exit_code;
        self.execution_stopped_at = Some(now);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.stop.is_some()
    }

    pub(crate) fn stopped_at(&self) -> Option<EpochMs> {
        self.stopped_at
    }

    /// Returns `RUNNING`, or `STOPPED` once the task is stopping. ECS never returns `PENDING`.
    pub(crate) fn desired_status(&self) -> &'static str {
        if self.is_ending() { "STOPPED" } else { "RUNNING" }
    }

    /// Describes the task for a response, where times are seconds since 1970.
    pub(crate) fn describe(&self, with_tags: bool) -> Value {
        let mut task = self.json(epoch_seconds);
        // ECS deletes the tags of a task that a user stops.
        let user_initiated = matches!(self.stop, Some((StopCode::UserInitiated, _)));
        let tags = if with_tags && !user_initiated { self.spec.request.tags.as_slice() } else { &[] };
        if let Some(fields) = task.as_object_mut() {
            fields.insert("tags".to_owned(), json!(tags));
        }
        task
    }

    /// Describes the latest change as an EventBridge event, where times are RFC 3339 and tags are missing.
    pub(crate) fn event(&self) -> Value {
        let mut detail = self.json(rfc3339);
        if let Some(fields) = detail.as_object_mut() {
            fields.insert("updatedAt".to_owned(), rfc3339(self.updated_at));
        }
        json!({
            "version": "0",
            "id": Ulid::generate().to_string(),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": ACCOUNT,
            "time": rfc3339(self.updated_at),
            "region": REGION,
            "resources": [self.arn],
            "detail": detail,
        })
    }

    fn json(&self, time: fn(EpochMs) -> Value) -> Value {
        let spec = &self.spec;
        let (stop_code, stopped_reason) = self.stop.as_ref().map(|(code, reason)| (code, reason)).unzip();
        let mut overrides = json!(spec.request.overrides);
        if let Some(fields) = overrides.as_object_mut() {
            fields.entry("inferenceAcceleratorOverrides").or_insert(json!([]));
        }
        without_nulls(json!({
            "taskArn": self.arn,
            "clusterArn": self.cluster_arn,
            "taskDefinitionArn": spec.definition.arn,
            "group": spec.group,
            "startedBy": spec.request.started_by,
            "launchType": spec.launch_type,
            "capacityProviderName": spec.capacity_provider,
            "enableExecuteCommand": spec.request.enable_execute_command,
            "availabilityZone": format!("{REGION}-a"),
            "cpu": spec.request.overrides.rest.get("cpu").unwrap_or(&json!("256")),
            "memory": spec.request.overrides.rest.get("memory").unwrap_or(&json!("512")),
            "overrides": overrides,
            "lastStatus": self.status,
            "desiredStatus": self.desired_status(),
            "healthStatus": "UNKNOWN",
            "connectivity": "CONNECTED",
            "connectivityAt": time(self.created_at),
            "createdAt": time(self.created_at),
            "startedAt": self.started_at.map(time),
            "stoppingAt": self.stopping_at.map(time),
            "executionStoppedAt": self.execution_stopped_at.map(time),
            "stoppedAt": self.stopped_at.map(time),
            "stopCode": stop_code,
            "stoppedReason": stopped_reason,
            "version": self.version,
            "containers": [self.container()],
        }))
    }

    fn container(&self) -> Value {
        let ended = self.execution_stopped_at.is_some() || self.status == Status::Stopped;
        let status = match self.started_at {
            _ if ended => Status::Stopped,
            Some(_) => Status::Running,
            None => Status::Pending,
        };
        let reason = match &self.stop {
            Some((StopCode::TaskFailedToStart, reason)) => Some(reason),
            _ => None,
        };
        json!({
            "containerArn": arn(&format!("container/{}", self.id())),
            "taskArn": self.arn,
            "name": self.spec.container,
            "lastStatus": status,
            "exitCode": self.exit_code,
            "reason": reason,
            "healthStatus": "UNKNOWN",
            "cpu": "0",
            "networkBindings": [],
            "networkInterfaces": [{"attachmentId": self.id(), "privateIpv4Address": ADDRESS}],
        })
    }

    fn id(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or_default()
    }
}

fn epoch_seconds(at: EpochMs) -> Value {
    json!(at as f64 / 1000.0)
}

fn rfc3339(at: EpochMs) -> Value {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000);
    json!(moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn task() -> Task {
        let request: wire::RunTask = wire::request(json!({"taskDefinition": "game"})).unwrap();
        Task::new("1", "default", Arc::new(request.check().unwrap()), 1_500)
    }

    #[test]
    fn the_first_reason_to_stop_is_kept() {
        let mut task = task();
        task.end(StopCode::UserInitiated, "enough", 2_000);
        task.end(StopCode::EssentialContainerExited, "exited", 3_000);
        let described = task.describe(false);
        assert_eq!((&described["stopCode"], &described["stoppedReason"]), (&"UserInitiated".into(), &"enough".into()));
        assert_eq!((&described["createdAt"], &described["stoppingAt"]), (&1.5.into(), &2.0.into()));
    }
}
