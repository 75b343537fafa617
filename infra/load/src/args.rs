//! What the user types. Knows no stack and no table; [`Args::check`] says which options do not go together.

use clap::{Parser, Subcommand, ValueEnum};

/// Puts many players into a pool at once, measures it beside the bare writes that it comes down to, and audits the
/// table afterwards.
///
/// Every player joins and asks again as the answers say until a slot on a running server is there. Each run has a pool
/// of its own. Beside it runs the floor: the same table engine, the same SDK client and as many at once, doing nothing
/// but the two conditional writes that a join cannot do without. The machine is what it is; the ratio counts.
///
/// Progress goes to stderr, the table (or JSON) to stdout. The exit code is 1 if the audit finds a violation, whatever the
/// times are.
#[derive(Debug, Parser)]
#[command(name = "load", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Something else than a load run.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The load run.
    #[command(flatten)]
    pub(crate) args: Args,
}

/// What else this program is.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The demo game server, which `--servers real` starts.
    #[command(hide = true)]
    GameServer,
    /// How long one look of reconcile at a large fleet takes, and what it asks of the table.
    Reconcile(ReconcileArgs),
}

/// How players reach OWMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// Through the gateway, which then works on the same cores.
    Http,
    /// By calling the operations in this process: OWMM alone, without gateway and HTTP.
    Calls,
}

/// What the pool is like when the players come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Empty: every server has to be started.
    Herd,
    /// Servers with room for everybody and a quarter more are ready.
    Steady,
}

/// Who the dedicated servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Servers {
    /// This program registers each server whose task runs; the task itself is `sleep 3600`.
    Hand,
    /// A demo game server process a task.
    Real,
}

/// One load run, or several of the same.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Players that join.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) players: u32,
    /// Calls in flight at once. A player who waits for a server to start is not one.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) at_once: u32,
    /// What the pool is like when the players come.
    #[arg(long, value_enum, default_value_t = Scenario::Herd)]
    pub(crate) scenario: Scenario,
    /// How players reach OWMM. `calls` only without --url.
    #[arg(long, value_enum, default_value_t = Over::Http)]
    pub(crate) over: Over,
    /// Slots of a server, 1-1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) capacity: u32,
    /// Servers that may live at once, 1-10000. Without it, twice what is needed and some, so that too many would show.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_servers: Option<u32>,
    /// Frontiers of the pool, 1-16: servers that may be filling at once while they start.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) concurrent_launches: u32,
    /// Who the dedicated servers are. `real` not with `--scenario steady`.
    #[arg(long, value_enum, default_value_t = Servers::Hand)]
    pub(crate) servers: Servers,
    /// From RunTask to the server's start, in milliseconds. With --url and servers by hand it is added to the stack's own.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) start_delay: u64,
    /// A stack that runs already, by its gateway; it is given pools of its own. For servers by hand start the stack
    /// with `--no-demo --game-server 'sleep 3600'`. Without --url each run has a stack in this process.
    #[arg(long, value_name = "URL", requires_all = ["dynamodb", "table"])]
    pub(crate) url: Option<String>,
    /// The table's endpoint. With --url that of the stack, which prints it; without, one to use instead of the embedded
    /// engine.
    #[arg(long, value_name = "URL")]
    pub(crate) dynamodb: Option<String>,
    /// The table of the stack at --url, which prints it.
    #[arg(long, value_name = "NAME", requires = "url")]
    pub(crate) table: Option<String>,
    /// The process of the stack at --url, to see its memory (Linux).
    #[arg(long, value_name = "PID", requires = "url")]
    pub(crate) pid: Option<u32>,
    /// Runs of the same, each on a fresh pool. The table shows the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// How long a player waits for a slot.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience_seconds: u64,
    /// Leave the floor out.
    #[arg(long)]
    pub(crate) no_floor: bool,
    /// One JSON object on stdout instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// One look at a fleet of that size, twice a run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReconcileArgs {
    /// Servers, over all pools.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) servers: u32,
    /// Pools that they are of. A pool has at most 10,000.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) pools: u32,
    /// Players inside each server, of the 50 that it has slots for.
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=49))]
    pub(crate) players: u32,
    /// Use this DynamoDB endpoint instead of the embedded engine, whose memory and work are this process's.
    #[arg(long, value_name = "URL")]
    pub(crate) dynamodb: Option<String>,
    /// Runs of the same, each on a fresh table. The table shows the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
}

impl Args {
    /// What does not go together, in words.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.url.is_some() && self.over == Over::Calls {
            return Err("`--over calls` calls OWMM in this process: leave --url out");
        }
        if self.scenario == Scenario::Steady && self.servers == Servers::Real {
            return Err("`--scenario steady` plays its servers itself: leave `--servers real` out");
        }
        Ok(())
    }

    /// Servers that hold all players.
    pub(crate) fn needed(&self) -> u32 {
        self.players.div_ceil(self.capacity)
    }

    /// Servers that are ready before the first player comes.
    pub(crate) fn prepared(&self) -> u32 {
        match self.scenario {
            Scenario::Herd => 0,
            Scenario::Steady => self.needed() + self.needed().div_ceil(4),
        }
    }

    /// Servers that may live.
    pub(crate) fn max_servers(&self) -> u32 {
        self.max_servers.unwrap_or_else(|| 2 * self.needed() + 2 * self.concurrent_launches)
    }
}
