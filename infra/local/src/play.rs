//! The main job, to watch: both flows with a demo player, each numbered step as it is seen to happen.
//!
//! No step is told by who did it: each is read off the table, off the local ECS, or off what came back to the player.

use std::time::{Duration, Instant};

use demo::player::{Joined, Player, Ready, Visit};
use serde_json::Value;
use shared::domain::{Claim, Ledger, PlayerId, ServerId, ServerState};
use tokio::sync::broadcast::Receiver;

use crate::stack::Stack;

/// How long any one step may take on a laptop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A step that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    /// The player's side failed.
    #[error("{0}")]
    Player(#[from] demo::player::Error),
    /// The demo player and the game server do not understand each other.
    #[error("step {0}: {1}. {hint}", hint = hint(.1))]
    Game(u8, demo::player::Error),
    /// It was waited for in vain.
    #[error(
        "step {0}: {1}, but has not within {seconds} s. The lines above show what the game server has written; \
         `--no-demo` serves without playing the demo",
        seconds = PATIENCE.as_secs()
    )]
    Unseen(u8, &'static str),
    /// The game server has ended before it.
    #[error("step {0}: {1}, but the game server has ended ({2}). The lines above show what it has written")]
    Ended(u8, &'static str, String),
    /// Something else happened.
    #[error("{0}")]
    Otherwise(String),
}

/// What to do about an error between the player and the game server.
fn hint(error: &demo::player::Error) -> &'static str {
    if error.is_about_the_protocol() {
        "The demo player can play the demo game server only. For a game with a protocol of its own start the stack with \
         `--no-demo`, which serves without playing the demo"
    } else {
        "`--no-demo` serves without playing the demo"
    }
}

impl From<demo::Failure> for Missed {
    fn from(failure: demo::Failure) -> Self {
        Self::Player(failure.into())
    }
}

/// Prints steps and the time that each took.
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
        (self.line)(&format!("     {:<74}{:>8.1} ms", "all of it", total.as_secs_f64() * 1_000.0));
    }
}

/// Plays both flows against a stack whose pool has no server yet, or room on the one that it has.
///
/// # Errors
/// A step did not happen.
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
    let mut steps = Steps::begin("A player joins, and no server has room: one is started", line);
    steps.step(1, &format!("{} asks OWMM for a game server: POST /join", player.id));
    let joined = player.join().await?;
    let (server, told) = match &joined {
        Joined::Starting(starting) => (starting.server.clone(), "202, its slot is held"),
        // The table was kept in a file, and its server is still there; or the server was faster than the answer.
        Joined::Ready(ready) => (ready.server.clone(), "200"),
    };
    let id = ServerId::parse(&server).map_err(|bad| Missed::Otherwise(bad.to_string()))?;
    if stack.ecs().counts().run_task_calls == before.run_task_calls {
        return Err(Missed::Otherwise(format!("no server was started: {server} was running already")));
    }
    steps.step(2, &format!("OWMM finds no compatible server, and chooses a new one's id: {server}"));
    steps.step(3, "OWMM asks ECS for it: RunTask");
    let task = started(&mut events, &server).await?;
    steps.step(4, "ECS starts the task: a real process");
    let step = (5, "ECS's answer is to reach OWMM");
    let known = seen(stack, &id, step, |ledger| ledger.task.as_deref() == Some(&task));
    while_it_runs(&mut events, &server, step, known).await?;
    steps.step(5, &format!("ECS's answer has reached OWMM: task {}", task.rsplit('/').next().unwrap_or(&task)));
    steps.step(6, &format!("the player knows its server: {told}"));
    let step = (7, "the game server is to register itself: PUT /servers/{serverId}");
    let ready = seen(stack, &id, step, |ledger| ledger.state == ServerState::Ready);
    while_it_runs(&mut events, &server, step, ready).await?;
    steps.step(7, "the game server has registered itself: PUT /servers/{serverId}");
    let ready = player.join_until_ready(PATIENCE, |_| {}).await?;
    let visit = connect(player, &ready, &mut steps, 8).await?;
    registered(stack, &id, player, &mut steps, 9).await?;
    steps.end();
    Ok(visit)
}

async fn existing_server(stack: &Stack, player: &Player, line: fn(&str)) -> Result<Visit, Missed> {
    let before = stack.ecs().counts();
    let mut steps = Steps::begin("Another player joins: a server has room", line);
    steps.step(1, &format!("{} asks OWMM for a game server: POST /join", player.id));
    let ready = match player.join().await? {
        Joined::Ready(ready) => ready,
        Joined::Starting(starting) => {
            return Err(Missed::Otherwise(format!("a server that runs has room, yet {} is started", starting.server)));
        }
    };
    if stack.ecs().counts() != before {
        return Err(Missed::Otherwise("a server was started although one had room".into()));
    }
    let id = ServerId::parse(&ready.server).map_err(|bad| Missed::Otherwise(bad.to_string()))?;
    steps.step(2, &format!("OWMM finds a compatible server with room: {}", ready.server));
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
        (number, "the game server is to register the player: PUT /servers/{serverId}/players/{playerId}"),
        |ledger| matches!(ledger.claims.get(&name), Some(Claim::Connected(_))),
    )
    .await?;
    steps.step(number, "the game server has registered the player: PUT /servers/{serverId}/players/{playerId}");
    Ok(())
}

/// Waits until a server's ledger is as it should be.
async fn seen(
    stack: &Stack,
    id: &ServerId,
    (step, what): (u8, &'static str),
    is: impl Fn(&Ledger) -> bool,
) -> Result<(), Missed> {
    let look = async {
        loop {
            match stack.owmm().table().ledger(id).await {
                Ok(Some(ledger)) if is(&ledger) => return Ok(()),
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => return Err(Missed::Otherwise(error.to_string())),
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or(Err(Missed::Unseen(step, what)))
}

/// Waits until the local ECS runs the task of a server, and returns the task's ARN.
async fn started(events: &mut Receiver<Value>, server: &str) -> Result<String, Missed> {
    const STEP: (u8, &str) = (4, "ECS is to start the task");
    match tokio::time::timeout(PATIENCE, status(events, server, "RUNNING")).await {
        Ok(Some(Seen::Reached(task))) => Ok(task),
        Ok(Some(Seen::Ended(how))) => Err(Missed::Ended(STEP.0, STEP.1, how)),
        Ok(None) | Err(_) => Err(Missed::Unseen(STEP.0, STEP.1)),
    }
}

/// Waits for a step in the life of a server, but no longer than the server's process lives: another attempt of OWMM would
/// most likely end as this one has.
async fn while_it_runs<T>(
    events: &mut Receiver<Value>,
    server: &str,
    (step, what): (u8, &'static str),
    wait: impl Future<Output = Result<T, Missed>>,
) -> Result<T, Missed> {
    let ended = async {
        match status(events, server, "STOPPED").await {
            Some(Seen::Ended(how)) => Missed::Ended(step, what, how),
            // Without events there is only the wait.
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        seen = wait => seen,
        ended = ended => Err(ended),
    }
}

/// What the events say of the task of a server.
enum Seen {
    /// The task with this ARN has the status.
    Reached(String),
    /// It has stopped: how.
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
                let reason = || detail("stoppedReason").unwrap_or("without a reason").to_owned();
                return Some(Seen::Ended(exit_code.unwrap_or_else(reason)));
            }
            Some(now) if now == status => return detail("taskArn").map(|task| Seen::Reached(task.to_owned())),
            _ => {}
        }
    }
}
