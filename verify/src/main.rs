//! The command line of the checks. The exit code is 0 only if nothing was violated.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use verify::{
    model::{self, Size},
    report::Verdict,
    teeth,
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
    /// Puts each known mistake back and looks who finds it.
    Teeth,
}

fn main() -> ExitCode {
    let verdict = match Cli::parse().check {
        Check::Model { scope, world } => model::run(scope, world.as_deref()),
        Check::Teeth => teeth::run(),
    };
    match verdict {
        Verdict::Holds => ExitCode::SUCCESS,
        Verdict::Violated => ExitCode::FAILURE,
    }
}
