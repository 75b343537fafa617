//! The command line of the checks. The exit code is 0 only if nothing was violated.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use verify::{
    differential, kill,
    model::{self, Size},
    report::Verdict,
    simulate, teeth,
};

/// Checks what OWMM promises.
#[derive(Debug, Parser)]
#[command(name = "verify", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    check: Check,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Explores every order of events, to the end.
    Model {
        /// How far to go.
        #[arg(long, value_enum, default_value = "small")]
        scope: Size,
        /// Only the world of this name.
        #[arg(long)]
        world: Option<String>,
    },
    /// Runs the real functions and the real SDK against the real engine, in virtual time, with faults from a seed.
    Simulate {
        /// How many seeds.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs that one alone, and prints what happens.
        #[arg(long, conflicts_with = "seeds")]
        history: bool,
    },
    /// Kills the local stack and its game servers with SIGKILL, again and again, while a herd joins.
    Kill {
        /// Players of the herd.
        #[arg(long, default_value_t = 40)]
        players: u32,
        /// How often the stack is killed.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
    },
    /// Compares random writes in memory and on the embedded engine; with OWMM_TEST_DYNAMODB=URL on that one too.
    Differential {
        /// Images and writes of each kind.
        #[arg(long, default_value_t = 5_000)]
        seeds: u64,
        /// Only this one.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Puts each known mistake back and looks who finds it.
    Teeth,
}

fn main() -> ExitCode {
    if std::env::var_os(kill::AS_STACK).is_some() {
        return local::cli::main();
    }
    let verdict = match Cli::parse().check {
        Check::Model { scope, world } => model::run(scope, world.as_deref()),
        Check::Simulate { seed, history: true, .. } => simulate::one(seed),
        Check::Simulate { seeds, seed, history: false } => simulate::many(seed, seeds),
        Check::Kill { players, rounds } => kill::run(players, rounds),
        Check::Differential { seeds, seed } => differential::run(seeds, seed),
        Check::Teeth => teeth::run(),
    };
    match verdict {
        Verdict::Holds => ExitCode::SUCCESS,
        Verdict::Violated => ExitCode::FAILURE,
    }
}
