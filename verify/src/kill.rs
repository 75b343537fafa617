//! kill -9: real processes, a table in a file, and a herd that joins while they die.
//!
//! The local stack runs as a program of its own: gateway, functions, table engine and ECS in one process, game servers as
//! its children. Round after round it is killed with SIGKILL and started again on the same file; between that, game
//! servers are killed too. What must be true:
//!
//! * No acknowledged join is lost, unless its server has died: whoever was answered 200 or 202 before the kill holds that
//!   slot in the table that comes back.
//! * No game server outlives its stack.
//! * After the last round everybody gets in, and every slot that is held is held by somebody who is inside.
//! * Once everybody has left and the stack has been told to stop, no process is left.

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

/// Set for the program that is to be the local stack instead of the checks; its children inherit it.
pub const AS_STACK: &str = "VERIFY_AS_STACK";
/// Set for all processes of a run, to find them by.
const MARK: &str = "VERIFY_KILL_RUN";

/// Slots of a server.
const CAPACITY: u32 = 4;
/// How long a reservation holds.
const HOLD: Span = Span::seconds(30);
/// Anything that must happen does so by then, on the slowest machine.
const AT_LAST: Duration = Duration::from_secs(240);
/// How often somebody looks.
const LOOK: Duration = Duration::from_millis(100);

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which with [`AS_STACK`] is the local stack.
    pub program: PathBuf,
    /// Players of the herd.
    pub players: u32,
    /// How often the stack is killed.
    pub rounds: u32,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Killed {
    /// Times that the stack was killed.
    pub stacks: u64,
    /// Game servers that were killed one by one.
    pub servers: u64,
    /// Game servers that ran when their stack was killed.
    pub orphaned: u64,
    /// Joins that were answered with a slot.
    pub acknowledged: u64,
    /// Slots that were looked for in the table that came back.
    pub looked_for: u64,
    /// What did not hold.
    pub violations: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot that a player was told of.
#[derive(Clone, Debug)]
struct Slot {
    server: ServerId,
    at: Time,
    inside: bool,
}

/// What the herd shares.
#[derive(Default)]
struct Herd {
    slots: Mutex<BTreeMap<PlayerId, Slot>>,
    acknowledged: AtomicU64,
    /// Nobody calls while the table is looked at.
    paused: AtomicBool,
    /// Whoever is inside stays.
    settled: AtomicBool,
    over: AtomicBool,
}

impl Herd {
    fn is(flag: &AtomicBool) -> bool {
        flag.load(Ordering::SeqCst)
    }

    fn inside(&self) -> BTreeSet<(PlayerId, ServerId)> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| slot.inside).map(|(id, slot)| (id.clone(), slot.server.clone())).collect()
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
        lock(&herd.slots).insert(id.clone(), Slot { server: server.clone(), at: clock.now(), inside: false });
        let Joined::Ready(ready) = joined else { continue };
        if Herd::is(&herd.paused) {
            continue;
        }
        let Ok(mut visit) = player.connect(&ready).await else { continue };
        lock(&herd.slots).insert(id.clone(), Slot { server, at: clock.now(), inside: true });
        let until = Instant::now() + rng.jitter(Span::seconds(8));
        let mut thrown_out = false;
        while !Herd::is(&herd.over) && (Instant::now() < until || Herd::is(&herd.settled) || Herd::is(&herd.paused)) {
            if visit.say("here").await.is_err() {
                thrown_out = true;
                break;
            }
            sleep(LOOK).await;
        }
        if thrown_out {
            if let Some(slot) = lock(&herd.slots).get_mut(&id) {
                slot.inside = false;
            }
        } else {
            // From here on the slot may go.
            lock(&herd.slots).remove(&id);
            // The server may be killed this very moment.
            let _ = visit.leave().await;
        }
    }
}

/// The stack, while it runs.
struct Stack {
    process: Child,
    url: String,
    table: Table,
}

