//! `reconcile` killed after each of its requests, and run beside others: it always comes to the same fleet.
//!
//! The function dies in the wire: the SDK's HTTP connector holds one request for ever, before it has gone out or after its
//! answer has come, and the function's future is dropped there. Nothing of it runs on.

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

/// Between two looks.
const A_MINUTE: Span = Span(60_000);
/// Looks until there must be nothing left to do.
const LOOKS_AT_MOST: usize = 8;

/// The clock of the functions, which stands still until it is turned.
#[derive(Clone, Debug)]
struct Turned(Arc<AtomicI64>);

impl TimeSource for Turned {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// When a function dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    Never,
    /// With its n-th request not sent.
    Before(u64),
    /// With the answer to its n-th request not seen.
    After(u64),
    /// Not at all: it stands still after the first answer to that operation, until it is woken.
    Sleeps(&'static str),
    /// Not at all: the n-th call of that operation is refused, or each of them with 0.
    Refused(&'static str, u64),
    /// Not at all: each call of that operation is answered with this, and is not sent.
    Answered(&'static str, &'static str),
}

/// A wire to the table and to ECS, on which a function may die.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    death: Death,
    sent: Arc<AtomicU64>,
    died: Arc<Notify>,
    woken: Arc<Notify>,
    slept: Arc<AtomicBool>,
    refusable: Arc<AtomicU64>,
    pub(crate) bodies: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl Wire {
    pub(crate) fn new(death: Death) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            death,
            sent: Arc::default(),
            died: Arc::default(),
            woken: Arc::default(),
            slept: Arc::default(),
            refusable: Arc::default(),
            bodies: Arc::default(),
            http,
        }
    }

    async fn die(&self) {
        self.died.notify_one();
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

/// An answer after which the SDK does not try again.
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
            if matches!(wire.death, Death::Before(n) if n == number) {
                wire.die().await;
            }
            let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
            if let Death::Refused(operation, n) = wire.death
                && target.ends_with(operation)
                && [0, wire.refusable.fetch_add(1, Ordering::SeqCst) + 1].contains(&n)
            {
                return Ok(refusal());
            }
            if let Death::Answered(operation, body) = wire.death
                && target.ends_with(operation)
            {
                return Ok(HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body)));
            }
            let answer = forward(wire.http.clone(), request).await;
            match wire.death {
                Death::After(n) if n == number => wire.die().await,
                Death::Sleeps(operation) if target.ends_with(operation) && !wire.slept.swap(true, Ordering::SeqCst) => {
                    wire.died.notify_one();
                    wire.woken.notified().await;
                }
                _ => {}
            }
            answer
        })
    }
}

/// A table and an ECS, without anybody who looks after them.
pub(crate) struct Ground {
    dynamodb_url: String,
    ecs: LocalEcs,
    ecs_url: String,
    ecs_server: JoinHandle<()>,
    table: String,
    clock: Turned,
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

impl Ground {
    pub(crate) async fn new() -> Self {
        let options = crate::support::options();
        let engine = options.dynamodb.is_none().then(|| Engine::start(None).unwrap());
        let dynamodb_url = options.dynamodb.unwrap_or_else(|| engine.as_ref().unwrap().url());
        let ecs = LocalEcs::new(ecs::Options::new(crate::support::idle()));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ecs_url = format!("http://{}", listener.local_addr().unwrap());
        let router = ecs.router();
        let ecs_server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let clock = Turned(Arc::new(AtomicI64::new(Clock::system().now().0)));
        let ground = Self { dynamodb_url, ecs, ecs_url, ecs_server, table: options.table, clock, _engine: engine };
        create_table(&ground.dynamodb(&Wire::new(Death::Never)), &ground.table).await.unwrap();
        ground
    }

    fn dynamodb(&self, wire: &Wire) -> aws_sdk_dynamodb::Client {
        client!(aws_sdk_dynamodb, &self.dynamodb_url, wire)
    }

