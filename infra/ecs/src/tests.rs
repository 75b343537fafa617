//! Tests of the local ECS with the real SDK over real HTTP, and with real processes.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc, time::Duration};

use aws_sdk_ecs::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::run_task::{RunTaskError, builders::RunTaskFluentBuilder},
    types::{
        ContainerOverride, DesiredStatus, KeyValuePair, LaunchType, Tag, Task, TaskField, TaskOverride, TaskStopCode,
    },
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::{sync::broadcast, task::JoinHandle, time::timeout};
use ulid::Ulid;

use crate::{Counts, Fault, LocalEcs, Options};

/// Time limit of every wait.
const BOUND: Duration = Duration::from_secs(20);
/// Every status of a task, in order.
const LIFE: [&str; 8] =
    ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"];

/// A served cluster, its SDK client and its events since the start.
struct Stack {
    ecs: LocalEcs,
    client: Client,
    url: String,
    events: broadcast::Receiver<Value>,
    server: JoinHandle<()>,
}

impl Stack {
    async fn new(options: Options) -> Self {
        let ecs = LocalEcs::new(options);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = ecs.router();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("local"))
            .credentials_provider(Credentials::new("x", "x", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(&url)
            .build();
        let events = ecs.events();
        Self { ecs, client: Client::from_conf(config), url, events, server }
    }

    /// A cluster whose tasks run a shell script.
    async fn shell(script: &str) -> Self {
        Self::new(Options::new(["sh", "-c", script])).await
    }

    fn run(&self) -> RunTaskFluentBuilder {
        self.client.run_task().task_definition("game")
    }

    /// Starts one task and returns its ARN.
    async fn start(&self) -> String {
        arn(&self.run().send().await.unwrap().tasks()[0])
    }

    async fn describe(&self, arn: &str) -> Task {
        let answer = self.client.describe_tasks().tasks(arn).include(TaskField::Tags).send().await.unwrap();
        answer.tasks()[0].clone()
    }

    /// Waits until a task has this `lastStatus`, and returns the details of its events until then.
    async fn until(&mut self, arn: &str, status: &str) -> Vec<Value> {
        let mut details = Vec::new();
        let wait = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if event["resources"][0] == arn {
                    details.push(event["detail"].clone());
                    if event["detail"]["lastStatus"] == status {
                        return;
                    }
                }
            }
        };
        timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{status} not reached: {details:#?}"));
        details
    }

    /// Starts one task, waits until it is `STOPPED`, and returns its description.
    async fn run_to_end(&mut self) -> Task {
        let arn = self.start().await;
        self.until(&arn, "STOPPED").await;
        self.describe(&arn).await
    }

