//! The other actors: the schedule of reconcile, the event bus, an operator, and a stranger.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::functions::{reconcile, task_stopped};
use serde_json::{Value, json};
use shared::{
    Owmm,
    domain::{PlayerId, ServerId, ServerState},
};
use tokio::{
    sync::{
        Mutex as Turn,
        broadcast::{Receiver, error::RecvError},
    },
    time::sleep,
};

use super::{
    chance::Chance,
    checks::Caller,
    functions::{FunctionRequest, Functions},
    injected::stop_lapsed,
    plan::Fault,
    players::OTHER_POOL,
    world::{POOL, World},
};

/// Deliveries of an event, at most, while the function fails.
const DELIVERIES: u64 = 3;

/// Runs reconcile at the plan's interval, and each minute once faults have stopped.
pub(super) async fn schedule(functions: Arc<Functions>, world: Arc<World>) {
    loop {
        sleep(Duration::from_secs(if world.is_calm() { 60 } else { world.plan.reconcile_seconds })).await;
        if world.strikes(Fault::ReconcileTwice) {
            let (functions, after) = (Arc::clone(&functions), world.chance.ms(0, 3_000));
            tokio::spawn(async move {
                sleep(after).await;
                reconcile(&functions).await;
            });
        }
        let functions = Arc::clone(&functions);
        tokio::spawn(async move { reconcile(&functions).await });
    }
}

async fn reconcile(functions: &Functions) {
    // The result is ignored: the checks read the effects from the table.
    let reconcile = |owmm: Owmm| async move {
        let stopped = stop_lapsed(owmm.table(), owmm.time()).await;
        stopped.is_ok() && reconcile::handle(&owmm).await.is_ok()
    };
    let _ = functions.operate(Caller::Schedule, reconcile).await;
}

/// Delivers ECS's events to the function: late, twice, or not at all.
pub(super) async fn deliver(functions: Arc<Functions>, world: Arc<World>, mut events: Receiver<Value>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        if event.pointer("/detail/lastStatus").and_then(Value::as_str) != Some("STOPPED") {
            continue;
        }
        if world.strikes(Fault::EventLost) {
            continue;
        }
        let times = if world.strikes(Fault::EventRepeated) { 2 } else { 1 };
        for _ in 0..times {
            let (functions, world, event) = (Arc::clone(&functions), Arc::clone(&world), event.clone());
            tokio::spawn(async move {
                let late = world.strikes(Fault::EventLate);
                sleep(world.chance.ms(50, if late { 60_000 } else { 1_500 })).await;
                for _ in 0..DELIVERIES {
                    let event = serde_json::from_value(event.clone());
                    let Ok(event) = event else { return };
                    let handle = |owmm| async move { task_stopped::handle(&owmm, event).await.is_ok() };
                    if functions.operate(Caller::Event, handle).await == Some(true) {
                        return;
                    }
                    sleep(world.chance.ms(1_000, 5_000)).await;
                }
            });
        }
    }
}

/// Returns a pool's settings with the task definition `game-server:<revision>`.
pub(super) fn settings(world: &World, revision: u64, headroom: u32) -> Value {
    let limits = &world.plan.limits;
    json!({
        "capacity": limits.capacity,
        "maxServers": limits.max_servers,
        "concurrentLaunches": limits.concurrent_launches,
        "headroom": headroom,
        "idleSeconds": limits.idle.whole_seconds_up(),
        "reservationSeconds": limits.reservation.whole_seconds_up(),
        "launchSeconds": limits.launch.whole_seconds_up(),
        "leaseSeconds": limits.lease.whole_seconds_up(),
        "rollout": world.plan.rollout,
        "task": {
            "cluster": "default",
            "taskDefinition": format!("game-server:{revision}"),
            "container": "game",
            "url": "https://owmm.example",
        },
    })
}

/// Repeats an operator's call until it is answered 200. Returns false if it never is.
pub(super) async fn until_answered(
    functions: &Arc<Functions>,
    method: &'static str,
    path: &str,
    body: Option<Value>,
) -> bool {
    for _ in 0..50 {
        let reply = functions.call(Caller::Operator, FunctionRequest::signed(method, path, body.clone())).await;
        if reply.is_some_and(|reply| reply.status == 200) {
            return true;
        }
        sleep(Duration::from_millis(500)).await;
    }
    false
}

