//! Telemetry of functions: one record of metrics per call, and no secret in the log at any level.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use functions::{join, reconcile};
use serde_json::{Value, json};
use shared::{
    clock::{Clock, Rng},
    config::{Config, assemble},
    domain::{PlayerId, TokenHash},
    http::{Body, Request},
    metrics::{self, Metric},
    telemetry::{Calls, Recorded, json_log},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{World, limits, pool, settings};

/// An in-memory log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects log records of this thread at `level` and above until the guard is dropped.
    fn listen(level: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let guard = tracing::subscriber::set_default(json_log(level, move || writer.clone()));
        (log, guard)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Base64 fragments that any base64 text with these bytes in it contains, one for each alignment.
fn encoded(bytes: &[u8]) -> Vec<String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    (0..3).map(|skip| BASE64_STANDARD.encode(&bytes[skip..])[..24].to_owned()).collect()
}

// On one thread, so that the records of the SDK and of its HTTP client are collected too.
#[tokio::test]
async fn no_secret_is_in_the_trace_log_of_a_launch_and_a_registration() {
    let world = World::new(|_| {}).await;
    let (log, guard) = Log::listen("trace");
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    hand.connect(&world, "alice", Some(&ticket)).await.is(200);
    hand.heartbeat(&world, Some(&["alice"])).await.is(200);
    world.reconcile().await;
    drop(guard);
    let log = log.text();
    assert!(log.contains("task started") && log.contains("\"level\":\"INFO\""), "{log}");
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let mut secrets = vec![hand.token.clone(), ticket, "OWMM_SERVER_TOKEN".to_owned(), "Bearer".to_owned()];
    secrets.extend(encoded(TokenHash::of(&hand.token).bytes()));
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
    world.end().await;
}

/// An endpoint that sends a 200 with this truncated body to every request; returns its URL.
async fn cut_off(body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 16 * 1024];
                while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if socket.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn an_unreadable_response_is_logged_without_its_content() {
    let world = World::new(|_| {}).await;
    let ecs = crate::support::ecs_client(&cut_off(r#"{"tasks": [{"overrides": {"environment": "hush"#).await);
    let config = Config { table: world.table.clone(), default_pool: pool("default") };
    let owmm = assemble(config, world.stack.dynamodb().clone(), ecs, Clock::system(), Rng::system());
    let (log, guard) = Log::listen("trace");
    owmm.join(&PlayerId::parse("alice").unwrap(), None).await.unwrap();
    drop(guard);
    let log = log.text();
    assert!(log.contains("its outcome is unknown"), "{log}");
    assert!(!log.contains("hush"), "{log}");
    world.end().await;
}

/// A request as API Gateway forwards it, with both a signature and the token of player `alice`.
fn request(method: &str, path: &str, body: &str) -> Request {
    let event = json!({
        "version": "2.0", "routeKey": "any", "rawPath": path, "rawQueryString": "", "headers": {},
        "pathParameters": { "pool": path.rsplit('/').next() },
        "requestContext": {
            "accountId": "0", "apiId": "any", "stage": "$default", "routeKey": "any", "requestId": "1", "timeEpoch": 0,
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "",
            },
            "authorizer": { "jwt": { "claims": { "sub": "alice" }, "scopes": null }, "iam": { "userArn": "any" } },
        },
        "isBase64Encoded": false,
    });
    let mut request = lambda_http::request::from_str(&event.to_string()).unwrap();
    *request.body_mut() = Body::Text(body.to_owned());
    request
}

async fn line<T: Recorded>(calls: &Calls, call: impl Future<Output = T>) -> Value {
    serde_json::from_str(&calls.measured(call).await.1).unwrap()
}

fn value(line: &Value, metric: Metric) -> f64 {
    line[metric.name].as_f64().unwrap_or_else(|| panic!("no {} in {line}", metric.name))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_function_emits_its_outcome_and_its_cost() {
    let world = World::new(limits(1, 1)).await;
    let owmm = world.stack.owmm();
    let calls = Calls::new("join", world.stack.meter().clone(), Clock::system());
    let record =
        async |method: &str, body: &str| line(&calls, join::handle(owmm, request(method, "/join", body))).await;
    let placed = record("POST", "").await;
    assert_eq!((&placed["Function"], &placed["Outcome"]), (&json!("join"), &json!("ok")));
    assert_eq!(value(&placed, metrics::CALLS), 1.0);
    assert!(value(&placed, metrics::REQUESTS) >= 3.0 && value(&placed, metrics::WRITE_UNITS) >= 3.0, "{placed}");
    assert!(value(&placed, metrics::DURATION) > 0.0);
    let refused = record("POST", r#"{"pool": "nowhere"}"#).await;
    assert_eq!((&refused["Outcome"], &refused["Code"]), (&json!("refused"), &json!("unknown_pool")));
    assert_eq!((value(&refused, metrics::WRITE_UNITS), value(&refused, metrics::ERRORS)), (0.0, 0.0));
    // An internal error: the seat's item is invalid.
    let mut seat = shared::table::keys::seat(&PlayerId::parse("alice").unwrap());
    seat.insert("placement".into(), aws_sdk_dynamodb::types::AttributeValue::S("late".into()));
    world.stack.dynamodb().put_item().table_name(&world.table).set_item(Some(seat)).send().await.unwrap();
    let failed = record("POST", "").await;
    assert_eq!((&failed["Outcome"], &failed["Code"]), (&json!("failed"), &json!("internal")));
    assert_eq!(value(&failed, metrics::ERRORS), 1.0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_run_emits_the_metrics_of_the_fleet() {
    let world = World::new(limits(10, 100)).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    world.operate("PUT", "/pools/another", Some(settings(|_| {}))).await.is(200);
    let calls = Calls::new("reconcile", world.stack.meter().clone(), Clock::system());
    let table = world.stack.owmm().table();
    // A wrong count, failed launches, and the pause after failures.
    let now = world.stack.owmm().time();
    let wrong = shared::domain::PoolStatusWrite::Recount { changes: 1, live: 5 };
    table.write_pool_status(&pool("default"), &wrong).await.unwrap();
    let status = shared::domain::PoolStatus {
        failures: 4,
        backoff_until: Some(now + shared::domain::Span(60_000)),
        ..Default::default()
    };
    let item = shared::table::pool_status::to_item(&pool("another"), &status);
    world.stack.dynamodb().put_item().table_name(&world.table).set_item(Some(item)).send().await.unwrap();
    let record = line(&calls, reconcile::handle(world.stack.owmm())).await;
    assert_eq!((&record["Function"], &record["Outcome"]), (&json!("reconcile"), &json!("ok")));
    let expected = [
        (metrics::SERVERS, 1.0),
        (metrics::PLAYERS, 1.0),
        (metrics::FREE_SLOTS, 9.0),
        (metrics::REPAIRED, 1.0),
        (metrics::LAPSED_LEASES, 0.0),
        (metrics::MASS_LAPSES, 0.0),
        (metrics::FAILED_POOLS, 0.0),
        (metrics::LAUNCHES_FAILED, 4.0),
        (metrics::LAUNCH_PAUSED, 1.0),
    ];
    assert_eq!(expected.map(|(metric, _)| metric), metrics::OF_FLEET, "the test must expect every metric of the fleet");
    for (metric, expected) in expected {
        assert_eq!(value(&record, metric), expected, "{}: {record}", metric.name);
    }
    assert_eq!(record[metrics::REASONS], json!({ "recounted": 1 }));
    world.end().await;
}
