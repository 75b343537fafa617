//! The functions: the real handlers behind the local gateway's router, in several processes with clocks of their own.
//!
//! A process may be killed or frozen at any request that it sends. A call to a function may be lost or delivered twice,
//! and its answer may be lost.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_async::{rt::sleep::TokioSleep, time::SharedTimeSource};
use aws_smithy_runtime::client::retries::RetryPartition;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::Value;
use shared::{
    Owmm,
    clock::{Clock, Rng},
    config::{Config, assemble, retries, timeouts},
    domain::{PlayerId, PoolName, ServerId, Time},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::{
    call::{CALL, Call, Freezing},
    checks::{Caller, Invariant},
    plan::Fault,
    wire::wire,
    world::{POOL, TABLE, VirtualTime, World, lock},
};

/// Timeout of a function, equal to the integration timeout of API Gateway.
const LONGEST_RUN: Duration = Duration::from_secs(30);
/// Timeout of a caller.
const PATIENCE: Duration = Duration::from_secs(10);
/// Authorization header of an operator or a trusted backend. The local gateway accepts any signature.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=x";

/// A process that runs the functions.
#[derive(Clone)]
struct Instance {
    owmm: Owmm,
    router: Router,
}

/// A request to a function.
#[derive(Clone, Debug)]
pub(super) struct FunctionRequest {
    method: &'static str,
    path: String,
    authorization: String,
    body: Option<Value>,
}

impl FunctionRequest {
    /// Creates a request with a bearer token. A player's token is the player's id.
    pub(super) fn bearer(method: &'static str, path: impl Into<String>, token: &str, body: Option<Value>) -> Self {
        Self { method, path: path.into(), authorization: format!("Bearer {token}"), body }
    }

    /// Creates a signed request, as operators and trusted backends send it.
    pub(super) fn signed(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method, path: path.into(), authorization: SIGNED.to_owned(), body }
    }
}

/// An answer of a function.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Reply {
    /// Returns a string of the body; empty if there is none.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Parses a time of an answer.
pub(super) fn time(text: &str) -> Option<Time> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Time(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()?))
}

/// The processes that run the functions.
pub(super) struct Functions {
    world: Arc<World>,
    instances: Mutex<Vec<Instance>>,
}

fn credentials() -> Credentials {
    Credentials::new("simulated", "simulated", None, None, "simulation")
}

/// Creates the table client of a process with this clock.
pub(super) fn table_client(world: &Arc<World>, time: VirtualTime) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(credentials())
        .http_client(wire(world))
        .sleep_impl(TokioSleep::new())
        .time_source(time)
        .timeout_config(timeouts())
        .retry_config(retries())
        .retry_partition(RetryPartition::custom("dynamodb").build())
        .endpoint_url("http://dynamodb.simulated")
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

fn instance(world: &Arc<World>, pool: &PoolName) -> Instance {
    let time = VirtualTime::new(world.begun, world.chance.below(world.plan.skew_ms + 1));
    let ecs = aws_sdk_ecs::config::Builder::new()
        .behavior_version(aws_sdk_ecs::config::BehaviorVersion::v2026_01_12())
        .region(aws_sdk_ecs::config::Region::from_static("eu-central-1"))
        .credentials_provider(credentials())
        .http_client(wire(world))
        .sleep_impl(TokioSleep::new())
        .time_source(time)
        .timeout_config(timeouts())
        .retry_config(retries())
        .retry_partition(RetryPartition::custom("ecs").build())
        .endpoint_url("http://ecs.simulated")
        .build();
    let owmm = assemble(
        Config { table: TABLE.to_owned(), default_pool: pool.clone() },
        table_client(world, time),
        aws_sdk_ecs::Client::from_conf(ecs),
        Clock::of(SharedTimeSource::new(time)),
        Rng::seeded(world.chance.seed()),
    );
    Instance { router: local::gateway::in_process(owmm.clone()), owmm }
}

impl Functions {
    /// Creates the number of processes in the plan; `None` if the name of the default pool is invalid.
    pub(super) fn new(world: Arc<World>) -> Option<Self> {
        let pool = PoolName::parse(POOL).ok()?;
        let instances = (0..world.plan.instances).map(|_| instance(&world, &pool)).collect();
        Some(Self { world, instances: Mutex::new(instances) })
    }

    /// Picks one of the processes.
    fn any(&self) -> Option<(usize, Instance)> {
        let instances = lock(&self.instances);
        let which = usize::try_from(self.world.chance.below(instances.len() as u64)).ok()?;
        Some((which, instances.get(which)?.clone()))
    }

    /// Replaces a killed process by a new one, which has no hints.
    fn replace(&self, which: usize) {
        if let Some(instance) = lock(&self.instances).get_mut(which) {
            let owmm = instance.owmm.another_copy();
            *instance = Instance { router: local::gateway::in_process(owmm.clone()), owmm };
        }
    }

    fn begin(&self, by: Caller) -> Arc<Call> {
        let (number, began) = (self.world.number(), self.world.now());
        self.world.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(Call::new(number, by, began))
    }

