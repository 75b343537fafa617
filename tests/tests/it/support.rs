//! Helpers of all tests: a local stack per test, calls of players, operators and servers, and bounded waits.

use std::{
    ffi::OsString,
    fmt::Debug,
    fs::OpenOptions,
    io::Write,
    panic::Location,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::types::AttributeValue;
use local::{
    Options, Stack,
    iam::{acting_as, note_into},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    Failure, Owmm, Reconciled,
    domain::{Ledger, PlayerId, PoolLimits, PoolName, Rollout, Seat, ServerId, ServerState, Span},
    table::{self, keys},
};
use tokio::io::{AsyncBufRead, Lines};

use crate::reply::Reply;

/// Default limit of a wait.
pub const SOON: Duration = Duration::from_secs(30);

/// Pause between two probes of [`eventually`].
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Calls `probe` until its value satisfies `is`, and returns that value.
///
/// Panics after [`SOON`], also if a probe has not returned by then. The message has the caller's line, `what`, and the
/// last value of the probe.
#[track_caller]
pub fn eventually<T: Debug, F: Future<Output = T>>(
    what: &str,
    probe: impl FnMut() -> F,
    is: impl Fn(&T) -> bool,
) -> impl Future<Output = T> {
    eventually_within(SOON, what, probe, is)
}

#[track_caller]
fn eventually_within<T: Debug, F: Future<Output = T>>(
    bound: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
    is: impl Fn(&T) -> bool,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let cancel = tokio::time::Instant::now() + bound;
        let mut last = None;
        while let Ok(value) = tokio::time::timeout_at(cancel, probe()).await {
            if is(&value) {
                return value;
            }
            last = Some(value);
            if tokio::time::Instant::now() >= cancel {
                break;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        panic!("{caller}: {what}: not within {bound:?}; last seen: {last:?}");
    }
}

#[tokio::test]
#[should_panic(expected = "seven of seven: not within 200ms; last seen: Some(1)")]
async fn a_wait_that_times_out_reports_its_subject_and_the_last_value() {
    let probes = AtomicU64::new(0);
    let probe = || async { probes.fetch_add(1, Ordering::Relaxed).min(1) };
    eventually_within(Duration::from_millis(200), "seven of seven", probe, |probe| *probe == 7).await;
}

#[tokio::test]
#[should_panic(expected = "an answer: not within 50ms; last seen: None")]
async fn a_probe_that_never_returns_ends_the_wait_too() {
    eventually_within(Duration::from_millis(50), "an answer", std::future::pending::<()>, |()| true).await;
}

#[tokio::test]
async fn a_wait_ends_with_the_first_matching_value() {
    let probes = AtomicU64::new(0);
    let probe = || async { probes.fetch_add(1, Ordering::Relaxed) };
    assert_eq!(eventually("the third probe", probe, |probe| *probe >= 2).await, 2);
}

/// Reads lines of a program's output until one contains `text`, and returns that line. Panics after [`SOON`].
#[track_caller]
pub fn line_with<R: AsyncBufRead + Unpin>(lines: &mut Lines<R>, text: &str) -> impl Future<Output = String> {
    let what = format!("a line with `{text}`");
    let caller = Location::caller();
    async move {
        let mut seen = Vec::new();
        let read = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        };
        let found = tokio::time::timeout(SOON, read).await;
        let found = found.unwrap_or_else(|_| panic!("{caller}: {what}: not within {SOON:?}; last seen: {seen:#?}"));
        found.unwrap_or_else(|| panic!("{caller}: {what}: the output has ended; last seen: {seen:#?}"))
    }
}

/// A local stack with its table, and an HTTP client.
pub struct World {
    pub stack: Stack,
    pub http: reqwest::Client,
    pub table: String,
}

/// Command of an idle task; the test makes the calls of the game server itself.
pub fn idle() -> Vec<OsString> {
    vec!["sleep".into(), "3600".into()]
}

/// Command of the demo game server.
pub fn demo_server() -> Vec<OsString> {
    vec![env!("CARGO_BIN_EXE_stack").into(), "game-server".into()]
}

/// Starts recording the permissions that the functions use, for the program `least-privilege` to check.
///
/// The file is `permissions/BUILD` beside the stack's program. A process that finds no file writes the programs and the
/// permissions of the roles; every process appends the permissions that are used. Files of other builds are removed.
fn note_permissions() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let programs = [PathBuf::from(env!("CARGO_BIN_EXE_stack")), std::env::current_exe().unwrap()];
        let build = |program: &PathBuf| {
            let data = std::fs::metadata(program).unwrap();
            format!("{} {:?}", data.len(), data.modified().unwrap())
        };
        let name = Sha256::digest(format!("{:?}", programs.each_ref().map(build)));
        let name = name.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let folder = programs[0].with_file_name("permissions");
        std::fs::create_dir_all(&folder).unwrap();
        for other in std::fs::read_dir(&folder).unwrap().flatten().filter(|file| *file.file_name() != *name) {
            let _ = std::fs::remove_file(other.path());
        }
        let file = folder.join(name);
        if !file.exists() {
            let roles = local::iam::roles(&local::template::read(local::template::DEPLOYED).unwrap()).unwrap();
            let programs = programs.iter().map(|it| json!({ "program": { "path": it, "build": build(it) } }));
            let allowed = roles.iter().flat_map(|(function, permissions)| {
                permissions.iter().map(move |(action, of)| json!({ "allowed": [function, action, of] }))
            });
            let lines = programs.chain(allowed).map(|line| format!("{line}\n")).collect::<String>();
            let mut notes = OpenOptions::new().create(true).append(true).open(&file).unwrap();
            notes.write_all(lines.as_bytes()).unwrap();
        }
        note_into(&file);
    });
}

