//! Reconcile interrupted at each of its requests, and concurrent reconcile runs: the resulting fleet is the same.
//!
//! The interruption happens in the SDK's HTTP connector: it holds one request for ever, before the request is sent or
//! after its response has arrived, and the test drops the function's future. No code of that run executes afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use aws_sdk_ecs::types::DesiredStatus;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use ecs::LocalEcs;
use local::engine::Engine;
use shared::{
    LaunchOutcome, Owmm, Pool, Reconciled, TaskSettings,
    clock::{Clock, Rng},
    config::{Config, assemble, timeouts},
    domain::{
        Claim, Endpoint, Fill, Frontier, Launch, Ledger, Placement, PlayerId, PoolLimits, PoolStatus, Rollout,
        ServerId, ServerState, Span, Time, TokenHash,
    },
    table::{self, create_table, keys},
};
use tokio::{sync::Notify, task::JoinHandle};

use crate::support::{ecs_client, eventually, pool};

/// Time between two reconcile runs.
const A_MINUTE: Span = Span(60_000);
/// Maximum of reconcile runs until nothing is left to repair.
const MOST_RUNS: usize = 8;

/// Clock of the functions; it changes only when the test advances it.
#[derive(Clone, Debug)]
struct TestClock(Arc<AtomicI64>);

impl TimeSource for TestClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// What happens to a function at one of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interrupt {
    Never,
    /// The function ends before its n-th request is sent.
    Before(u64),
    /// The function ends before it sees the response to its n-th request.
    After(u64),
    /// The function waits after the first response to that operation, until the test resumes it.
    Stalls(&'static str),
    /// The n-th call of that operation is refused, or every call if n is 0; the function goes on.
    Refused(&'static str, u64),
    /// Every call of that operation gets this response body and is not sent; the function goes on.
    Answered(&'static str, &'static str),
}

/// HTTP connector to DynamoDB and ECS that counts and records requests and can interrupt the function.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    interrupt: Interrupt,
    sent: Arc<AtomicU64>,
    interrupted: Arc<Notify>,
    resumed: Arc<Notify>,
    stalled: Arc<AtomicBool>,
    refusable: Arc<AtomicU64>,
    pub(crate) bodies: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl Wire {
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            interrupt,
            sent: Arc::default(),
            interrupted: Arc::default(),
            resumed: Arc::default(),
            stalled: Arc::default(),
            refusable: Arc::default(),
            bodies: Arc::default(),
            http,
        }
    }

    async fn interrupt_here(&self) {
        self.interrupted.notify_one();
        pending::<()>().await;
    }
}

async fn forward(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let failed = |error: reqwest::Error| ConnectorError::io(error.into());
    let mut sent = http.request(request.method().parse().unwrap(), request.uri());
    for (name, value) in request.headers().iter() {
        sent = sent.header(name, value);
    }
    let answer = sent.body(request.body().bytes().unwrap_or_default().to_vec()).send().await.map_err(failed)?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.bytes().await.map_err(failed)?;
    let mut response = HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body.to_vec()));
    for (name, value) in &headers {
        response.headers_mut().insert(name.as_str().to_owned(), value.to_str().unwrap().to_owned());
    }
    Ok(response)
}

/// A response that the SDK does not retry.
fn refusal() -> HttpResponse {
    let body = r#"{"__type": "AccessDeniedException", "message": "refused by the test"}"#;
    HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::from(body))
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            let body = String::from_utf8(request.body().bytes().unwrap_or_default().to_vec()).unwrap();
            wire.bodies.lock().unwrap().push(body);
            if matches!(wire.interrupt, Interrupt::Before(n) if n == number) {
                wire.interrupt_here().await;
            }
            let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
            if let Interrupt::Refused(operation, n) = wire.interrupt
                && target.ends_with(operation)
                && [0, wire.refusable.fetch_add(1, Ordering::SeqCst) + 1].contains(&n)
            {
                return Ok(refusal());
            }
            if let Interrupt::Answered(operation, body) = wire.interrupt
                && target.ends_with(operation)
            {
                return Ok(HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body)));
            }
            let answer = forward(wire.http.clone(), request).await;
            match wire.interrupt {
                Interrupt::After(n) if n == number => wire.interrupt_here().await,
                Interrupt::Stalls(operation)
                    if target.ends_with(operation) && !wire.stalled.swap(true, Ordering::SeqCst) =>
                {
                    wire.interrupted.notify_one();
                    wire.resumed.notified().await;
                }
                _ => {}
            }
            answer
        })
    }
}

/// A table and a local ECS without a schedule, a gateway or event delivery.
pub(crate) struct Testbed {
    dynamodb_url: String,
    ecs: LocalEcs,
    ecs_url: String,
    ecs_server: JoinHandle<()>,
    table: String,
    clock: TestClock,
    _engine: Option<Engine>,
}

macro_rules! client {
    ($sdk:ident, $url:expr, $wire:expr) => {{
        let wire = $wire.clone();
        let config = $sdk::Config::builder()
            .behavior_version($sdk::config::BehaviorVersion::v2026_01_12())
            .region($sdk::config::Region::from_static("eu-central-1"))
            .credentials_provider($sdk::config::Credentials::new("local", "local", None, None, "test"))
            .timeout_config(timeouts())
            .endpoint_url($url)
            .http_client(http_client_fn(move |_, _| SharedHttpConnector::new(wire.clone())));
        $sdk::Client::from_conf(config.build())
    }};
}

