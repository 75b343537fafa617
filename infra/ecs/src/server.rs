//! The HTTP endpoint: dispatches a request to its operation, and implements the operations on the registry.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::Shared,
    registry::{Fault, Registry},
    runner,
    task::{Status, StopCode, Task},
    wire::{
        self, DescribeClusters, DescribeTasks, ListTasks, Refusal, RunTask, StopTask, TARGET_PREFIX,
        UpdateTaskProtection, arn, bounded, ensure, in_full,
    },
};

/// Longest request body, in bytes. The largest requests that ECS allows are far shorter: 100 ARNs, or overrides of
/// 8,192 characters.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Failure reason for a lack of capacity, in the wording of Fargate.
const NO_CAPACITY: &str =
    "Capacity is unavailable at this time. Please try again later or in a different availability zone";
const OPERATIONS: &str = "RunTask, StopTask, DescribeTasks, ListTasks, DescribeClusters, ListClusters, \
    UpdateTaskProtection, GetTaskProtection";

pub(crate) fn router(ecs: Arc<Shared>) -> Router {
    Router::new()
        .route("/", post(handle).fallback(unknown))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(ecs)
}

async fn unknown() -> Refusal {
    unknown_operation()
}

fn unknown_operation() -> Refusal {
    let message = format!("POST to / with an X-Amz-Target of {TARGET_PREFIX} and one of {OPERATIONS}.");
    Refusal::client("UnknownOperationException", message)
}

async fn handle(State(ecs): State<Arc<Shared>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let answered = body
        .map_err(|error| Refusal::new(error.status(), "SerializationException", error.body_text()))
        .and_then(|body| dispatch(&ecs, target.strip_prefix(TARGET_PREFIX).unwrap_or_default(), &body));
    match answered {
        Ok(body) => wire::answer(StatusCode::OK, &body),
        Err(refusal) => {
            tracing::debug!(target, ?refusal, "request refused");
            refusal.into_response()
        }
    }
}

/// Handles one request without HTTP, and returns the status and body of the response.
pub(crate) fn call(ecs: &Arc<Shared>, target: &str, body: &[u8]) -> (StatusCode, Value) {
    match dispatch(ecs, target.strip_prefix(TARGET_PREFIX).unwrap_or_default(), body) {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => refusal.into_parts(),
    }
}

fn dispatch(ecs: &Arc<Shared>, operation: &str, body: &[u8]) -> Result<Value, Refusal> {
    {
        let mut registry = ecs.registry();
        let now = registry.now();
        registry.forget(now);
    }
    match operation {
        "RunTask" => run_task(ecs, body),
        "StopTask" => stop_task(ecs, wire::read(body)?),
        "DescribeTasks" => describe_tasks(ecs, wire::read(body)?),
        "ListTasks" => list_tasks(ecs, wire::read(body)?),
        "DescribeClusters" => Ok(describe_clusters(ecs, wire::read(body)?)),
        "ListClusters" => Ok(json!({"clusterArns": [arn(&format!("cluster/{}", ecs.options.cluster))]})),
        "UpdateTaskProtection" => update_task_protection(ecs, wire::read(body)?),
        "GetTaskProtection" => get_task_protection(ecs, wire::read(body)?),
        _ => Err(unknown_operation()),
    }
}

/// Refuses a cluster with another name than this one. The name is the last part of an ARN.
fn check_cluster(ecs: &Shared, cluster: Option<&str>) -> Result<(), Refusal> {
    if is_this_cluster(ecs, cluster.unwrap_or("default")) {
        Ok(())
    } else {
        Err(Refusal::client("ClusterNotFoundException", "Cluster not found."))
    }
}

fn is_this_cluster(ecs: &Shared, cluster: &str) -> bool {
    cluster.rsplit('/').next() == Some(&ecs.options.cluster)
}

fn run_task(ecs: &Arc<Shared>, body: &[u8]) -> Result<Value, Refusal> {
    let fault = ecs.registry().count_run_task();
    if fault == Some(Fault::Throttled) {
        return Err(Refusal::client("ThrottlingException", "Rate exceeded"));
    }
    let parameters = wire::parameters(body)?;
    let request: RunTask = wire::request(parameters.clone())?;
    check_cluster(ecs, request.cluster.as_deref())?;
    let spec = Arc::new(request.check()?);
    let count = spec.count as usize;

    // One lock for look-up and start, so that concurrent calls with the same token start its tasks once.
    let mut registry = ecs.registry();
    let token = spec.request.client_token.as_deref();
    let ids = match token.map(|token| registry.launched(token, &parameters)).transpose()?.flatten() {
        Some(ids) => ids,
        None if registry.closing => return Err(Refusal::server("The local ECS is shutting down.")),
        None => {
            let most = if fault == Some(Fault::NoCapacity) { 0 } else { ecs.options.max_tasks };
            let room = most.saturating_sub(registry.live_count());
            let start = |_| {
                let (id, kill_at) = registry.create(Arc::clone(&spec));
                runner::start(ecs, id.clone(), Arc::clone(&spec), kill_at);
                id
            };
            let ids: Vec<_> = (0..count.min(room)).map(start).collect();
            if let (Some(token), false) = (token, ids.is_empty()) {
                registry.remember(token, parameters, ids.clone());
            }
            ids
        }
    };
    if fault == Some(Fault::AnswerLost) {
        return Err(Refusal::server("The response was lost by an injected fault."));
    }
    let tasks: Vec<_> = ids.iter().filter_map(|id| Some(registry.find(id)?.1.describe(true))).collect();
    let failures = vec![json!({"reason": NO_CAPACITY}); count.saturating_sub(ids.len())];
    Ok(json!({"tasks": tasks, "failures": failures}))
}