    /// The functions in a process of their own.
    pub(crate) fn owmm(&self, wire: &Wire, seed: u64) -> Owmm {
        let config = Config { table: self.table.clone(), default_pool: pool("default") };
        let clock = Clock::of(SharedTimeSource::new(self.clock.clone()));
        let ecs = client!(aws_sdk_ecs, &self.ecs_url, wire);
        assemble(config, self.dynamodb(wire), ecs, clock, Rng::seeded(seed))
    }

    pub(crate) fn now(&self) -> Time {
        Time(self.clock.0.load(Ordering::SeqCst))
    }

    fn a_minute_later(&self) {
        self.later(A_MINUTE);
    }

    /// Turns the clock of the functions.
    pub(crate) fn later(&self, span: Span) {
        self.clock.0.fetch_add(span.0, Ordering::SeqCst);
    }

    /// The ledger of a server as it is in the table.
    pub(crate) async fn ledger(&self, server: &ServerId) -> Ledger {
        self.owmm(&Wire::new(Death::Never), 0).table().ledger(server).await.unwrap().unwrap()
    }

    /// The tasks that run and were not told to stop.
    async fn running(&self) -> Vec<String> {
        let list = ecs_client(&self.ecs_url).list_tasks().desired_status(DesiredStatus::Running);
        list.send().await.unwrap().task_arns().to_vec()
    }

    pub(crate) async fn put(&self, items: Vec<keys::Attributes>) {
        let dynamodb = self.dynamodb(&Wire::new(Death::Never));
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

    /// A task of ours that runs.
    pub(crate) async fn task(&self, server: &str, attempt: u32) -> String {
        let run = ecs_client(&self.ecs_url).run_task().task_definition("game:1").count(1);
        let run = run.started_by(format!("{server}/{attempt}")).group(format!("owmm:{}", self.table));
        run.send().await.unwrap().tasks()[0].task_arn().unwrap().to_owned()
    }

    /// A task of ours that has stopped, and nobody was told.
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
    // A server that starts here never registers, and nobody is to wait for that.
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

/// A server that is up, with a player inside, and needs nothing.
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

/// A server that is starting, with a player who waits.
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

/// One of everything that a look puts right.
async fn one_of_everything(ground: &Ground) {
    let now = ground.now();
    let ago = |seconds: u32| now - Span::seconds(seconds);
    let later = now + Span::seconds(86_400);
    let empty = |name: &str| Ledger { claims: BTreeMap::new(), ..ready(name, now) };
    let lapsed = |ledger: Ledger| Ledger { lease_until: Some(ago(500)), seen: Some(ago(530)), ..ledger };
    let task = async |ledger: Ledger| {
        let task = ground.task(ledger.id.as_str(), ledger.attempt).await;
        Ledger { task: Some(task), ..ledger }
    };
    let dead = async |ledger: Ledger| Ledger { task: Some(ground.dead_task(ledger.id.as_str()).await), ..ledger };
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
    ground.task("older-task", 1).await;
    ground.task("nobodys", 1).await;
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
    ground.put(items).await;
}

/// Whether the functions have thought of the name.
fn is_new(server: &str) -> bool {
    server.len() == 26
}

/// What matters of a fleet: neither times nor tokens, and of servers that were started ahead only how many there are.
async fn picture(ground: &Ground) -> BTreeMap<String, String> {
    let dynamodb = ground.dynamodb(&Wire::new(Death::Never));
    let mut picture = BTreeMap::new();
    let mut others = BTreeMap::<String, u32>::new();
    let mut items = dynamodb.scan().table_name(&ground.table).consistent_read(true).into_paginator().items().send();
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
                picture.insert(pk, text);
            } else {
                *others.entry(text).or_default() += 1;
            }
        } else if sk == "STATUS" {
            picture.insert(format!("{pk} {sk}"), format!("{:?}", table::pool_status::from_item(&item).unwrap()));
        } else if sk.starts_with("FRONTIER") {
            picture.insert(format!("{pk} {sk}"), format!("{:?}", table::frontier::from_item(&item).unwrap()));
        } else if sk.starts_with(keys::ROSTER) {
            *others.entry(format!("on the roster {pk}")).or_default() += 1;
        }
    }
    let ecs = ecs_client(&ground.ecs_url);
    let running = ecs.list_tasks().send().await.unwrap();
    if !running.task_arns().is_empty() {
        let tasks = ecs.describe_tasks().set_tasks(Some(running.task_arns().to_vec())).send().await.unwrap();
        for task in tasks.tasks().iter().filter(|task| task.desired_status() == Some("RUNNING")) {
            let by = task.started_by().unwrap();
            let by = if is_new(by.split('/').next().unwrap()) { "somebody started ahead" } else { by };
            *others.entry(format!("task of {by}")).or_default() += 1;
        }
    }
    picture.extend(others.into_iter().map(|(what, often)| (what, often.to_string())));
    picture
}

