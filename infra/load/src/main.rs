//! The load command: measures many joins at once, compares them with a floor, and audits the table afterwards.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | the command line's grammar |
//! | [`world`] | the stack and the pool of one run, and how players and servers reach them |
//! | [`servers`] | simulated dedicated servers |
//! | [`drive`] | simulated players |
//! | [`floor`] | the floor: only the two writes of a join |
//! | [`audit`] | the check of the table after a run |
//! | [`fleet`] | the command `load reconcile`: one reconcile run over a large fleet |
//! | [`report`] | figures, medians, memory, lines of progress |
//! | [`error`] | errors that end a measurement |
//!
//! This module owns the order of a run. No part of the command asserts a time.

mod args;
mod audit;
mod drive;
mod error;
mod fleet;
mod floor;
mod report;
mod servers;
mod world;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, error::ErrorKind};
use shared::{clock::Clock, telemetry::Usage};

use crate::{
    args::{Args, Cli, Command, ReconcileArgs},
    audit::Audited,
    drive::Driven,
    error::Error,
    floor::Floor,
    report::{Figures, say},
    servers::Servers,
    world::World,
};

/// Violations that are printed at most; the others are only counted.
const VIOLATIONS_SHOWN: usize = 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(wrong) = cli.args.check() {
        // Prints the error and exits as clap does for every other mistake on the command line.
        Cli::command().error(ErrorKind::ArgumentConflict, wrong).exit();
    }
    // Logging takes time on the cores that are measured, so only warnings are logged. The engine logs a warning for
    // each refused condition, which is a normal answer, so it logs only errors.
    local::log::to_stderr("warn,dynoxide=error");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(async {
        match cli.command {
            Some(Command::GameServer) => demo::server::main().await,
            Some(Command::Reconcile(args)) => reconcile(&args).await,
            None => load(&cli.args).await,
        }
    })
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::FAILURE
}

async fn reconcile(args: &ReconcileArgs) -> ExitCode {
    let measured = tokio::select! {
        measured = fleet::reconcile(args) => measured,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    };
    match measured {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Err(error) => fail(&error),
    }
}

async fn load(args: &Args) -> ExitCode {
    say(&report::title(args));
    let (mut runs, mut violations) = (Vec::new(), Vec::new());
    for run in 1..=args.runs {
        say(&format!("run {run} of {}", args.runs));
        match one_run(args, run).await {
            Ok((figures, audited)) => {
                runs.push(figures);
                violations.extend(audited.violations.into_iter().map(|violation| format!("run {run}: {violation}")));
            }
            Err(error) => return fail(&error),
        }
    }
    let text = if args.json {
        report::object(args, &runs, &violations).to_string()
    } else {
        report::table(&report::title(args), &runs)
    };
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        return fail(&error);
    }
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        say(&format!("VIOLATION {violation}"));
    }
    if violations.is_empty() {
        say("the audit found no violation");
        return ExitCode::SUCCESS;
    }
    say(&format!("{} violations", violations.len()));
    ExitCode::FAILURE
}

/// Measures one run against a new world, and closes the world even if the run fails.
async fn one_run(args: &Args, run: u32) -> Result<(Figures, Audited), Error> {
    // Eight characters, so that a player's id has 22. Each run has another tag.
    let tag = format!("{:08x}", (Clock::system().now().0 + i64::from(run)) & 0xffff_ffff);
    let world = World::open(args, &format!("owmm-load-{tag}")).await?;
    let measured = tokio::select! {
        measured = measure(&world, args, run, &tag) => measured,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    };
    world.close().await;
    measured
}

