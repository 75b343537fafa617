//! The ECS protocol, AWS JSON 1.1: requests, refusals, ARNs, and the rules that need only the request.
//!
//! This module does not depend on tasks or processes. As on AWS, unknown fields are ignored and `null` means absent.

use std::ops::RangeInclusive;

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use ulid::Ulid;

/// Prefix of `X-Amz-Target`, which the name of the operation follows.
pub(crate) const TARGET_PREFIX: &str = "AmazonEC2ContainerServiceV20141113.";
/// Account id in every ARN.
pub(crate) const ACCOUNT: &str = "000000000000";
/// Region in every ARN.
pub(crate) const REGION: &str = "local";

/// Returns the ARN of a resource of the local ECS, such as `cluster/default`.
pub(crate) fn arn(resource: &str) -> String {
    format!("arn:aws:ecs:{REGION}:{ACCOUNT}:{resource}")
}

/// An error response in the format of AWS.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    resource_ids: Vec<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), resource_ids: Vec::new() }
    }

    /// Returns a refusal with status 400 and an error code of ECS or of the AWS frontend.
    pub(crate) fn client(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::client("InvalidParameterException", message)
    }

    pub(crate) fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "ServerException", message)
    }

    /// Returns the refusal of a `clientToken` that was used with other parameters, which started the tasks
    /// `resource_ids`.
    pub(crate) fn conflict(resource_ids: Vec<String>) -> Self {
        let message = "The clientToken is already in use with other parameters.";
        Self { resource_ids, ..Self::client("ConflictException", message) }
    }
}

impl Refusal {
    /// Converts the refusal into status and body.
    pub(crate) fn into_parts(self) -> (StatusCode, Value) {
        let mut body = json!({"__type": self.code, "message": self.message});
        if let (false, Some(fields)) = (self.resource_ids.is_empty(), body.as_object_mut()) {
            fields.insert("resourceIds".to_owned(), self.resource_ids.into());
        }
        (self.status, body)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, body) = self.into_parts();
        answer(status, &body)
    }
}

/// Builds a response with the headers that the SDKs read.
pub(crate) fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (CONTENT_TYPE.as_str(), "application/x-amz-json-1.1".to_owned()),
        ("x-amzn-requestid", Ulid::generate().to_string()),
    ];
    (status, headers, body.to_string()).into_response()
}

/// Parses the parameters of a request.
pub(crate) fn parameters(body: &[u8]) -> Result<Value, Refusal> {
    let parameters = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    Ok(without_nulls(parameters))
}

/// Parses the body as the request of one operation.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    request(parameters(body)?)
}

/// Converts parameters into the request of one operation.
pub(crate) fn request<T: DeserializeOwned>(parameters: Value) -> Result<T, Refusal> {
    serde_json::from_value(parameters).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    Refusal::client("SerializationException", format!("The request cannot be read: {error}"))
}

/// Removes fields that are `null`: AWS omits fields without a value in requests and responses.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let present = fields.into_iter().filter(|(_, field)| !field.is_null());
            Value::Object(present.map(|(name, field)| (name, without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        plain => plain,
    }
}

/// Returns the ARN for a failure, given the ARN or the short name of a task or cluster.
pub(crate) fn in_full(kind: &str, reference: &str) -> String {
    if reference.starts_with("arn:") { reference.to_owned() } else { arn(&format!("{kind}/{reference}")) }
}

/// Returns a refusal with `message` unless `holds`.
pub(crate) fn ensure(holds: bool, message: &str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::invalid(message)) }
}

/// Returns a number of a request, or its default. Refuses a number outside `allowed`.
fn number(name: &str, given: Option<i64>, default: u32, allowed: RangeInclusive<u32>) -> Result<u32, Refusal> {
    let number = given.map_or(Some(default), |given| u32::try_from(given).ok());
    number
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| Refusal::invalid(format!("{name} must be between {} and {}.", allowed.start(), allowed.end())))
}

/// Returns the task list of a request. Refuses an empty list, and more than `most` tasks.
pub(crate) fn bounded(tasks: Option<Vec<String>>, most: usize) -> Result<Vec<String>, Refusal> {
    let tasks = tasks.unwrap_or_default();
    ensure(!tasks.is_empty(), "Tasks cannot be empty.")?;
    ensure(tasks.len() <= most, &format!("Tasks cannot have more than {most} identifiers."))?;
    Ok(tasks)
}

