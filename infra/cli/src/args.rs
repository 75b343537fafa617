//! What the user types. Knows no API and no table.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::settings::{self, Patch};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or there was nothing to do
  1  refused: the API has said no, and that call has changed nothing
  2  the command line, the environment, a file or the AWS credentials do not do
  3  no answer, or one that does not say what happened: look, and repeat
  4  not confirmed: somebody said no, or there was nobody to ask and no --yes; nothing was done";

/// OWMM's operators' command line: pools, servers and players, over OWMM's HTTP API.
///
/// Signs with the usual AWS credentials: environment, profile, single sign-on, credential_process, container, instance.
/// On a loopback URL it needs none: the local stack believes any signature.
#[derive(Debug, Parser)]
#[command(name = "owmm", bin_name = "owmm", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    /// How the API is reached and answers are shown.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the API is reached and answers are shown.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The API: https://ID.execute-api.REGION.amazonaws.com, or what the local stack prints after `ready`
    #[arg(long, env = "OWMM_URL", global = true, value_name = "URL", value_hint = ValueHint::Url, help_heading = "API")]
    pub(crate) url: Option<String>,
    /// The API's AWS region, instead of the one in the URL, in AWS_REGION or in the profile
    #[arg(long, global = true, value_name = "REGION", help_heading = "API")]
    pub(crate) region: Option<String>,
    /// The profile in ~/.aws to take credentials from, instead of AWS_PROFILE
    #[arg(long, global = true, value_name = "NAME", help_heading = "API")]
    pub(crate) profile: Option<String>,
    /// How long one try may take, 1-300; 429 and 503 are tried up to five times, as `Retry-After` says
    #[arg(long, env = "OWMM_TIMEOUT", global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300), help_heading = "API")]
    pub(crate) timeout: u64,
    /// One JSON document on stdout, as the API answers it; a refusal's on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Tell each call on stderr; never its credentials
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every pool, and what its status is doing
    Pools {
        /// Again and again.
        #[command(flatten)]
        watch: Watch,
    },
    /// Show or set one pool
    #[command(subcommand)]
    Pool(PoolCommand),
    /// The servers of every pool, or of one
    Servers {
        /// Only the servers of this pool
        #[arg(long, value_name = "POOL", value_parser = name)]
        pool: Option<String>,
        /// Again and again.
        #[command(flatten)]
        watch: Watch,
    },
    /// Show or drain one server
    #[command(subcommand)]
    Server(ServerCommand),
    /// Show or release one player
    #[command(subcommand)]
    Player(PlayerCommand),
    /// Start servers ahead of demand, until so many live
    ///
    /// It says how many there shall be and not how many to add, so a repeat starts no more. Asks first.
    Launch {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// Servers that shall live at least (starting, up or draining), 1-10000
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        at_least: u32,
        /// Whether to ask.
        #[command(flatten)]
        yes: Yes,
    },
    /// Start no more servers for a pool, until it is resumed
    ///
    /// Servers that are starting go on, players still get what room there is. Asks first.
    Pause {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// End the pause by itself after so long, 1-604800
        #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
        seconds: Option<u32>,
        /// Whether to ask.
        #[command(flatten)]
        yes: Yes,
    },
    /// Start servers for a pool again, after a pause by an operator or after failed launches
    Resume {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
    },
    /// Print the completion script of a shell
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

/// About one pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// A pool's settings, and what its status is doing
    Show {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
    },
    /// Change a pool's settings, or make a pool
    ///
    /// Reads what the pool has, shows what would be different, asks, and sends the settings whole: all are taken or none.
    #[command(after_long_help = settings::help())]
    Set {
        /// The pool
        #[arg(value_name = "POOL", value_parser = name)]
        pool: String,
        /// What to change, over what the pool has, or over --file; `KEY=` alone goes back to the default
        #[arg(value_name = "KEY=VALUE", required_unless_present = "file")]
        patches: Vec<Patch>,
        /// All settings as JSON, in place of what the pool has (`owmm --json pool show POOL` has them under `settings`); - is
        /// stdin
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Only show what would be different
        #[arg(long)]
        dry_run: bool,
        /// Whether to ask.
        #[command(flatten)]
        yes: Yes,
    },
}

/// About one server.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// A server whole, with everybody who holds a slot on it
    Show {
        /// The server's id
        #[arg(value_name = "SERVER", value_parser = name)]
        server: String,
    },
    /// Let a server run empty, then stop it
    ///
    /// It takes no new players. Those inside stay until they leave, those on their way may come in. To drain a draining
    /// server is to set its deadline anew. Asks first.
    Drain {
        /// The server's id
        #[arg(value_name = "SERVER", value_parser = name)]
        server: String,
        /// Stop it after so long even with players inside, 0-86400; without it, it waits for them
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
        deadline: Option<u32>,
        /// Whether to ask.
        #[command(flatten)]
        yes: Yes,
    },
}

/// About one player.
#[derive(Debug, Subcommand)]
pub(crate) enum PlayerCommand {
    /// Where a player is
    Show {
        /// The player's id, as the identity provider's `sub` has it
        #[arg(value_name = "PLAYER", value_parser = player)]
        player: String,
    },
    /// Free a player whom something still holds; one who is inside a server that lives stays there
    ///
    /// Asks first.
    Release {
        /// The player's id, as the identity provider's `sub` has it
        #[arg(value_name = "PLAYER", value_parser = player)]
        player: String,
        /// Whether to ask.
        #[command(flatten)]
        yes: Yes,
    },
}

/// Again and again.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Watch {
    /// Show it again and again until Ctrl-C: in place on a terminal, else block after block, with --json a document a line
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// How often, 1-3600
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
}

impl Watch {
    /// How often, if more than once.
    pub(crate) fn every(self) -> Option<Duration> {
        self.watch.then(|| Duration::from_secs(self.interval))
    }
}

/// Whether to ask.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Yes {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What goes into a path. `.` and `..` would change the path instead, however they are written.
fn id(text: &str, most: usize, others: &str) -> Result<String, String> {
    let fits = (1..=most).contains(&text.len());
    if !fits || !text.chars().all(|char| char.is_ascii_alphanumeric() || others.contains(char)) {
        return Err(format!("it must be 1 to {most} of A-Za-z0-9{others}"));
    }
    if matches!(text, "." | "..") {
        return Err("it cannot be part of a URL".to_owned());
    }
    Ok(text.to_owned())
}

/// A pool's name or a server's id.
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
    fn the_commands_go_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn ids_are_those_of_the_contract_and_never_a_step_in_a_path() {
        assert_eq!(player("auth0|5f7c@x=+").unwrap(), "auth0|5f7c@x=+");
        for bad in ["", ".", "..", "a b", "a/b", "a|b", "ä", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_may_come_before_or_after_the_command() {
        for line in ["owmm --json --url http://x pools", "owmm pools --json --url http://x"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json && cli.global.url.as_deref() == Some("http://x"), "{line}");
        }
    }
}