/// Runs an operator who drains servers, rolls out builds, releases players, pauses and resumes launches, and starts
/// servers.
pub(super) async fn operator(functions: Arc<Functions>, world: Arc<World>, chance: Chance) {
    let every = world.plan.operator_seconds * 1_000;
    let mut revision = 1;
    while every > 0 && !world.is_calm() {
        sleep(chance.ms(every / 2, every * 3 / 2)).await;
        let ready = world.check(|checks| {
            let ready = checks.ledgers.values().filter(|ledger| ledger.state == ServerState::Ready);
            ready.map(|ledger| ledger.id.clone()).collect::<Vec<_>>()
        });
        let (method, path, body) = match chance.below(6) {
            0 => {
                let Some(server) = chance.pick(&ready) else { continue };
                let deadline = chance.hit(300).then(|| json!({ "deadlineSeconds": chance.within(0, 60) }));
                ("POST", format!("/servers/{server}/drain"), deadline)
            }
            1 => {
                revision += 1;
                ("PUT", format!("/pools/{POOL}"), Some(settings(&world, revision, world.plan.limits.headroom)))
            }
            2 => {
                let players = world.check(|checks| checks.seats.keys().cloned().collect::<Vec<_>>());
                let Some(player) = chance.pick(&players) else { continue };
                world.check(|checks| checks.gives_up(world.now(), player));
                ("DELETE", format!("/players/{player}"), None)
            }
            3 => ("POST", format!("/pools/{POOL}/pause"), Some(json!({ "seconds": chance.within(1, 20) }))),
            4 => ("POST", format!("/pools/{POOL}/resume"), None),
            _ => {
                let most = u64::from(world.plan.limits.max_servers);
                ("POST", format!("/pools/{POOL}/launch"), Some(json!({ "atLeast": chance.within(1, most) })))
            }
        };
        // The answer is ignored: this operator does not repeat a call.
        let _ = functions.call(Caller::Operator, FunctionRequest::signed(method, path, body)).await;
    }
}

/// Runs a stranger who calls with another server's token, or with a token that no server has.
pub(super) async fn stranger(functions: Arc<Functions>, world: Arc<World>, chance: Chance, tokens: Arc<Tokens>) {
    let every = world.plan.stranger_seconds * 1_000;
    while every > 0 && !world.is_calm() {
        sleep(chance.ms(every / 2, every * 3 / 2)).await;
        let servers = world.check(|checks| checks.ledgers.keys().cloned().collect::<Vec<ServerId>>());
        let players = world.check(|checks| checks.seats.keys().cloned().collect::<Vec<PlayerId>>());
        let (Some(server), Some(player)) = (chance.pick(&servers), chance.pick(&players)) else { continue };
        let known = tokens.lock().await;
        let others = known.iter().filter(|(_, of)| *of != server).map(|(token, _)| token.clone()).collect::<Vec<_>>();
        drop(known);
        let token = chance.pick(&others).filter(|_| chance.hit(700)).cloned().unwrap_or_else(|| "guess".to_owned());
        let (method, path, body) = match chance.below(6) {
            0 => ("PUT", format!("/servers/{server}"), Some(json!({ "address": "192.0.2.66", "port": 66 }))),
            1 => ("POST", format!("/servers/{server}/heartbeat"), Some(json!({ "players": [] }))),
            2 => ("DELETE", format!("/servers/{server}"), None),
            3 => ("PUT", format!("/servers/{server}/players/{player}"), None),
            4 => ("POST", format!("/pools/{OTHER_POOL}/launch"), None),
            _ => ("DELETE", format!("/servers/{server}/players/{player}"), None),
        };
        let request = FunctionRequest::bearer(method, path, &token, body);
        let _ = functions.call(Caller::Stranger, request).await;
    }
}

/// The tokens of all servers that were started.
pub(super) type Tokens = Turn<BTreeMap<String, ServerId>>;
