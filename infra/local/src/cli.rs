//! Command line of `owmm-local`: options, output and exit code.

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    parser::ValueSource,
};
use shared::domain::{Bound, PoolLimits, Rollout, Span};

use crate::{
    error::Error,
    log, play,
    stack::{Options, POOL, Stack, TABLE, is_endpoint},
};

/// Runs all of OWMM on this machine: plays both join flows, then keeps serving. Every port is on loopback only.
///
/// When the stack is up, stdout has three lines: `dynamodb URL table NAME`, `ecs URL` and, last, `ready URL`. All other
/// output goes to stderr; OWMM_LOG sets its level (error, warn, info, debug).
///
/// The gateway checks no credentials: `Authorization: Bearer ID` makes the caller the player ID.
#[derive(Debug, Parser)]
#[command(name = "owmm-local", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the demo game server, which the local ECS starts for a task. Reads OWMM_URL, OWMM_SERVER_ID,
    /// OWMM_SERVER_TOKEN, OWMM_POOL, OWMM_CAPACITY and OWMM_PORTS from its environment.
    GameServer,
    /// Run a demo player, which joins, waits while a server starts, connects, plays and leaves.
    Player(PlayerArgs),
}

#[derive(Debug, clap::Args)]
struct PlayerArgs {
    /// OWMM's URL.
    #[arg(long, default_value = "http://127.0.0.1:9000")]
    url: String,
    /// The player's id, which is also the bearer token at the local stack.
    #[arg(long, default_value = "demo-player")]
    id: String,
    /// The pool to join, instead of OWMM's default.
    #[arg(long)]
    pool: Option<String>,
    /// How long to wait for a slot, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    patience_seconds: u64,
    /// How long to play, in seconds.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    play_seconds: u64,
}

/// Ids of the options that set up the default pool.
const POOL_OPTIONS: [&str; 9] = [
    "capacity",
    "max_servers",
    "concurrent_launches",
    "headroom",
    "idle_seconds",
    "reservation_seconds",
    "launch_seconds",
    "lease_seconds",
    "rollout",
];

