//! The demo: plays both join flows with demo players and prints each numbered step when it has happened.
//!
//! Each step is verified in the table, in the events of the local ECS, or in the response to the player.

use std::time::{Duration, Instant};

use demo::player::{Joined, Player, Ready, Visit};
use serde_json::Value;
use shared::domain::{Claim, Ledger, PlayerId, ServerId, ServerState};
use tokio::sync::broadcast::Receiver;

use crate::stack::Stack;

/// Time limit of one step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between two reads of a ledger.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why a step of the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    /// A call of the player to OWMM failed.
    #[error("{0}")]
    Player(#[from] demo::player::Error),
    /// The demo player could not connect to the game server, or not play on it.
    #[error("step {0}: {1}. {hint}", hint = hint(.1))]
    Game(u8, demo::player::Error),
    /// The step did not happen in time.
    #[error(
        "step {0}: {1}: no result within {seconds} s. The lines above show the game server's output; \
         `--no-demo` serves without playing the demo",
        seconds = PATIENCE.as_secs()
    )]
    Unseen(u8, &'static str),
    /// The game server ended before the step.
    #[error("step {0}: {1}: the game server has ended ({2}). The lines above show its output")]
    Ended(u8, &'static str, String),
    /// Another failure.
    #[error("{0}")]
    Otherwise(String),
}

/// Advice for an error between the demo player and the game server.
fn hint(error: &demo::player::Error) -> &'static str {
    if error.is_about_the_protocol() {
        "The demo player speaks only the demo game server's protocol. For a game with another protocol, start the \
         stack with `--no-demo`, which serves without playing the demo"
    } else {
        "`--no-demo` serves without playing the demo"
    }
}

impl From<demo::Failure> for Missed {
    fn from(failure: demo::Failure) -> Self {
        Self::Player(failure.into())
    }
}

/// Prints the steps of a flow, each with its duration.
struct Steps {
    began: Instant,
    last: Instant,
    line: fn(&str),
}

impl Steps {
    fn begin(title: &str, line: fn(&str)) -> Self {
        line("");
        line(title);
        let now = Instant::now();
        Self { began: now, last: now, line }
    }

    fn step(&mut self, number: u8, what: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.last);
        self.last = now;
        (self.line)(&format!("  {number}. {what:<74}{:>8.1} ms", took.as_secs_f64() * 1_000.0));
    }

    fn end(self) {
        let total = self.last.duration_since(self.began);
        (self.line)(&format!("     {:<74}{:>8.1} ms", "total", total.as_secs_f64() * 1_000.0));
    }
}

/// Plays both flows against a stack whose default pool has no server with room yet.
///
/// # Errors
/// A step failed.
pub async fn both_flows(stack: &Stack, line: fn(&str)) -> Result<(), Missed> {
    let http = demo::http_client().map_err(|error| Missed::Otherwise(error.to_string()))?;
    let player = |id: &str| Player::new(stack.url(), id, None, http.clone());
    let pioneer = new_server(stack, &player("demo-pioneer"), line).await?;
    let follower = existing_server(stack, &player("demo-follower"), line).await?;
    pioneer.leave().await.map_err(|error| Missed::Game(9, error))?;
    follower.leave().await.map_err(|error| Missed::Game(5, error))?;
    Ok(())
}

async fn new_server(stack: &Stack, player: &Player, line: fn(&str)) -> Result<Visit, Missed> {
    let mut events = stack.ecs().events();
    let before = stack.ecs().counts();
    let mut steps = Steps::begin("A player joins, no server has room, and OWMM starts a server", line);
    steps.step(1, &format!("{} asks OWMM for a game server: POST /join", player.id));
    let joined = player.join().await?;
    let (server, response) = match &joined {
        Joined::Starting(starting) => (starting.server.clone(), "202, a slot is reserved"),
        // The table file has a server that still runs, or the new server registered before the response was sent.
        Joined::Ready(ready) => (ready.server.clone(), "200"),
    };
    let id = ServerId::parse(&server).map_err(|bad| Missed::Otherwise(bad.to_string()))?;
    if stack.ecs().counts().run_task_calls == before.run_task_calls {
        return Err(Missed::Otherwise(format!("no server was started, because {server} was already running")));
    }
    steps.step(2, &format!("OWMM finds no server with room and chooses the id of a new one: {server}"));
    steps.step(3, "OWMM asks ECS to start the server: RunTask");
    let task = started(&mut events, &server).await?;
    steps.step(4, "ECS has started the task, a process on this machine");
    let step = (5, "waiting for OWMM to record the task");
    let known = seen(stack, &id, step, |ledger| ledger.task.as_deref() == Some(&task));
    while_it_runs(&mut events, &server, step, known).await?;
    steps.step(5, &format!("OWMM has recorded the task of the server: {}", task.rsplit('/').next().unwrap_or(&task)));
    steps.step(6, &format!("OWMM has answered the player: {response}"));
    let step = (7, "waiting for the game server to register: PUT /servers/{serverId}");
    let ready = seen(stack, &id, step, |ledger| ledger.state == ServerState::Ready);
    while_it_runs(&mut events, &server, step, ready).await?;
    steps.step(7, "the game server has registered: PUT /servers/{serverId}");
    let ready = player.join_until_ready(PATIENCE, |_| {}).await?;
    let visit = connect(player, &ready, &mut steps, 8).await?;
    registered(stack, &id, player, &mut steps, 9).await?;
    steps.end();
    Ok(visit)
}

