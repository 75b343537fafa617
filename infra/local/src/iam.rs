//! The local replacement of IAM: rejects AWS calls that the role of the calling function does not allow.
//!
//! The roles are read from `template.yaml`, so a missing permission fails in every test that makes the call, as it
//! would on AWS. In the other direction, [`note_into`] records the permissions that were used, and the program
//! `least-privilege` of the package `tests` reports permissions that are allowed and never used. Conditions of policies
//! are ignored, because every call of a function satisfies them.
//!
//! [`acting_as`] sets the calling function where an event is passed to its handler. Calls outside a function, such as
//! those of a test that reads the table or of the stack itself, are neither checked nor recorded.

#![allow(clippy::indexing_slicing, reason = "only JSON is indexed, where a missing entry is null")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{Intercept, context::BeforeTransmitInterceptorContextRef, dyn_dispatch_hint},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::{Value, json};

use crate::{error::Error, template};

tokio::task_local! {
    static FUNCTION: &'static str;
}

/// A permission: an IAM action, and the kind of resource that it applies to.
pub type Permission = (String, String);

/// The permissions of each function, by the function's name.
pub type Roles = BTreeMap<String, BTreeSet<Permission>>;

/// Runs `work` with that function's IAM permissions.
pub async fn acting_as<F: Future>(function: &'static str, work: F) -> F::Output {
    FUNCTION.scope(function, work).await
}

/// Reads the functions' permissions for DynamoDB, ECS and IAM from a template. The kind of a resource is `table`,
/// `table/index/NAME`, `task-definition`, `task`, `roles of a task`, or the resource as written in the template.
///
/// # Errors
/// A function's role is missing in the template, or is not written as expected.
pub fn roles(template: &Value) -> Result<Roles, Error> {
    let resources = template["Resources"].as_object().into_iter().flatten();
    let functions = resources.filter(|(_, resource)| resource["Type"] == "AWS::Serverless::Function");
    functions
        .map(|(id, function)| {
            let unexpected = || Error::Template(format!("the role of {id} is missing or not as expected"));
            let name = function["Properties"]["Handler"].as_str().ok_or_else(unexpected)?;
            let role = function["Properties"]["Role"]["Fn::GetAtt"].as_str().and_then(|att| att.strip_suffix(".Arn"));
            let policies = &template["Resources"][role.ok_or_else(unexpected)?]["Properties"]["Policies"];
            let policies = policies.as_array().ok_or_else(unexpected)?.iter();
            let statements = policies.filter_map(|policy| policy["PolicyDocument"]["Statement"].as_array()).flatten();
            let allowed = statements.filter(|statement| statement["Effect"] == "Allow").flat_map(|statement| {
                let (actions, resources) = (list(&statement["Action"]), list(&statement["Resource"]));
                let texts = actions.into_iter().filter_map(Value::as_str);
                let ours = texts.filter(|action| ["dynamodb:", "ecs:", "iam:"].iter().any(|of| action.starts_with(of)));
                ours.flat_map(move |action| {
                    resources.clone().into_iter().map(move |resource| (action.to_owned(), kind(resource)))
                })
            });
            Ok((name.to_owned(), allowed.collect()))
        })
        .collect()
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |values| values.iter().collect())
}

/// Returns the kind of a policy's resource, see [`roles`].
fn kind(resource: &Value) -> String {
    if let Some(text) = resource.as_str() {
        return text.to_owned();
    }
    let text = resource["Fn::GetAtt"].as_str().or_else(|| resource["Fn::Sub"].as_str()).unwrap_or_default();
    if let Some(index) = text.strip_prefix("${Table.Arn}/index/") {
        return format!("table/index/{index}");
    }
    match text {
        "Table.Arn" => "table",
        "GameServers.Outputs.TaskRoleArn" | "GameServers.Outputs.ExecutionRoleArn" => "roles of a task",
        _ if text.contains(":task-definition/") => "task-definition",
        _ if text.contains(":task/${GameServers.Outputs.Cluster}/") => "task",
        _ => return resource.to_string(),
    }
    .to_owned()
}

/// Returns the permissions that a call needs, as listed in "Actions, resources, and condition keys" for Amazon DynamoDB
/// and for Amazon Elastic Container Service in the Service Authorization Reference.
fn needs(service: &str, operation: &str, input: impl FnOnce() -> Value) -> Vec<Permission> {
    let one = |action: &str, of: &str| (action.to_owned(), of.to_owned());
    match (service, operation) {
        ("DynamoDB", "Query" | "Scan") => {
            let index = input()["IndexName"].as_str().map(|index| format!("table/index/{index}"));
            vec![one(&format!("dynamodb:{operation}"), index.as_deref().unwrap_or("table"))]
        }
        // A transaction has no action of its own: each item in it needs one ("Using IAM with DynamoDB transactions").
        ("DynamoDB", "TransactWriteItems" | "TransactGetItems") => {
            let input = input();
            let parts = input["TransactItems"].as_array().into_iter().flatten().filter_map(Value::as_object);
            let parts = parts.flat_map(|part| part.keys().cloned().collect::<Vec<_>>());
            let action = |part: String| match part.as_str() {
                "ConditionCheck" => "dynamodb:ConditionCheckItem".to_owned(),
                part => format!("dynamodb:{part}Item"),
            };
            parts.map(|part| one(&action(part), "table")).collect()
        }
        ("DynamoDB", _) => vec![one(&format!("dynamodb:{operation}"), "table")],
        // The caller of RunTask passes the task's roles to ECS.
        (_, "RunTask") => vec![one("ecs:RunTask", "task-definition"), one("iam:PassRole", "roles of a task")],
        (_, "DescribeTasks" | "StopTask") => vec![one(&format!("ecs:{operation}"), "task")],
        _ => vec![one(&format!("ecs:{operation}"), "*")],
    }
}