impl Testbed {
    pub(crate) async fn new() -> Self {
        let options = crate::support::options();
        let engine = options.dynamodb.is_none().then(|| Engine::start(None).unwrap());
        let dynamodb_url = options.dynamodb.unwrap_or_else(|| engine.as_ref().unwrap().url());
        let ecs = LocalEcs::new(ecs::Options::new(crate::support::idle()));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ecs_url = format!("http://{}", listener.local_addr().unwrap());
        let router = ecs.router();
        let ecs_server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let clock = TestClock(Arc::new(AtomicI64::new(Clock::system().now().0)));
        let testbed = Self { dynamodb_url, ecs, ecs_url, ecs_server, table: options.table, clock, _engine: engine };
        create_table(&testbed.dynamodb(&Wire::new(Interrupt::Never)), &testbed.table).await.unwrap();
        testbed
    }

    fn dynamodb(&self, wire: &Wire) -> aws_sdk_dynamodb::Client {
        client!(aws_sdk_dynamodb, &self.dynamodb_url, wire)
    }

    /// The functions in a process of their own, with their own caches and random numbers.
    pub(crate) fn owmm(&self, wire: &Wire, seed: u64) -> Owmm {
        let config = Config { table: self.table.clone(), default_pool: pool("default") };
        let clock = Clock::of(SharedTimeSource::new(self.clock.clone()));
        let ecs = client!(aws_sdk_ecs, &self.ecs_url, wire);
        assemble(config, self.dynamodb(wire), ecs, clock, Rng::seeded(seed))
    }

    pub(crate) fn now(&self) -> Time {
        Time(self.clock.0.load(Ordering::SeqCst))
    }

    fn advance_a_minute(&self) {
        self.advance(A_MINUTE);
    }

    /// Advances the clock of the functions.
    pub(crate) fn advance(&self, span: Span) {
        self.clock.0.fetch_add(span.0, Ordering::SeqCst);
    }

    /// Reads a server's ledger from the table.
    pub(crate) async fn ledger(&self, server: &ServerId) -> Ledger {
        self.owmm(&Wire::new(Interrupt::Never), 0).table().ledger(server).await.unwrap().unwrap()
    }

    /// ARNs of the tasks whose desired status is RUNNING.
    async fn running(&self) -> Vec<String> {
        let list = ecs_client(&self.ecs_url).list_tasks().desired_status(DesiredStatus::Running);
        list.send().await.unwrap().task_arns().to_vec()
    }

    pub(crate) async fn put(&self, items: Vec<keys::Attributes>) {
        let dynamodb = self.dynamodb(&Wire::new(Interrupt::Never));
        for some in items.chunks(25) {
            let put = |item: &keys::Attributes| {
                let put = PutRequest::builder().set_item(Some(item.clone())).build().unwrap();
                WriteRequest::builder().put_request(put).build()
            };
            let writes = some.iter().map(put).collect::<Vec<_>>();
            let answer = dynamodb.batch_write_item().request_items(&self.table, writes).send().await.unwrap();
            assert!(answer.unprocessed_items().is_none_or(|left| left.is_empty()));
        }
    }

    /// Starts a task in OWMM's group for an attempt of a server; returns its ARN.
    pub(crate) async fn task(&self, server: &str, attempt: u32) -> String {
        let run = ecs_client(&self.ecs_url).run_task().task_definition("game:1").count(1);
        let run = run.started_by(format!("{server}/{attempt}")).group(format!("owmm:{}", self.table));
        run.send().await.unwrap().tasks()[0].task_arn().unwrap().to_owned()
    }

    /// Starts and stops a task in OWMM's group without an event; returns its ARN.
    async fn dead_task(&self, server: &str) -> String {
        let (arn, ecs) = (self.task(server, 1).await, ecs_client(&self.ecs_url));
        ecs.stop_task().task(&arn).send().await.unwrap();
        let status = || async {
            let described = ecs.describe_tasks().tasks(&arn).send().await.unwrap();
            described.tasks()[0].last_status().map(str::to_owned)
        };
        eventually("the task has stopped", status, |status| status.as_deref() == Some("STOPPED")).await;
        arn
    }

    pub(crate) async fn end(self) {
        self.ecs.shutdown().await;
        self.ecs_server.abort();
    }
}

