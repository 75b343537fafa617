//! The command line of the checks. The exit code is 0 only if no check found a violation.

use std::process::ExitCode;

use ::model::Size;
use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use verify::{differential, injected_bugs, kill, model, report::Verdict, simulate};

/// Checks OWMM's invariants.
#[derive(Debug, Parser)]
#[command(name = "verify", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    check: Check,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Explores every reachable state of small worlds with the model checker.
    Model {
        /// Size of the worlds: half a million states in seconds, or thirty million in minutes.
        #[arg(long, value_enum, default_value = "small")]
        scope: Worlds,
        /// Only this world.
        #[arg(long, value_parser = PossibleValuesParser::new(model::worlds()))]
        world: Option<String>,
    },
    /// Runs the real functions and the real SDK against the real engine, in virtual time, with faults from a seed.
    Simulate {
        /// Number of seeds [default: 500, or 1 with --seed].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Only this seed; with --seeds, the first seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Prints the history of that seed.
        #[arg(long, conflicts_with = "seeds", requires = "seed")]
        history: bool,
    },
    /// Kills the local stack and its game servers with SIGKILL repeatedly while many players join.
    Kill {
        /// Number of players.
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
        players: u32,
        /// Number of times that the stack is killed.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Compares random writes in memory with the embedded engine, and with the engine at OWMM_TEST_DYNAMODB=URL if set.
    Differential {
        /// Number of seeds, each an image and a write of each kind of item. 1500 seeds are enough to see every write
        /// both applied and refused [default: 5000, or 1 with --seed].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Only this seed; with --seeds, the first seed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Injects each known bug and reports which checks find it.
    InjectedBugs,
}

/// Size of the worlds of the model.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Worlds {
    /// Takes seconds, and runs on every change.
    Small,
    /// Takes minutes, with larger budgets of events.
    Full,
}

impl Worlds {
    const fn size(self) -> Size {
        match self {
            Self::Small => Size::Small,
            Self::Full => Size::Full,
        }
    }
}

fn main() -> ExitCode {
    if std::env::var_os(kill::AS_STACK).is_some() {
        return local::cli::main();
    }
    let verdict = match Cli::parse().check {
        Check::Model { scope, world } => model::run(scope.size(), world.as_deref()),
        Check::Simulate { seed: Some(seed), history: true, .. } => simulate::one(seed),
        Check::Simulate { seeds, seed, .. } => {
            simulate::many(seed.unwrap_or(1), seeds.unwrap_or(if seed.is_some() { 1 } else { 500 }))
        }
        Check::Kill { players, rounds } => kill::run(players, rounds),
        Check::Differential { seeds, seed } => {
            differential::run(seed.unwrap_or(0), seeds.unwrap_or(if seed.is_some() { 1 } else { 5_000 }))
        }
        Check::InjectedBugs => injected_bugs::run(),
    };
    match verdict {
        Verdict::Holds => ExitCode::SUCCESS,
        Verdict::Violated => ExitCode::FAILURE,
    }
}
