//! `verify kill`: kills the local stack and its game servers with SIGKILL while many players join.
//!
//! The local stack is a process of its own, with gateway, functions, table engine and ECS, and game servers as its
//! children. Each round kills it and starts it again on the same file; every second round also kills one game server.
//! These rules must hold:
//!
//! * No acknowledged join is lost unless its server died: a slot that was answered 200 or 202 before the kill is in the
//!   table of the restarted stack.
//! * No game server outlives its stack.
//! * After the last round every player connects, and every claim belongs to a connected player.
//! * After all players have left and the stack was terminated, no process of the run is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use demo::player::{Joined, Player};
use rustix::process::{Pid, Signal, kill_process};
use shared::{
    clock::{Clock, Rng},
    domain::{Ledger, PlayerId, PoolName, ServerId, ServerState, Span, Time},
    table::Table,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::report::{self, Progress, Verdict, grouped, print};

/// Environment variable that makes this program run the local stack instead of a check. Child processes inherit it.
pub const AS_STACK: &str = "VERIFY_AS_STACK";
/// Environment variable with the id of the run, in all processes of the run, so that they can be found.
const RUN_ID: &str = "VERIFY_KILL_RUN";

/// Slots of a server.
const CAPACITY: u32 = 4;
/// Duration of a reservation.
const RESERVATION: Span = Span::seconds(30);
/// Timeout of every wait, long enough for a slow machine.
const TIMEOUT: Duration = Duration::from_secs(240);
/// Interval of checks while waiting.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which runs the local stack if [`AS_STACK`] is set.
    pub program: PathBuf,
    /// Number of players.
    pub players: u32,
    /// Number of times that the stack is killed.
    pub rounds: u32,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Killed {
    /// Number of times that the stack was killed.
    pub stacks: u64,
    /// Number of game servers that were killed alone.
    pub servers: u64,
    /// Number of game servers that ran when their stack was killed.
    pub orphaned: u64,
    /// Number of joins that were answered with a slot.
    pub acknowledged: u64,
    /// Number of acknowledged slots that were found in the table after a restart.
    pub found: u64,
    /// Violated rules, each in a sentence.
    pub violations: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot that an answer acknowledged.
#[derive(Clone, Debug)]
struct Slot {
    server: ServerId,
    at: Time,
    connected: bool,
}

/// The shared state of all players.
#[derive(Default)]
struct Herd {
    slots: Mutex<BTreeMap<PlayerId, Slot>>,
    acknowledged: AtomicU64,
    /// No player makes a call while this is set, so that the table can be checked.
    paused: AtomicBool,
    /// Connected players stay while this is set.
    settled: AtomicBool,
    over: AtomicBool,
}

impl Herd {
    fn is(flag: &AtomicBool) -> bool {
        flag.load(Ordering::SeqCst)
    }

    fn connected(&self) -> BTreeSet<(PlayerId, ServerId)> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| slot.connected).map(|(id, slot)| (id.clone(), slot.server.clone())).collect()
    }
}

async fn play(herd: Arc<Herd>, player: Player, id: PlayerId, number: u64) {
    let (clock, rng) = (Clock::system(), Rng::seeded(number));
    while !Herd::is(&herd.over) {
        sleep(rng.jitter(Span(400))).await;
        if Herd::is(&herd.paused) {
            continue;
        }
        let Ok(joined) = player.join().await else { continue };
        let server = match &joined {
            Joined::Ready(ready) => &ready.server,
            Joined::Starting(starting) => &starting.server,
        };
        let Ok(server) = ServerId::parse(server) else { continue };
        herd.acknowledged.fetch_add(1, Ordering::SeqCst);
        lock(&herd.slots).insert(id.clone(), Slot { server: server.clone(), at: clock.now(), connected: false });
        let Joined::Ready(ready) = joined else { continue };
        if Herd::is(&herd.paused) {
            continue;
        }
        let Ok(mut visit) = player.connect(&ready).await else { continue };
        lock(&herd.slots).insert(id.clone(), Slot { server, at: clock.now(), connected: true });
        let until = Instant::now() + rng.jitter(Span::seconds(8));
        let mut disconnected = false;
        while !Herd::is(&herd.over) && (Instant::now() < until || Herd::is(&herd.settled) || Herd::is(&herd.paused)) {
            if visit.say("here").await.is_err() {
                disconnected = true;
                break;
            }
            sleep(CHECK_EVERY).await;
        }
        if disconnected {
            if let Some(slot) = lock(&herd.slots).get_mut(&id) {
                slot.connected = false;
            }
        } else {
            // From here on the slot may be freed, so it is no longer checked.
            lock(&herd.slots).remove(&id);
            // An error means that the server was killed at the same time.
            let _ = visit.leave().await;
        }
    }
}

/// A running stack.
struct Stack {
    process: Child,
    url: String,
    table: Table,
}

