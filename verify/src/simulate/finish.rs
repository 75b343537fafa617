//! The checks after faults have stopped: every player is served, no launch or call hangs, every slot can be used, and
//! no server or task is left behind.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use shared::{
    domain::{Claim, PlayerId, Seat, ServerState},
    launching::parse_started_by,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    chance::Chance,
    checks::Invariant,
    flag::Flag,
    functions::Functions,
    others,
    players::{OTHER_POOL, Player, Stay},
    world::{POOL, TABLE, World, lock},
};

/// Time within which every player who was waiting when faults stopped must be served.
const SERVED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// Time within which the fleet must settle: longer than every launch with all its attempts, every reservation and
/// lease, and several reconcile runs.
const SETTLED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Longest time that a process caches a pool's old settings.
const SETTINGS_CACHED: Duration = Duration::from_secs(15);
/// Longest time after which a request from the part with faults takes effect.
const LINGERS: Duration = Duration::from_secs(60);
/// Interval of checks while waiting.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Waits until all players are served and the fleet has settled, then uses every slot, then waits until no server is
/// left.
pub(super) async fn settle(functions: &Arc<Functions>, world: &Arc<World>, mut actors: JoinSet<()>, seed: u64) {
    for pool in [POOL, OTHER_POOL] {
        let resumed = others::until_answered(functions, "POST", &format!("/pools/{pool}/resume"), None).await;
        world.must(Invariant::NothingForgotten, resumed, || format!("pool {pool} cannot be resumed"));
    }
    let served = async {
        while let Some(ended) = actors.join_next().await {
            world.must(Invariant::NothingForgotten, ended.is_ok(), || format!("a player or party panicked: {ended:?}"));
        }
    };
    let served = timeout(SERVED_WITHIN, served).await.is_ok();
    world.must(Invariant::NothingForgotten, served, || format!("{} players or parties still wait", actors.len()));
    if !served {
        return;
    }
    world.record(format_args!("all players have been served"));
    // Requests from the part with faults may still take effect, and change the settings of a pool.
    sleep(LINGERS).await;
    if !is_settled(world).await {
        return;
    }
    world.record(format_args!("the fleet has settled"));
    // After this time all processes use the current settings of the pool.
    sleep(SETTINGS_CACHED).await;
    use_every_slot(functions, world, seed).await;
    for pool in [POOL, OTHER_POOL] {
        let settings = others::settings(world, 1_000, 0);
        let configured = others::until_answered(functions, "PUT", &format!("/pools/{pool}"), Some(settings)).await;
        world.must(Invariant::NothingForgotten, configured, || format!("pool {pool} cannot be configured"));
    }
    let empty = within(SETTLED_WITHIN + Duration::from_millis(world.plan.limits.idle.0.unsigned_abs()), || {
        let left = world.check(|checks| checks.roster.len());
        let tasks = tasks(world).len();
        (left + tasks > 0).then(|| (Invariant::NothingForgotten, format!("{left} servers and {tasks} tasks are left")))
    });
    report(world, empty.await);
    let as_checked = {
        let engine = lock(&world.engine);
        engine.scan(TABLE).as_ref() == Some(engine.items())
    };
    world.must(Invariant::NothingForgotten, as_checked, || {
        "the table differs from the items that were checked".to_owned()
    });
}

/// Waits until `problem` returns none, at most for `span`. Returns the last problem if the time is up.
async fn within<T>(span: Duration, problem: impl Fn() -> Option<T>) -> Option<T> {
    let end = Instant::now() + span;
    loop {
        let found = problem();
        if found.is_none() || Instant::now() > end {
            return found;
        }
        sleep(CHECK_EVERY).await;
    }
}

/// Reports a problem as a violation. Returns whether there is none.
fn report(world: &World, problem: Option<(Invariant, String)>) -> bool {
    let holds = problem.is_none();
    let (invariant, what) = problem.unwrap_or((Invariant::NothingForgotten, String::new()));
    world.must(invariant, holds, || what);
    holds
}

async fn is_settled(world: &Arc<World>) -> bool {
    let problem = within(SETTLED_WITHIN, || unsettled(world)).await;
    report(world, problem)
}

/// Returns the `startedBy` of every task that ECS has not stopped.
fn tasks(world: &World) -> Vec<String> {
    const PREFIX: &str = "AmazonEC2ContainerServiceV20141113.";
    let Some(ecs) = world.ecs() else { return Vec::new() };
    let call = |operation: &str, body: Value| ecs.call(&format!("{PREFIX}{operation}"), body.to_string().as_bytes()).1;
    let arns = call("ListTasks", json!({})).get("taskArns").cloned().unwrap_or_default();
    if arns.as_array().is_none_or(Vec::is_empty) {
        return Vec::new();
    }
    let described = call("DescribeTasks", json!({ "tasks": arns }));
    let tasks = described.get("tasks").and_then(Value::as_array).into_iter().flatten();
    tasks.filter_map(|task| Some(task.get("startedBy")?.as_str()?.to_owned())).collect()
}