fn stop_task(ecs: &Shared, request: StopTask) -> Result<Value, Refusal> {
    check_cluster(ecs, request.cluster.as_deref())?;
    let reference = request.task.unwrap_or_default();
    ensure(!reference.is_empty(), "Task can not be blank.")?;
    let reason = request.reason.unwrap_or_else(|| "Task stopped by user".to_owned());
    let kill_at = Instant::now() + ecs.options.stop_timeout;
    let mut registry = ecs.registry();
    let not_found = || Refusal::invalid("The referenced task was not found.");
    let id = registry.find(&reference).ok_or_else(not_found)?.0.to_owned();
    registry.stop(&id, StopCode::UserInitiated, &reason, kill_at);
    let (_, task) = registry.find(&id).ok_or_else(not_found)?;
    Ok(json!({"task": task.describe(true)}))
}

fn describe_tasks(ecs: &Shared, request: DescribeTasks) -> Result<Value, Refusal> {
    check_cluster(ecs, request.cluster.as_deref())?;
    let references = bounded(request.tasks, 100)?;
    ensure(request.include.iter().all(|field| field == "TAGS"), "include can only have TAGS.")?;
    let with_tags = !request.include.is_empty();
    let (tasks, failures) = look_up(ecs, &ecs.registry(), &references, |task| Ok(task.describe(with_tags)));
    Ok(json!({"tasks": tasks, "failures": failures}))
}

/// Returns the `view` of each task, and the failures: unknown tasks, and tasks for which `view` returns a reason.
fn look_up(
    ecs: &Shared,
    registry: &Registry,
    references: &[String],
    view: impl Fn(&Task) -> Result<Value, &'static str>,
) -> (Vec<Value>, Vec<Value>) {
    let kind = format!("task/{}", ecs.options.cluster);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in references {
        let task = registry.find(reference);
        match task.ok_or("MISSING").and_then(|(_, task)| view(task)) {
            Ok(value) => found.push(value),
            Err(reason) => failures.push(json!({"arn": in_full(&kind, reference), "reason": reason})),
        }
    }
    (found, failures)
}

fn list_tasks(ecs: &Shared, mut request: ListTasks) -> Result<Value, Refusal> {
    check_cluster(ecs, request.cluster.as_deref())?;
    let page_size = request.check()? as usize;
    let after = request.next_token.as_deref().unwrap_or_default();
    // The token is the last id of the previous page, so it stays valid when tasks are started or removed in between.
    ensure(after.is_empty() || after.len() == 32, "Invalid token.")?;
    let desired = request.desired_status.as_deref().unwrap_or("RUNNING");
    let is = |filter: &Option<String>, value: Option<&str>| filter.is_none() || filter.as_deref() == value;

    let registry = ecs.registry();
    let mut matching = registry.tasks_after(after).filter(|(_, task)| {
        task.desired_status() == desired
            && is(&request.family, Some(&task.spec.definition.family))
            && is(&request.launch_type, Some(&task.spec.launch_type))
            && is(&request.started_by, task.spec.request.started_by.as_deref())
            && request.container_instance.is_none()
    });
    let page: Vec<_> = matching.by_ref().take(page_size).collect();
    let next = matching.next().and_then(|_| page.last()).map(|(id, _)| *id);
    let arns: Vec<_> = page.iter().map(|(_, task)| task.arn.as_str()).collect();
    Ok(wire::without_nulls(json!({"taskArns": arns, "nextToken": next})))
}

fn describe_clusters(ecs: &Shared, request: DescribeClusters) -> Value {
    let requested = request.clusters.filter(|clusters| !clusters.is_empty());
    let (known, others): (Vec<_>, Vec<_>) = requested
        .unwrap_or_else(|| vec!["default".to_owned()])
        .into_iter()
        .partition(|name| is_this_cluster(ecs, name));
    let name = &ecs.options.cluster;
    let registry = ecs.registry();
    let count = |wanted: fn(Status) -> bool| registry.tasks_after("").filter(|(_, task)| wanted(task.status)).count();
    let cluster = json!({
        "clusterArn": arn(&format!("cluster/{name}")),
        "clusterName": name,
        "status": "ACTIVE",
        "registeredContainerInstancesCount": 0,
        "runningTasksCount": count(|status| status == Status::Running),
        "pendingTasksCount": count(|status| status < Status::Running),
        "activeServicesCount": 0,
        "statistics": [],
        "tags": [],
        "settings": [],
        "capacityProviders": [],
        "defaultCapacityProviderStrategy": [],
    });
    let missing = |name: &String| json!({"arn": in_full("cluster", name), "reason": "MISSING"});
    json!({
        "clusters": if known.is_empty() { vec![] } else { vec![cluster] },
        "failures": others.iter().map(missing).collect::<Vec<_>>(),
    })
}

fn update_task_protection(ecs: &Shared, request: UpdateTaskProtection) -> Result<Value, Refusal> {
    check_cluster(ecs, request.cluster.as_deref())?;
    request.check()?;
    Ok(protection(ecs, &bounded(request.tasks, 10)?))
}

fn get_task_protection(ecs: &Shared, request: DescribeTasks) -> Result<Value, Refusal> {
    check_cluster(ecs, request.cluster.as_deref())?;
    Ok(protection(ecs, &bounded(request.tasks, 100)?))
}

/// Returns failures only: ECS protects tasks of a service, and here no task belongs to a service.
fn protection(ecs: &Shared, references: &[String]) -> Value {
    let (none, failures) = look_up(ecs, &ecs.registry(), references, |_| Err::<Value, _>("TASK_NOT_VALID"));
    json!({"protectedTasks": none, "failures": failures})
}
