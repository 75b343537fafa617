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
    /// It was waited for in vain.
    #[error("step {0} was not seen in time")]
    Unseen(u8),
    /// Something else happened.
    #[error("{0}")]
    Otherwise(String),
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
    pioneer.leave().await?;
    follower.leave().await?;
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
    let task = started(&mut events, &server).await.ok_or(Missed::Unseen(4))?;
    steps.step(4, "ECS starts the task: a real process");
    seen(stack, &id, 5, |ledger| ledger.task.as_deref() == Some(&task)).await?;
    steps.step(5, &format!("ECS's answer has reached OWMM: task {}", task.rsplit('/').next().unwrap_or(&task)));
    steps.step(6, &format!("the player knows its server: {told}"));
    seen(stack, &id, 7, |ledger| ledger.state == ServerState::Ready).await?;
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
    let mut visit = player.connect(ready).await?;
    let echo = visit.say("hello, world").await?;
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
    seen(stack, id, number, |ledger| matches!(ledger.claims.get(&name), Some(Claim::Connected(_)))).await?;
    steps.step(number, "the game server has registered the player: PUT /servers/{serverId}/players/{playerId}");
    Ok(())
}

/// Waits until a server's ledger is as it should be.
async fn seen(stack: &Stack, id: &ServerId, step: u8, is: impl Fn(&Ledger) -> bool) -> Result<(), Missed> {
    let look = async {
        loop {
            match stack.owmm().table().ledger(id).await {
                Ok(Some(ledger)) if is(&ledger) => return Ok(()),
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => return Err(Missed::Otherwise(error.to_string())),
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or(Err(Missed::Unseen(step)))
}

/// Waits until the local ECS runs the task of a server, and returns the task's ARN.
async fn started(events: &mut Receiver<Value>, server: &str) -> Option<String> {
    let wait = async {
        loop {
            let event = events.recv().await.ok()?;
            let detail = |name| event.pointer(&format!("/detail/{name}")).and_then(Value::as_str);
            if detail("startedBy").is_some_and(|by| by.starts_with(server)) && detail("lastStatus") == Some("RUNNING") {
                return detail("taskArn").map(str::to_owned);
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.ok().flatten()
}