pub fn options() -> Options {
    note_permissions();
    static TABLES: AtomicU64 = AtomicU64::new(0);
    #[expect(clippy::disallowed_methods, reason = "no part of the functions, whose time comes from their clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let table = format!("test-{}-{now}-{}", std::process::id(), TABLES.fetch_add(1, Ordering::Relaxed));
    Options {
        port: 0,
        data: None,
        dynamodb: std::env::var("OWMM_TEST_DYNAMODB").ok(),
        table,
        limits: PoolLimits::DEFAULT,
        rollout: Rollout::Lazy,
        keeps_pool: false,
        pools: None,
        game_server: idle(),
        start_delay: Duration::ZERO,
        functions: None,
        // Tests run reconcile themselves.
        reconcile_every: Duration::from_secs(3_600),
    }
}

/// An HTTP client whose timeout is long enough for a thousand concurrent joins on two cores.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(4 * SOON).build().unwrap()
}

impl World {
    pub async fn new(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        change(&mut options);
        let table = options.table.clone();
        let stack = Stack::start(options).await.unwrap();
        Self { stack, http: client(), table }
    }

    pub async fn call(&self, method: &str, path: &str, bearer: Option<&str>, body: Option<Value>) -> Reply {
        let body = body.map(|body| body.to_string().into_bytes());
        self.raw(method, path, bearer, body).await
    }

    pub async fn raw(&self, method: &str, path: &str, bearer: Option<&str>, body: Option<Vec<u8>>) -> Reply {
        let authorization = bearer.map(|bearer| format!("Bearer {bearer}"));
        self.authorized(method, path, authorization.as_deref(), body).await
    }