async fn start(options: &Options, file: &Path, port: u16, run: &str) -> Result<Stack, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let mut process = Command::new(&options.program)
        .env(AS_STACK, "1")
        .env(RUN_ID, run)
        .env("OWMM_LOG", "error")
        .arg("--no-demo")
        .args(["--port", &port.to_string()])
        .arg("--data")
        .arg(file)
        .args(["--capacity", &CAPACITY.to_string(), "--max-servers", &options.players.to_string()])
        .args(["--reservation-seconds", &RESERVATION.whole_seconds_up().to_string(), "--launch-seconds", "20"])
        .args(["--lease-seconds", "5", "--reconcile-seconds", "2", "--idle-seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| words(&error))?;
    let stdout = process.stdout.take().ok_or("the stack's stdout is not captured")?;
    let mut lines = BufReader::new(stdout).lines();
    let (mut url, mut table) = (None, None);
    let started = async {
        while let Ok(Some(line)) = lines.next_line().await {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["dynamodb", endpoint, "table", name] => table = Some(Table::new(client(endpoint), (*name).to_owned())),
                ["ready", gateway] => {
                    url = Some((*gateway).to_owned());
                    return;
                }
                _ => {}
            }
        }
    };
    let in_time = timeout(TIMEOUT, started).await;
    match (url, table) {
        (Some(url), Some(table)) => Ok(Stack { process, url, table }),
        _ => Err(format!("the stack printed no `ready` line: wait {in_time:?}, exit status {:?}", process.try_wait())),
    }
}

fn client(endpoint: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "verify"))
        .timeout_config(shared::config::timeouts())
        .retry_config(shared::config::retries())
        .endpoint_url(endpoint);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// Returns the processes of a run, each with whether it is a game server. Without `/proc` it finds none.
fn processes(run: &str) -> Vec<(Pid, bool)> {
    let wanted = format!("{RUN_ID}={run}");
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = numbers.filter_map(|number| {
        let read = |what: &str| std::fs::read(format!("/proc/{number}/{what}")).unwrap_or_default();
        let has = |bytes: Vec<u8>, word: &str| bytes.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
        let pid = Pid::from_raw(number)?;
        has(read("environ"), &wanted).then(|| (pid, has(read("cmdline"), "game-server")))
    });
    found.collect()
}

fn game_servers(run: &str) -> Vec<Pid> {
    processes(run).into_iter().filter(|(_, is_game_server)| *is_game_server).map(|(pid, _)| pid).collect()
}

/// Waits until the condition holds. Returns false after [`TIMEOUT`].
async fn until(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + TIMEOUT;
    while !condition().await {
        if Instant::now() > end {
            return false;
        }
        sleep(CHECK_EVERY).await;
    }
    true
}

/// Returns the ledgers of all servers in the default pool's roster.
async fn ledgers(table: &Table) -> Option<Vec<Ledger>> {
    let pool = PoolName::parse(local::stack::POOL).ok()?;
    let (roster, _) = table.roster(&pool, None).await.ok()?;
    table.ledgers(&roster).await.ok()
}

/// Checks that the table of the restarted stack has the slots that were acknowledged before the kill.
async fn check_acknowledged(table: &Table, promised: BTreeMap<PlayerId, Slot>, killed_at: Time, sum: &mut Killed) {
    for (player, slot) in promised {
        // A reservation that expires soon may be freed, so it is not checked.
        let now = Clock::system().now();
        let expires_soon = killed_at - slot.at > Span(RESERVATION.0 / 2) || now - slot.at > Span(RESERVATION.0 * 3 / 4);
        if !slot.connected && expires_soon {
            continue;
        }
        match table.ledger(&slot.server).await {
            // The server died with the stack, and the new stack has already noticed that.
            Ok(Some(ledger)) if ledger.state == ServerState::Stopped => {}
            Ok(Some(ledger)) if ledger.claims.contains_key(&player) => sum.found += 1,
            other => {
                sum.violations.push(format!("an answer gave {player} {slot:?}, but the table has {other:?}"));
            }
        }
    }
}

/// Runs all rounds and returns the counts and the violations.
///
/// # Errors
/// The stack does not start, or the folder for the table's file cannot be created or removed.
pub async fn kill(options: &Options, progress: &mut Progress) -> Result<Killed, String> {
    let words = |error: std::io::Error| error.to_string();
    let rng = Rng::system();
    let run = rng.token();
    let folder = std::env::temp_dir().join(format!("owmm-kill-{run}"));
    std::fs::create_dir_all(&folder).map_err(words)?;
    let killed = rounds(options, &folder, &run, &rng, progress).await;
    for (pid, _) in processes(&run) {
        // Processes that are left have been reported as a violation.
        let _ = kill_process(pid, Signal::KILL);
    }
    std::fs::remove_dir_all(&folder).map_err(words)?;
    killed
}

