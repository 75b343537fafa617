//! The command line's grammar. Knows no stack and no table; [`Args::check`] refuses options that exclude each other.

use clap::{Parser, Subcommand, ValueEnum};

/// Lets many players join a pool at once, compares the rate with a floor of bare writes, and audits the table.
///
/// Every player joins, and polls after the pause that each answer names, until the player has a slot on a running
/// server. Each run has a pool of its own. Before or after the joins the floor is measured: the two conditional writes
/// that every join needs, with the same table engine, the same SDK client and the same concurrency. Absolute figures
/// depend on the machine; compare the ratio of joins to floor.
///
/// Progress goes to stderr, the table (or JSON) to stdout. The exit code is 1 if the audit finds a violation, and does
/// not depend on times.
#[derive(Debug, Parser)]
#[command(name = "load", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// A command other than the load run.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The load run.
    #[command(flatten)]
    pub(crate) args: Args,
}

/// The commands other than the load run.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the demo game server, which `--servers real` starts.
    #[command(hide = true)]
    GameServer,
    /// Measures duration, table requests and memory of one reconcile run over a large fleet.
    Reconcile(ReconcileArgs),
}

/// How players reach OWMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// Over HTTP through the gateway, which shares the cores.
    Http,
    /// By calling OWMM's operations in this process, without gateway and HTTP.
    Calls,
}

/// State of the pool before the first join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The pool is empty, so every server has to be started.
    Herd,
    /// Servers with room for all players and a quarter more are ready.
    Steady,
}

/// Kind of the dedicated servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Servers {
    /// This program registers each server once its task runs; the task itself is `sleep 3600`.
    Hand,
    /// Each task is a process of the demo game server.
    Real,
}

/// Options of the load run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Players that join.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) players: u32,
    /// Join calls in flight at once, 1-10000. A player who waits for a server has no call in flight.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) at_once: u32,
    /// State of the pool before the first join.
    #[arg(long, value_enum, default_value_t = Scenario::Herd)]
    pub(crate) scenario: Scenario,
    /// How players reach OWMM. `calls` excludes --url.
    #[arg(long, value_enum, default_value_t = Over::Http)]
    pub(crate) over: Over,
    /// Slots of a server, 1-1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) capacity: u32,
    /// Live servers at most, 1-10000. By default more than twice what is needed, so that surplus launches would show.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_servers: Option<u32>,
    /// Frontiers of the pool, 1-16: starting servers that accept players at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) concurrent_launches: u32,
    /// Kind of the dedicated servers. `real` excludes `--scenario steady`.
    #[arg(long, value_enum, default_value_t = Servers::Hand)]
    pub(crate) servers: Servers,
    /// Delay between RunTask and the server's start, in milliseconds. With --url and `--servers hand` it is added to
    /// the stack's own delay.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) start_delay: u64,
    /// Gateway URL of a running stack, in which each run creates a pool. For `--servers hand` start that stack with
    /// `--no-demo --game-server 'sleep 3600'`. Without --url each run starts a stack in this process.
    #[arg(long, value_name = "URL", requires_all = ["dynamodb", "table"])]
    pub(crate) url: Option<String>,
    /// DynamoDB endpoint. With --url it is the endpoint that the stack prints; without --url it replaces the embedded
    /// engine.
    #[arg(long, value_name = "URL")]
    pub(crate) dynamodb: Option<String>,
    /// Table of the stack at --url, as the stack prints it.
    #[arg(long, value_name = "NAME", requires = "url")]
    pub(crate) table: Option<String>,
    /// Process id of the stack at --url, to report its memory (Linux only).
    #[arg(long, value_name = "PID", requires = "url")]
    pub(crate) pid: Option<u32>,
    /// Number of runs, 1-100, each on a fresh pool. The table shows the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Time after which a player stops polling for a slot.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience_seconds: u64,
    /// Do not measure the floor.
    #[arg(long)]
    pub(crate) no_floor: bool,
    /// Print one JSON object on stdout instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `load reconcile`, which measures two reconcile runs over a fleet of the given size.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReconcileArgs {
    /// Servers in all pools together, 1-100000.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) servers: u32,
    /// Pools, 1-1000, over which the servers are spread. A pool has at most 10,000 servers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) pools: u32,
    /// Players connected to each server, 1-49. A server has 50 slots.
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=49))]
    pub(crate) players: u32,
    /// DynamoDB endpoint that replaces the embedded engine. The embedded engine's memory and processor time count as
    /// this process's.
    #[arg(long, value_name = "URL")]
    pub(crate) dynamodb: Option<String>,
    /// Number of runs, 1-100, each on a fresh table. The table shows the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
}

impl Args {
    /// Refuses options that exclude each other, and returns the reason.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.url.is_some() && self.over == Over::Calls {
            return Err("`--over calls` calls OWMM in this process: leave out --url");
        }
        if self.scenario == Scenario::Steady && self.servers == Servers::Real {
            return Err("`--scenario steady` registers its servers itself: leave out `--servers real`");
        }
        Ok(())
    }

    /// Returns the number of servers that hold all players.
    pub(crate) fn needed(&self) -> u32 {
        self.players.div_ceil(self.capacity)
    }

    /// Returns the number of servers that are ready before the first join.
    pub(crate) fn prepared(&self) -> u32 {
        match self.scenario {
            Scenario::Herd => 0,
            Scenario::Steady => self.needed() + self.needed().div_ceil(4),
        }
    }

    /// Returns the pool's limit of live servers.
    pub(crate) fn max_servers(&self) -> u32 {
        self.max_servers.unwrap_or_else(|| 2 * self.needed() + 2 * self.concurrent_launches)
    }
}
