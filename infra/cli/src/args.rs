//! The command line's grammar: commands, options, and the ranges of their values. Knows no API and no table.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::settings::{self, Patch};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or there was nothing to do
  1  refused: the API refused the call, and the call changed nothing
  2  the command line, the environment, a file or the AWS credentials are not usable
  3  the outcome is unknown, or the output could not be written: check the state, then repeat the command
  4  not confirmed: the answer was no, or there was no terminal to ask on and no --yes; nothing was done";

/// OWMM's command line for operators: pools, servers and players, over OWMM's HTTP API.
///
/// Requests are signed with the usual AWS credentials: environment, profile, single sign-on, credential_process,
/// container, instance. A loopback URL needs no credentials, because the local stack accepts any signature.
#[derive(Debug, Parser)]
#[command(name = "owmm", bin_name = "owmm", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    /// Options of every command: the API's address, credentials and output format.
    #[command(flatten)]
    pub(crate) global: Global,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command: the API's address, credentials and output format.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// URL of the API: https://ID.execute-api.REGION.amazonaws.com, or what the local stack prints after `ready`
    #[arg(long, env = "OWMM_URL", global = true, value_name = "URL", value_hint = ValueHint::Url, help_heading = "API")]
    pub(crate) url: Option<String>,
    /// AWS region of the API, instead of the one in the URL, in AWS_REGION or in the profile
    #[arg(long, global = true, value_name = "REGION", help_heading = "API")]
    pub(crate) region: Option<String>,
    /// The profile in ~/.aws to take credentials from, instead of AWS_PROFILE
    #[arg(long, global = true, value_name = "NAME", help_heading = "API")]
    pub(crate) profile: Option<String>,
    /// Timeout of one attempt, 1-300; a call answered 429 or 503 is sent up to five times, as `Retry-After` says
    #[arg(long, env = "OWMM_TIMEOUT", global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300), help_heading = "API")]
    pub(crate) timeout: u64,
    /// Print the API's answer as one JSON document on stdout; a refusal goes to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print each call on stderr, without its credentials
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all pools with their servers, their settings and whether they are launching
    Pools {
        /// `--watch` and its interval.
        #[command(flatten)]
        watch: Watch,
    },
    /// Show or set one pool
    #[command(subcommand)]
    Pool(PoolCommand),
    /// List the servers of all pools, or of one pool
    Servers {
        /// Only the servers of this pool
        #[arg(long, value_name = "POOL", value_parser = name)]
        pool: Option<String>,
        /// `--watch` and its interval.
        #[command(flatten)]
        watch: Watch,
    },
    /// Show or drain one server
    #[command(subcommand)]
    Server(ServerCommand),
    /// Show or release one player
    #[command(subcommand)]
    Player(PlayerCommand),
    /// Start servers ahead of demand, until the pool has at least N live servers
    ///
    /// N is the total and not the number to add, so a repeated command starts no further servers. Asks first.
    Launch {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// Live servers that the pool must have at least (starting, ready or draining), 1-10000
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        at_least: u32,
        /// Skips the confirmation.
        #[command(flatten)]
        yes: Yes,
    },
    /// Pause the launches of a pool until it is resumed
    ///
    /// Servers that are already starting continue, and players still get slots on existing servers. Asks first.
    Pause {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// End the pause automatically after this time, 1-604800
        #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
        seconds: Option<u32>,
        /// Skips the confirmation.
        #[command(flatten)]
        yes: Yes,
    },
    /// Resume the launches of a pool, after an operator's pause or after failed launches
    Resume {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
    },
    /// Print the completion script for a shell
    ///
    /// bash: owmm completion bash > ~/.local/share/bash-completion/completions/owmm
    ///
    /// zsh: owmm completion zsh > "${fpath[1]}/_owmm"
    ///
    /// fish: owmm completion fish > ~/.config/fish/completions/owmm.fish
    #[command(verbatim_doc_comment)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Commands for one pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Show a pool's settings, live servers and whether it is launching
    Show {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
    },
    /// Change a pool's settings, or create a pool
    ///
    /// Reads the pool's settings, shows the difference, asks, and sends all settings in one request: the API accepts
    /// all or none.
    #[command(after_long_help = settings::help())]
    Set {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// A change to the pool's settings, or to those in --file; `KEY=` alone restores the default
        #[arg(value_name = "KEY=VALUE", required_unless_present = "file")]
        patches: Vec<Patch>,
        /// Start from the settings in this JSON file instead of the pool's (`owmm --json pool show POOL` prints them
        /// under `settings`); - is stdin
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Only show the difference
        #[arg(long)]
        dry_run: bool,
        /// Skips the confirmation.
        #[command(flatten)]
        yes: Yes,
    },
}