#[derive(Debug, clap::Args)]
struct Serve {
    /// The gateway's port; 0 takes a free one.
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Play both flows, then exit; the exit code is 0 only if every step succeeded.
    #[arg(long, conflicts_with = "no_demo")]
    once: bool,
    /// Serve without playing the demo.
    #[arg(long)]
    no_demo: bool,
    /// Keep the table in this file instead of in memory. If the file has the default pool already, the pool keeps its
    /// settings, unless an option for the default pool is given.
    #[arg(long, value_name = "FILE", conflicts_with = "dynamodb")]
    data: Option<PathBuf>,
    /// Use this DynamoDB endpoint (DynamoDB Local, or any other) instead of the embedded engine.
    #[arg(long, value_name = "URL")]
    dynamodb: Option<String>,
    /// Create the pools of a JSON file, `{"NAME": {...}, ...}`, where each value is a body of `PUT /pools/NAME`. A pool
    /// without `task` has the task of the default pool. A pool named `default` replaces the default pool's options.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = POOL_OPTIONS
    )]
    pools: Option<PathBuf>,
    /// Slots of each server of the default pool, 1-1000.
    #[arg(long, value_name = "N", default_value_t = Bound::CAPACITY.default as u32, value_parser = within(Bound::CAPACITY))]
    capacity: u32,
    /// Servers of the default pool that may live at once, 1-10000.
    #[arg(long, value_name = "N", default_value_t = Bound::MAX_SERVERS.default as u32, value_parser = within(Bound::MAX_SERVERS))]
    max_servers: u32,
    /// Frontiers of the default pool, 1-16: starting servers that may hand out slots at the same time.
    #[arg(long, value_name = "N", default_value_t = Bound::CONCURRENT_LAUNCHES.default as u32, value_parser = within(Bound::CONCURRENT_LAUNCHES))]
    concurrent_launches: u32,
    /// Free slots that the default pool keeps ahead of demand, 0-100000; with 0 the pool scales to zero.
    #[arg(long, value_name = "N", default_value_t = Bound::HEADROOM.default as u32, value_parser = within(Bound::HEADROOM))]
    headroom: u32,
    /// How long a server may be empty before it is stopped, in seconds, 1-86400.
    #[arg(long, value_name = "N", default_value_t = Bound::IDLE_SECONDS.default as u32, value_parser = within(Bound::IDLE_SECONDS))]
    idle_seconds: u32,
    /// Time between two reconcile runs, in seconds, 1-3600; on AWS it is 60 s.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    reconcile_seconds: u32,
    /// How long a slot is reserved for a player who has not connected yet, in seconds, 1-3600.
    #[arg(long, value_name = "N", default_value_t = Bound::RESERVATION_SECONDS.default as u32, value_parser = within(Bound::RESERVATION_SECONDS))]
    reservation_seconds: u32,
    /// How long a server may take to register, in seconds, 1-3600.
    #[arg(long, value_name = "N", default_value_t = Bound::LAUNCH_SECONDS.default as u32, value_parser = within(Bound::LAUNCH_SECONDS))]
    launch_seconds: u32,
    /// How long a heartbeat renews a server's lease, in seconds, 1-600. A server sends three heartbeats per lease.
    #[arg(long, value_name = "N", default_value_t = Bound::LEASE_SECONDS.default as u32, value_parser = within(Bound::LEASE_SECONDS))]
    lease_seconds: u32,
    /// What happens to the default pool's servers when its task definition changes: `lazy` keeps them until they are
    /// empty, `drain` sends them no new players.
    #[arg(long, value_name = "HOW", default_value = "lazy", value_parser = rollout())]
    rollout: Rollout,
    /// Program, with its arguments, that the local ECS starts for a task instead of the demo game server. Its
    /// environment has OWMM_URL, OWMM_SERVER_ID, OWMM_SERVER_TOKEN, OWMM_POOL, OWMM_CAPACITY and OWMM_PORTS. The demo
    /// player speaks only the demo game server's protocol: a game with another protocol needs `--no-demo`.
    #[arg(long, value_name = "CMD")]
    game_server: Option<String>,
    /// Call the functions at this Lambda endpoint, such as `cargo lambda watch`, instead of in this process.
    #[arg(long, value_name = "URL")]
    functions: Option<String>,
    /// How long the local ECS waits before it starts a task's process, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    start_delay: u64,
}

/// Value parser for an integer in the range of a setting.
fn within(bound: Bound) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(bound.least..=bound.most)
}

/// Value parser for the name of a rollout.
fn rollout() -> impl TypedValueParser<Value = Rollout> {
    PossibleValuesParser::new(Rollout::ALL.map(Rollout::as_str)).map(|name| Rollout::parse(&name).unwrap_or_default())
}

impl Serve {
    /// Converts the command line into the options of the stack. `on_pool`: whether one of [`POOL_OPTIONS`] was given.
    fn options(self, on_pool: bool) -> Result<Options, Error> {
        Ok(Options {
            port: self.port,
            data: self.data,
            dynamodb: self.dynamodb,
            table: TABLE.to_owned(),
            limits: PoolLimits {
                capacity: self.capacity,
                max_servers: self.max_servers,
                concurrent_launches: self.concurrent_launches,
                headroom: self.headroom,
                idle: Span::seconds(self.idle_seconds),
                reservation: Span::seconds(self.reservation_seconds),
                launch: Span::seconds(self.launch_seconds),
                lease: Span::seconds(self.lease_seconds),
            },
            rollout: self.rollout,
            keeps_pool: !on_pool && self.pools.is_none(),
            pools: self.pools,
            game_server: match &self.game_server {
                Some(command) => command_line(command)?,
                None => demo_game_server()?,
            },
            start_delay: Duration::from_millis(self.start_delay),
            reconcile_every: Duration::from_secs(u64::from(self.reconcile_seconds)),
            functions: self.functions,
        })
    }
}

/// Command line that starts this program as the demo game server.
///
/// # Errors
/// The operating system does not know the path of this program.
pub fn demo_game_server() -> Result<Vec<OsString>, Error> {
    let this = std::env::current_exe();
    let this = this.map_err(|error| Error::GameServer("(the demo game server)".into(), error.to_string()))?;
    Ok(vec![this.into_os_string(), "game-server".into()])
}