/// Returns the first part of the fleet that has not settled.
fn unsettled(world: &World) -> Option<(Invariant, String)> {
    let now = world.now();
    let tasks = tasks(world);
    world.check(|checks| {
        let live = checks.ledgers.values().filter(|ledger| ledger.state != ServerState::Stopped).collect::<Vec<_>>();
        let inside = checks.inside().map(|(player, server)| (player.clone(), server.clone())).collect::<BTreeSet<_>>();
        for ledger in &live {
            let id = &ledger.id;
            if ledger.state == ServerState::Starting {
                return Some((Invariant::NothingForgotten, format!("the launch of {id} is undecided: {ledger:?}")));
            }
            if checks.pools.get(ledger.pool.as_str()).is_some_and(|pool| !pool.takes(ledger.build)) {
                return Some((
                    Invariant::NothingForgotten,
                    format!("{id} has build {}, which the pool has replaced", ledger.build),
                ));
            }
            for (player, claim) in &ledger.claims {
                let there = inside.contains(&(player.clone(), id.clone()));
                if !(claim.is_connected() && there) {
                    return Some((Invariant::NoLeak, format!("{player} has {claim:?} on {id} but is not connected")));
                }
            }
            let room = !ledger.is_full() && ledger.takes_claims(now) && ledger.state == ServerState::Ready;
            if room && ledger.listed.is_none() {
                return Some((Invariant::NoLeak, format!("{id} has room but the index does not list it")));
            }
        }
        let entries = live.iter().map(|ledger| format!("POOL#{}/SERVER#{}", ledger.pool, ledger.id));
        let entries = entries.collect::<BTreeSet<_>>();
        if entries != checks.roster {
            return Some((
                Invariant::NothingForgotten,
                format!("the roster is {:?}, but the live servers are {entries:?}", checks.roster),
            ));
        }
        for pool in [POOL, OTHER_POOL] {
            let count = live.iter().filter(|ledger| ledger.pool.as_str() == pool).count();
            let counted = checks.statuses.get(&format!("POOL#{pool}")).map_or(0, |status| status.live as usize);
            if count != counted {
                return Some((
                    Invariant::NothingForgotten,
                    format!("pool {pool} has {count} live servers, but its status counts {counted}"),
                ));
            }
        }
        for task in &tasks {
            let of = parse_started_by(task);
            let known = of.is_some_and(|(id, attempt)| live.iter().any(|it| it.id == id && it.attempt == attempt));
            if !known {
                return Some((
                    Invariant::NothingForgotten,
                    format!("a task with startedBy {task} runs, but no live server has that attempt"),
                ));
            }
        }
        for (player, seat) in &checks.seats {
            let Seat::Assigned(place) = seat else { continue };
            let lives = live.iter().any(|ledger| ledger.id == place.server);
            let there = inside.contains(&(player.clone(), place.server.clone()));
            if matches!(place.claim, Claim::Connected(_)) && lives && !there {
                return Some((
                    Invariant::OnePlace,
                    format!("the seat of {player} is connected to {}, the player is not", place.server),
                ));
            }
        }
        None
    })
}

/// Lets as many new players join as the pool can have slots. Each must get one.
async fn use_every_slot(functions: &Arc<Functions>, world: &Arc<World>, seed: u64) {
    let limits = &world.plan.limits;
    let slots = limits.capacity * limits.max_servers;
    let end = Flag::default();
    let mut herd = JoinSet::new();
    for number in 0..u64::from(slots) {
        let Ok(id) = PlayerId::parse(&format!("last{number}")) else { continue };
        let (world, functions, chance) = (Arc::clone(world), Arc::clone(functions), Chance::new(seed, 2_000 + number));
        let stay = Stay::Until(end.clone());
        herd.spawn(async move {
            Player { world, functions, chance, id }.join_and_play(None, None, stay).await;
        });
    }
    let problem = within(SETTLED_WITHIN, || {
        let connected = world.check(|checks| checks.inside().count());
        (connected < slots as usize).then(|| (Invariant::NoLeak, format!("{connected} of {slots} slots can be used")))
    });
    let all_connected = report(world, problem.await);
    world.record(format_args!("every slot is used: {all_connected}"));
    end.set();
    let left = timeout(SERVED_WITHIN, async { while herd.join_next().await.is_some() {} }).await.is_ok();
    world.must(Invariant::NothingForgotten, left || !all_connected, || format!("{} players do not leave", herd.len()));
}