async fn start(options: &Options, file: &Path, port: u16, claim: &str) -> Result<Stack, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let mut process = Command::new(&options.program)
        .env(AS_STACK, "1")
        .env(MARK, claim)
        .env("OWMM_LOG", "error")
        .arg("--no-demo")
        .args(["--port", &port.to_string()])
        .arg("--data")
        .arg(file)
        .args(["--capacity", &CAPACITY.to_string(), "--max-servers", &options.players.to_string()])
        .args(["--reservation-seconds", &HOLD.whole_seconds_up().to_string(), "--launch-seconds", "20"])
        .args(["--lease-seconds", "5", "--reconcile-seconds", "2", "--idle-seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| words(&error))?;
    let stdout = process.stdout.take().ok_or("the stack has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let (mut url, mut table) = (None, None);
    let told = async {
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
    let in_time = timeout(AT_LAST, told).await;
    match (url, table) {
        (Some(url), Some(table)) => Ok(Stack { process, url, table }),
        _ => Err(format!("the stack did not come up: {in_time:?}, {:?}", process.try_wait())),
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

/// The processes of a run, with whether each is a game server. Only where there is `/proc`; elsewhere none is found.
fn processes(claim: &str) -> Vec<(Pid, bool)> {
    let wanted = format!("{MARK}={claim}");
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let marked = numbers.filter_map(|number| {
        let read = |what: &str| std::fs::read(format!("/proc/{number}/{what}")).unwrap_or_default();
        let has = |bytes: Vec<u8>, word: &str| bytes.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
        let pid = Pid::from_raw(number)?;
        has(read("environ"), &wanted).then(|| (pid, has(read("cmdline"), "game-server")))
    });
    marked.collect()
}

fn game_servers(claim: &str) -> Vec<Pid> {
    processes(claim).into_iter().filter(|(_, is_game_server)| *is_game_server).map(|(pid, _)| pid).collect()
}

async fn until(mut is: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + AT_LAST;
    while !is().await {
        if Instant::now() > end {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Every ledger of the pool that the fleet counts.
async fn ledgers(table: &Table) -> Option<Vec<Ledger>> {
    let pool = PoolName::parse(local::stack::POOL).ok()?;
    let (roster, _) = table.roster(&pool, None).await.ok()?;
    table.ledgers(&roster).await.ok()
}

/// What was promised before the stack was killed is held against the table that came back.
async fn look_back(table: &Table, promised: BTreeMap<PlayerId, Slot>, killed_at: Time, sum: &mut Killed) {
    for (player, slot) in promised {
        // A slot that nobody came for may go when its time is up.
        let now = Clock::system().now();
        if !slot.inside && (killed_at - slot.at > Span(HOLD.0 / 2) || now - slot.at > Span(HOLD.0 * 3 / 4)) {
            continue;
        }
        match table.ledger(&slot.server).await {
            // It has died with the stack, and that has been found out already.
            Ok(Some(ledger)) if ledger.state == ServerState::Stopped => {}
            Ok(Some(ledger)) if ledger.claims.contains_key(&player) => sum.looked_for += 1,
            other => sum.violations.push(format!("{player} was told of {slot:?}, and the table has {other:?}")),
        }
    }
}

/// Kills and looks.
///
/// # Errors
/// It cannot be run: the stack does not come up, or there is no place for the file.
pub async fn kill(options: &Options, progress: &mut Progress) -> Result<Killed, String> {
    let words = |error: std::io::Error| error.to_string();
    let rng = Rng::system();
    let claim = rng.token();
    let folder = std::env::temp_dir().join(format!("owmm-kill-{claim}"));
    std::fs::create_dir_all(&folder).map_err(words)?;
    let killed = rounds(options, &folder, &claim, &rng, progress).await;
    for (pid, _) in processes(&claim) {
        // What is left was told of.
        let _ = kill_process(pid, Signal::KILL);
    }
    std::fs::remove_dir_all(&folder).map_err(words)?;
    killed
}

async fn rounds(
    options: &Options,
    folder: &Path,
    claim: &str,
    rng: &Rng,
    told: &mut Progress,
) -> Result<Killed, String> {
    let mut sum = Killed::default();
    // The same port again and again, so that the herd finds the stack that comes back.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
    let port = port.map_err(|error| error.to_string())?.port();
    let file = folder.join("table");
    let mut stack = start(options, &file, port, claim).await?;
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
        // Something must be going on for a kill to mean anything.
        let busy = until(async || !herd.inside().is_empty() && !game_servers(claim).is_empty()).await;
        if !busy {
            sum.violations.push(format!("round {round}: nobody got in"));
            break;
        }
        sleep(rng.jitter(Span::seconds(4))).await;
        if let Some(pid) = game_servers(claim).first().filter(|_| round % 2 == 0) {
            // It may have ended by itself.
            let _ = kill_process(*pid, Signal::KILL);
            sum.servers += 1;
            sleep(rng.jitter(Span::seconds(2))).await;
        }
        let orphans = game_servers(claim).len();
        stack.process.start_kill().map_err(|error| error.to_string())?;
        let killed_at = Clock::system().now();
        let promised = lock(&herd.slots).clone();
        herd.paused.store(true, Ordering::SeqCst);
        stack.process.wait().await.map_err(|error| error.to_string())?;
        sum.stacks += 1;
        sum.orphaned += orphans as u64;
        if !until(async || processes(claim).is_empty()).await {
            sum.violations.push(format!("round {round}: these outlive their stack: {:?}", processes(claim)));
        }
        stack = start(options, &file, port, claim).await?;
        look_back(&stack.table, promised, killed_at, &mut sum).await;
        herd.paused.store(false, Ordering::SeqCst);
        told.say(|| format!("round {round} of {}: {orphans} game servers died with their stack", options.rounds));
    }
    herd.settled.store(true, Ordering::SeqCst);
    if !until(async || herd.inside().len() == options.players as usize).await {
        sum.violations.push(format!(
            "{} of {} players got in after the last round",
            herd.inside().len(),
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
    let only_who_is_inside = async || {
        let (held, inside) = (held().await, herd.inside());
        let there = held
            .iter()
            .all(|(player, server, claim)| claim.is_connected() && inside.contains(&(player.clone(), server.clone())));
        there && held.len() == inside.len()
    };
    if !until(only_who_is_inside).await {
        sum.violations.push(format!("held: {:?}, inside: {:?}", held().await, herd.inside()));
    }
    herd.over.store(true, Ordering::SeqCst);
    if timeout(AT_LAST, async { while players.join_next().await.is_some() {} }).await.is_err() {
        sum.violations.push("the herd does not end".to_owned());
    }
    if !until(async || held().await.is_empty()).await {
        sum.violations.push(format!("everybody has left, and these are held: {:?}", held().await));
    }
    let pid = stack.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let stopped = pid.map(|pid| kill_process(pid, Signal::TERM));
    let ended = timeout(AT_LAST, stack.process.wait()).await;
    if !until(async || processes(claim).is_empty()).await {
        sum.violations.push(format!("left after {stopped:?} and {ended:?}: {:?}", processes(claim)));
    }
    sum.acknowledged = herd.acknowledged.load(Ordering::SeqCst);
    Ok(sum)
}

/// The command.
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
            row("game servers killed one by one", sum.servers);
            row("game servers that died with their stack", sum.orphaned);
            row("joins acknowledged", sum.acknowledged);
            row("slots found again in the table that came back", sum.looked_for);
            row("violations", sum.violations.len() as u64);
            print(&table);
            sum.violations.iter().for_each(print);
            Verdict::of(sum.violations.is_empty())
        }
    }
}