async fn measure(world: &World, args: &Args, run: u32, tag: &str) -> Result<(Figures, Audited), Error> {
    world.warm_up(args.at_once).await?;
    // The order alternates, so that neither joins nor floor always run on a warm machine. In the first run the joins
    // are first, so that its memory is that of the stack and the players alone.
    let mut floor = if run.is_multiple_of(2) { measure_floor(world, args).await? } else { None };
    if args.prepared() > 0 {
        say(&format!("  preparing {} servers", args.prepared()));
        servers::prepare(world, args.prepared()).await?;
    }
    let servers = Servers::play(world, args);
    if let Some(stack) = &world.stack {
        stack.meter().reset();
    }
    report::forget_peak();
    let mut driven = drive::drive(world, args, &servers, tag).await?;
    let usage = world.stack.as_ref().map(|stack| stack.meter().read());
    // The memory to report is the stack's. It is known if the stack is in this process or if `--pid` names its process.
    let memory = match (&world.stack, args.pid) {
        (None, None) => (None, None),
        _ => report::memory(args.pid),
    };
    say("  auditing the table");
    let audited = audit::audit(world, args, &driven).await?;
    if floor.is_none() {
        floor = measure_floor(world, args).await?;
    }
    if world.stack.is_none() {
        // The stack is another process, and this process's processor time does not include it.
        driven.processor_time = None;
        floor = floor.map(|floor| Floor { processor_time: None, ..floor });
    }
    let mut figures = Figures::default();
    add_joins(&mut figures, args, &driven, &audited, floor.as_ref());
    add_requests(&mut figures, &driven, &audited, usage.as_ref());
    figures.add("peakMemoryMb", "peak resident memory, MB", 1, memory.0);
    figures.add("memoryMb", "resident memory after the joins, MB", 1, memory.1);
    if let Some(floor) = floor {
        figures.add_times("floor", "floor: a pair of writes", floor.pairs);
    }
    Ok((figures, audited))
}

async fn measure_floor(world: &World, args: &Args) -> Result<Option<Floor>, Error> {
    if args.no_floor {
        return Ok(None);
    }
    say("  measuring the floor");
    floor::floor(world, args).await.map(Some)
}

fn add_joins(figures: &mut Figures, args: &Args, driven: &Driven, audited: &Audited, floor: Option<&Floor>) {
    let players = &driven.players;
    let rate = |count: usize, last: Option<Duration>| last.map(|last| count as f64 / last.as_secs_f64());
    let joins = rate(audited.placed, players.iter().filter_map(|player| player.held).max());
    let ready = players.iter().filter(|player| player.ready.is_some()).count();
    figures.add("joinsPerSecond", "joins/s: players with a slot (200 or 202)", 0, joins);
    let pairs = floor.map(|floor| floor.pairs_per_second);
    figures.add("floorPairsPerSecond", "floor: pairs of writes/s", 0, pairs);
    figures.add("ratio", "ratio of joins/s to the floor", 2, joins.zip(pairs).map(|(joins, pairs)| joins / pairs));
    let until_ready = rate(ready, players.iter().filter_map(|player| player.ready).max());
    figures.add("readyPerSecond", "players on a running server (200)/s, waits included", 0, until_ready);
    figures.add_times("join", "first join call", players.iter().map(|player| player.first_call).collect());
    figures.add_times("slot", "from first call to 200", players.iter().filter_map(|player| player.to_slot).collect());
    let each = |time: Option<Duration>, count: usize| time.map(|time| time.as_secs_f64() * 1e6 / count as f64);
    figures.add("cpuUs", "processor time per player, us", 0, each(driven.processor_time, audited.placed));
    let floor_cpu = floor.and_then(|floor| each(floor.processor_time, floor.pairs.len()));
    figures.add("floorCpuUs", "floor: processor time per pair, us", 0, floor_cpu);
    figures.add("placed", "players with a slot", 0, audited.placed as f64);
    figures.add("notPlaced", "players without a slot at the end", 0, (players.len() - audited.placed) as f64);
    figures.add("mostPlayers", "claims on the fullest server", 0, audited.most_players as f64);
    figures.add("serversStarted", "servers started", 0, audited.started as f64);
    let needed = if args.prepared() > 0 { 0 } else { args.needed() };
    figures.add("serversNeeded", "servers needed", 0, f64::from(needed));
}

fn add_requests(figures: &mut Figures, driven: &Driven, audited: &Audited, usage: Option<&Usage>) {
    figures.add("calls", "join calls", 0, driven.calls as f64);
    figures.add("refusals", "calls answered without a slot", 0, driven.refusals.values().sum::<u64>() as f64);
    for (code, count) in &driven.refusals {
        figures.add(&format!("refusals.{code}"), &format!("  {code}"), 0, *count as f64);
    }
    let total = usage.map(|usage| usage.total_requests() as f64);
    figures.add("requestsPerCall", "table requests per join call", 2, total.map(|total| total / driven.calls as f64));
    figures.add("requestsPerPlayer", "table requests per player", 2, total.map(|total| total / audited.placed as f64));
    figures.add("requests", "table requests, including those of servers", 0, total);
    for (operation, count) in usage.into_iter().flat_map(|usage| &usage.requests) {
        figures.add(&format!("requests.{operation}"), &format!("  {operation}"), 0, *count as f64);
    }
    let units = usage.map(|usage| usage.write_units() / audited.placed as f64);
    figures.add("writeUnitsPerPlayer", "write units per player, without refused writes", 2, units);
}