async fn existing_server(stack: &Stack, player: &Player, line: fn(&str)) -> Result<Visit, Missed> {
    let before = stack.ecs().counts();
    let mut steps = Steps::begin("A second player joins, and a server has room", line);
    steps.step(1, &format!("{} asks OWMM for a game server: POST /join", player.id));
    let ready = match player.join().await? {
        Joined::Ready(ready) => ready,
        Joined::Starting(starting) => {
            return Err(Missed::Otherwise(format!(
                "OWMM started the server {}, although a running server has room",
                starting.server
            )));
        }
    };
    if stack.ecs().counts() != before {
        return Err(Missed::Otherwise("OWMM started a server, although a running server has room".into()));
    }
    let id = ServerId::parse(&ready.server).map_err(|bad| Missed::Otherwise(bad.to_string()))?;
    steps.step(2, &format!("OWMM finds a server with room: {}", ready.server));
    steps.step(3, &format!("OWMM answers with its address: 200, {}:{}, and a ticket", ready.address, ready.port));
    let visit = connect(player, &ready, &mut steps, 4).await?;
    registered(stack, &id, player, &mut steps, 5).await?;
    steps.end();
    Ok(visit)
}

async fn connect(player: &Player, ready: &Ready, steps: &mut Steps, number: u8) -> Result<Visit, Missed> {
    let failed = |error| Missed::Game(number, error);
    let mut visit = player.connect(ready).await.map_err(failed)?;
    let echo = visit.say("hello, world").await.map_err(failed)?;
    steps.step(number, &format!("the player connects to {}:{} and is let in: {echo}", ready.address, ready.port));
    Ok(visit)
}

async fn registered(
    stack: &Stack,
    id: &ServerId,
    player: &Player,
    steps: &mut Steps,
    number: u8,
) -> Result<(), Missed> {
    let name = PlayerId::parse(&player.id).map_err(|bad| Missed::Otherwise(bad.to_string()))?;
    seen(
        stack,
        id,
        (number, "waiting for the game server to register the player: PUT /servers/{serverId}/players/{playerId}"),
        |ledger| matches!(ledger.claims.get(&name), Some(Claim::Connected(_))),
    )
    .await?;
    steps.step(number, "the game server has registered the player: PUT /servers/{serverId}/players/{playerId}");
    Ok(())
}

/// Waits until `is` holds for a server's ledger, for at most [`PATIENCE`].
async fn seen(
    stack: &Stack,
    id: &ServerId,
    (step, what): (u8, &'static str),
    is: impl Fn(&Ledger) -> bool,
) -> Result<(), Missed> {
    let poll = async {
        loop {
            match stack.owmm().table().ledger(id).await {
                Ok(Some(ledger)) if is(&ledger) => return Ok(()),
                Ok(_) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(error) => return Err(Missed::Otherwise(error.to_string())),
            }
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or(Err(Missed::Unseen(step, what)))
}

/// Waits until the task of a server is `RUNNING`, and returns the task's ARN.
async fn started(events: &mut Receiver<Value>, server: &str) -> Result<String, Missed> {
    const STEP: (u8, &str) = (4, "waiting for ECS to start the task");
    match tokio::time::timeout(PATIENCE, status(events, server, "RUNNING")).await {
        Ok(Some(Seen::Reached(task))) => Ok(task),
        Ok(Some(Seen::Ended(how))) => Err(Missed::Ended(STEP.0, STEP.1, how)),
        Ok(None) | Err(_) => Err(Missed::Unseen(STEP.0, STEP.1)),
    }
}

/// Waits for a step until the server's process ends. After that the step fails at once, because OWMM's next attempt
/// would most likely end in the same way.
async fn while_it_runs<T>(
    events: &mut Receiver<Value>,
    server: &str,
    (step, what): (u8, &'static str),
    wait: impl Future<Output = Result<T, Missed>>,
) -> Result<T, Missed> {
    let ended = async {
        match status(events, server, "STOPPED").await {
            Some(Seen::Ended(how)) => Missed::Ended(step, what, how),
            // The event stream has ended: only the step itself can end the wait.
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        seen = wait => seen,
        ended = ended => Err(ended),
    }
}

/// State of a server's task in the events of the local ECS.
enum Seen {
    /// The task with this ARN has the status.
    Reached(String),
    /// The task has stopped, with this exit code or reason.
    Ended(String),
}

/// Waits until the task of a server has the status, or has stopped.
async fn status(events: &mut Receiver<Value>, server: &str, status: &str) -> Option<Seen> {
    loop {
        let event = events.recv().await.ok()?;
        let detail = |name| event.pointer(&format!("/detail/{name}")).and_then(Value::as_str);
        if !detail("startedBy").is_some_and(|by| by.starts_with(server)) {
            continue;
        }
        match detail("lastStatus") {
            Some("STOPPED") => {
                let exit_code = event.pointer("/detail/containers/0/exitCode").map(|code| format!("exit code {code}"));
                let reason = || detail("stoppedReason").unwrap_or("no reason given").to_owned();
                return Some(Seen::Ended(exit_code.unwrap_or_else(reason)));
            }
            Some(now) if now == status => return detail("taskArn").map(|task| Seen::Reached(task.to_owned())),
            _ => {}
        }
    }
}
