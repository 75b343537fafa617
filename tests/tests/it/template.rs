//! `template.yaml` and the templates of `infra/` against the code, `openapi.yaml` and the local stack.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ::functions::Handler;
use aws_sdk_dynamodb::types::{AttributeDefinition, KeySchemaElement};
use local::{
    iam::{Permission, roles},
    template::{DEPLOYED, read},
};
use serde_json::{Value, json};
use shared::{
    metrics::{FUNCTION, NAMESPACE, OF_CALLS, OF_FLEET, OUTCOME, Outcome},
    table::keys,
};

use crate::{
    openapi::operations,
    support::{World, pool},
};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text() -> String {
    std::fs::read_to_string(root().join("template.yaml")).unwrap()
}

pub fn template() -> Value {
    read(&text()).unwrap()
}

/// Nested stacks of `template.yaml`: logical id, parameters, and the nested template.
fn nested() -> impl Iterator<Item = (String, Value, Value)> {
    let template = template();
    let resources = template["Resources"].as_object().unwrap().clone();
    let stacks = resources.into_iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudFormation::Stack");
    stacks.map(|(id, stack)| {
        let file = root().join(stack["Properties"]["TemplateURL"].as_str().unwrap());
        let child = read(&std::fs::read_to_string(file).unwrap()).unwrap();
        (id, stack["Properties"]["Parameters"].clone(), child)
    })
}

fn of_type(template: &Value, kind: &str) -> BTreeMap<String, Value> {
    let resources = template["Resources"].as_object().unwrap().iter();
    resources.filter(|(_, it)| it["Type"] == kind).map(|(id, it)| (id.clone(), it.clone())).collect()
}

/// Resources of functions by their `Handler`, from which `functions/src/main.rs` selects the function.
pub fn functions(template: &Value) -> BTreeMap<String, Value> {
    let functions = of_type(template, "AWS::Serverless::Function").into_values();
    functions.map(|it| (it["Properties"]["Handler"].as_str().unwrap().to_owned(), it)).collect()
}

fn get_att(value: &Value) -> &str {
    value["Fn::GetAtt"].as_str().unwrap_or_else(|| panic!("no !GetAtt: {value}"))
}

#[test]
fn every_function_has_a_role_a_log_and_a_handler_of_its_own() {
    let template = template();
    let deployed = functions(&template);
    assert_eq!(
        deployed.len(),
        of_type(&template, "AWS::Serverless::Function").len(),
        "two functions have the same handler"
    );
    let (mut logs, mut roles) = (BTreeSet::new(), BTreeSet::new());
    for (name, function) in deployed {
        let properties = &function["Properties"];
        assert_eq!(properties["FunctionName"], json!({ "Fn::Sub": format!("${{AWS::StackName}}-{name}") }));
        let log = properties["LoggingConfig"]["LogGroup"]["Ref"].as_str().unwrap();
        let group = &template["Resources"][log]["Properties"];
        assert_eq!(group["LogGroupName"], json!({ "Fn::Sub": format!("/aws/lambda/${{AWS::StackName}}-{name}") }));
        assert_eq!(group["RetentionInDays"], json!({ "Ref": "LogDays" }));
        assert!(logs.insert(log.to_owned()) && roles.insert(get_att(&properties["Role"]).to_owned()), "{name}");
        let seconds = properties["Timeout"].as_i64().or(template["Globals"]["Function"]["Timeout"].as_i64()).unwrap();
        let over_http = matches!(::functions::named(&name).unwrap().handler, Handler::Http(_));
        assert!(if over_http { seconds < 30 } else { seconds == 60 }, "{name} may take {seconds} s");
    }
}

/// SAM builds functions together whose `FunctionBuildDefinition` is equal (SAM CLI, samcli/lib/build/build_graph.py).
/// `infra/check/run` counts SAM's builds.
#[test]
fn all_functions_share_one_build() {
    let template = template();
    let global = template["Globals"]["Function"].as_object().unwrap();
    assert_eq!((&global["CodeUri"], &global["Runtime"]), (&json!("."), &json!("provided.al2023")));
    assert_eq!(global.get("Handler"), None, "each function has its own");
    let program = json!({ "BuildMethod": "rust-cargolambda", "BuildProperties": { "Binary": "functions" } });
    for (name, function) in functions(&template) {
        assert_eq!(function["Metadata"], program, "{name}");
        for shared in ["CodeUri", "Runtime", "Architectures", "PackageType", "Environment", "Layers"] {
            assert_eq!(
                function["Properties"].get(shared),
                None,
                "{name}: set {shared} under Globals, for all functions"
            );
        }
    }
}