/// Commands for one server.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Show a server with all players who hold a slot on it
    Show {
        /// The server's id
        #[arg(value_name = "SERVER", value_parser = name)]
        server: String,
    },
    /// Drain a server: it accepts no new players, and is stopped once it is empty
    ///
    /// Connected players stay until they disconnect, and players with a reservation may still connect. Repeating the
    /// command on a draining server replaces its deadline. Asks first.
    Drain {
        /// The server's id
        #[arg(value_name = "SERVER", value_parser = name)]
        server: String,
        /// Stop the server after this time even with players connected, 0-86400; by default it waits for them
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
        deadline: Option<u32>,
        /// Skips the confirmation.
        #[command(flatten)]
        yes: Yes,
    },
}

/// Commands for one player.
#[derive(Debug, Subcommand)]
pub(crate) enum PlayerCommand {
    /// Show a player's seat and the slot that the player holds
    Show {
        /// The player's id, as the identity provider's `sub` has it
        #[arg(value_name = "PLAYER", value_parser = player)]
        player: String,
    },
    /// Release a player whom a reservation or a stopped server still holds
    ///
    /// A player who is connected to a live server is not released. Asks first.
    Release {
        /// The player's id, as the identity provider's `sub` has it
        #[arg(value_name = "PLAYER", value_parser = player)]
        player: String,
        /// Skips the confirmation.
        #[command(flatten)]
        yes: Yes,
    },
}

/// Options that repeat a view at an interval.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Watch {
    /// Repeat until Ctrl-C: in place on a terminal, elsewhere one block after another, with --json one line per
    /// document
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Interval of --watch, 1-3600
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
}

impl Watch {
    /// Returns the interval if `--watch` is given.
    pub(crate) fn every(self) -> Option<Duration> {
        self.watch.then(|| Duration::from_secs(self.interval))
    }
}

/// The option that skips the confirmation.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Yes {
    /// Do it without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Parses an id of at most `most` characters that is safe as a path segment. `.` and `..` would change the path, even
/// percent-encoded.
fn id(text: &str, most: usize, others: &str) -> Result<String, String> {
    let fits = (1..=most).contains(&text.len());
    if !fits || !text.chars().all(|char| char.is_ascii_alphanumeric() || others.contains(char)) {
        return Err(format!("it must be 1 to {most} of A-Za-z0-9{others}"));
    }
    if matches!(text, "." | "..") {
        return Err("`.` and `..` are no ids, because they change a URL's path".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses a pool's name or a server's id.
fn name(text: &str) -> Result<String, String> {
    id(text, 64, "._:-")
}

fn player(text: &str) -> Result<String, String> {
    id(text, 128, "._:|@=+-")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_all_commands_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_id_outside_the_contract_or_a_dot_segment_is_refused() {
        assert_eq!(player("auth0|5f7c@x=+").unwrap(), "auth0|5f7c@x=+");
        for bad in ["", ".", "..", "a b", "a/b", "a|b", "ä", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn global_options_are_accepted_before_and_after_the_command() {
        for line in ["owmm --json --url http://x pools", "owmm pools --json --url http://x"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json && cli.global.url.as_deref() == Some("http://x"), "{line}");
        }
    }
}