pub(crate) fn id(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

pub(crate) fn a_pool(name: &str, headroom: u32) -> Pool {
    let task = TaskSettings {
        cluster: "default".into(),
        task_definition: "game:2".into(),
        container: "game".into(),
        subnets: Vec::new(),
        security_groups: Vec::new(),
        assign_public_ip: false,
        launch_type: None,
        url: "http://127.0.0.1:1".into(),
    };
    // Servers that are started here never register, so a launch must not fail during the test.
    let limits = PoolLimits { capacity: 4, headroom, launch: Span::seconds(86_400), ..PoolLimits::DEFAULT };
    Pool {
        name: pool(name),
        limits,
        task,
        version: 0,
        build: 1,
        rollout: Rollout::Drain,
        shards: limits.concurrent_launches,
        previous_clusters: Vec::new(),
    }
}

/// A ready server with a connected player that needs no repair.
pub(crate) fn ready(name: &str, now: Time) -> Ledger {
    let ago = |seconds: u32| now - Span::seconds(seconds);
    let claim = Claim::Connected(Placement::new(ago(900).0).unwrap());
    let limits = PoolLimits { capacity: 4, ..PoolLimits::DEFAULT };
    Ledger {
        build: 1,
        state: ServerState::Ready,
        claims: BTreeMap::from([(PlayerId::parse(&format!("player-of-{name}")).unwrap(), claim)]),
        lease_until: Some(now + Span::seconds(86_400)),
        seen: Some(ago(5)),
        ready_at: Some(ago(1_000)),
        endpoint: Some(Endpoint { address: "127.0.0.1".into(), port: 7777 }),
        listed: Some(Fill::EMPTY),
        ..Ledger::new(id(name), pool("default"), &limits, TokenHash::of(name))
    }
}

/// A starting server with a reservation.
pub(crate) fn starting(name: &str, now: Time, deadline: Time) -> Ledger {
    let up = ready(name, now);
    let waits = |claim: &Claim| Claim::Reserved(claim.placement());
    let launch = Launch {
        token: format!("token-of-{name}"),
        call_at: now - Span(1),
        deadline,
        time_to_start: Span::seconds(86_400),
        spec: serde_json::to_string(&a_pool("default", 0).task).unwrap(),
    };
    Ledger {
        state: ServerState::Starting,
        claims: up.claims.iter().map(|(player, claim)| (player.clone(), waits(claim))).collect(),
        lease_until: None,
        seen: None,
        ready_at: None,
        endpoint: None,
        launch: Some(launch),
        listed: None,
        ..up
    }
}

/// Writes a fleet with one instance of everything that reconcile repairs.
async fn write_fleet_that_needs_every_repair(testbed: &Testbed) {
    let now = testbed.now();
    let ago = |seconds: u32| now - Span::seconds(seconds);
    let later = now + Span::seconds(86_400);
    let empty = |name: &str| Ledger { claims: BTreeMap::new(), ..ready(name, now) };
    let lapsed = |ledger: Ledger| Ledger { lease_until: Some(ago(500)), seen: Some(ago(530)), ..ledger };
    let task = async |ledger: Ledger| {
        let task = testbed.task(ledger.id.as_str(), ledger.attempt).await;
        Ledger { task: Some(task), ..ledger }
    };
    let dead = async |ledger: Ledger| Ledger { task: Some(testbed.dead_task(ledger.id.as_str()).await), ..ledger };
    let stopped = |ledger: Ledger| Ledger {
        state: ServerState::Stopped,
        claims: BTreeMap::new(),
        listed: None,
        launch: None,
        ..ledger
    };
    let mut expired = Ledger { listed: None, ..ready("expired-claims", now) };
    for i in 0..3 {
        let claim = Claim::Reserved(Placement::new(ago(800).0).unwrap());
        expired.claims.insert(PlayerId::parse(&format!("late-{i}")).unwrap(), claim);
    }
    let ledgers = vec![
        ready("in-good-order", now),
        starting("launch-due", now, later),
        dead(starting("attempt-failed", now, later)).await,
        Ledger { attempt: 3, ..starting("launch-failed", now, ago(1)) },
        dead(ready("dead-task", now)).await,
        Ledger { attempt: 2, ..ready("older-task", now) },
        task(stopped(ready("not-counted-out", now))).await,
        task(lapsed(empty("silent"))).await,
        lapsed(ready("silent-with-players", now)),
        task(Ledger { idle_since: Some(ago(10_000)), ..empty("idle") }).await,
        Ledger { listed: None, ..ready("unlisted", now) },
        task(Ledger { state: ServerState::Draining, listed: None, ..empty("drained") }).await,
        Ledger { build: 0, ..ready("outdated", now) },
        expired,
    ];
    testbed.task("older-task", 1).await;
    testbed.task("nobodys", 1).await;
    let (default, hungry) = (a_pool("default", 0), a_pool("hungry", 5));
    let roster = ledgers.iter().map(|ledger| ledger.id.clone()).chain([id("gone")]).collect::<Vec<_>>();
    let live = u32::try_from(roster.len()).unwrap() + 3;
    let mut items = vec![
        table::pool::to_item(&default).unwrap(),
        table::pool::to_item(&hungry).unwrap(),
        table::pool_status::to_item(&default.name, &PoolStatus { live, ..PoolStatus::default() }),
        table::frontier::to_item(&default.name, 0, &Frontier::new(id("outdated"), 2)),
    ];
    items.extend(roster.iter().map(|server| keys::roster(&default.name, server)));
    items.extend(ledgers.iter().map(table::ledger::to_item));
    testbed.put(items).await;
}

/// Whether the functions chose the id: a ULID has 26 characters.
fn is_new(server: &str) -> bool {
    server.len() == 26
}

/// State of the fleet without times and tokens; servers that were started ahead are only counted.
async fn snapshot(testbed: &Testbed) -> BTreeMap<String, String> {
    let dynamodb = testbed.dynamodb(&Wire::new(Interrupt::Never));
    let mut snapshot = BTreeMap::new();
    let mut others = BTreeMap::<String, u32>::new();
    let mut items = dynamodb.scan().table_name(&testbed.table).consistent_read(true).into_paginator().items().send();
    while let Some(item) = items.next().await {
        let item = item.unwrap();
        let text = |name: &str| item[name].as_s().unwrap().clone();
        let (pk, sk) = (text(keys::PK), text(keys::SK));
        if sk == "LEDGER" {
            let Ledger { id, pool, state, claims, listed, attempt, task, launch, idle_since, .. } =
                table::ledger::from_item(&item).unwrap();
            let claims =
                claims.iter().map(|(player, claim)| (player.as_str(), claim.is_connected())).collect::<Vec<_>>();
            let (task, starts, idle) = (task.is_some(), launch.is_some(), idle_since.is_some());
            let text = format!("{pool} {state:?} {claims:?} {listed:?} attempt {attempt} {task} {starts} {idle}");
            if !is_new(id.as_str()) {
                snapshot.insert(pk, text);
            } else {
                *others.entry(text).or_default() += 1;
            }
        } else if sk == "STATUS" {
            snapshot.insert(format!("{pk} {sk}"), format!("{:?}", table::pool_status::from_item(&item).unwrap()));
        } else if sk.starts_with("FRONTIER") {
            snapshot.insert(format!("{pk} {sk}"), format!("{:?}", table::frontier::from_item(&item).unwrap()));
        } else if sk.starts_with(keys::ROSTER) {
            *others.entry(format!("on the roster {pk}")).or_default() += 1;
        }
    }
    let ecs = ecs_client(&testbed.ecs_url);
    let running = ecs.list_tasks().send().await.unwrap();
    if !running.task_arns().is_empty() {
        let tasks = ecs.describe_tasks().set_tasks(Some(running.task_arns().to_vec())).send().await.unwrap();
        for task in tasks.tasks().iter().filter(|task| task.desired_status() == Some("RUNNING")) {
            let by = task.started_by().unwrap();
            let by = if is_new(by.split('/').next().unwrap()) { "a server started ahead" } else { by };
            *others.entry(format!("task of {by}")).or_default() += 1;
        }
    }
    snapshot.extend(others.into_iter().map(|(what, often)| (what, often.to_string())));
    snapshot
}

async fn run_once(testbed: &Testbed, seed: u64) -> Reconciled {
    let report = testbed.owmm(&Wire::new(Interrupt::Never), seed).reconcile().await.unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    testbed.advance_a_minute();
    report
}

/// The fleet after uninterrupted runs, and the number of runs until nothing is left to repair.
async fn uninterrupted() -> (BTreeMap<String, String>, usize) {
    let testbed = Testbed::new().await;
    write_fleet_that_needs_every_repair(&testbed).await;
    let mut repaired = BTreeSet::new();
    for runs in 1..=MOST_RUNS {
        let report = run_once(&testbed, 1).await;
        repaired.extend(report.repaired.keys().copied());
        if report.repaired.is_empty() {
            let everything = [
                "counted_out",
                "drained",
                "expired_claims",
                "gone",
                "idle",
                "launch",
                "listing",
                "next_attempt",
                "orphan_task",
                "outdated",
                "recounted",
                "silent",
                "started_ahead",
                "task_missing",
                "task_stopped",
            ];
            assert_eq!(repaired, BTreeSet::from(everything), "the initial fleet must need every kind of repair");
            let snapshot = snapshot(&testbed).await;
            testbed.end().await;
            return (snapshot, runs);
        }
    }
    panic!("{MOST_RUNS} runs did not finish the repairs: {repaired:?}");
}

/// Interrupts one run, then does `runs` complete ones; returns the fleet, or `None` if the run was not interrupted.
async fn interrupted_run(interrupt: Interrupt, runs: usize) -> Option<BTreeMap<String, String>> {
    let testbed = Testbed::new().await;
    write_fleet_that_needs_every_repair(&testbed).await;
    let wire = Wire::new(interrupt);
    let interrupted = tokio::select! {
        biased;
        () = wire.interrupted.notified() => true,
        report = { let owmm = testbed.owmm(&wire, 1); async move { owmm.reconcile().await } } => {
            report.unwrap();
            false
        }
    };
    testbed.advance_a_minute();
    for _ in 0..runs {
        run_once(&testbed, 2).await;
    }
    let snapshot = snapshot(&testbed).await;
    testbed.end().await;
    interrupted.then_some(snapshot)
}

async fn interrupted_at_every_request(interrupt: fn(u64) -> Interrupt) {
    let (expected, runs) = uninterrupted().await;
    let mut requests = 0;
    while let Some(snapshot) = interrupted_run(interrupt(requests + 1), runs).await {
        requests += 1;
        assert_eq!(snapshot, expected, "interrupted at request {requests}");
    }
    println!("interrupted at each of {requests} requests; {runs} runs until nothing is left to repair");
    assert!(requests > 40, "only {requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_killed_before_any_of_its_requests_leaves_the_same_fleet() {
    interrupted_at_every_request(Interrupt::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_killed_after_any_of_its_requests_leaves_the_same_fleet() {
    interrupted_at_every_request(Interrupt::After).await;
}

/// Runs reconcile until nothing is left to repair, with `another` running concurrently; ten rounds.
async fn reconcile_beside(another: impl AsyncFn(Owmm)) {
    let (expected, runs) = uninterrupted().await;
    for round in 0..10 {
        let testbed = Testbed::new().await;
        write_fleet_that_needs_every_repair(&testbed).await;
        for _ in 0..runs {
            let wire = Wire::new(Interrupt::Never);
            let owmm = testbed.owmm(&wire, round);
            let (report, ()) = tokio::join!(owmm.reconcile(), another(testbed.owmm(&wire, round + 100)));
            report.unwrap();
            testbed.advance_a_minute();
        }
        assert_eq!(snapshot(&testbed).await, expected, "round {round}");
        testbed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reconcile_runs_at_once_leave_the_same_fleet_as_one() {
    reconcile_beside(async |owmm| drop(owmm.reconcile().await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn task_stopped_events_during_reconcile_do_not_change_the_resulting_fleet() {
    reconcile_beside(async |owmm| {
        // Events of both stopped tasks, an older attempt, a stopped server and an unknown server; each of them twice.
        for server in ["attempt-failed", "dead-task", "older-task", "not-counted-out", "nobodys"] {
            for _ in 0..2 {
                owmm.task_stopped(&id(server), 1).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_runs_that_all_end_early_reach_every_server() {
    let testbed = Testbed::new().await;
    let default = a_pool("default", 0);
    let names = (0..300).map(|i| format!("server-{i:03}")).collect::<BTreeSet<_>>();
    let mut items = vec![table::pool::to_item(&default).unwrap()];
    items.extend(names.iter().map(|name| keys::roster(&default.name, &id(name))));
    items.extend(names.iter().map(|name| table::ledger::to_item(&ready(name, testbed.now()))));
    testbed.put(items).await;
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        // Request 5 reads the first page of ledgers, after the pools, ECS's tasks, the pool's status and the roster.
        let wire = Wire::new(Interrupt::Before(5));
        let owmm = testbed.owmm(&wire, seed);
        tokio::select! {
            () = wire.interrupted.notified() => {}
            _ = owmm.reconcile() => panic!("a run over 300 servers must make more than four requests"),
        }
        let bodies = wire.bodies.lock().unwrap().clone();
        let page = bodies.iter().find(|body| body.contains("RequestItems")).unwrap();
        seen.extend(names.iter().filter(|name| page.contains(name.as_str())).cloned());
        if seen.len() == names.len() {
            break;
        }
    }
    assert_eq!(seen, names, "some servers are in the first page of no run");
    testbed.end().await;
}

/// Does one run that waits after the first response to `operation` until `meanwhile` has finished; returns its report.
async fn stalled_run(
    testbed: &Testbed,
    seed: u64,
    operation: &'static str,
    meanwhile: impl AsyncFnOnce(),
) -> Reconciled {
    let wire = Wire::new(Interrupt::Stalls(operation));
    let owmm = testbed.owmm(&wire, seed);
    let run = tokio::spawn(async move { owmm.reconcile().await });
    wire.interrupted.notified().await;
    meanwhile().await;
    wire.resumed.notify_one();
    run.await.unwrap().unwrap()
}

/// Writes a pool with these servers, its status and its roster.
pub(crate) async fn write_fleet(testbed: &Testbed, pool: &Pool, ledgers: &[Ledger]) {
    let live = u32::try_from(ledgers.len()).unwrap();
    let status = PoolStatus { live, changes: live, ..PoolStatus::default() };
    let mut items = vec![table::pool::to_item(pool).unwrap(), table::pool_status::to_item(&pool.name, &status)];
    items.extend(ledgers.iter().map(|ledger| keys::roster(&pool.name, &ledger.id)));
    items.extend(ledgers.iter().map(table::ledger::to_item));
    testbed.put(items).await;
}

/// Writes a ready server with a connected player, a lapsed lease and no recorded task, and starts its task.
async fn start_newcomer(testbed: &Testbed) -> String {
    let now = testbed.now();
    let lapsed = Ledger { lease_until: Some(now - Span(1)), ..ready("newcomer", now) };
    testbed.put(vec![table::ledger::to_item(&lapsed)]).await;
    testbed.task("newcomer", 1).await
}

/// The result of ListTasks is as old as its request, so a server that started afterwards is not missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_run_does_not_stop_a_server_whose_task_started_after_list_tasks() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let pool = a_pool("default", 0);
    write_fleet(&testbed, &pool, &[starting("newcomer", now, now + Span::seconds(86_400))]).await;
    let mut task = String::new();
    let report = stalled_run(&testbed, 1, "ListTasks", async || task = start_newcomer(&testbed).await).await;
    assert_eq!((report.servers, report.lapsed, report.repaired.get("task_missing")), (1, 1, None), "{report:?}");
    ecs_client(&testbed.ecs_url).stop_task().task(&task).send().await.unwrap();
    let report = testbed.owmm(&Wire::new(Interrupt::Never), 2).reconcile().await.unwrap();
    assert_eq!(report.repaired.get("task_missing"), Some(&1), "{report:?}");
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_run_does_not_stop_a_server_that_started_in_the_pools_new_cluster() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let pool = a_pool("default", 0);
    let mut before = pool.clone();
    before.task.cluster = "elsewhere".to_owned();
    write_fleet(&testbed, &before, &[starting("newcomer", now, now + Span::seconds(86_400))]).await;
    let meanwhile = async || {
        testbed
            .put(vec![
                table::pool::to_item(&Pool { previous_clusters: vec!["elsewhere".to_owned()], ..pool.clone() })
                    .unwrap(),
            ])
            .await;
        start_newcomer(&testbed).await;
    };
    let report = stalled_run(&testbed, 1, "Query", meanwhile).await;
    assert_eq!((report.servers, report.lapsed, report.repaired.get("task_missing")), (1, 1, None), "{report:?}");
    testbed.end().await;
}

/// Leases are judged by a time before the ledgers were read, so a server with a later heartbeat is not lapsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_run_judges_leases_by_the_time_before_its_read_and_starts_no_server() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let alive = Ledger { lease_until: Some(now + Span::seconds(5)), ..ready("alive", now) };
    write_fleet(&testbed, &a_pool("default", 3), &[alive]).await;
    let report = stalled_run(&testbed, 1, "BatchGetItem", async || testbed.advance_a_minute()).await;
    assert_eq!((report.free_slots, report.lapsed), (3, 0), "{report:?}");
    assert_eq!(report.repaired.get("started_ahead"), None, "{report:?}");
    testbed.end().await;
}

/// The number of live servers is unchanged, but the servers are different ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_run_starts_no_headroom_if_one_server_started_and_one_stopped_meanwhile() {
    let testbed = Testbed::new().await;
    let pool = a_pool("default", 4);
    write_fleet(&testbed, &pool, &[ready("full", testbed.now())]).await;
    let others = PoolStatus { live: 1, changes: 3, ..PoolStatus::default() };
    let meanwhile = async || testbed.put(vec![table::pool_status::to_item(&pool.name, &others)]).await;
    let report = stalled_run(&testbed, 1, "BatchGetItem", meanwhile).await;
    assert_eq!(report.repaired.get("started_ahead"), None, "{report:?}");
    let report = testbed.owmm(&Wire::new(Interrupt::Never), 2).reconcile().await.unwrap();
    assert_eq!(report.repaired.get("started_ahead"), Some(&1), "{report:?}");
    testbed.end().await;
}

/// Each seed begins with another server; both runs must drain the same idle one.
#[tokio::test(flavor = "multi_thread")]
async fn two_reconcile_runs_at_once_do_not_drain_the_headroom() {
    for seed in 1..=4 {
        let testbed = Testbed::new().await;
        let now = testbed.now();
        let idle = async |name: &str| {
            let task = Some(testbed.task(name, 1).await);
            let since = Some(now - Span::seconds(10_000));
            Ledger { claims: BTreeMap::new(), idle_since: since, task, ..ready(name, now) }
        };
        let servers = [idle("one").await, idle("another").await, idle("third").await];
        write_fleet(&testbed, &a_pool("default", 8), &servers).await;
        let other = testbed.owmm(&Wire::new(Interrupt::Never), 10 - seed);
        let mut reports = Vec::new();
        let late = stalled_run(&testbed, seed, "BatchGetItem", async || {
            reports.push(other.reconcile().await.unwrap());
        });
        let late = late.await;
        reports.push(late);
        let drained = reports.iter().filter_map(|report| report.repaired.get("idle")).sum::<u32>();
        assert_eq!(drained, 1, "{reports:?}");
        testbed.end().await;
    }
}

/// A count is compared with the roster only by a run in which nothing else has changed or failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_count_is_corrected_by_the_first_run_that_repairs_nothing_else() {
    let testbed = Testbed::new().await;
    let unlisted = Ledger { listed: None, ..ready("unlisted", testbed.now()) };
    write_fleet(&testbed, &a_pool("default", 0), &[unlisted]).await;
    let wrong = PoolStatus { live: 9, changes: 1, ..PoolStatus::default() };
    testbed.put(vec![table::pool_status::to_item(&pool("default"), &wrong)]).await;
    for (when, repaired) in [("first run", vec!["listing"]), ("second run", vec!["recounted"]), ("third run", vec![])] {
        let report = run_once(&testbed, 1).await;
        assert_eq!(report.repaired.keys().copied().collect::<Vec<_>>(), repaired, "{when}: {report:?}");
    }
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_for_one_server_does_not_correct_the_count() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    // The task is not recorded, so reconcile reads the pool again; that read, the second GetItem, is refused.
    let lapsed = Ledger { lease_until: Some(now - Span(1)), listed: None, ..ready("unrecorded", now) };
    write_fleet(&testbed, &a_pool("default", 0), &[lapsed]).await;
    let _task = testbed.task("unrecorded", 1).await;
    let wrong = PoolStatus { live: 9, changes: 1, ..PoolStatus::default() };
    testbed.put(vec![table::pool_status::to_item(&pool("default"), &wrong)]).await;
    let report = testbed.owmm(&Wire::new(Interrupt::Refused(".GetItem", 2)), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, &report.repaired), (1, &BTreeMap::new()), "{report:?}");
    let report = run_once(&testbed, 1).await;
    assert_eq!(report.repaired, BTreeMap::from([("recounted", 1)]), "{report:?}");
    testbed.end().await;
}

/// Two cases: ECS lists and describes the task, or ListTasks is refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_silent_server_is_stopped_whether_or_not_ecs_lists_it() {
    for (case, wire) in [
        ("ECS lists the task", Wire::new(Interrupt::Never)),
        ("ECS lists no tasks", Wire::new(Interrupt::Refused("ListTasks", 0))),
    ] {
        let testbed = Testbed::new().await;
        let (now, task) = (testbed.now(), testbed.task("silent", 1).await);
        let ago = |seconds: u32| Some(now - Span::seconds(seconds));
        let silent = Ledger { claims: BTreeMap::new(), task: Some(task.clone()), ..ready("silent", now) };
        let silent = Ledger { lease_until: ago(500), seen: ago(530), ..silent };
        write_fleet(&testbed, &a_pool("default", 0), &[silent]).await;
        assert_eq!(testbed.running().await, [task], "{case}");
        let report = testbed.owmm(&wire, 1).reconcile().await.unwrap();
        assert_eq!(report.repaired, BTreeMap::from([("silent", 1)]), "{case}: {report:?}");
        assert_eq!(testbed.running().await, [""; 0], "{case}");
        testbed.end().await;
    }
}

/// The process that configured the new build ended before it updated the frontiers.
#[tokio::test(flavor = "multi_thread")]
async fn reconcile_uses_up_a_frontier_that_hands_out_slots_of_an_old_build() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let later = now + Span::seconds(86_400);
    let default = a_pool("default", 0);
    let sharded = Pool { shards: 2, ..default.clone() };
    let old = Ledger { build: 0, ..starting("old", now, later) };
    write_fleet(&testbed, &sharded, &[old, starting("new", now, later)]).await;
    let put = |k, server| table::frontier::to_item(&default.name, k, &Frontier::new(id(server), 2));
    testbed.put(vec![put(0, "old"), put(1, "new")]).await;
    run_once(&testbed, 1).await;
    let table = testbed.owmm(&Wire::new(Interrupt::Never), 1).table().clone();
    for (case, k, server, remaining) in [("of the old build", 0, "old", 0), ("of the new build", 1, "new", 2)] {
        let frontier = table.frontier(&default.name, k).await.unwrap();
        assert_eq!(frontier, Some(Frontier::new(id(server), remaining)), "{case}");
    }
    testbed.end().await;
}

/// Free slots of a lapsed server do not count as headroom.
#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_server_is_not_drained_in_place_of_an_idle_server_with_a_lease() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let idle = async |name: &str, lease_until: Time| {
        let (task, since) = (testbed.task(name, 1).await, Some(now - Span::seconds(10_000)));
        let lease_until = Some(lease_until);
        Ledger { claims: BTreeMap::new(), idle_since: since, task: Some(task), lease_until, ..ready(name, now) }
    };
    let servers = [idle("a-lapsed", now - Span(1)).await, idle("b-alive", now + Span::seconds(86_400)).await];
    write_fleet(&testbed, &a_pool("default", 0), &servers).await;
    run_once(&testbed, 1).await;
    for (server, state) in [("a-lapsed", ServerState::Ready), ("b-alive", ServerState::Draining)] {
        assert_eq!(testbed.ledger(&id(server)).await.state, state, "{server}");
    }
    testbed.end().await;
}

/// The servers of such a pool are unknown, so each listed task may belong to one of them.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_of_a_pool_whose_ledgers_cannot_be_read_is_stopped_as_an_orphan() {
    let testbed = Testbed::new().await;
    let task = testbed.task("up", 1).await;
    let up = Ledger { task: Some(task.clone()), ..ready("up", testbed.now()) };
    write_fleet(&testbed, &a_pool("default", 0), &[up]).await;
    let report = testbed.owmm(&Wire::new(Interrupt::Refused("BatchGetItem", 0)), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, &report.repaired), (1, &BTreeMap::new()), "{report:?}");
    assert_eq!(testbed.running().await, [task]);
    testbed.end().await;
}

/// BatchGetItem reads eventually consistently, so it may miss a ledger that was just written.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_missing_from_the_batch_read_is_read_individually() {
    let testbed = Testbed::new().await;
    write_fleet(&testbed, &a_pool("default", 3), &[ready("newcomer", testbed.now())]).await;
    let misses = Interrupt::Answered("BatchGetItem", r#"{"Responses": {}, "UnprocessedKeys": {}}"#);
    let report = testbed.owmm(&Wire::new(misses), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, report.players, report.free_slots), (0, 1, 3), "{report:?}");
    assert_eq!(report.repaired, BTreeMap::new(), "no server must be started ahead: {report:?}");
    testbed.end().await;
}

/// The first run that repeats a call moves the time when it is due, so that other runs do not repeat it too.
#[tokio::test(flavor = "multi_thread")]
async fn run_task_without_a_response_is_repeated_after_five_seconds_and_not_by_every_run() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    write_fleet(&testbed, &a_pool("default", 0), &[starting("due", now, now + Span::seconds(86_400))]).await;
    // All three attempts of the SDK lose their response.
    testbed.ecs.inject(ecs::Fault::AnswerLost, 3);
    for (case, turn, calls) in [
        ("the call is due", 0, 3),
        ("at the same moment", 0, 3),
        ("a millisecond too early", 4_999, 3),
        ("after five seconds", 1, 4),
        ("the task is recorded", 5_000, 4),
    ] {
        testbed.advance(Span(turn));
        testbed.owmm(&Wire::new(Interrupt::Never), 1).reconcile().await.unwrap();
        assert_eq!(testbed.ecs.counts().run_task_calls, calls, "{case}");
    }
    assert_eq!(testbed.ecs.counts().processes_started, 1);
    testbed.end().await;
}