/// Every `"OWMM_..."` in the code of the functions, without launching.rs, which sets variables of game servers.
fn variables_read() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("shared/src"), root().join("functions")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("launching.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split('"').filter(|part| part.starts_with("OWMM_"));
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn every_variable_that_a_function_reads_is_set_and_no_other() {
    let template = template();
    let set = template["Globals"]["Function"]["Environment"]["Variables"].as_object().unwrap();
    assert_eq!(set.keys().cloned().collect::<BTreeSet<_>>(), variables_read());
    assert!(functions(&template).values().all(|function| function["Properties"]["Environment"] == Value::Null));
}

#[test]
fn every_route_of_the_document_has_its_function_and_its_authorizer_and_there_is_no_other() {
    let template = template();
    let documented = operations().map(|(method, path, operation)| {
        let security = operation["security"][0].as_object().unwrap().keys().next().unwrap();
        let authorizer = match security.as_str() {
            "player" => json!("Jwt"),
            "operator" | "backend" => json!("AWS_IAM"),
            "server" => Value::Null,
            other => panic!("{other}"),
        };
        (format!("{method} {path}"), operation["x-owmm-function"].as_str().unwrap().to_owned(), authorizer.to_string())
    });
    let documented = documented.collect::<BTreeSet<_>>();
    let mut deployed = BTreeSet::new();
    for (name, function) in functions(&template) {
        for event in function["Properties"]["Events"].as_object().unwrap().values() {
            if event["Type"] != "HttpApi" {
                continue;
            }
            let route = &event["Properties"];
            assert_eq!(route["ApiId"], json!({ "Ref": "Api" }));
            let call = format!("{} {}", route["Method"].as_str().unwrap(), route["Path"].as_str().unwrap());
            assert!(deployed.insert((call, name.clone(), route["Auth"]["Authorizer"].to_string())));
        }
    }
    assert_eq!(deployed, documented);
    let auth = &template["Resources"]["Api"]["Properties"]["Auth"];
    assert_eq!(auth["EnableIamAuthorizer"], true);
    assert_eq!(auth["Authorizers"].as_object().unwrap().keys().collect::<Vec<_>>(), ["Jwt"]);
    // A default would also apply to the routes of game servers; SAM's per-route opt-out does not import cleanly.
    assert_eq!(auth["DefaultAuthorizer"], Value::Null);
    // Every operator route has a throttle of its own; all other routes have the stage's default.
    let slow = template["Resources"]["Api"]["Properties"]["RouteSettings"].as_object().unwrap();
    let operators = operations().filter(|(.., operation)| operation["tags"][0] == "operators");
    let operators = operators.map(|(method, path, _)| format!("{method} {path}")).collect::<BTreeSet<_>>();
    assert_eq!(slow.keys().cloned().collect::<BTreeSet<_>>(), operators);
}

fn attributes(attributes: &[AttributeDefinition]) -> Value {
    attributes
        .iter()
        .map(|it| json!({ "AttributeName": it.attribute_name(), "AttributeType": it.attribute_type().as_str() }))
        .collect()
}

fn key_schema(schema: &[KeySchemaElement]) -> Value {
    schema.iter().map(|it| json!({ "AttributeName": it.attribute_name(), "KeyType": it.key_type().as_str() })).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_table_has_the_schema_of_the_local_table() {
    let world = World::new(|_| {}).await;
    let dynamodb = world.stack.dynamodb();
    let table = dynamodb.describe_table().table_name(&world.table).send().await.unwrap().table.unwrap();
    let ttl = dynamodb.describe_time_to_live().table_name(&world.table).send().await.unwrap();
    let deployed = &template()["Resources"]["Table"]["Properties"];
    let by_name = |value: &Value| {
        let mut parts = value.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>();
        parts.sort();
        parts
    };
    assert_eq!(by_name(&deployed["AttributeDefinitions"]), by_name(&attributes(table.attribute_definitions())));
    assert_eq!(deployed["KeySchema"], key_schema(table.key_schema()));
    let [index] = table.global_secondary_indexes() else { panic!("{table:?}") };
    let [deployed_index] = deployed["GlobalSecondaryIndexes"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!(deployed_index["IndexName"].as_str(), index.index_name());
    assert_eq!(deployed_index["KeySchema"], key_schema(index.key_schema()));
    let kind = index.projection().unwrap().projection_type().unwrap().as_str();
    assert_eq!(deployed_index["Projection"], json!({ "ProjectionType": kind }));
    assert_eq!(deployed["BillingMode"], table.billing_mode_summary().unwrap().billing_mode().unwrap().as_str());
    let attribute = ttl.time_to_live_description().unwrap().attribute_name();
    assert_eq!(deployed["TimeToLiveSpecification"], json!({ "AttributeName": attribute, "Enabled": true }));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_projects_only_the_attributes_that_its_query_reads() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let query = world.stack.dynamodb().query().table_name(&world.table).index_name(keys::INDEX);
    let query = query.key_condition_expression("#open = :indexPart").expression_attribute_names("#open", keys::LISTED);
    let home = aws_sdk_dynamodb::types::AttributeValue::S(keys::index_part(&pool("default"), 0));
    let found = query.expression_attribute_values(":indexPart", home).send().await.unwrap();
    let [item] = found.items() else { panic!("{found:?}") };
    let projected = item.keys().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(projected, [keys::PK, keys::SK, keys::LISTED, keys::RANK].into());
    let listed = world.stack.owmm().table().listed(&pool("default"), 0).await.unwrap();
    assert_eq!(listed.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), [server.id.as_str()]);
    world.end().await;
}

/// Namespace, name and dimension names of every metric in an alarm or on the dashboard.
fn watched(template: &Value) -> BTreeSet<(String, String, Vec<String>)> {
    let alarms = of_type(template, "AWS::CloudWatch::Alarm").into_values().map(|alarm| {
        let alarm = &alarm["Properties"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let dimensions = alarm["Dimensions"].as_array().unwrap().iter().map(|it| text(&it["Name"])).collect();
        (text(&alarm["Namespace"]), text(&alarm["MetricName"]), dimensions)
    });
    let body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"].as_str().unwrap();
    let board = serde_json::from_str::<Value>(body).unwrap();
    let widgets = board["widgets"].as_array().unwrap().clone().into_iter();
    let lines = widgets.flat_map(|widget| widget["properties"]["metrics"].as_array().unwrap().clone());
    let plotted = lines.filter_map(|line| {
        let texts = line.as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>();
        // `...` repeats the metric of the line before.
        let [namespace, name, dimensions @ ..] = texts.as_slice() else { return None };
        let dimensions = dimensions.iter().step_by(2).map(|name| (*name).to_owned()).collect();
        Some(((*namespace).to_owned(), (*name).to_owned(), dimensions))
    });
    alarms.chain(plotted).collect()
}

#[test]
fn every_owmm_metric_in_an_alarm_or_the_dashboard_is_emitted_by_the_code() {
    let template = template();
    let ours = watched(&template).into_iter().filter(|(namespace, ..)| namespace == NAMESPACE).collect::<Vec<_>>();
    assert!(ours.len() > 8, "{ours:?}");
    for (_, name, dimensions) in &ours {
        let metric = OF_CALLS.iter().chain(&OF_FLEET).find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("the code emits no metric {name}"));
        let by_outcome = dimensions.as_slice() == [FUNCTION, OUTCOME] && metric.by_outcome;
        assert!(
            by_outcome || dimensions.as_slice() == [FUNCTION],
            "the code emits {name} without the dimensions {dimensions:?}"
        );
    }
    // The documentation of these metrics says that each has an alarm.
    for name in ["MassLapses", "LaunchPaused", "FailedPools"] {
        let alarms = of_type(&template, "AWS::CloudWatch::Alarm").into_values();
        assert_eq!(alarms.filter(|it| it["Properties"]["MetricName"] == name).count(), 1, "{name}");
    }
    let body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"].as_str().unwrap();
    for outcome in Outcome::ALL {
        assert!(body.contains(&format!("\"{OUTCOME}\",\"{}\"", outcome.as_str())), "{outcome:?}");
    }
}

#[test]
fn every_alarm_notifies_the_topic_and_watches_a_deployed_resource() {
    let template = template();
    for (id, alarm) in of_type(&template, "AWS::CloudWatch::Alarm") {
        let alarm = &alarm["Properties"];
        assert_eq!(alarm["AlarmActions"]["Fn::If"][0], "HasAlarmTopic", "{id}");
        for dimension in alarm["Dimensions"].as_array().unwrap() {
            let value = &dimension["Value"];
            let of = value["Ref"].as_str().or_else(|| value["Fn::GetAtt"].as_str()?.split('.').next()).unwrap();
            assert!(template["Resources"].get(of).is_some(), "{id}: {of}");
        }
    }
}

/// Permissions of a role that its function's code does not use: logging, tracing, and the queue of failed events.
fn beside(function: &Value, log: &str) -> BTreeSet<Permission> {
    let permission = |action: &str, resource: Value| (action.to_owned(), resource.to_string());
    let arn = |of: &str| json!({ "Fn::GetAtt": format!("{of}.Arn") });
    let mut beside = BTreeSet::from([
        permission("logs:CreateLogStream", arn(log)),
        permission("logs:PutLogEvents", arn(log)),
        permission("xray:PutTelemetryRecords", "*".into()),
        permission("xray:PutTraceSegments", "*".into()),
    ]);
    if function["EventInvokeConfig"]["DestinationConfig"]["OnFailure"]["Type"] == "SQS" {
        beside.insert(permission("sqs:SendMessage", arn("Lost")));
    }
    beside
}

#[test]
fn no_role_has_a_wildcard_permission_it_does_not_need() {
    let template = template();
    // The local stack enforces these roles.
    assert_eq!(roles(&read(DEPLOYED).unwrap()).unwrap(), roles(&template).unwrap());
    let only_here = json!({ "ArnEquals": { "ecs:cluster": { "Fn::GetAtt": "GameServers.Outputs.ClusterArn" } } });
    for (name, function) in functions(&template) {
        let function = &function["Properties"];
        let role = get_att(&function["Role"]).trim_end_matches(".Arn").to_owned();
        let properties = &template["Resources"][&role]["Properties"];
        assert_eq!(properties["ManagedPolicyArns"], Value::Null, "{name}");
        let [policy] = properties["Policies"].as_array().unwrap().as_slice() else { panic!("{name}") };
        let (mut others, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
            let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            for action in list(&statement["Action"]) {
                let action = action.as_str().unwrap();
                assert!(!action.contains('*') && seen.insert((action.to_owned(), statement["Resource"].to_string())));
                let condition = match action {
                    "ecs:RunTask" | "ecs:ListTasks" => only_here.clone(),
                    "iam:PassRole" => json!({ "StringEquals": { "iam:PassedToService": "ecs-tasks.amazonaws.com" } }),
                    _ => Value::Null,
                };
                assert_eq!(statement["Condition"], condition, "{name}: {action}");
                let anything = ["ecs:ListTasks", "xray:PutTelemetryRecords", "xray:PutTraceSegments"];
                assert_eq!(statement["Resource"] == "*", anything.contains(&action), "{name}: {action}");
                if !["dynamodb:", "ecs:", "iam:"].iter().any(|service| action.starts_with(service)) {
                    others.insert((action.to_owned(), statement["Resource"].to_string()));
                }
            }
        }
        let log = function["LoggingConfig"]["LogGroup"]["Ref"].as_str().unwrap();
        assert_eq!(others, beside(function, log), "{name}");
    }
}

#[test]
fn every_parameter_has_a_description_bounds_and_a_default() {
    let children = nested().map(|(_, _, child)| child);
    for template in children.chain([template()]) {
        for (name, parameter) in template["Parameters"].as_object().unwrap() {
            let has = |key: &str| parameter.get(key).is_some();
            assert!(has("Description"), "{name}");
            let bounded = has("AllowedValues")
                || (has("AllowedPattern") && has("ConstraintDescription"))
                || (has("MinValue") && has("MaxValue"))
                || has("MaxLength");
            // CloudFormation itself checks that a value of such a type exists.
            let typed = parameter["Type"].as_str().unwrap().contains("AWS::");
            assert!(bounded || typed, "{name} has no bounds");
        }
    }
    let template = template();
    let grouped = &template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"];
    let grouped = grouped.as_array().unwrap().iter().flat_map(|group| group["Parameters"].as_array().unwrap());
    let mut grouped = grouped.map(|name| name.as_str().unwrap()).collect::<Vec<_>>();
    grouped.sort_unstable();
    let mut parameters = template["Parameters"].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    parameters.sort_unstable();
    assert_eq!(grouped, parameters);
    for (name, parameter) in template["Parameters"].as_object().unwrap() {
        assert!(parameter.get("Default").is_some(), "{name} has no default, so a first deployment would need it");
    }
}

#[test]
fn a_nested_template_declares_the_bounds_of_the_outer_parameters() {
    let template = template();
    let mut stacks = 0;
    for (id, given, child) in nested() {
        stacks += 1;
        let declared = child["Parameters"].as_object().unwrap();
        let given = given.as_object().unwrap();
        assert_eq!(given.keys().collect::<BTreeSet<_>>(), declared.keys().collect::<BTreeSet<_>>(), "{id}");
        for (name, value) in given {
            let Some(outer) = value["Ref"].as_str().and_then(|outer| template["Parameters"].get(outer)) else {
                continue;
            };
            let inner = &declared[name];
            // An outer parameter that may be empty cannot have the specific type of the nested one.
            if inner["Type"] != outer["Type"] {
                continue;
            }
            for bound in ["Default", "AllowedValues", "AllowedPattern", "MinValue", "MaxValue", "MaxLength"] {
                assert!(
                    bound == "Default" && name == "LogDays" || inner[bound] == outer[bound],
                    "{id}: {name}: {bound}"
                );
            }
        }
    }
    assert_eq!(stacks, 3);
    // Every output that `template.yaml` reads exists in the nested template.
    let text = text();
    for (after, before) in text.split(".Outputs.").skip(1).zip(text.split(".Outputs.")) {
        let output = after.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
        let stack = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
        let child = nested().find(|(id, ..)| id == stack).unwrap_or_else(|| panic!("{stack}.Outputs.{output}")).2;
        assert!(child["Outputs"].get(output).is_some(), "{stack}.Outputs.{output}");
    }
}

#[test]
fn a_game_server_gets_each_variable_once_and_the_embedded_example_is_the_file() {
    let (.., servers) = nested().find(|(id, ..)| id == "GameServers").unwrap();
    let [container] =
        servers["Resources"]["Server"]["Properties"]["ContainerDefinitions"].as_array().unwrap().as_slice()
    else {
        panic!("one container");
    };
    assert_eq!(container["StopTimeout"], 120);
    let given = container["Environment"].as_array().unwrap().iter().map(|it| it["Name"].as_str().unwrap());
    let given = given.collect::<BTreeSet<_>>();
    let launcher = std::fs::read_to_string(root().join("shared/src/launching.rs")).unwrap();
    let sent = launcher.split('"').filter(|part| part.starts_with("OWMM_")).collect::<BTreeSet<_>>();
    assert_eq!(sent, ["OWMM_CAPACITY", "OWMM_POOL", "OWMM_SERVER_ID", "OWMM_SERVER_TOKEN", "OWMM_URL"].into());
    assert!(given.is_disjoint(&sent), "RunTask would silently override a variable of the task definition");
    // The output PoolSettings names this container.
    assert!(text().contains(&format!("\"container\":{}", container["Name"])));
    let example = std::fs::read_to_string(root().join("infra/example-server.py")).unwrap();
    assert_eq!(container["Command"]["Fn::If"][1], json!(["python3", "-c", example]));
}