async fn rounds(
    options: &Options,
    folder: &Path,
    run: &str,
    rng: &Rng,
    progress: &mut Progress,
) -> Result<Killed, String> {
    let mut sum = Killed::default();
    // Every stack has the same port, so that players find the restarted one.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
    let port = port.map_err(|error| error.to_string())?.port();
    let file = folder.join("table");
    let mut stack = start(options, &file, port, run).await?;
    let http = demo::http_client().map_err(|error| error.to_string())?;
    let herd = Arc::new(Herd::default());
    let mut players = JoinSet::new();
    for number in 0..options.players {
        let name = format!("player-{number}");
        let Ok(id) = PlayerId::parse(&name) else { continue };
        let player = Player::new(&stack.url, &name, None, http.clone());
        players.spawn(play(Arc::clone(&herd), player, id, u64::from(number)));
    }
    for round in 1..=options.rounds {
        // A kill without connected players and game servers would check little.
        let busy = until(async || !herd.connected().is_empty() && !game_servers(run).is_empty()).await;
        if !busy {
            sum.violations.push(format!("round {round}: no player connected"));
            break;
        }
        sleep(rng.jitter(Span::seconds(4))).await;
        if let Some(pid) = game_servers(run).first().filter(|_| round % 2 == 0) {
            // An error means that the process has already ended.
            let _ = kill_process(*pid, Signal::KILL);
            sum.servers += 1;
            sleep(rng.jitter(Span::seconds(2))).await;
        }
        let orphans = game_servers(run).len();
        stack.process.start_kill().map_err(|error| error.to_string())?;
        let killed_at = Clock::system().now();
        let promised = lock(&herd.slots).clone();
        herd.paused.store(true, Ordering::SeqCst);
        stack.process.wait().await.map_err(|error| error.to_string())?;
        sum.stacks += 1;
        sum.orphaned += orphans as u64;
        if !until(async || processes(run).is_empty()).await {
            sum.violations.push(format!("round {round}: processes outlive their stack: {:?}", processes(run)));
        }
        stack = start(options, &file, port, run).await?;
        check_acknowledged(&stack.table, promised, killed_at, &mut sum).await;
        herd.paused.store(false, Ordering::SeqCst);
        progress.say(|| format!("round {round} of {}: {orphans} game servers died with their stack", options.rounds));
    }
    herd.settled.store(true, Ordering::SeqCst);
    if !until(async || herd.connected().len() == options.players as usize).await {
        sum.violations.push(format!(
            "only {} of {} players connected after the last round",
            herd.connected().len(),
            options.players
        ));
    }
    let held = async || {
        let ledgers = ledgers(&stack.table).await.unwrap_or_default();
        let claims = ledgers.iter().filter(|ledger| ledger.state != ServerState::Stopped);
        let claims =
            claims.flat_map(|it| it.claims.iter().map(|(player, claim)| (player.clone(), it.id.clone(), *claim)));
        claims.collect::<Vec<_>>()
    };
    let only_connected_players = async || {
        let (held, connected) = (held().await, herd.connected());
        let all = held.iter().all(|(player, server, claim)| {
            claim.is_connected() && connected.contains(&(player.clone(), server.clone()))
        });
        all && held.len() == connected.len()
    };
    if !until(only_connected_players).await {
        sum.violations.push(format!(
            "claims and connected players differ: claims {:?}, connected {:?}",
            held().await,
            herd.connected()
        ));
    }
    herd.over.store(true, Ordering::SeqCst);
    if timeout(TIMEOUT, async { while players.join_next().await.is_some() {} }).await.is_err() {
        sum.violations.push("the tasks of the players do not end".to_owned());
    }
    if !until(async || held().await.is_empty()).await {
        sum.violations.push(format!("all players have left, but these claims remain: {:?}", held().await));
    }
    let pid = stack.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let stopped = pid.map(|pid| kill_process(pid, Signal::TERM));
    let ended = timeout(TIMEOUT, stack.process.wait()).await;
    if !until(async || processes(run).is_empty()).await {
        let left = processes(run);
        sum.violations.push(format!("processes are left after SIGTERM ({stopped:?}, {ended:?}): {left:?}"));
    }
    sum.acknowledged = herd.acknowledged.load(Ordering::SeqCst);
    Ok(sum)
}

/// Runs the check and prints its table.
pub fn run(players: u32, rounds: u32) -> Verdict {
    let program = std::env::current_exe().map_err(|error| error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string());
    let mut progress = Progress::default();
    let killed = program.and_then(|program| {
        let options = Options { program, players, rounds };
        runtime.and_then(|runtime| runtime.block_on(kill(&options, &mut progress)))
    });
    drop(progress);
    match killed {
        Err(why) => {
            print(&why);
            Verdict::Violated
        }
        Ok(sum) => {
            let mut table = report::Table::new(["kill -9", "count"]);
            let mut row = |what: &str, count: u64| table.row([what.to_owned(), grouped(count)]);
            row("stacks killed", sum.stacks);
            row("game servers killed alone", sum.servers);
            row("game servers that died with their stack", sum.orphaned);
            row("joins acknowledged", sum.acknowledged);
            row("acknowledged slots found after a restart", sum.found);
            row("violations", sum.violations.len() as u64);
            print(&table);
            sum.violations.iter().for_each(print);
            Verdict::of(sum.violations.is_empty())
        }
    }
}
