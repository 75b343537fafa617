//! `owmm`: OWMM's command line for operators.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line's grammar |
//! | `api` | the HTTP contract: paths, retries, refusals |
//! | `sign` | AWS credentials and signatures |
//! | `commands` | the requests and the output of each command |
//! | `settings` | a pool's settings: their names, changes to them, differences between them |
//! | `json` | readable errors for invalid JSON |
//! | `show` | tables, ages, values as text |
//! | `terminal` | text that is safe on a terminal |
//! | `watch` | `--watch`: repeats a view at an interval |
//! | `ask` | the confirmation before a change |
//! | `failure` | errors and exit codes |
//!
//! This crate uses OWMM's HTTP contract alone and shares no code with OWMM, so a script can do everything that `owmm`
//! does.

mod api;
mod args;
mod ask;
mod commands;
mod failure;
mod json;
mod settings;
mod show;
mod sign;
mod terminal;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    args::{Cli, Command},
    failure::Failure,
};

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let done = match cli.command {
        Command::Completion { shell } => completion(shell),
        command => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Output)
            .and_then(|runtime| runtime.block_on(commands::run(&cli.global, command))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    // The script goes to memory first, because the generator panics if a write fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "owmm", &mut script);
    show::out(&String::from_utf8_lossy(&script))
}