async fn look(ground: &Ground, seed: u64) -> Reconciled {
    let report = ground.owmm(&Wire::new(Death::Never), seed).reconcile().await.unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    ground.a_minute_later();
    report
}

/// The fleet as looks without any disturbance leave it, and how many it takes.
async fn undisturbed() -> (BTreeMap<String, String>, usize) {
    let ground = Ground::new().await;
    one_of_everything(&ground).await;
    let mut repaired = BTreeSet::new();
    for looks in 1..=LOOKS_AT_MOST {
        let report = look(&ground, 1).await;
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
            assert_eq!(repaired, BTreeSet::from(everything), "the fleet has one of everything");
            let picture = picture(&ground).await;
            ground.end().await;
            return (picture, looks);
        }
    }
    panic!("never done: {repaired:?}");
}

/// Lets one look die, and then others live.
async fn killed(death: Death, looks: usize) -> Option<BTreeMap<String, String>> {
    let ground = Ground::new().await;
    one_of_everything(&ground).await;
    let wire = Wire::new(death);
    let died = tokio::select! {
        biased;
        () = wire.died.notified() => true,
        report = { let owmm = ground.owmm(&wire, 1); async move { owmm.reconcile().await } } => {
            report.unwrap();
            false
        }
    };
    ground.a_minute_later();
    for _ in 0..looks {
        look(&ground, 2).await;
    }
    let picture = picture(&ground).await;
    ground.end().await;
    died.then_some(picture)
}

