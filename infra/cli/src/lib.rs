//! `owmm`: the command line of OWMM's operators.
//!
//! | module | owns |
//! |---|---|
//! | `args` | what the user types |
//! | `api` | the HTTP contract: paths, retries, refusals |
//! | `sign` | AWS credentials and signatures |
//! | `commands` | what each command asks of the API, and what it says afterwards |
//! | `settings` | a pool's settings: changes, and the difference that they make |
//! | `json` | what is wrong with a JSON text, in words |
//! | `show` | tables, ages, values as text |
//! | `terminal` | text that is safe on a terminal |
//! | `watch` | the same view again and again |
//! | `ask` | whether it shall really be done |
//!
//! This crate knows OWMM by its HTTP contract alone and shares no code with it, so it cannot do what a script could not.

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

/// The program.
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
        Err(failure) => failure.told(json),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "owmm", &mut script);
    show::out(&String::from_utf8_lossy(&script))
}
