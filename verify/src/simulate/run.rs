//! One seed, from its plan to its outcome.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ecs::{LocalEcs, Simulation};
use shared::{
    domain::{
        PlayerId,
        bug::{Bug, inject},
    },
    table::create_table,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{
    chance::Chance,
    checks::{Invariant, Violation},
    finish,
    functions::{Functions, table_client},
    history::History,
    others::{self, Tokens},
    plan::Plan,
    players::{OTHER_POOL, Party, Player},
    server,
    world::{self, POOL, TABLE, VirtualTime, World},
};

/// The outcome of one seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The plan of the seed, as text.
    pub plan: String,
    /// Violated invariants.
    pub violations: Vec<Violation>,
    /// Number of checks of each invariant.
    pub checked: BTreeMap<Invariant, u64>,
    /// Number of function calls.
    pub calls: u64,
    /// Number of requests to AWS, function calls, visits and processes, which are numbered together.
    pub requests: u64,
    /// Number of faults that struck, by description.
    pub faults: BTreeMap<&'static str, u64>,
    /// The history of the run; empty if it was not kept.
    pub history: String,
}

/// Runs a seed, with one injected bug or none.
///
/// # Errors
/// The simulation itself cannot run: no runtime, or no engine.
pub fn run(seed: u64, bug: Option<Bug>, keep_history: bool) -> Result<Outcome, String> {
    let _injected = inject(bug);
    // The SDK takes the jitter of its retries from here.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let history = if keep_history { History::kept() } else { History::none() };
    runtime.block_on(simulate(seed, history))
}

async fn simulate(seed: u64, history: History) -> Result<Outcome, String> {
    let plan = Plan::of(&Chance::new(seed, 0));
    let described = plan.to_string();
    let world = World::new(plan, seed, history).map_err(|error| error.to_string())?;
    let world = Arc::new(world);
    world.record(format_args!("seed {seed}: {described}"));
    let client = table_client(&world, VirtualTime::new(world.begun, 0));
    create_table(&client, TABLE).await.map_err(|error| error.to_string())?;
    let functions = Functions::new(Arc::clone(&world)).ok_or("the name of the default pool is invalid")?;
    let functions = Arc::new(functions);

    let (starts, started) = mpsc::unbounded_channel();
    let tokens = Arc::new(Tokens::default());
    let ecs = local_ecs(&world, seed, starts);
    let mut background = JoinSet::new();
    background.spawn(others::deliver(Arc::clone(&functions), Arc::clone(&world), ecs.events()));
    world.with_ecs(ecs);
    background.spawn(server::host(Arc::clone(&functions), Arc::clone(&world), started, Arc::clone(&tokens)));
    for pool in [POOL, OTHER_POOL] {
        let settings = others::settings(&world, 1, world.plan.limits.headroom);
        if !others::until_answered(&functions, "PUT", &format!("/pools/{pool}"), Some(settings)).await {
            return Err(format!("the pool {pool} cannot be configured"));
        }
    }
    world.calm(false);
    background.spawn(others::schedule(Arc::clone(&functions), Arc::clone(&world)));
    let operator = Chance::new(seed, 10);
    background.spawn(others::operator(Arc::clone(&functions), Arc::clone(&world), operator));
    let stranger = Chance::new(seed, 11);
    background.spawn(others::stranger(Arc::clone(&functions), Arc::clone(&world), stranger, tokens));

    let mut actors = JoinSet::new();
    for number in 0..world.plan.players {
        let Ok(id) = PlayerId::parse(&format!("p{number}")) else { continue };
        let (world, functions, chance) = (Arc::clone(&world), Arc::clone(&functions), Chance::new(seed, 100 + number));
        actors.spawn(Player { world, functions, chance, id }.live());
    }
    for number in 0..world.plan.parties {
        let (world, functions, chance) =
            (Arc::clone(&world), Arc::clone(&functions), Chance::new(seed, 1_000 + number));
        actors.spawn(Party { world, functions, chance, number }.live());
    }
    sleep(Duration::from_secs(world.plan.chaos_seconds)).await;
    world.record(format_args!("faults stop"));
    world.calm(true);
    finish::settle(&functions, &world, actors, seed).await;

    background.shutdown().await;
    world::lock(&world.servers).clear();
    let mut checks = world::lock(&world.checks);
    let violations = std::mem::take(&mut checks.violations);
    let faults = world.faults().into_iter().map(|(fault, count)| (fault.as_str(), count));
    Ok(Outcome {
        seed,
        plan: described,
        violations,
        checked: std::mem::take(&mut checks.checked),
        calls: world.calls.load(Ordering::Relaxed),
        requests: world.number(),
        faults: faults.collect(),
        history: world.take_history(),
    })
}

fn local_ecs(world: &World, seed: u64, starts: mpsc::UnboundedSender<ecs::SimulatedTask>) -> LocalEcs {
    let (begun, bits) = (world.begun, Chance::new(seed, 20));
    let simulation = Simulation {
        now_ms: Arc::new(move || VirtualTime::new(begun, 0).ms()),
        random: Arc::new(move || bits.bits()),
        // A failed send means that the run is over, and no further task is needed.
        start: Arc::new(move |task| drop(starts.send(task))),
    };
    let nothing: [&str; 0] = [];
    LocalEcs::new(ecs::Options { simulation: Some(simulation), ..ecs::Options::new(nothing) })
}