    /// Runs a function; `None` if it was killed or reached its timeout.
    async fn run<T>(&self, which: usize, call: &Arc<Call>, function: impl Future<Output = T>) -> Option<T> {
        let inner = Box::pin(CALL.scope(Arc::clone(call), function));
        let running = pin!(Freezing::new(Arc::clone(call), inner));
        tokio::select! {
            biased;
            () = call.killed.notified() => {
                self.world.record(format_args!("c{} is killed", call.number));
                self.replace(which);
                None
            }
            answer = running => Some(answer),
            () = sleep(LONGEST_RUN) => {
                self.world.record(format_args!("c{} reaches its timeout", call.number));
                None
            }
        }
    }

    /// Runs `operation` in one of the processes.
    pub(super) async fn operate<T, F: Future<Output = T>>(
        &self,
        by: Caller,
        operation: impl FnOnce(Owmm) -> F,
    ) -> Option<T> {
        let (which, instance) = self.any()?;
        let call = self.begin(by);
        self.world.record(format_args!("c{} {:?} at process {which}", call.number, call.by));
        self.run(which, &call, operation(instance.owmm)).await
    }

    /// Calls a function over HTTP; `None` if the caller gets no answer in time.
    pub(super) async fn call(self: &Arc<Self>, by: Caller, request: FunctionRequest) -> Option<Reply> {
        let world = &self.world;
        if world.strikes(Fault::CallLost) {
            world.record(format_args!("lost: {} {} by {by:?}", request.method, request.path));
            sleep(world.chance.ms(10, 10_000)).await;
            return None;
        }
        if world.strikes(Fault::CallRepeated) {
            let (functions, by, request, after) =
                (Arc::clone(self), by.clone(), request.clone(), world.chance.ms(0, 15_000));
            tokio::spawn(async move {
                sleep(after).await;
                functions.invoke(by, request).await;
            });
        }
        let (answers, answer) = oneshot::channel();
        let (functions, mute) = (Arc::clone(self), world.strikes(Fault::CallAnswerLost));
        let way = (world.chance.ms(1, 10), world.chance.ms(1, 10));
        tokio::spawn(async move {
            sleep(way.0).await;
            let reply = functions.invoke(by, request).await;
            sleep(way.1).await;
            if !mute {
                // A failed send means that the caller has timed out.
                let _ = answers.send(reply);
            }
        });
        timeout(PATIENCE, answer).await.ok()?.ok()?
    }

    async fn invoke(&self, by: Caller, request: FunctionRequest) -> Option<Reply> {
        let (which, instance) = self.any()?;
        let call = self.begin(by);
        let FunctionRequest { method, path, authorization, body } = request;
        let shown = body.as_ref().map(Value::to_string).unwrap_or_default();
        self.world.record(format_args!("c{} {:?} {method} {path} {shown} at process {which}", call.number, call.by));
        let request = Request::builder().method(method).uri(&path).header("authorization", authorization);
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).ok()?;
        let answered = self.run(which, &call, async {
            let response = instance.router.oneshot(request).await.ok()?;
            let status = response.status().as_u16();
            let bytes = to_bytes(response.into_body(), usize::MAX).await.ok()?;
            Some(Reply { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
        });
        let reply = answered.await.flatten();
        match &reply {
            Some(reply) => self.answered(&call, method, &path, reply),
            None => self.world.record(format_args!("c{} gives no answer", call.number)),
        }
        reply
    }

    /// Checks an answer against the table.
    fn answered(&self, call: &Call, method: &str, path: &str, reply: &Reply) {
        let (world, number) = (&self.world, call.number);
        world.record(format_args!("c{number} answers {} {}", reply.status, reply.body));
        // All requests are well formed, and injected faults give a 503. So a 500 is a defect of the function.
        world.must(Invariant::KeptWord, reply.status != 500, || format!("{method} {path} got the answer {reply:?}"));
        if call.by == Caller::Stranger {
            world.must(Invariant::Authority, reply.status >= 400, || {
                format!("a stranger's {method} {path} got {reply:?}")
            });
        }
        let joins = method == "POST" && path.ends_with("/join");
        let Some(server) = ServerId::parse(reply.text("/server/id")).ok().filter(|_| joins) else { return };
        let promised: Vec<(PlayerId, Option<Time>)> = match &call.by {
            Caller::Player(player) => vec![(player.clone(), time(reply.text("/expiresAt")))],
            Caller::Backend(players) => match reply.body.get("players").and_then(Value::as_array) {
                None => players.iter().map(|player| (player.clone(), time(reply.text("/expiresAt")))).collect(),
                Some(entries) => {
                    let text =
                        |one: &Value, name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                    let slots = entries.iter().filter_map(|one| {
                        Some((PlayerId::parse(&text(one, "player")).ok()?, time(&text(one, "expiresAt"))))
                    });
                    slots.collect()
                }
            },
            _ => Vec::new(),
        };
        let now = world.now();
        for (player, until) in promised {
            world.must(Invariant::KeptWord, until.is_some(), || format!("`expiresAt` is missing in {reply:?}"));
            if let Some(until) = until {
                world.check(|checks| checks.promised(now, call.began, &player, &server, until));
            }
        }
    }
}