/// A pool that was moved to a cluster that does not exist, with the previous clusters `left`.
fn moved(left: &[&str]) -> Pool {
    let mut pool = Pool { previous_clusters: left.iter().map(|it| (*it).to_owned()).collect(), ..a_pool("default", 0) };
    pool.task.cluster = "elsewhere".to_owned();
    pool
}

/// The ARN of a task names its cluster, so reconcile needs no previous clusters of the pool to find the task.
#[tokio::test(flavor = "multi_thread")]
async fn servers_in_a_previous_cluster_of_their_pool_are_described_and_stopped_there() {
    for (case, left) in [("listed as a previous cluster", &["default"][..]), ("not listed", &[])] {
        let testbed = Testbed::new().await;
        let now = testbed.now();
        let crashed = Ledger { task: Some(testbed.dead_task("crashed").await), ..ready("crashed", now) };
        let task = testbed.task("drained", 1).await;
        let empty = Ledger { claims: BTreeMap::new(), task: Some(task.clone()), ..ready("drained", now) };
        let drained = Ledger { state: ServerState::Draining, listed: None, ..empty };
        write_fleet(&testbed, &moved(left), &[crashed, drained]).await;
        assert_eq!(testbed.running().await, [task], "{case}");
        let report = run_once(&testbed, 1).await;
        assert_eq!(report.repaired, BTreeMap::from([("task_stopped", 1), ("drained", 1)]), "{case}: {report:?}");
        assert_eq!(testbed.running().await, [""; 0], "{case}");
        testbed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_cluster_counts_as_running_no_task_of_an_unrecorded_server() {
    let testbed = Testbed::new().await;
    let lapsed = Ledger { lease_until: Some(testbed.now() - Span(1)), ..ready("unrecorded", testbed.now()) };
    write_fleet(&testbed, &moved(&["default"]), &[lapsed]).await;
    let report = run_once(&testbed, 1).await;
    assert_eq!(report.repaired, BTreeMap::from([("task_missing", 1)]), "{report:?}");
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_another_table_is_not_stopped_as_an_orphan() {
    let testbed = Testbed::new().await;
    write_fleet(&testbed, &a_pool("default", 0), &[]).await;
    let run = ecs_client(&testbed.ecs_url).run_task().task_definition("game:1").count(1);
    let run = run.started_by("server-of-another/1").group("owmm:another-table").send().await.unwrap();
    let task = run.tasks()[0].task_arn().unwrap().to_owned();
    assert_eq!(run_once(&testbed, 1).await.repaired, BTreeMap::new());
    assert_eq!(testbed.running().await, [task]);
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_task_in_a_previous_cluster_of_its_pool_is_stopped() {
    let testbed = Testbed::new().await;
    write_fleet(&testbed, &moved(&["default"]), &[]).await;
    let task = testbed.task("nobodys", 1).await;
    assert_eq!(testbed.running().await, [task]);
    assert_eq!(run_once(&testbed, 1).await.repaired, BTreeMap::from([("orphan_task", 1)]));
    assert_eq!(testbed.running().await, [""; 0]);
    testbed.end().await;
}

/// The outcome names the servers that were started before the pause.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_launch_that_a_pause_interrupts_returns_the_servers_it_has_started() {
    let testbed = Testbed::new().await;
    let pool = a_pool("default", 0);
    write_fleet(&testbed, &pool, &[]).await;
    let wire = Wire::new(Interrupt::Stalls("RunTask"));
    let (owmm, operator) = (testbed.owmm(&wire, 1), testbed.owmm(&Wire::new(Interrupt::Never), 2));
    let launch = tokio::spawn(async move { owmm.launch(&a_pool("default", 0).name, 3).await });
    wire.interrupted.notified().await;
    operator.pause(&pool.name, None).await.unwrap();
    wire.resumed.notify_one();
    let outcome = launch.await.unwrap().unwrap();
    let LaunchOutcome::Started { started, live } = &outcome else { panic!("{outcome:?}") };
    assert_eq!((started.len(), *live), (1, 1), "{outcome:?}");
    testbed.end().await;
}