/// Returns `value` if AWS knows it. Otherwise returns a refusal that lists the known values.
fn one_of(name: &str, value: Option<String>, known: &[&str]) -> Result<Option<String>, Refusal> {
    match value {
        Some(value) if !known.contains(&value.as_str()) => {
            Err(Refusal::invalid(format!("{name} must be one of {}.", known.join(", "))))
        }
        value => Ok(value),
    }
}

const LAUNCH_TYPES: [&str; 4] = ["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"];

/// A tag of a task.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Overrides of the task definition in `RunTask`. Unused fields are kept for the description of the task.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overrides {
    #[serde(default)]
    container_overrides: Vec<ContainerOverride>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ContainerOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    environment: Vec<EnvironmentVariable>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct EnvironmentVariable {
    name: String,
    #[serde(default)]
    value: String,
}

impl Overrides {
    /// Returns the environment variables of all container overrides.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let containers = self.container_overrides.iter();
        containers.flat_map(|c| &c.environment).map(|v| (v.name.as_str(), v.value.as_str()))
    }

    /// Returns the container's name, if an override has it. Refuses a second name, because a task has one container.
    fn container(&self) -> Result<Option<&str>, Refusal> {
        let mut first = None;
        for container in &self.container_overrides {
            let name = container.name.as_deref().ok_or_else(|| Refusal::invalid("Container override needs a name."))?;
            if *first.get_or_insert(name) != name {
                let message = format!("Override for container named {name} is not a container in the TaskDefinition.");
                return Err(Refusal::invalid(message));
            }
        }
        Ok(first)
    }
}

/// The request `RunTask`. Other parameters, such as the network configuration, are only compared, as raw JSON, when a
/// `clientToken` is repeated.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunTask {
    pub(crate) cluster: Option<String>,
    pub(crate) client_token: Option<String>,
    pub(crate) started_by: Option<String>,
    #[serde(default)]
    pub(crate) overrides: Overrides,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
    #[serde(default)]
    pub(crate) enable_execute_command: bool,
    task_definition: Option<String>,
    count: Option<i64>,
    group: Option<String>,
    launch_type: Option<String>,
    #[serde(default)]
    capacity_provider_strategy: Vec<CapacityProvider>,
    propagate_tags: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CapacityProvider {
    capacity_provider: String,
}

/// Specification of the tasks of one `RunTask`: the request, with its defaults resolved.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) count: u32,
    pub(crate) definition: Definition,
    pub(crate) container: String,
    pub(crate) group: String,
    pub(crate) launch_type: String,
    pub(crate) capacity_provider: Option<String>,
    pub(crate) request: RunTask,
}

impl RunTask {
    /// Checks the request by the rules of AWS and resolves its defaults.
    pub(crate) fn check(mut self) -> Result<Spec, Refusal> {
        let definition = Definition::parse(self.task_definition.as_deref().unwrap_or_default())?;
        let count = number("count", self.count, 1, 1..=10)?;
        let token = self.client_token.as_deref().unwrap_or("-");
        ensure(
            (1..=64).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "clientToken must have 1 to 64 characters of the ASCII range 33-126.",
        )?;
        let started_by = self.started_by.as_deref().unwrap_or_default();
        ensure(
            started_by.len() <= 128 && started_by.chars().all(|c| c.is_ascii_alphanumeric() || "-_/".contains(c)),
            "startedBy must have up to 128 letters, numbers, hyphens, slashes and underscores.",
        )?;
        check_tags(&self.tags)?;
        let propagate = one_of("propagateTags", self.propagate_tags.take(), &["TASK_DEFINITION", "SERVICE", "NONE"])?;
        ensure(propagate.as_deref() != Some("SERVICE"), "propagateTags SERVICE needs a service.")?;
        let overrides_len = serde_json::to_string(&self.overrides).map_or(0, |text| text.chars().count());
        ensure(overrides_len <= 8192, "Container Overrides length must be at most 8192.")?;

        let launch_type = one_of("launchType", self.launch_type.take(), &LAUNCH_TYPES)?;
        let capacity_provider = self.capacity_provider_strategy.drain(..).next().map(|item| item.capacity_provider);
        ensure(
            launch_type.is_none() || capacity_provider.is_none(),
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        )?;
        let on_fargate = capacity_provider.as_ref().is_none_or(|name| name.starts_with("FARGATE"));
        let implied = if on_fargate { "FARGATE" } else { "EC2" };
        Ok(Spec {
            count,
            container: self.overrides.container()?.unwrap_or(&definition.family).to_owned(),
            group: self.group.take().unwrap_or_else(|| format!("family:{}", definition.family)),
            launch_type: launch_type.unwrap_or_else(|| implied.to_owned()),
            capacity_provider,
            definition,
            request: self,
        })
    }
}