    pub async fn authorized(
        &self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Reply {
        let route = (method.to_owned(), path.split('?').next().unwrap_or_default().to_owned());
        let request_body = String::from_utf8_lossy(body.as_deref().unwrap_or_default());
        let named = format!("{method} {path} {authorization:?} {}", request_body.chars().take(200).collect::<String>());
        let method: Method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.stack.url()));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (retry_after, content_type) = (header("retry-after"), header("content-type"));
        let status = response.status();
        let text = response.text().await.unwrap();
        let reply = Reply {
            request: named,
            status,
            retry_after: retry_after.map(|seconds| seconds.parse().unwrap()),
            content_type: content_type.unwrap_or_default(),
            body: if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() },
        };
        crate::openapi::check(&route, &reply);
        reply
    }

    /// Joins through a process without caches; returns the server's id.
    pub async fn join_afresh(&self, player: &str) -> String {
        let player = shared::domain::PlayerId::parse(player).unwrap();
        match self.stack.owmm().another_copy().join(&player, None).await.unwrap() {
            shared::JoinOutcome::Slot(shared::Slot::Ready { server, .. } | shared::Slot::Starting { server, .. }) => {
                server.to_string()
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn join(&self, player: &str) -> Reply {
        self.call("POST", "/join", Some(player), None).await
    }

    /// Joins, and retries until the response is 200 or 202.
    pub async fn join_for_good_or_starting(&self, player: &str) -> Reply {
        self.join_until(player, |reply| reply.status.is_success()).await
    }

    /// Joins, and retries until the response is not 503 `busy`.
    pub async fn join_unless_busy(&self, player: &str) -> Reply {
        self.join_until(player, |reply| reply.code() != "busy").await
    }

    /// Joins, and retries until the response is neither 202 nor 503 `busy`.
    pub async fn join_for_good(&self, player: &str) -> Reply {
        self.join_until(player, |reply| reply.status != StatusCode::ACCEPTED && reply.code() != "busy").await
    }

    /// Joins until the response satisfies `done`.
    pub async fn join_until(&self, player: &str, done: impl Fn(&Reply) -> bool) -> Reply {
        eventually(&format!("the response to {player}'s join"), || self.join(player), done).await
    }

    /// Polls the join of a player who waits for `server` until the player waits for another server; returns its id.
    pub async fn placed_anew(&self, player: &str, server: &str) -> String {
        let what = format!("{player} waits for another server than {server}");
        let poll = || async { self.join(player).await.is(202) };
        eventually(&what, poll, |reply| reply.server() != server).await.server().to_owned()
    }

    /// Polls the join of a player who waits for `server` until the server's ledger satisfies `is`.
    pub async fn polled_until(&self, player: &str, server: &str, what: &str, is: impl Fn(&Ledger) -> bool) -> Ledger {
        let poll = || async {
            assert_eq!(self.join(player).await.is(202).server(), server, "the player must keep the slot");
            self.ledger(server).await
        };
        eventually(what, poll, is).await
    }

    pub async fn ledger(&self, server: &str) -> Ledger {
        let id = ServerId::parse(server).unwrap();
        self.stack.owmm().table().ledger(&id).await.unwrap().unwrap_or_else(|| panic!("no ledger of {server}"))
    }

    pub async fn seat(&self, player: &str) -> Option<Seat> {
        self.stack.owmm().table().seat(&PlayerId::parse(player).unwrap()).await.unwrap()
    }

    /// Every item of the table.
    pub async fn scan(&self) -> Vec<keys::Attributes> {
        let pages = self.stack.dynamodb().scan().table_name(&self.table).consistent_read(true).into_paginator();
        let mut pages = pages.items().send();
        let mut items = Vec::new();
        while let Some(item) = pages.next().await {
            items.push(item.unwrap());
        }
        items
    }

    /// Every ledger.
    pub async fn ledgers(&self) -> Vec<Ledger> {
        let items = self.scan().await;
        let ledgers = items.iter().filter(|item| item[keys::SK] == AttributeValue::S("LEDGER".into()));
        ledgers.map(|item| table::ledger::from_item(item).unwrap()).collect()
    }

    /// Every player's seat.
    pub async fn seats(&self) -> Vec<(PlayerId, Seat)> {
        let items = self.scan().await;
        let seats = items.iter().filter(|item| item[keys::SK] == AttributeValue::S("SEAT".into()));
        let named = seats.map(|item| {
            let player = item[keys::PK].as_s().unwrap().strip_prefix("PLAYER#").unwrap();
            (PlayerId::parse(player).unwrap(), table::seat::from_item(item).unwrap())
        });
        named.collect()
    }

    /// Waits until a server's ledger satisfies `is`.
    pub async fn until(&self, server: &str, what: &str, is: impl Fn(&Ledger) -> bool) -> Ledger {
        eventually(what, || self.ledger(server), is).await
    }

    /// Number of processes that the local ECS has started; waits for the first, which starts after RunTask returns.
    pub async fn processes_started(&self) -> u64 {
        let count = || async { self.stack.ecs().counts().processes_started };
        eventually("the task's process has started", count, |started| *started > 0).await
    }

    /// The credentials of a starting server, with which the test makes the server's calls.
    pub async fn game_server(&self, server: &str) -> GameServer {
        let ledger = self.ledger(server).await;
        let token = ledger.launch.unwrap_or_else(|| panic!("{server} is not starting")).token;
        GameServer { id: server.to_owned(), token }
    }

    /// Joins a player, registers the server that is started, and returns the server.
    pub async fn ready_server(&self, player: &str) -> GameServer {
        let reply = self.join(player).await.is(202);
        let hand = self.game_server(reply.server()).await;
        hand.register(self).await.is(200);
        hand
    }

    /// Checks invariants I1 and I2 in the table: no ledger has more claims than slots, and every claim has the player's
    /// seat. Returns the number of claims.
    pub async fn audit(&self) -> usize {
        let (ledgers, seats) = (self.ledgers().await, self.seats().await);
        let mut claims = 0;
        for ledger in ledgers.iter().filter(|ledger| ledger.state != ServerState::Stopped) {
            assert!(ledger.claims.len() <= ledger.capacity as usize, "I1: {ledger:?}");
            claims += ledger.claims.len();
            for (player, claim) in &ledger.claims {
                let seat = seats.iter().find(|(of, _)| of == player).map(|(_, seat)| seat);
                let agrees =
                    matches!(seat, Some(Seat::Assigned(place)) if place.server == ledger.id && place.claim == *claim);
                assert!(agrees, "I2: {player} holds {claim:?} on {}, but the seat says {seat:?}", ledger.id);
            }
        }
        claims
    }

    /// Runs reconcile once, as the EventBridge schedule does.
    pub async fn reconcile(&self) -> Reconciled {
        reconcile_as_function(self.stack.owmm()).await.unwrap()
    }

    pub async fn end(self) {
        self.stack.stop().await;
    }
}

/// Runs reconcile once with the IAM permissions of its function.
pub async fn reconcile_as_function(owmm: &Owmm) -> Result<Reconciled, Failure> {
    acting_as("reconcile", owmm.reconcile()).await
}

/// `Authorization` header of an operator or a trusted backend; the local gateway accepts any signature.
pub const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=x/20261122/eu-central-1/execute-api/aws4_request, SignedHeaders=host, Signature=0";

impl World {
    pub async fn operate(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.authorized(method, path, Some(SIGNED), body.map(|body| body.to_string().into_bytes())).await
    }
}

/// Body of `PUT /pools/{pool}`, adjusted by `change`.
pub fn settings(change: impl FnOnce(&mut Value)) -> Value {
    let mut settings = json!({
        "capacity": 20,
        "task": {
            "cluster": "default",
            "taskDefinition": "game-server:7",
            "container": "game",
            "url": "https://owmm.example",
        },
    });
    change(&mut settings);
    settings
}

/// Id and token of a server whose HTTP calls the test makes itself.
#[derive(Clone, Debug)]
pub struct GameServer {
    pub id: String,
    pub token: String,
}

impl GameServer {
    fn path(&self, rest: &str) -> String {
        format!("/servers/{}{rest}", self.id)
    }

    pub async fn register(&self, world: &World) -> Reply {
        self.register_as(world, json!({ "address": "127.0.0.1", "port": 7777 })).await
    }

    pub async fn register_as(&self, world: &World, body: Value) -> Reply {
        world.call("PUT", &self.path(""), Some(&self.token), Some(body)).await
    }

    pub async fn heartbeat(&self, world: &World, players: Option<&[&str]>) -> Reply {
        let body = players.map(|players| json!({ "players": players }));
        world.call("POST", &self.path("/heartbeat"), Some(&self.token), body).await
    }

    pub async fn connect(&self, world: &World, player: &str, ticket: Option<&str>) -> Reply {
        let body = ticket.map(|ticket| json!({ "ticket": ticket }));
        world.call("PUT", &self.path(&format!("/players/{player}")), Some(&self.token), body).await
    }

    pub async fn disconnect(&self, world: &World, player: &str, query: &str) -> Reply {
        world.call("DELETE", &self.path(&format!("/players/{player}{query}")), Some(&self.token), None).await
    }

    pub async fn close(&self, world: &World) -> Reply {
        world.call("DELETE", &self.path(""), Some(&self.token), None).await
    }

    /// Joins a player, asserts that the slot is on this server, connects the player and returns the placement.
    pub async fn let_in(&self, world: &World, player: &str) -> i64 {
        let joined = world.join(player).await.is(200);
        assert_eq!(joined.server(), self.id);
        let reply = self.connect(world, player, Some(joined.ticket())).await.is(200);
        reply.body["placement"].as_i64().unwrap()
    }
}

/// Sets capacity and maximum of servers in the options of a stack.
pub fn limits(capacity: u32, max_servers: u32) -> impl FnOnce(&mut Options) {
    move |options| {
        options.limits.capacity = capacity;
        options.limits.max_servers = max_servers;
    }
}

/// Parses a pool's name.
pub fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

pub fn seconds(seconds: u32) -> Span {
    Span::seconds(seconds)
}

/// Sends a signal by name to a process; returns whether `kill` succeeded. Signal `0` only tests for existence.
pub fn signal(name: &str, pid: &str) -> bool {
    let kill = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).stderr(Stdio::null()).status();
    kill.unwrap().success()
}

/// A client for the ECS API at `url`.
pub fn ecs_client(url: &str) -> aws_sdk_ecs::Client {
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(aws_sdk_ecs::config::BehaviorVersion::v2026_01_12())
        .region(aws_sdk_ecs::config::Region::new("eu-central-1"))
        .credentials_provider(aws_sdk_ecs::config::Credentials::new("local", "local", None, None, "test"))
        .endpoint_url(url);
    aws_sdk_ecs::Client::from_conf(config.build())
}
