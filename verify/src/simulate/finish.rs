//! What must be true once faults have stopped and time has passed: everything is placed, free or failed, nothing hangs, and
//! nothing is left behind.

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

/// What is still asked for when faults stop is answered by then.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// Everything has come to rest by then: longer than every launch with its attempts, every hold and lease, and a few looks
/// at the fleet.
const RESTS_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How long a pool's old settings are believed by some process, at the most.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long a request that was sent while faults struck may still take effect.
const LINGERS: Duration = Duration::from_secs(60);
/// How often somebody looks.
const LOOK: Duration = Duration::from_secs(5);

/// Waits until everybody is served, everything rests, every slot has been used, and nothing is left.
pub(super) async fn come_to_rest(functions: &Arc<Functions>, world: &Arc<World>, mut actors: JoinSet<()>, seed: u64) {
    for pool in [POOL, OTHER_POOL] {
        let resumed = others::until_answered(functions, "POST", &format!("/pools/{pool}/resume"), None).await;
        world.must(Invariant::NothingForgotten, resumed, || format!("{pool} cannot be resumed"));
    }
    let served = async {
        while let Some(ended) = actors.join_next().await {
            world.must(Invariant::NothingForgotten, ended.is_ok(), || format!("an actor has failed: {ended:?}"));
        }
    };
    let served = timeout(ANSWERED_WITHIN, served).await.is_ok();
    world.must(Invariant::NothingForgotten, served, || format!("{} actors still wait", actors.len()));
    if !served {
        return;
    }
    world.record(format_args!("everybody has been served"));
    // What was sent before may still take effect, and change what a pool is.
    sleep(LINGERS).await;
    if !rests(world).await {
        return;
    }
    world.record(format_args!("everything rests"));
    // The pool as it is now is in force everywhere.
    sleep(BELIEVED).await;
    fill_to_the_brim(functions, world, seed).await;
    for pool in [POOL, OTHER_POOL] {
        let settings = others::settings(world, 1_000, 0);
        let configured = others::until_answered(functions, "PUT", &format!("/pools/{pool}"), Some(settings)).await;
        world.must(Invariant::NothingForgotten, configured, || format!("{pool} cannot be configured"));
    }
    let gone = within(RESTS_WITHIN + Duration::from_millis(world.plan.limits.idle.0.unsigned_abs()), || {
        let left = world.check(|checks| checks.roster.len());
        let tasks = tasks(world).len();
        (left + tasks > 0).then(|| (Invariant::NothingForgotten, format!("{left} servers and {tasks} tasks are left")))
    });
    settled(world, gone.await);
    let as_seen = {
        let engine = lock(&world.engine);
        engine.scan(TABLE).as_ref() == Some(engine.items())
    };
    world.must(Invariant::NothingForgotten, as_seen, || "the table is not what the checks have looked at".to_owned());
}

/// Waits until nothing is wrong: the last thing that was, if that takes too long.
async fn within<T>(span: Duration, wrong: impl Fn() -> Option<T>) -> Option<T> {
    let end = Instant::now() + span;
    loop {
        let seen = wrong();
        if seen.is_none() || Instant::now() > end {
            return seen;
        }
        sleep(LOOK).await;
    }
}

fn settled(world: &World, wrong: Option<(Invariant, String)>) -> bool {
    let holds = wrong.is_none();
    let (invariant, what) = wrong.unwrap_or((Invariant::NothingForgotten, String::new()));
    world.must(invariant, holds, || what);
    holds
}

async fn rests(world: &Arc<World>) -> bool {
    let wrong = within(RESTS_WITHIN, || unrest(world)).await;
    settled(world, wrong)
}

/// Every task that ECS has not stopped, by what it was started for.
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

/// What is not at rest.
fn unrest(world: &World) -> Option<(Invariant, String)> {
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
                    format!("{id} is of a build that has been rolled out of the pool"),
                ));
            }
            for (player, claim) in &ledger.claims {
                let there = inside.contains(&(player.clone(), id.clone()));
                if !(claim.is_connected() && there) {
                    return Some((Invariant::NoLeak, format!("{player} holds {claim:?} on {id} and is not there")));
                }
            }
            let room = !ledger.is_full() && ledger.takes_claims(now) && ledger.state == ServerState::Ready;
            if room && ledger.listed.is_none() {
                return Some((Invariant::NoLeak, format!("{id} has room and is not listed")));
            }
        }
        let entries = live.iter().map(|ledger| format!("POOL#{}/SERVER#{}", ledger.pool, ledger.id));
        let entries = entries.collect::<BTreeSet<_>>();
        if entries != checks.roster {
            return Some((
                Invariant::NothingForgotten,
                format!("the roster is {:?}, and {entries:?} live", checks.roster),
            ));
        }
        for pool in [POOL, OTHER_POOL] {
            let count = live.iter().filter(|ledger| ledger.pool.as_str() == pool).count();
            let counted = checks.statuses.get(&format!("POOL#{pool}")).map_or(0, |status| status.live as usize);
            if count != counted {
                return Some((
                    Invariant::NothingForgotten,
                    format!("{count} servers of {pool} live, and {counted} are counted"),
                ));
            }
        }
        for task in &tasks {
            let of = parse_started_by(task);
            let known = of.is_some_and(|(id, attempt)| live.iter().any(|it| it.id == id && it.attempt == attempt));
            if !known {
                return Some((
                    Invariant::NothingForgotten,
                    format!("the task of {task} runs, and no server stands for it"),
                ));
            }
        }
        for (player, seat) in &checks.seats {
            let Seat::Assigned(place) = seat else { continue };
            let lives = live.iter().any(|ledger| ledger.id == place.server);
            let there = inside.contains(&(player.clone(), place.server.clone()));
            if matches!(place.claim, Claim::Connected(_)) && lives && !there {
                return Some((Invariant::OnePlace, format!("{player} is seated on {} and not there", place.server)));
            }
        }
        None
    })
}

/// As many new players as the pool has slots at all: each gets one.
async fn fill_to_the_brim(functions: &Arc<Functions>, world: &Arc<World>, seed: u64) {
    let limits = &world.plan.limits;
    let slots = limits.capacity * limits.max_servers;
    let end = Flag::default();
    let mut herd = JoinSet::new();
    for number in 0..u64::from(slots) {
        let Ok(id) = PlayerId::parse(&format!("last{number}")) else { continue };
        let (world, functions, chance) = (Arc::clone(world), Arc::clone(functions), Chance::new(seed, 2_000 + number));
        let stay = Stay::Until(end.clone());
        herd.spawn(async move {
            Player { world, functions, chance, id }.come_in(None, None, stay).await;
        });
    }
    let all_inside = within(RESTS_WITHIN, || {
        let inside = world.check(|checks| checks.inside().count());
        (inside < slots as usize).then(|| (Invariant::NoLeak, format!("{inside} of {slots} slots can be used")))
    });
    let all_inside = settled(world, all_inside.await);
    world.record(format_args!("every slot is used: {all_inside}"));
    end.set();
    let left = timeout(ANSWERED_WITHIN, async { while herd.join_next().await.is_some() {} }).await.is_ok();
    world.must(Invariant::NothingForgotten, left || !all_inside, || format!("{} of the herd still wait", herd.len()));
}