/// SDK interceptor that checks the permissions of every call.
#[derive(Clone, Debug)]
pub struct Iam {
    roles: Roles,
}

impl Iam {
    /// Returns an interceptor with the roles of the deployed template.
    ///
    /// # Errors
    /// See [`roles`].
    pub fn deployed() -> Result<Self, Error> {
        Ok(Self { roles: roles(&template::read(template::DEPLOYED)?)? })
    }
}

#[dyn_dispatch_hint]
impl Intercept for Iam {
    fn name(&self) -> &'static str {
        "Iam"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(function) = FUNCTION.try_with(|function| *function) else { return Ok(()) };
        let request = context.request();
        // Both services name the operation in this header, for example `DynamoDB_20120810.Query`.
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let (version, operation) = target.split_once('.').ok_or("the request has no x-amz-target header")?;
        let service = version.split('_').next().unwrap_or_default();
        let input = || request.body().bytes().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or(Value::Null);
        for permission in needs(service, operation, input) {
            if !self.roles.get(function).is_some_and(|allowed| allowed.contains(&permission)) {
                let (action, of) = permission;
                return Err(format!("template.yaml does not allow {function} to {action} on {of}").into());
            }
            note(function, &permission);
        }
        Ok(())
    }
}

/// File where this process records the permissions that its functions have used.
static NOTES: OnceLock<PathBuf> = OnceLock::new();
static USED: Mutex<Roles> = Mutex::new(Roles::new());

/// Starts recording used permissions in `file`. The first use of a permission by a function of this process appends one
/// line of JSON: `{"used": [function, action, resource]}`. Several processes may append to the same file. A second call
/// has no effect.
pub fn note_into(file: &Path) {
    let _ = NOTES.set(file.to_owned());
}

fn note(function: &str, (action, of): &Permission) {
    let Some(file) = NOTES.get() else { return };
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    if used.entry(function.to_owned()).or_default().insert((action.clone(), of.clone())) {
        let line = format!("{}\n", json!({ "used": [function, action, of] }));
        // Each line is one short append, so that the lines of several processes do not mix.
        let opened = OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            tracing::error!(file = %file.display(), %error, "cannot record a used permission");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use aws_config::{BehaviorVersion, Region, retry::RetryConfig};
    use aws_sdk_dynamodb::{config::Credentials, error::DisplayErrorContext, types::AttributeValue};

    use super::*;

    #[tokio::test]
    async fn a_call_that_a_role_does_not_allow_is_not_sent() {
        let allowed = [("dynamodb:GetItem".to_owned(), "table".to_owned())].into();
        let iam = Iam { roles: Roles::from([("join".to_owned(), allowed)]) };
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("local", "local", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            // No server listens on this port, so a call that is sent fails with a connection error.
            .endpoint_url("http://127.0.0.1:1")
            .interceptor(iam)
            .build();
        let client = aws_sdk_dynamodb::Client::from_conf(config);
        let key = || AttributeValue::S("k".to_owned());
        let get = || client.get_item().table_name("t").key("pk", key()).send();
        let put = || client.put_item().table_name("t").item("pk", key()).send();
        let why = |error: String| error.contains("does not allow");
        let get_as = async |function| DisplayErrorContext(acting_as(function, get()).await.unwrap_err()).to_string();
        assert!(!why(get_as("join").await), "the role allows it");
        assert!(why(get_as("drain").await), "the role of another function does not count");
        assert!(why(DisplayErrorContext(acting_as("join", put()).await.unwrap_err()).to_string()));
        assert!(!why(DisplayErrorContext(put().await.unwrap_err()).to_string()), "no function is calling");
    }

    #[test]
    fn each_item_of_a_transaction_needs_its_own_permission() {
        let input = || json!({ "TransactItems": [{ "Put": {} }, { "ConditionCheck": {} }, { "Delete": {} }] });
        let actions = needs("DynamoDB", "TransactWriteItems", input).into_iter().map(|(action, _)| action);
        assert_eq!(
            actions.collect::<Vec<_>>(),
            ["dynamodb:PutItem", "dynamodb:ConditionCheckItem", "dynamodb:DeleteItem"]
        );
    }

    #[test]
    fn a_query_of_an_index_needs_another_permission_than_a_query_of_the_table() {
        let of = |input: Value| needs("DynamoDB", "Query", || input).remove(0).1;
        assert_eq!((of(json!({ "IndexName": "open" })), of(json!({}))), ("table/index/open".into(), "table".into()));
    }

    #[test]
    fn a_role_allows_each_of_its_actions_on_each_of_its_resources() {
        let template = template::read(
            "Resources:
               F: { Type: AWS::Serverless::Function, Properties: { Handler: f, Role: !GetAtt R.Arn } }
               R: { Properties: { Policies: [ { PolicyDocument: { Statement: [
                    { Effect: Allow, Action: [dynamodb:GetItem, logs:PutLogEvents], Resource: [!GetAtt Table.Arn, '*'] },
                    { Effect: Deny, Action: dynamodb:Scan, Resource: '*' } ] } } ] } }",
        );
        let of = |what: &str| ("dynamodb:GetItem".to_owned(), what.to_owned());
        assert_eq!(roles(&template.unwrap()).unwrap(), Roles::from([("f".into(), [of("table"), of("*")].into())]));
    }
}