/// Splits a command line into an existing program and its arguments.
fn command_line(command: &str) -> Result<Vec<OsString>, Error> {
    let wrong = |problem: String| Error::GameServer(command.to_owned(), problem);
    let words = shlex::split(command).ok_or_else(|| wrong("a quote is not closed".into()))?;
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| wrong("name a program and its arguments, as in `python3 infra/example-server.py`".into()))?;
    let program = which::which(program).map_err(|_| {
        let place = if program.contains('/') { "at that path" } else { "in any folder of PATH" };
        wrong(format!("there is no program `{program}` {place}, or it may not be executed"))
    })?;
    Ok(std::iter::once(program.into_os_string()).chain(arguments.iter().map(OsString::from)).collect())
}

/// Entry point of `owmm-local`: parses the command line and runs the command.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let on_pool = POOL_OPTIONS.iter().any(|name| matches.value_source(name) == Some(ValueSource::CommandLine));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // One record per call would hide the demo's steps, so the functions log only warnings and errors by default.
    // The engine warns about every failed condition, which is an expected response here.
    log::to_stderr(if cli.command.is_none() { "info,shared=warn,dynoxide=error" } else { "info" });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(async {
        match cli.command {
            Some(Command::GameServer) => demo::server::main().await,
            Some(Command::Player(args)) => player(args).await,
            None => serve(cli.serve, on_pool).await,
        }
    })
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    print_stderr(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// Prints a line for the user to stderr. A write error is ignored: there is no other place to report it.
fn print_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a line for a calling script to stdout.
fn print_stdout(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

async fn player(args: PlayerArgs) -> ExitCode {
    if !is_endpoint(&args.url) {
        return fail(&Error::PlayerUrl(args.url));
    }
    let http = match demo::http_client() {
        Ok(http) => http,
        Err(error) => return fail(&error),
    };
    let player = demo::player::Player::new(&args.url, &args.id, args.pool.as_deref(), http);
    let seconds = Duration::from_secs;
    demo::player::main(player, seconds(args.patience_seconds), seconds(args.play_seconds)).await
}

async fn serve(serve: Serve, on_pool: bool) -> ExitCode {
    let (once, no_demo) = (serve.once, serve.no_demo);
    let mut interrupted = std::pin::pin!(interrupted());
    let stack = match serve.options(on_pool) {
        Ok(options) => Stack::start(options).await,
        Err(error) => return fail(&error),
    };
    let stack = match stack {
        Ok(stack) => stack,
        Err(error) => return fail(&error),
    };
    let lines = [
        format!("dynamodb {} table {TABLE}", stack.dynamodb_url()),
        format!("ecs {}", stack.ecs_url()),
        format!("ready {}", stack.url()),
    ];
    if let Err(error) = lines.iter().try_for_each(|line| print_stdout(line)) {
        stack.stop().await;
        return fail(&error);
    }
    let mut code = ExitCode::SUCCESS;
    if !no_demo {
        let played = tokio::select! {
            played = play::both_flows(&stack, print_stderr) => Some(played),
            () = &mut interrupted => None,
        };
        match played {
            Some(Ok(())) => {}
            Some(Err(missed)) => {
                print_stderr(&format!("error: the demo failed: {missed}"));
                code = ExitCode::FAILURE;
            }
            None => {
                stack.stop().await;
                return ExitCode::FAILURE;
            }
        }
    }
    if !once {
        print_stderr(&greeting(stack.url()));
        interrupted.await;
        code = ExitCode::SUCCESS;
    }
    print_stderr("\nstopping the game servers and the stack ...");
    stack.stop().await;
    code
}

fn greeting(url: &str) -> String {
    format!(
        "
OWMM is up at {url} (pool `{POOL}`). Try:

  curl -X POST {url}/join -H 'Authorization: Bearer alice'      # reserve a slot; a repeat returns the same one
  curl -X POST {url}/join -H 'Authorization: Bearer bob'        # reserve a slot on the fullest server with room
  curl -X DELETE {url}/join -H 'Authorization: Bearer alice'    # cancel the reservation
  curl {url}/openapi.yaml                                       # list every route

Ctrl-C stops the stack and every process that it started."
    )
}

/// Waits for Ctrl-C, SIGTERM or SIGHUP.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut hup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
            return;
        }
    }
    // No signal handler could be installed, so only the end of the process ends this wait.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