fn check_tags(tags: &[Tag]) -> Result<(), Refusal> {
    ensure(tags.len() <= 50, "Tags cannot have more than 50 elements.")?;
    for (index, tag) in tags.iter().enumerate() {
        ensure((1..=128).contains(&tag.key.chars().count()), "Tag keys must have 1 to 128 characters.")?;
        ensure(tag.value.chars().count() <= 256, "Tag values must have up to 256 characters.")?;
        ensure(!tag.key.to_ascii_lowercase().starts_with("aws:"), "Tag keys cannot start with aws:.")?;
        ensure(!tags.iter().take(index).any(|other| other.key == tag.key), "Duplicate tag keys found.")?;
    }
    Ok(())
}

/// A task definition. Every well-formed name exists.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) family: String,
    pub(crate) arn: String,
}

impl Definition {
    /// Parses `family`, which means revision 1, `family:revision`, or an ARN.
    fn parse(text: &str) -> Result<Self, Refusal> {
        ensure(!text.is_empty(), "TaskDefinition can not be blank.")?;
        let bad = || Refusal::invalid(format!("Invalid task definition identifier: {text}"));
        let full = text.starts_with("arn:");
        let name = if full { text.split_once(":task-definition/").ok_or_else(bad)?.1 } else { text };
        let (family, revision) = name.split_once(':').unwrap_or((name, "1"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let revision: u32 = revision.parse().map_err(|_| bad())?;
        if !(1..=255).contains(&family.len()) || !family.chars().all(plain) || revision == 0 {
            return Err(bad());
        }
        let arn = if full && name.contains(':') {
            text.to_owned()
        } else {
            arn(&format!("task-definition/{family}:{revision}"))
        };
        Ok(Self { family: family.to_owned(), arn })
    }
}

/// The requests `DescribeTasks` and `GetTaskProtection`.
#[derive(Debug, Deserialize)]
pub(crate) struct DescribeTasks {
    pub(crate) cluster: Option<String>,
    pub(crate) tasks: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) include: Vec<String>,
}

/// The request `ListTasks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListTasks {
    pub(crate) cluster: Option<String>,
    pub(crate) family: Option<String>,
    pub(crate) started_by: Option<String>,
    pub(crate) launch_type: Option<String>,
    pub(crate) desired_status: Option<String>,
    max_results: Option<i64>,
    pub(crate) next_token: Option<String>,
    service_name: Option<String>,
    pub(crate) container_instance: Option<String>,
}

impl ListTasks {
    /// Checks the request by the rules of AWS and returns the page size.
    pub(crate) fn check(&mut self) -> Result<u32, Refusal> {
        if self.service_name.is_some() {
            return Err(Refusal::client("ServiceNotFoundException", "Service not found."));
        }
        self.desired_status = one_of("desiredStatus", self.desired_status.take(), &["RUNNING", "PENDING", "STOPPED"])?;
        self.launch_type = one_of("launchType", self.launch_type.take(), &LAUNCH_TYPES)?;
        let others = [&self.family, &self.launch_type, &self.container_instance];
        ensure(
            self.started_by.is_none() || others.into_iter().all(Option::is_none),
            "cannot specify startedBy with other arguments",
        )?;
        number("maxResults", self.max_results, 100, 1..=100)
    }
}

/// The request `StopTask`.
#[derive(Debug, Deserialize)]
pub(crate) struct StopTask {
    pub(crate) cluster: Option<String>,
    pub(crate) task: Option<String>,
    pub(crate) reason: Option<String>,
}

/// The request `UpdateTaskProtection`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpdateTaskProtection {
    pub(crate) cluster: Option<String>,
    pub(crate) tasks: Option<Vec<String>>,
    protection_enabled: Option<bool>,
    expires_in_minutes: Option<i64>,
}

impl UpdateTaskProtection {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.protection_enabled.ok_or_else(|| Refusal::invalid("protectionEnabled is required."))?;
        number("expiresInMinutes", self.expires_in_minutes, 120, 1..=2880).map(|_| ())
    }
}

/// The request `DescribeClusters`.
#[derive(Debug, Deserialize)]
pub(crate) struct DescribeClusters {
    pub(crate) clusters: Option<Vec<String>>,
}
