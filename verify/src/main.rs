//! The command line of the checks. The exit code is 0 only if nothing was violated.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use verify::{report::Verdict, teeth};

/// Checks what OWMM promises.
#[derive(Debug, Parser)]
#[command(name = "verify", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    check: Check,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Puts each known mistake back and looks who finds it.
    Teeth,
}

fn main() -> ExitCode {
    let verdict = match Cli::parse().check {
        Check::Teeth => teeth::run(),
    };
    match verdict {
        Verdict::Holds => ExitCode::SUCCESS,
        Verdict::Violated => ExitCode::FAILURE,
    }
}
