//! The command line of the checks. The exit code is 0 only if nothing was violated.

use std::process::ExitCode;

use ::model::Size;
use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use verify::{differential, injected_bugs, kill, model, report::Verdict, simulate};

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
        /// How far to go: half a million states in seconds, or thirty million in minutes.
        #[arg(long, value_enum, default_value = "small")]
        scope: Worlds,
        /// Only this world.
        #[arg(long, value_parser = PossibleValuesParser::new(model::worlds()))]
        world: Option<String>,
    },
    /// Runs the real functions and the real SDK against the real engine, in virtual time, with faults from a seed.
    Simulate {
        /// How many seeds [default: 500, or 1 with --seed].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Only this one; with --seeds, the first of them.
        #[arg(long)]
        seed: Option<u64>,
        /// Prints what happens in that one.
        #[arg(long, conflicts_with = "seeds", requires = "seed")]
        history: bool,
    },
    /// Kills the local stack and its game servers with SIGKILL, again and again, while a herd joins.
    Kill {
        /// Players of the herd.
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
        players: u32,
        /// How often the stack is killed.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Compares random writes in memory and on the embedded engine; with OWMM_TEST_DYNAMODB=URL on that one too.
    Differential {
        /// Images and writes of each kind: 1500 are enough to see every write taken and refused
        /// [default: 5000, or 1 with --seed].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Only this one; with --seeds, the first of them.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Injects each known bug and counts which checks find it.
    InjectedBugs,
}

/// Which worlds of the model.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Worlds {
    /// Seconds: for every change.
    Small,
    /// Minutes: more of everything at once.
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
