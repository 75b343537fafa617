//! The dedicated servers, played by hand: one process can be two hundred servers, two hundred processes would fight for
//! the cores that are measured.
//!
//! A server registers when its task runs. With the stack in this process the local ECS tells that, and the task's
//! environment has id and token, as a real process would find them. With a stack elsewhere the players' answers tell the
//! server's id, and its ledger the rest.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use shared::{
    clock::{Clock, Rng},
    domain::{Frontier, FrontierWrite, Ledger, ServerId, ServerState, TokenHash},
    table::{Advanced, Table},
};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
};

use crate::{
    args::{self, Args},
    error::Error,
    report::say,
    world::{Door, World},
};

/// Between two looks at a ledger whose task is not on record yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Looks at one ledger.
const LOOKS: u32 = 500;

/// The servers, as long as this lives.
pub(crate) struct Servers {
    seen: Option<UnboundedSender<String>>,
    watcher: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts to play them, unless they are real.
    pub(crate) fn play(world: &World, args: &Args) -> Self {
        let door = Arc::clone(&world.door);
        match (&world.stack, args.servers) {
            (_, args::Servers::Real) => Self { seen: None, watcher: None },
            (Some(stack), args::Servers::Hand) => {
                Self { seen: None, watcher: Some(tokio::spawn(told_by_ecs(stack.ecs().events(), door))) }
            }
            (None, args::Servers::Hand) => {
                let (seen, heard) = unbounded_channel();
                let delay = Duration::from_millis(args.start_delay);
                let watcher = tokio::spawn(told_by_players(heard, world.table.clone(), door, delay));
                Self { seen: Some(seen), watcher: Some(watcher) }
            }
        }
    }

    /// Where players say which server they wait for, if somebody wants to know.
    pub(crate) fn seen(&self) -> Option<UnboundedSender<String>> {
        self.seen.clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

async fn told_by_ecs(mut events: Receiver<Value>, door: Arc<Door>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some((server, token)) = running(&event) {
                    tokio::spawn(register(Arc::clone(&door), server, token));
                }
            }
            Err(RecvError::Lagged(missed)) => say(&format!("{missed} events of the local ECS were missed")),
            Err(RecvError::Closed) => return,
        }
    }
}

/// The server whose task runs now, and its token.
fn running(event: &Value) -> Option<(ServerId, String)> {
    if event.pointer("/detail/lastStatus")?.as_str()? != "RUNNING" {
        return None;
    }
    let pairs = event.pointer("/detail/overrides/containerOverrides/0/environment")?.as_array()?;
    let variable = |name: &str| {
        let pair = pairs.iter().find(|pair| pair.get("name").and_then(Value::as_str) == Some(name));
        pair?.get("value")?.as_str()
    };
    Some((ServerId::parse(variable("OWMM_SERVER_ID")?).ok()?, variable("OWMM_SERVER_TOKEN")?.to_owned()))
}

async fn told_by_players(mut seen: UnboundedReceiver<String>, table: Table, door: Arc<Door>, delay: Duration) {
    let mut known = HashSet::new();
    while let Some(server) = seen.recv().await {
        let Ok(id) = ServerId::parse(&server) else { continue };
        if known.insert(server) {
            tokio::spawn(look_and_register(table.clone(), Arc::clone(&door), id, delay));
        }
    }
}

async fn look_and_register(table: Table, door: Arc<Door>, server: ServerId, delay: Duration) {
    for _ in 0..LOOKS {
        match table.ledger(&server).await {
            Ok(Some(Ledger { launch: Some(launch), task: Some(_), .. })) => {
                tokio::time::sleep(delay).await;
                return register(door, server, launch.token).await;
            }
            Ok(Some(ledger)) if ledger.state != ServerState::Starting => {
                return say(&format!(
                    "server {server} was registered by somebody else: for servers by hand start the stack with --game-server 'sleep 3600'"
                ));
            }
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => return say(&format!("server {server}: {error}")),
        }
    }
    say(&format!("server {server}: its task was never on record"));
}

async fn register(door: Arc<Door>, server: ServerId, token: String) {
    if let Err(error) = door.register(&server, &token).await {
        say(&error.to_string());
    }
}

/// Puts servers into the pool that are ready and empty. No task runs for them: who only wants room needs none.
pub(crate) async fn prepare(world: &World, count: u32) -> Result<(), Error> {
    let (clock, rng) = (Clock::system(), Rng::system());
    let mut frontiers = BTreeMap::new();
    for i in 0..count {
        let k = i % world.limits.concurrent_launches;
        let (now, token) = (clock.now(), rng.token());
        let hash = TokenHash::of(&token);
        let ledger = Ledger::new(rng.server_id(now), world.pool.clone(), &world.limits, hash);
        let ledger = Ledger { shard: k, ..ledger };
        let from = frontiers.insert(k, Frontier::new(ledger.id.clone(), 0));
        match world.table.advance(k, from, &ledger, 1, world.limits.max_servers, now).await? {
            Advanced::Yes => {}
            other => return Err(Error::Server(ledger.id, format!("cannot be prepared: {other:?}"))),
        }
        // Ready servers are found by the index; the frontier is to give nothing of them.
        world.table.write_frontier(&world.pool, k, &FrontierWrite::UsedUp { server: ledger.id.clone() }).await?;
        world.door.register(&ledger.id, &token).await?;
    }
    Ok(())
}
