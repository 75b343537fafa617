//! Simulated dedicated servers. All of them are in this process, because hundreds of processes would compete for the
//! cores that are measured.
//!
//! A server registers when its task runs. If the stack is in this process, an event of the local ECS announces the
//! task, and the task's environment has the server's id and token. Otherwise the id comes from a player's answer, and
//! the token from the server's ledger.

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
    world::{Api, World},
};

/// Pause between two reads of a ledger that has no task yet.
const READ_AGAIN: Duration = Duration::from_millis(20);
/// Reads of one ledger at most.
const READS: u32 = 500;

/// The simulated servers. Dropping this value ends them.
pub(crate) struct Servers {
    awaited: Option<UnboundedSender<String>>,
    watcher: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts the simulation. With `--servers real` it does nothing.
    pub(crate) fn play(world: &World, args: &Args) -> Self {
        let api = Arc::clone(&world.api);
        match (&world.stack, args.servers) {
            (_, args::Servers::Real) => Self { awaited: None, watcher: None },
            (Some(stack), args::Servers::Hand) => {
                Self { awaited: None, watcher: Some(tokio::spawn(register_from_events(stack.ecs().events(), api))) }
            }
            (None, args::Servers::Hand) => {
                let (awaited, ids) = unbounded_channel();
                let delay = Duration::from_millis(args.start_delay);
                let watcher = tokio::spawn(register_awaited(ids, world.table.clone(), api, delay));
                Self { awaited: Some(awaited), watcher: Some(watcher) }
            }
        }
    }

    /// Returns the channel for the ids of servers that players wait for; none if events of the local ECS replace it.
    pub(crate) fn awaited(&self) -> Option<UnboundedSender<String>> {
        self.awaited.clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

/// Registers each server whose task runs, according to the events of the local ECS.
async fn register_from_events(mut events: Receiver<Value>, api: Arc<Api>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some((server, token)) = running(&event) {
                    tokio::spawn(register(Arc::clone(&api), server, token));
                }
            }
            Err(RecvError::Lagged(missed)) => {
                say(&format!("{missed} events of the local ECS were missed: some servers may stay unregistered"));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Returns the server and its token if the event says that the server's task runs.
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

/// Registers each server that a player waits for.
async fn register_awaited(mut ids: UnboundedReceiver<String>, table: Table, api: Arc<Api>, delay: Duration) {
    let mut known = HashSet::new();
    while let Some(server) = ids.recv().await {
        let Ok(id) = ServerId::parse(&server) else { continue };
        if known.insert(server) {
            tokio::spawn(read_and_register(table.clone(), Arc::clone(&api), id, delay));
        }
    }
}

/// Reads the server's ledger until it has a task, and registers the server with the ledger's token after `delay`.
async fn read_and_register(table: Table, api: Arc<Api>, server: ServerId, delay: Duration) {
    for _ in 0..READS {
        match table.ledger(&server).await {
            Ok(Some(Ledger { launch: Some(launch), task: Some(_), .. })) => {
                tokio::time::sleep(delay).await;
                return register(api, server, launch.token).await;
            }
            Ok(Some(ledger)) if ledger.state != ServerState::Starting => {
                return say(&format!(
                    "server {server} was registered by another process: for --servers hand start the stack with \
                     --game-server 'sleep 3600'"
                ));
            }
            Ok(_) => tokio::time::sleep(READ_AGAIN).await,
            Err(error) => return say(&format!("the ledger of server {server} could not be read: {error}")),
        }
    }
    say(&format!("the ledger of server {server} has no task after {READS} reads"));
}

async fn register(api: Arc<Api>, server: ServerId, token: String) {
    if let Err(error) = api.register(&server, &token).await {
        say(&error.to_string());
    }
}

/// Adds ready, empty servers to the pool. They have no tasks, because joins need only their free slots.
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
            other => return Err(Error::Server(ledger.id, format!("the frontier did not advance: {other:?}"))),
        }
        // Joins are to find ready servers by the index, so the frontier must not hand out their slots.
        world.table.write_frontier(&world.pool, k, &FrontierWrite::UsedUp { server: ledger.id.clone() }).await?;
        world.api.register(&ledger.id, &token).await?;
    }
    Ok(())
}