async fn killed_everywhere(death: fn(u64) -> Death) {
    let (expected, looks) = undisturbed().await;
    let mut requests = 0;
    while let Some(picture) = killed(death(requests + 1), looks).await {
        requests += 1;
        assert_eq!(picture, expected, "killed at request {requests}");
    }
    println!("killed at each of {requests} requests; {looks} looks until nothing is left to do");
    assert!(requests > 40, "only {requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_killed_before_any_of_its_requests_comes_to_the_same_fleet() {
    killed_everywhere(Death::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_killed_after_any_of_its_requests_comes_to_the_same_fleet() {
    killed_everywhere(Death::After).await;
}

/// Looks as often as it takes, with another process at work beside each look; ten times over.
async fn beside(another: impl AsyncFn(Owmm)) {
    let (expected, looks) = undisturbed().await;
    for round in 0..10 {
        let ground = Ground::new().await;
        one_of_everything(&ground).await;
        for _ in 0..looks {
            let wire = Wire::new(Death::Never);
            let owmm = ground.owmm(&wire, round);
            let (report, ()) = tokio::join!(owmm.reconcile(), another(ground.owmm(&wire, round + 100)));
            report.unwrap();
            ground.a_minute_later();
        }
        assert_eq!(picture(&ground).await, expected, "round {round}");
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_looks_at_once_come_to_the_same_fleet_as_one() {
    beside(async |owmm| drop(owmm.reconcile().await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_stopped_tasks_beside_a_look_changes_nothing_about_where_it_ends() {
    beside(async |owmm| {
        // Of both dead tasks, of an older attempt, of a server that is over, and of nobody's; all of it twice.
        for server in ["attempt-failed", "dead-task", "older-task", "not-counted-out", "nobodys"] {
            for _ in 0..2 {
                owmm.task_stopped(&id(server), 1).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_that_all_die_early_leave_nobody_always_last() {
    let ground = Ground::new().await;
    let default = a_pool("default", 0);
    let names = (0..300).map(|i| format!("server-{i:03}")).collect::<BTreeSet<_>>();
    let mut items = vec![table::pool::to_item(&default).unwrap()];
    items.extend(names.iter().map(|name| keys::roster(&default.name, &id(name))));
    items.extend(names.iter().map(|name| table::ledger::to_item(&ready(name, ground.now()))));
    ground.put(items).await;
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        // The pools, ECS's tasks, the fleet, the roster, and the first page.
        let wire = Wire::new(Death::Before(5));
        let owmm = ground.owmm(&wire, seed);
        tokio::select! {
            () = wire.died.notified() => {}
            _ = owmm.reconcile() => panic!("a look at so many servers is more than four requests"),
        }
        let bodies = wire.bodies.lock().unwrap().clone();
        let page = bodies.iter().find(|body| body.contains("RequestItems")).unwrap();
        seen.extend(names.iter().filter(|name| page.contains(name.as_str())).cloned());
        if seen.len() == names.len() {
            break;
        }
    }
    assert_eq!(seen, names, "some servers are in no look's first page");
    ground.end().await;
}

/// A look that stands still after the first answer to `operation`, while something else happens.
async fn look_that_sleeps(
    ground: &Ground,
    seed: u64,
    operation: &'static str,
    meanwhile: impl AsyncFnOnce(),
) -> Reconciled {
    let wire = Wire::new(Death::Sleeps(operation));
    let owmm = ground.owmm(&wire, seed);
    let look = tokio::spawn(async move { owmm.reconcile().await });
    wire.died.notified().await;
    meanwhile().await;
    wire.woken.notify_one();
    look.await.unwrap().unwrap()
}

/// A pool with these servers.
pub(crate) async fn a_fleet(ground: &Ground, pool: &Pool, ledgers: &[Ledger]) {
    let live = u32::try_from(ledgers.len()).unwrap();
    let status = PoolStatus { live, changes: live, ..PoolStatus::default() };
    let mut items = vec![table::pool::to_item(pool).unwrap(), table::pool_status::to_item(&pool.name, &status)];
    items.extend(ledgers.iter().map(|ledger| keys::roster(&pool.name, &ledger.id)));
    items.extend(ledgers.iter().map(table::ledger::to_item));
    ground.put(items).await;
}

/// It is up, a player is inside, and it has missed a heartbeat. Whoever started it died before its task was on record.
async fn has_started_meanwhile(ground: &Ground) -> String {
    let now = ground.now();
    let lapsed = Ledger { lease_until: Some(now - Span(1)), ..ready("newcomer", now) };
    ground.put(vec![table::ledger::to_item(&lapsed)]).await;
    ground.task("newcomer", 1).await
}

/// What ECS says of tasks is as old as the question: a server that has started since is not missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_has_stood_still_since_it_asked_ecs_ends_no_server_that_has_started_since() {
    let ground = Ground::new().await;
    let now = ground.now();
    let pool = a_pool("default", 0);
    a_fleet(&ground, &pool, &[starting("newcomer", now, now + Span::seconds(86_400))]).await;
    let mut task = String::new();
    let report = look_that_sleeps(&ground, 1, "ListTasks", async || task = has_started_meanwhile(&ground).await).await;
    assert_eq!((report.servers, report.lapsed, report.repaired.get("task_missing")), (1, 1, None), "{report:?}");
    ecs_client(&ground.ecs_url).stop_task().task(&task).send().await.unwrap();
    let report = ground.owmm(&Wire::new(Death::Never), 2).reconcile().await.unwrap();
    assert_eq!(report.repaired.get("task_missing"), Some(&1), "{report:?}");
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_has_stood_still_since_it_read_the_pool_ends_no_server_that_has_started_where_the_pool_is_now() {
    let ground = Ground::new().await;
    let now = ground.now();
    let pool = a_pool("default", 0);
    let mut before = pool.clone();
    before.task.cluster = "elsewhere".to_owned();
    a_fleet(&ground, &before, &[starting("newcomer", now, now + Span::seconds(86_400))]).await;
    let meanwhile = async || {
        ground
            .put(vec![
                table::pool::to_item(&Pool { previous_clusters: vec!["elsewhere".to_owned()], ..pool.clone() })
                    .unwrap(),
            ])
            .await;
        has_started_meanwhile(&ground).await;
    };
    let report = look_that_sleeps(&ground, 1, "Query", meanwhile).await;
    assert_eq!((report.servers, report.lapsed, report.repaired.get("task_missing")), (1, 1, None), "{report:?}");
    ground.end().await;
}

/// Leases are judged by a time before the ledgers were read: who has beaten since is alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_has_stood_still_since_it_read_the_ledgers_takes_no_lease_for_over_and_starts_nothing() {
    let ground = Ground::new().await;
    let now = ground.now();
    let beats = Ledger { lease_until: Some(now + Span::seconds(5)), ..ready("beats", now) };
    a_fleet(&ground, &a_pool("default", 3), &[beats]).await;
    let report = look_that_sleeps(&ground, 1, "BatchGetItem", async || ground.a_minute_later()).await;
    assert_eq!((report.free_slots, report.lapsed), (3, 0), "{report:?}");
    assert_eq!(report.repaired.get("started_ahead"), None, "{report:?}");
    ground.end().await;
}

/// As many live as before, and they are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_has_stood_still_while_one_server_came_and_one_went_starts_nothing_ahead() {
    let ground = Ground::new().await;
    let pool = a_pool("default", 4);
    a_fleet(&ground, &pool, &[ready("full", ground.now())]).await;
    let others = PoolStatus { live: 1, changes: 3, ..PoolStatus::default() };
    let meanwhile = async || ground.put(vec![table::pool_status::to_item(&pool.name, &others)]).await;
    let report = look_that_sleeps(&ground, 1, "BatchGetItem", meanwhile).await;
    assert_eq!(report.repaired.get("started_ahead"), None, "{report:?}");
    let report = ground.owmm(&Wire::new(Death::Never), 2).reconcile().await.unwrap();
    assert_eq!(report.repaired.get("started_ahead"), Some(&1), "{report:?}");
    ground.end().await;
}

/// Whichever server a look begins with, two of them do without the same one.
#[tokio::test(flavor = "multi_thread")]
async fn two_looks_at_the_same_moment_leave_the_headroom() {
    for seed in 1..=4 {
        let ground = Ground::new().await;
        let now = ground.now();
        let idle = async |name: &str| {
            let task = Some(ground.task(name, 1).await);
            let since = Some(now - Span::seconds(10_000));
            Ledger { claims: BTreeMap::new(), idle_since: since, task, ..ready(name, now) }
        };
        let servers = [idle("one").await, idle("another").await, idle("third").await];
        a_fleet(&ground, &a_pool("default", 8), &servers).await;
        let other = ground.owmm(&Wire::new(Death::Never), 10 - seed);
        let mut reports = Vec::new();
        let late = look_that_sleeps(&ground, seed, "BatchGetItem", async || {
            reports.push(other.reconcile().await.unwrap());
        });
        let late = late.await;
        reports.push(late);
        let drained = reports.iter().filter_map(|report| report.repaired.get("idle")).sum::<u32>();
        assert_eq!(drained, 1, "{reports:?}");
        ground.end().await;
    }
}

/// A count is compared with the roster only by a run in which nothing else has changed or failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_count_is_put_right_by_the_first_look_that_repairs_nothing_else() {
    let ground = Ground::new().await;
    let unlisted = Ledger { listed: None, ..ready("unlisted", ground.now()) };
    a_fleet(&ground, &a_pool("default", 0), &[unlisted]).await;
    let wrong = PoolStatus { live: 9, changes: 1, ..PoolStatus::default() };
    ground.put(vec![table::pool_status::to_item(&pool("default"), &wrong)]).await;
    for (when, repaired) in
        [("first look", vec!["listing"]), ("second look", vec!["recounted"]), ("third look", vec![])]
    {
        let report = look(&ground, 1).await;
        assert_eq!(report.repaired.keys().copied().collect::<Vec<_>>(), repaired, "{when}: {report:?}");
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_failed_for_one_server_does_not_count_the_fleet_again() {
    let ground = Ground::new().await;
    let now = ground.now();
    // Its task is not on record, so its pool is read again, and that read is refused: the second of a single item.
    let lapsed = Ledger { lease_until: Some(now - Span(1)), listed: None, ..ready("unrecorded", now) };
    a_fleet(&ground, &a_pool("default", 0), &[lapsed]).await;
    let _task = ground.task("unrecorded", 1).await;
    let wrong = PoolStatus { live: 9, changes: 1, ..PoolStatus::default() };
    ground.put(vec![table::pool_status::to_item(&pool("default"), &wrong)]).await;
    let report = ground.owmm(&Wire::new(Death::Refused(".GetItem", 2)), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, &report.repaired), (1, &BTreeMap::new()), "{report:?}");
    let report = look(&ground, 1).await;
    assert_eq!(report.repaired, BTreeMap::from([("recounted", 1)]), "{report:?}");
    ground.end().await;
}

/// Whether ECS lists a server's task and describes it, or says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_silent_server_is_stopped_whether_or_not_ecs_says_that_it_runs() {
    for (case, wire) in [
        ("ECS lists the task", Wire::new(Death::Never)),
        ("ECS lists no tasks", Wire::new(Death::Refused("ListTasks", 0))),
    ] {
        let ground = Ground::new().await;
        let (now, task) = (ground.now(), ground.task("silent", 1).await);
        let ago = |seconds: u32| Some(now - Span::seconds(seconds));
        let silent = Ledger { claims: BTreeMap::new(), task: Some(task.clone()), ..ready("silent", now) };
        let silent = Ledger { lease_until: ago(500), seen: ago(530), ..silent };
        a_fleet(&ground, &a_pool("default", 0), &[silent]).await;
        assert_eq!(ground.running().await, [task], "{case}");
        let report = ground.owmm(&wire, 1).reconcile().await.unwrap();
        assert_eq!(report.repaired, BTreeMap::from([("silent", 1)]), "{case}: {report:?}");
        assert_eq!(ground.running().await, [""; 0], "{case}");
        ground.end().await;
    }
}

/// Whoever configured the new build died before the frontiers knew of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_frontier_that_still_hands_out_slots_of_an_old_build_is_used_up_after_a_look() {
    let ground = Ground::new().await;
    let now = ground.now();
    let later = now + Span::seconds(86_400);
    let default = a_pool("default", 0);
    let sharded = Pool { shards: 2, ..default.clone() };
    let old = Ledger { build: 0, ..starting("old", now, later) };
    a_fleet(&ground, &sharded, &[old, starting("new", now, later)]).await;
    let put = |k, server| table::frontier::to_item(&default.name, k, &Frontier::new(id(server), 2));
    ground.put(vec![put(0, "old"), put(1, "new")]).await;
    look(&ground, 1).await;
    let table = ground.owmm(&Wire::new(Death::Never), 1).table().clone();
    for (case, k, server, remaining) in [("of the old build", 0, "old", 0), ("of the new build", 1, "new", 2)] {
        let frontier = table.frontier(&default.name, k).await.unwrap();
        assert_eq!(frontier, Some(Frontier::new(id(server), remaining)), "{case}");
    }
    ground.end().await;
}

/// What it would have offered is nobody's room, so the headroom does not miss it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_lapsed_is_not_drained_in_the_place_of_an_idle_one_that_lives() {
    let ground = Ground::new().await;
    let now = ground.now();
    let idle = async |name: &str, lease_until: Time| {
        let (task, since) = (ground.task(name, 1).await, Some(now - Span::seconds(10_000)));
        let lease_until = Some(lease_until);
        Ledger { claims: BTreeMap::new(), idle_since: since, task: Some(task), lease_until, ..ready(name, now) }
    };
    let servers = [idle("a-lapsed", now - Span(1)).await, idle("b-alive", now + Span::seconds(86_400)).await];
    a_fleet(&ground, &a_pool("default", 0), &servers).await;
    look(&ground, 1).await;
    for (server, state) in [("a-lapsed", ServerState::Ready), ("b-alive", ServerState::Draining)] {
        assert_eq!(ground.ledger(&id(server)).await.state, state, "{server}");
    }
    ground.end().await;
}

/// Nothing is known of its servers then, and each may run in the task that ECS lists.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_of_a_pool_whose_ledgers_cannot_be_read_is_taken_for_an_orphan() {
    let ground = Ground::new().await;
    let task = ground.task("up", 1).await;
    let up = Ledger { task: Some(task.clone()), ..ready("up", ground.now()) };
    a_fleet(&ground, &a_pool("default", 0), &[up]).await;
    let report = ground.owmm(&Wire::new(Death::Refused("BatchGetItem", 0)), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, &report.repaired), (1, &BTreeMap::new()), "{report:?}");
    assert_eq!(ground.running().await, [task]);
    ground.end().await;
}

/// The read of many ledgers is not consistent, so it may miss one that has just been written.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_read_of_many_ledgers_misses_is_read_by_itself_and_counts() {
    let ground = Ground::new().await;
    a_fleet(&ground, &a_pool("default", 3), &[ready("newcomer", ground.now())]).await;
    let misses = Death::Answered("BatchGetItem", r#"{"Responses": {}, "UnprocessedKeys": {}}"#);
    let report = ground.owmm(&Wire::new(misses), 1).reconcile().await.unwrap();
    assert_eq!((report.failed, report.players, report.free_slots), (0, 1, 3), "{report:?}");
    assert_eq!(report.repaired, BTreeMap::new(), "nothing is started ahead: {report:?}");
    ground.end().await;
}

/// Whoever repeats a call first wins the time when it is due, so the others do not repeat it too.
#[tokio::test(flavor = "multi_thread")]
async fn run_task_without_an_answer_is_repeated_after_five_seconds_and_not_by_every_look() {
    let ground = Ground::new().await;
    let now = ground.now();
    a_fleet(&ground, &a_pool("default", 0), &[starting("due", now, now + Span::seconds(86_400))]).await;
    // Each attempt of the SDK at the first call.
    ground.ecs.inject(ecs::Fault::AnswerLost, 3);
    for (case, turn, calls) in [
        ("the call is due", 0, 3),
        ("at the same moment", 0, 3),
        ("a millisecond too early", 4_999, 3),
        ("after five seconds", 1, 4),
        ("its task is on record", 5_000, 4),
    ] {
        ground.later(Span(turn));
        ground.owmm(&Wire::new(Death::Never), 1).reconcile().await.unwrap();
        assert_eq!(ground.ecs.counts().run_task_calls, calls, "{case}");
    }
    assert_eq!(ground.ecs.counts().processes_started, 1);
    ground.end().await;
}

/// A pool that has moved to a cluster that ECS does not have, and its `left` ones.
fn moved(left: &[&str]) -> Pool {
    let mut pool = Pool { previous_clusters: left.iter().map(|it| (*it).to_owned()).collect(), ..a_pool("default", 0) };
    pool.task.cluster = "elsewhere".to_owned();
    pool
}

/// The ARN of a task names its cluster, whether or not the pool still remembers that it was there.
#[tokio::test(flavor = "multi_thread")]
async fn servers_in_a_cluster_that_their_pool_has_left_are_asked_about_and_stopped_there() {
    for (case, left) in [("remembered by the pool", &["default"][..]), ("forgotten by the pool", &[])] {
        let ground = Ground::new().await;
        let now = ground.now();
        let crashed = Ledger { task: Some(ground.dead_task("crashed").await), ..ready("crashed", now) };
        let task = ground.task("drained", 1).await;
        let empty = Ledger { claims: BTreeMap::new(), task: Some(task.clone()), ..ready("drained", now) };
        let drained = Ledger { state: ServerState::Draining, listed: None, ..empty };
        a_fleet(&ground, &moved(left), &[crashed, drained]).await;
        assert_eq!(ground.running().await, [task], "{case}");
        let report = look(&ground, 1).await;
        assert_eq!(report.repaired, BTreeMap::from([("task_stopped", 1), ("drained", 1)]), "{case}: {report:?}");
        assert_eq!(ground.running().await, [""; 0], "{case}");
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_ecs_does_not_have_runs_no_task_of_a_server_that_none_is_on_record_for() {
    let ground = Ground::new().await;
    let lapsed = Ledger { lease_until: Some(ground.now() - Span(1)), ..ready("unrecorded", ground.now()) };
    a_fleet(&ground, &moved(&["default"]), &[lapsed]).await;
    let report = look(&ground, 1).await;
    assert_eq!(report.repaired, BTreeMap::from([("task_missing", 1)]), "{report:?}");
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_another_table_is_not_taken_for_an_orphan() {
    let ground = Ground::new().await;
    a_fleet(&ground, &a_pool("default", 0), &[]).await;
    let run = ecs_client(&ground.ecs_url).run_task().task_definition("game:1").count(1);
    let run = run.started_by("server-of-another/1").group("owmm:another-table").send().await.unwrap();
    let task = run.tasks()[0].task_arn().unwrap().to_owned();
    assert_eq!(look(&ground, 1).await.repaired, BTreeMap::new());
    assert_eq!(ground.running().await, [task]);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_in_a_cluster_that_its_pool_has_left_is_stopped() {
    let ground = Ground::new().await;
    a_fleet(&ground, &moved(&["default"]), &[]).await;
    let task = ground.task("nobodys", 1).await;
    assert_eq!(ground.running().await, [task]);
    assert_eq!(look(&ground, 1).await.repaired, BTreeMap::from([("orphan_task", 1)]));
    assert_eq!(ground.running().await, [""; 0]);
    ground.end().await;
}

/// The answer names the servers that were started, although no more may be by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_by_hand_that_a_pause_cuts_short_says_which_servers_it_has_started() {
    let ground = Ground::new().await;
    let pool = a_pool("default", 0);
    a_fleet(&ground, &pool, &[]).await;
    let wire = Wire::new(Death::Sleeps("RunTask"));
    let (owmm, operator) = (ground.owmm(&wire, 1), ground.owmm(&Wire::new(Death::Never), 2));
    let launch = tokio::spawn(async move { owmm.launch(&a_pool("default", 0).name, 3).await });
    wire.died.notified().await;
    operator.pause(&pool.name, None).await.unwrap();
    wire.woken.notify_one();
    let outcome = launch.await.unwrap().unwrap();
    let LaunchOutcome::Started { started, live } = &outcome else { panic!("{outcome:?}") };
    assert_eq!((started.len(), *live), (1, 1), "{outcome:?}");
    ground.end().await;
}