    /// Sends a raw request and returns the status and body of the response.
    async fn raw(&self, operation: &str, body: &str) -> (u16, Value) {
        let request = reqwest::Client::new()
            .post(&self.url)
            .header("x-amz-target", format!("AmazonEC2ContainerServiceV20141113.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-amz-json-1.1");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    fn started(&self) -> u64 {
        self.ecs.counts().processes_started
    }
}

/// A temporary folder for files of the test's processes, removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ecs-test-{}", Ulid::generate()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A cluster whose tasks run `script` in this folder.
    async fn shell(&self, script: &str, stop_timeout: Duration) -> Stack {
        let command = ["sh", "-c", &format!("cd '{}'; {script}", self.0.display())];
        Stack::new(Options { stop_timeout, shutdown_timeout: stop_timeout, ..Options::new(command) }).await
    }

    /// Waits until a file has a process id, and returns it.
    async fn pid(&self, file: &str) -> Pid {
        let path = self.0.join(file);
        let mut found = None;
        eventually(&format!("a process id in {}", path.display()), || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found = text.strip_suffix('\n').and_then(|id| Pid::from_raw(id.parse().unwrap()));
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Polls until `holds` returns true. `what` describes the condition in the error.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{what}: not within {BOUND:?}"));
}

/// Returns whether a process runs. A zombie that init has not reaped yet does not run.
fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

fn arn(task: &Task) -> String {
    task.task_arn().unwrap().to_owned()
}

fn arns(tasks: &[Task]) -> Vec<String> {
    tasks.iter().map(arn).collect()
}

fn environment(name: &str, value: &str) -> TaskOverride {
    let variable = KeyValuePair::builder().name(name).value(value).build();
    let container = ContainerOverride::builder().name("server").environment(variable).cpu(512).build();
    TaskOverride::builder().container_overrides(container).build()
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> &str {
    error.code().unwrap()
}

#[tokio::test]
async fn a_repeated_token_returns_the_same_tasks_and_starts_none() {
    let mut stack = Stack::shell("exec sleep 600").await;
    let first = stack.run().count(2).client_token("t").send().await.unwrap();
    for task in first.tasks() {
        stack.until(task.task_arn().unwrap(), "RUNNING").await;
    }
    let again = stack.run().count(2).client_token("t").send().await.unwrap();
    assert_eq!(arns(again.tasks()), arns(first.tasks()));
    assert_eq!(again.tasks()[0].last_status(), Some("RUNNING"));
    assert_eq!(stack.ecs.counts(), Counts { processes_started: 2, run_task_calls: 2 });
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn concurrent_calls_with_the_same_token_start_one_task() {
    let stack = Stack::shell("exec sleep 600").await;
    let calls: Vec<_> = (0..30).map(|_| tokio::spawn(stack.run().client_token("t").send())).collect();
    let mut seen = BTreeSet::new();
    for call in calls {
        seen.extend(arns(call.await.unwrap().unwrap().tasks()));
    }
    assert_eq!(seen.len(), 1);
    stack.ecs.shutdown().await;
    assert!(stack.started() <= 1);
}

#[tokio::test]
async fn a_repeated_token_with_other_parameters_is_a_conflict_that_names_the_tasks() {
    let stack = Stack::shell("exec sleep 600").await;
    let run = || stack.run().client_token("t");
    let first = run().overrides(environment("A", "1")).send().await.unwrap();
    let network = aws_sdk_ecs::types::NetworkConfiguration::builder().build();
    let others = [
        ("no overrides", run()),
        ("another value", run().overrides(environment("A", "2"))),
        ("another count", run().overrides(environment("A", "1")).count(2)),
        ("a network", run().overrides(environment("A", "1")).network_configuration(network)),
    ];
    for (case, other) in others {
        let error = other.send().await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 400, "{case}");
        let RunTaskError::ConflictException(conflict) = error.into_service_error() else {
            panic!("{case}: no conflict")
        };
        assert_eq!(conflict.resource_ids(), arns(first.tasks()), "{case}");
    }
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn run_task_starts_count_tasks_and_returns_failures_above_the_limit() {
    let mut stack = Stack::new(Options { max_tasks: 12, ..Options::new(["sleep", "600"]) }).await;
    let ten = stack.run().count(10).send().await.unwrap();
    assert_eq!((ten.tasks().len(), ten.failures().len()), (10, 0));
    let two_of_five = stack.run().count(5).client_token("t").send().await.unwrap();
    assert_eq!((two_of_five.tasks().len(), two_of_five.failures().len()), (2, 3));
    assert!(two_of_five.failures()[0].reason().unwrap().contains("Capacity is unavailable"));
    let again = stack.run().count(5).client_token("t").send().await.unwrap();
    assert_eq!(arns(again.tasks()), arns(two_of_five.tasks()));

    // A token that started no task can be used again, and a stopped task frees capacity.
    let none = stack.run().client_token("later").send().await.unwrap();
    assert_eq!((none.tasks().len(), none.failures().len()), (0, 1));
    let stopped = arn(&ten.tasks()[0]);
    stack.client.stop_task().task(&stopped).send().await.unwrap();
    stack.until(&stopped, "STOPPED").await;
    assert_eq!(stack.run().client_token("later").send().await.unwrap().tasks().len(), 1);
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn a_task_has_every_status_of_ecs_in_order_and_each_change_is_a_version() {
    let mut stack = Stack::shell("exit 7").await;
    let arn = stack.start().await;
    let details = stack.until(&arn, "STOPPED").await;
    let statuses: Vec<_> = details.iter().map(|detail| detail["lastStatus"].as_str().unwrap()).collect();
    assert_eq!(statuses, LIFE);
    let versions: Vec<_> = details.iter().map(|detail| detail["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    let desired: Vec<_> = details.iter().map(|detail| detail["desiredStatus"].as_str().unwrap()).collect();
    assert_eq!(desired, [["RUNNING"; 4], ["STOPPED"; 4]].concat());
    assert!(details[7]["stoppedAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(details[7]["containers"][0]["exitCode"], 7);

    let task = stack.describe(&arn).await;
    assert_eq!(task.version(), 8);
    assert_eq!(task.stop_code(), Some(&TaskStopCode::EssentialContainerExited));
    assert_eq!(task.stopped_reason(), Some("Essential container in task exited"));
    let times = [task.created_at(), task.started_at(), task.stopping_at(), task.stopped_at()];
    assert!(times.iter().all(Option::is_some) && times.is_sorted_by_key(|time| time.unwrap().as_nanos()));
    let container = &task.containers()[0];
    assert_eq!((container.name(), container.last_status()), (Some("game"), Some("STOPPED")));
    assert_eq!(container.exit_code(), Some(7));
    assert_eq!(container.network_interfaces()[0].private_ipv4_address(), Some("127.0.0.1"));
}

#[tokio::test]
async fn an_event_has_the_shape_of_eventbridge() {
    let mut stack = Stack::shell("exit 0").await;
    let arn = stack.start().await;
    let event = timeout(BOUND, stack.events.recv()).await.unwrap().unwrap();
    assert_eq!(event["source"], "aws.ecs");
    assert_eq!(event["detail-type"], "ECS Task State Change");
    assert_eq!(event["version"], "0");
    assert_eq!(event["resources"], serde_json::json!([arn]));
    assert_eq!(event["detail"]["taskArn"], *arn);
    for (case, time) in [
        ("time", &event["time"]),
        ("createdAt", &event["detail"]["createdAt"]),
        ("updatedAt", &event["detail"]["updatedAt"]),
    ] {
        assert!(time.as_str().unwrap().starts_with("20"), "{case}: {time}");
    }
}

#[tokio::test]
async fn the_process_gets_the_environment_of_the_overrides_and_the_task_describes_them() {
    let mut stack = Stack::shell("test \"$GREETING\" = 'hello world' && test -n \"$PATH\" && exit 42").await;
    let tag = Tag::builder().key("owmm:server").value("s1").build();
    let run = stack.run().overrides(environment("GREETING", "hello world")).started_by("owmm").tags(tag);
    let arn = arn(&run.launch_type(LaunchType::Ec2).enable_execute_command(true).send().await.unwrap().tasks()[0]);
    stack.until(&arn, "STOPPED").await;
    let task = stack.describe(&arn).await;
    assert_eq!(task.containers()[0].exit_code(), Some(42));
    assert_eq!(task.containers()[0].name(), Some("server"));
    let echoed = &task.overrides().unwrap().container_overrides()[0];
    assert_eq!((echoed.cpu(), echoed.environment()[0].value()), (Some(512), Some("hello world")));
    assert_eq!((task.started_by(), task.group()), (Some("owmm"), Some("family:game")));
    assert_eq!((task.launch_type(), task.enable_execute_command()), (Some(&LaunchType::Ec2), true));
    assert_eq!(task.tags()[0].value(), Some("s1"));
    assert_eq!(task.task_definition_arn(), Some("arn:aws:ecs:local:000000000000:task-definition/game:1"));
    let without = stack.client.describe_tasks().tasks(&arn).send().await.unwrap();
    assert!(without.tasks()[0].tags().is_empty());
}

#[tokio::test]
async fn a_command_that_cannot_be_started_fails_the_task() {
    for (case, command) in [("no such program", vec!["/no/such/program"]), ("no command", vec![])] {
        let mut stack = Stack::new(Options::new(command)).await;
        let task = stack.run_to_end().await;
        assert_eq!(task.stop_code(), Some(&TaskStopCode::TaskFailedToStart), "{case}");
        assert!(task.stopped_reason().unwrap().starts_with("CannotStartContainerError"), "{case}");
        assert_eq!((task.started_at(), task.containers()[0].exit_code()), (None, None), "{case}");
        assert_eq!(stack.started(), 0, "{case}");
    }
}

#[tokio::test]
async fn a_killed_process_has_exit_code_128_plus_the_signal() {
    let scratch = Scratch::new();
    let mut stack = scratch.shell("echo $$ >pid; exec sleep 600", BOUND).await;
    let arn = stack.start().await;
    kill_process(scratch.pid("pid").await, Signal::KILL).unwrap();
    stack.until(&arn, "STOPPED").await;
    let task = stack.describe(&arn).await;
    assert_eq!(task.containers()[0].exit_code(), Some(137));
    assert_eq!(task.stop_code(), Some(&TaskStopCode::EssentialContainerExited));
}

#[tokio::test]
async fn stop_task_sends_sigterm_and_the_process_may_choose_its_exit_code() {
    let scratch = Scratch::new();
    let script = "trap 'exit 3' TERM; echo $$ >pid; while :; do sleep 600 & wait $!; done";
    let mut stack = scratch.shell(script, BOUND).await;
    let arn = stack.start().await;
    let pid = scratch.pid("pid").await;
    let stop = || stack.client.stop_task().task(&arn).reason("enough").send();
    let stopping = stop().await.unwrap();
    assert_eq!(stopping.task().unwrap().desired_status(), Some("STOPPED"));
    stop().await.unwrap();
    let details = stack.until(&arn, "STOPPED").await;
    let stoppings = details.iter().filter(|detail| detail["lastStatus"] == "STOPPING").count();
    assert_eq!(stoppings, 2, "one change for the stop and one for the exit");
    assert!(!alive(pid));

    let task = stack.describe(&arn).await;
    assert_eq!(task.containers()[0].exit_code(), Some(3));
    assert_eq!(task.stop_code(), Some(&TaskStopCode::UserInitiated));
    assert_eq!(task.stopped_reason(), Some("enough"));
    // A second stop of the stopped task changes nothing.
    let again = stack.client.stop_task().task(&arn).reason("other").send().await.unwrap();
    assert_eq!(again.task().unwrap().version(), task.version());
    assert_eq!(again.task().unwrap().stopped_reason(), Some("enough"));
}

#[tokio::test]
async fn stop_task_kills_a_process_that_ignores_sigterm() {
    let scratch = Scratch::new();
    let mut stack = scratch.shell("trap '' TERM; echo $$ >pid; exec sleep 600", Duration::from_millis(50)).await;
    let arn = stack.start().await;
    let pid = scratch.pid("pid").await;
    stack.client.stop_task().task(&arn).send().await.unwrap();
    stack.until(&arn, "STOPPED").await;
    assert!(!alive(pid));
    let task = stack.describe(&arn).await;
    assert_eq!(task.containers()[0].exit_code(), Some(137));
    assert_eq!(task.stop_code(), Some(&TaskStopCode::UserInitiated));
}

#[tokio::test]
async fn a_task_that_is_stopped_within_the_start_delay_never_starts() {
    let mut stack = Stack::new(Options { start_delay: BOUND * 10, ..Options::new(["sleep", "600"]) }).await;
    let arn = stack.start().await;
    stack.until(&arn, "PENDING").await;
    stack.client.stop_task().task(&arn).send().await.unwrap();
    stack.until(&arn, "STOPPED").await;
    let task = stack.describe(&arn).await;
    assert_eq!((task.stop_code(), task.started_at()), (Some(&TaskStopCode::UserInitiated), None));
    assert_eq!(stack.started(), 0);
}

#[tokio::test]
async fn child_processes_are_killed_when_their_task_ends() {
    let scratch = Scratch::new();
    let script = "sh -c 'trap \"\" TERM; echo $$ >child; exec sleep 600' & while ! test -s child; do :; done; exit 0";
    let mut stack = scratch.shell(script, BOUND).await;
    assert_eq!(stack.run_to_end().await.containers()[0].exit_code(), Some(0));
    assert!(!alive(scratch.pid("child").await));
}

#[tokio::test]
async fn shutdown_ends_every_process_and_refuses_new_tasks() {
    let scratch = Scratch::new();
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >child; exec sleep 600' & echo $$ >parent; wait";
    let mut stack = scratch.shell(script, Duration::from_millis(50)).await;
    let arn = stack.start().await;
    let pids = [scratch.pid("parent").await, scratch.pid("child").await];
    assert!(pids.into_iter().all(alive));
    tokio::join!(stack.ecs.shutdown(), stack.ecs.shutdown());
    assert!(!pids.into_iter().any(alive));
    stack.until(&arn, "STOPPED").await;
    assert_eq!(code(&stack.run().send().await.unwrap_err()), "ServerException");
    assert_eq!(stack.started(), 1);
}

#[tokio::test]
async fn shutdown_shortens_the_stop_timeout_of_a_task_that_is_already_stopping() {
    let scratch = Scratch::new();
    let command = ["sh", "-c", &format!("trap '' TERM; echo $$ >'{}/pid'; exec sleep 600", scratch.0.display())];
    let limits = Options { stop_timeout: BOUND * 10, shutdown_timeout: Duration::ZERO, ..Options::new(command) };
    let mut stack = Stack::new(limits).await;
    let arn = stack.start().await;
    let pid = scratch.pid("pid").await;
    stack.client.stop_task().task(&arn).send().await.unwrap();
    stack.until(&arn, "STOPPING").await;
    timeout(BOUND, stack.ecs.shutdown()).await.unwrap();
    assert!(!alive(pid));
}

#[tokio::test]
async fn dropping_the_local_ecs_kills_its_processes() {
    let scratch = Scratch::new();
    let stack = scratch.shell("trap '' TERM; echo $$ >pid; exec sleep 600", BOUND).await;
    stack.start().await;
    let pid = scratch.pid("pid").await;
    stack.server.abort();
    drop(stack);
    eventually(&format!("process {pid:?} has ended"), || !alive(pid)).await;
}

#[test]
fn the_end_of_the_runtime_kills_the_processes_and_their_children() {
    let scratch = Scratch::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dropped = runtime();
    let pids = dropped.block_on(async {
        let stack = scratch.shell("sleep 600 & echo $! >child; echo $$ >parent; wait", BOUND).await;
        stack.start().await;
        [scratch.pid("parent").await, scratch.pid("child").await]
    });
    drop(dropped);
    runtime().block_on(eventually(&format!("processes {pids:?} have ended"), || !pids.into_iter().any(alive)));
}

#[tokio::test]
async fn the_output_of_a_process_is_logged_with_the_tasks_short_id() {
    let scratch = Scratch::new();
    let log = scratch.0.join("log");
    let writer = Arc::new(fs::File::create(&log).unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    let _within_this_test = tracing::subscriber::set_default(subscriber);
    let mut stack = Stack::shell("echo to-out; echo to-err >&2; printf unfinished").await;
    let task = stack.run_to_end().await;
    let log = fs::read_to_string(log).unwrap();
    let short_id = &arn(&task)[arn(&task).len() - 8..];
    for (line, stream) in [("to-out", "stdout"), ("to-err", "stderr"), ("unfinished", "stdout")] {
        let line = log.lines().find(|logged| logged.contains(line)).unwrap_or_else(|| panic!("{line} is not in {log}"));
        assert!(line.contains("INFO") && line.contains(short_id) && line.contains(stream), "{line}");
    }
}

/// Returns the log of a task that runs `script` to its end, or is stopped when it runs.
async fn log_of(script: &str, stops: bool) -> String {
    let scratch = Scratch::new();
    let log = scratch.0.join("log");
    let writer = Arc::new(fs::File::create(&log).unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(writer).finish();
    let _within_this_test = tracing::subscriber::set_default(subscriber);
    let mut stack = Stack::shell(script).await;
    if stops {
        let arn = stack.start().await;
        stack.until(&arn, "RUNNING").await;
        stack.client.stop_task().task(&arn).send().await.unwrap();
        stack.until(&arn, "STOPPED").await;
    } else {
        stack.run_to_end().await;
    }
    fs::read_to_string(log).unwrap()
}

#[tokio::test]
async fn a_crash_is_logged_as_a_warning_with_the_exit_code_or_signal_and_the_last_lines() {
    let log = log_of("echo first; echo second; exit 7", false).await;
    let warning = log.split_once(" WARN ").map(|(_, warning)| warning).unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(warning.contains("crashed with exit code 7 task="), "{log}");
    assert!(warning.ends_with(" last_output=\n    first\n    second\n"), "{log}");
    let log = log_of("kill -SEGV $$", false).await;
    assert!(log.contains("crashed with signal 11 task=") && log.contains(" last_output=none\n"), "{log}");
}

#[tokio::test]
async fn a_process_that_exits_with_0_or_is_stopped_is_not_logged_as_a_crash() {
    for (script, stops) in [("echo bye", false), ("sleep 600", true)] {
        let log = log_of(script, stops).await;
        assert!(log.contains("ended task=") && !log.contains("WARN"), "{script}: {log}");
    }
}

#[tokio::test]
async fn the_overrides_of_a_task_override_the_configured_environment() {
    let scratch = Scratch::new();
    let script = format!("echo $ONE $TWO >{}/variables", scratch.0.display());
    let environment = vec![("ONE".to_owned(), "configured".to_owned()), ("TWO".to_owned(), "configured".to_owned())];
    let mut stack = Stack::new(Options { environment, ..Options::new(["sh", "-c", &script]) }).await;
    let two = KeyValuePair::builder().name("TWO").value("overridden").build();
    let container = ContainerOverride::builder().name("game").environment(two).build();
    let overrides = TaskOverride::builder().container_overrides(container).build();
    let task = arn(&stack.run().overrides(overrides).send().await.unwrap().tasks()[0]);
    stack.until(&task, "STOPPED").await;
    assert_eq!(fs::read_to_string(scratch.0.join("variables")).unwrap(), "configured overridden\n");
}

#[tokio::test]
async fn the_pages_of_list_tasks_have_each_task_once() {
    let mut stack = Stack::new(Options::new(["sleep", "600"])).await;
    let tasks = arns(stack.run().count(7).send().await.unwrap().tasks());
    let mut pages = stack.client.list_tasks().max_results(3).into_paginator().send();
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        sizes.push(page.task_arns().len());
        seen.extend(page.task_arns().to_vec());
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(BTreeSet::from_iter(seen), BTreeSet::from_iter(tasks.clone()));
    let full = stack.client.list_tasks().max_results(7).send().await.unwrap();
    assert_eq!((full.task_arns().len(), full.next_token()), (7, None));

    // A page continues after the previous one, even if the last task of that page has been stopped in between.
    let first = stack.client.list_tasks().max_results(1).send().await.unwrap();
    stack.client.stop_task().task(&first.task_arns()[0]).send().await.unwrap();
    stack.until(&first.task_arns()[0], "STOPPED").await;
    let rest = stack.client.list_tasks().set_next_token(first.next_token).send().await.unwrap();
    assert_eq!(rest.task_arns().len(), 6);
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn list_tasks_filters_by_family_started_by_launch_type_and_desired_status() {
    let mut stack = Stack::new(Options::new(["sleep", "600"])).await;
    let game = arns(stack.run().started_by("me").send().await.unwrap().tasks());
    let lobby = stack.client.run_task().task_definition("lobby:3").launch_type(LaunchType::Ec2);
    let lobby = arns(lobby.send().await.unwrap().tasks());
    let list = || stack.client.list_tasks();
    assert_eq!(list().family("lobby").send().await.unwrap().task_arns(), lobby);
    assert_eq!(list().launch_type(LaunchType::Fargate).send().await.unwrap().task_arns(), game);
    assert_eq!(list().started_by("me").send().await.unwrap().task_arns(), game);
    assert_eq!(list().started_by("you").send().await.unwrap().task_arns().len(), 0);
    assert_eq!(list().desired_status(DesiredStatus::Pending).send().await.unwrap().task_arns().len(), 0);
    for (case, refused) in [
        ("two filters that exclude each other", list().started_by("me").family("game")),
        ("a page that is too long", list().max_results(101)),
        ("a token that ECS did not give", list().next_token("x")),
    ] {
        assert_eq!(code(&refused.send().await.unwrap_err()), "InvalidParameterException", "{case}");
    }
    stack.client.stop_task().task(&game[0]).send().await.unwrap();
    assert_eq!(list().desired_status(DesiredStatus::Stopped).send().await.unwrap().task_arns(), game);
    assert_eq!(list().send().await.unwrap().task_arns(), lobby);
    stack.until(&game[0], "STOPPED").await;
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn an_unknown_task_is_described_as_missing_and_cannot_be_stopped() {
    let mut stack = Stack::shell("exit 0").await;
    let known = arn(&stack.run_to_end().await);
    let id = known.rsplit('/').next().unwrap();
    let unknown = "0".repeat(32);
    let elsewhere = format!("arn:aws:ecs:local:000000000000:task/other/{id}");
    let describe = stack.client.describe_tasks().tasks(id).tasks(&unknown).tasks(&elsewhere);
    let answer = describe.send().await.unwrap();
    assert_eq!(arns(answer.tasks()), [known.as_str()]);
    let failures: Vec<_> = answer.failures().iter().map(|f| (f.arn().unwrap(), f.reason().unwrap())).collect();
    let unknown_arn = format!("arn:aws:ecs:local:000000000000:task/default/{unknown}");
    assert_eq!(failures, [(&*unknown_arn, "MISSING"), (&*elsewhere, "MISSING")]);

    let error = stack.client.stop_task().task(&unknown).send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidParameterException");
    let error = stack.client.describe_tasks().cluster("other").tasks(id).send().await.unwrap_err();
    assert_eq!(code(&error), "ClusterNotFoundException");
    let error = stack.client.describe_tasks().set_tasks(Some(vec![])).send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidParameterException");
}

#[tokio::test]
async fn a_request_may_name_the_cluster_by_its_name_or_its_arn() {
    let stack = Stack::new(Options { cluster: "games".to_owned(), ..Options::new(["true"]) }).await;
    let arn = "arn:aws:ecs:local:000000000000:cluster/games";
    for cluster in ["games", arn] {
        let task = stack.run().cluster(cluster).send().await.unwrap().tasks()[0].clone();
        assert_eq!(task.cluster_arn(), Some(arn), "{cluster}");
        assert!(task.task_arn().unwrap().starts_with("arn:aws:ecs:local:000000000000:task/games/"), "{cluster}");
    }
    assert_eq!(code(&stack.run().send().await.unwrap_err()), "ClusterNotFoundException");
    assert_eq!(stack.client.list_clusters().send().await.unwrap().cluster_arns(), [arn]);
    let clusters = stack.client.describe_clusters().clusters("games").clusters("default").send().await.unwrap();
    assert_eq!(clusters.clusters()[0].status(), Some("ACTIVE"));
    assert_eq!(clusters.failures()[0].reason(), Some("MISSING"));
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn a_fault_affects_as_many_calls_as_it_was_injected_for() {
    let mut stack = Stack::new(Options::new(["sleep", "600"])).await;
    stack.ecs.inject(Fault::Throttled, 2);
    stack.ecs.inject(Fault::NoCapacity, 1);
    stack.ecs.inject(Fault::AnswerLost, 1);
    let run = || stack.run().client_token("t").count(2);
    for _ in 0..2 {
        assert_eq!(code(&run().send().await.unwrap_err()), "ThrottlingException");
    }
    let none = run().send().await.unwrap();
    assert_eq!((none.tasks().len(), none.failures().len()), (0, 2));
    let lost = run().send().await.unwrap_err();
    assert_eq!((code(&lost), lost.raw_response().unwrap().status().as_u16()), ("ServerException", 500));

    // The tasks of the lost response exist, and a repeated request returns them.
    let listed = stack.client.list_tasks().send().await.unwrap();
    assert_eq!(arns(run().send().await.unwrap().tasks()), listed.task_arns());
    for arn in listed.task_arns() {
        stack.until(arn, "RUNNING").await;
    }
    assert_eq!(stack.ecs.counts(), Counts { processes_started: 2, run_task_calls: 5 });
    stack.ecs.shutdown().await;
}

#[tokio::test]
async fn a_task_without_a_service_cannot_be_protected() {
    let stack = Stack::new(Options::new(["sleep", "600"])).await;
    let task = stack.start().await;
    let update = || stack.client.update_task_protection().cluster("default").tasks(&task).protection_enabled(true);
    let refused = update().send().await.unwrap();
    assert_eq!(refused.protected_tasks(), []);
    assert_eq!(refused.failures()[0].reason(), Some("TASK_NOT_VALID"));
    assert_eq!(code(&update().expires_in_minutes(2881).send().await.unwrap_err()), "InvalidParameterException");
    let get = stack.client.get_task_protection().cluster("default").tasks(&task).tasks("x").send().await.unwrap();
    let reasons: Vec<_> = get.failures().iter().map(|failure| failure.reason().unwrap()).collect();
    assert_eq!(reasons, ["TASK_NOT_VALID", "MISSING"]);
}

#[tokio::test]
async fn a_request_that_aws_would_refuse_is_refused_and_starts_no_task() {
    let stack = Stack::shell("exit 0").await;
    let long = |n: usize| "x".repeat(n);
    let with = |fields: &str| format!("{{\"taskDefinition\":\"game\",{fields}}}");
    let tags = |n: usize| (0..n).map(|i| format!("{{\"key\":\"{i}\"}}")).collect::<Vec<_>>().join(",");
    let invalid = [
        "{}".to_owned(),
        "{\"taskDefinition\":null}".to_owned(),
        "{\"taskDefinition\":\"game:0\"}".to_owned(),
        "{\"taskDefinition\":\"game:x\"}".to_owned(),
        "{\"taskDefinition\":\"ga me\"}".to_owned(),
        "{\"taskDefinition\":\"arn:aws:ecs:local:0:cluster/game:1\"}".to_owned(),
        with("\"count\":0"),
        with("\"count\":11"),
        with("\"count\":-1"),
        with("\"clientToken\":\"\""),
        with("\"clientToken\":\"a b\""),
        with(&format!("\"clientToken\":\"{}\"", long(65))),
        with(&format!("\"startedBy\":\"{}\"", long(129))),
        with("\"startedBy\":\"a b\""),
        with("\"launchType\":\"MOON\""),
        with("\"launchType\":\"EC2\",\"capacityProviderStrategy\":[{\"capacityProvider\":\"FARGATE_SPOT\"}]"),
        with("\"propagateTags\":\"SERVICE\""),
        with(&format!("\"tags\":[{}]", tags(51))),
        with("\"tags\":[{\"key\":\"a\"},{\"key\":\"a\"}]"),
        with("\"tags\":[{\"key\":\"aws:a\"}]"),
        with("\"overrides\":{\"containerOverrides\":[{\"cpu\":1}]}"),
        with("\"overrides\":{\"containerOverrides\":[{\"name\":\"a\"},{\"name\":\"b\"}]}"),
        with(&format!("\"overrides\":{{\"containerOverrides\":[{{\"name\":\"{}\"}}]}}", long(9000))),
    ];
    for body in &invalid {
        let (status, answer) = stack.raw("RunTask", body).await;
        assert_eq!((status, &answer["__type"]), (400, &"InvalidParameterException".into()), "{body}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    for body in ["", "{", "[]", "7", "{\"taskDefinition\":7}", "{\"taskDefinition\":\"game\",\"count\":\"2\"}", "\u{0}"]
    {
        let (status, answer) = stack.raw("RunTask", body).await;
        assert_eq!((status, &answer["__type"]), (400, &"SerializationException".into()), "{body}: {answer}");
    }
    assert_eq!(stack.raw("RunTask", &long(300_000)).await.0, 413);
    let (status, answer) = stack.raw("DeleteCluster", "{}").await;
    assert_eq!((status, &answer["__type"]), (400, &"UnknownOperationException".into()));
    let got = reqwest::get(format!("{}/health", stack.url)).await.unwrap();
    assert_eq!(got.status().as_u16(), 400);
    assert_eq!(stack.started(), 0);
    assert_eq!(stack.client.list_tasks().send().await.unwrap().task_arns().len(), 0);
}

#[tokio::test]
async fn unknown_fields_and_nulls_in_a_request_are_ignored() {
    let mut stack = Stack::shell("exit 0").await;
    let body =
        "{\"taskDefinition\":\"arn:aws:ecs:eu-west-1:1:task-definition/game:12\",\"count\":null,\"news\":{\"a\":1},
        \"tags\":[{\"key\":\"a\"}],\"overrides\":{\"cpu\":\"1024\",\"containerOverrides\":null},
        \"capacityProviderStrategy\":[{\"capacityProvider\":\"FARGATE_SPOT\",\"weight\":1}]}";
    let (status, answer) = stack.raw("RunTask", body).await;
    assert_eq!(status, 200, "{answer}");
    let task = &answer["tasks"][0];
    assert_eq!(task["taskDefinitionArn"], "arn:aws:ecs:eu-west-1:1:task-definition/game:12");
    assert_eq!(task["capacityProviderName"], "FARGATE_SPOT");
    assert_eq!((&task["launchType"], &task["cpu"]), (&"FARGATE".into(), &"1024".into()));
    assert!(task["createdAt"].is_f64());
    stack.until(task["taskArn"].as_str().unwrap(), "STOPPED").await;
}
