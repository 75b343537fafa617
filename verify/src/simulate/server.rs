//! Simulated game servers: the processes behind the tasks of the local ECS.
//!
//! They follow the server protocol: they register, send heartbeats with the connected players, make the calls about one
//! player one after the other, repeat each call until it is answered, disconnect every player who leaves, and
//! deregister once they are draining and empty. They may die at any moment.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use ecs::{Order, SimulatedTask};
use serde_json::{Value, json};
use shared::domain::{Placement, PlayerId, ServerId, ServerState, TokenHash};
use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard, mpsc::UnboundedReceiver, oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    chance::Chance,
    checks::{Caller, Invariant, LONGEST_GRACE_SECONDS},
    connection::{Connection, Entrance},
    flag::Flag,
    functions::{FunctionRequest, Functions, Reply},
    others::Tokens,
    plan::Fault,
    world::{World, lock},
};

/// An empty server ends if OWMM has not answered it for this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(300);
/// Time for the deregistration of a server whose task is being stopped.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(3);
/// Lowest port of a server.
const FIRST_PORT: u64 = 10_000;

#[derive(Debug, Default)]
struct Roster {
    turns: BTreeMap<PlayerId, Arc<Turn<()>>>,
    connected: BTreeMap<PlayerId, (u64, Placement)>,
}

/// A game server's process.
pub(super) struct GameServer {
    world: Arc<World>,
    functions: Arc<Functions>,
    chance: Chance,
    id: ServerId,
    token: String,
    port: u16,
    /// Grace in the disconnect of a player whose connection is lost, in seconds.
    grace: Option<u64>,
    /// Period in which the server cannot reach OWMM, in milliseconds since the start of the run.
    cut_off: Range<u64>,
    roster: Mutex<Roster>,
    dead: Flag,
}

/// Runs a process for every task that ECS starts.
pub(super) async fn host(
    functions: Arc<Functions>,
    world: Arc<World>,
    mut tasks: UnboundedReceiver<SimulatedTask>,
    tokens: Arc<Tokens>,
) {
    while let Some(task) = tasks.recv().await {
        if let (Some(id), Some(token)) = (variable(&task, "OWMM_SERVER_ID"), variable(&task, "OWMM_SERVER_TOKEN"))
            && let Ok(id) = ServerId::parse(&id)
        {
            tokens.lock().await.insert(token, id);
        }
        tokio::spawn(process(Arc::clone(&functions), Arc::clone(&world), task));
    }
}

fn variable(task: &SimulatedTask, name: &str) -> Option<String> {
    task.environment.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

/// The behaviour of a process after its start.
enum Fate {
    /// It serves players.
    Lives,
    /// It exits at once.
    Fails,
    /// It hangs.
    Hangs,
}

async fn process(functions: Arc<Functions>, world: Arc<World>, task: SimulatedTask) {
    let named = (variable(&task, "OWMM_SERVER_ID"), variable(&task, "OWMM_SERVER_TOKEN"));
    let SimulatedTask { mut orders, ended, .. } = task;
    let (Some(id), Some(token)) = named else { return };
    let Ok(id) = ServerId::parse(&id) else { return };
    let chance = Chance::new(world.chance.seed(), 2);
    world.check(|checks| checks.task_started(world.now(), &id, &token));
    let launch = u64::try_from(world.plan.limits.launch.0).unwrap_or(0);
    let fate = match world.strikes(Fault::TaskFailsToStart) {
        false => Fate::Lives,
        true if chance.hit(500) => Fate::Fails,
        true => Fate::Hangs,
    };
    let starts_in = match world.strikes(Fault::TaskStartsLate) {
        true => chance.ms(launch, 3 * launch),
        false => chance.ms(50, world.plan.start_ms),
    };
    let dies = world.strikes(Fault::TaskDies);
    let dies_in = if dies { chance.ms(50, 60_000) } else { Duration::from_secs(86_400) };
    let cut_off = if world.strikes(Fault::ServerCutOff) {
        let from = world.ms() + chance.within(5_000, 60_000);
        from..from + chance.within(20_000, 120_000)
    } else {
        0..0
    };
    let port = u16::try_from(FIRST_PORT + world.number() % 50_000).unwrap_or(u16::MAX);
    let server = Arc::new(GameServer {
        grace: chance.hit(400).then(|| chance.within(1, LONGEST_GRACE_SECONDS)),
        functions,
        chance,
        token,
        port,
        cut_off,
        roster: Mutex::default(),
        dead: Flag::default(),
        id: id.clone(),
        world: Arc::clone(&world),
    });
    world.record(format_args!("a process of {id} starts on port {port}"));
    let life = async {
        sleep(starts_in).await;
        match fate {
            Fate::Lives => server.live().await,
            Fate::Fails => 1,
            Fate::Hangs => std::future::pending().await,
        }
    };
    let mut terminated = orders.clone();
    let code = tokio::select! {
        biased;
        () = ordered(&mut orders, |order| order == Order::Kill) => 137,
        () = sleep(dies_in) => 137,
        () = ordered(&mut terminated, |order| order != Order::Run) => {
            server.stop_by_order().await;
            0
        }
        code = life => code,
    };
    world.record(format_args!("the process of {id} on port {port} ends with {code}"));
    server.close();
    // A failed send means that the run is over.
    let _ = ended.send(code);
}

/// Waits for an order of ECS that satisfies `what`.
async fn ordered(orders: &mut watch::Receiver<Order>, what: impl Fn(Order) -> bool) {
    // A closed channel means that no order will come.
    if orders.wait_for(|order| what(*order)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl GameServer {
    fn caller(&self) -> Caller {
        Caller::Server(self.id.clone(), TokenHash::of(&self.token))
    }

    async fn call(&self, method: &'static str, rest: &str, body: Option<Value>) -> Option<Reply> {
        if self.cut_off.contains(&self.world.ms()) && !self.world.is_calm() {
            sleep(self.chance.ms(100, 5_000)).await;
            return None;
        }
        let request = FunctionRequest::bearer(method, format!("/servers/{}{rest}", self.id), &self.token, body);
        self.functions.call(self.caller(), request).await
    }

    /// Repeats a call until it has an answer below 500.
    async fn until_answered(&self, method: &'static str, rest: &str, body: Option<Value>) -> Reply {
        let mut pause = 200;
        loop {
            match self.call(method, rest, body.clone()).await {
                Some(reply) if reply.status < 500 => return reply,
                _ => sleep(self.chance.ms(pause / 2, pause)).await,
            }
            pause = (2 * pause).min(5_000);
        }
    }

    /// Registers the server and sends heartbeats until the server ends. Returns the exit code.
    async fn live(self: &Arc<Self>) -> i32 {
        lock(&self.world.servers).insert(self.port, Arc::<Self>::clone(self));
        let registration = json!({ "address": "192.0.2.1", "port": self.port });
        let registered = self.until_answered("PUT", "", Some(registration)).await;
        if registered.status != 200 {
            return 1;
        }
        let every = registered.body.get("heartbeatSeconds").and_then(Value::as_f64).unwrap_or(10.0);
        let every = Duration::from_secs_f64(every.clamp(0.5, 300.0));
        let mut answered = Instant::now();
        loop {
            sleep(every).await;
            let connected = lock(&self.roster).connected.keys().map(ToString::to_string).collect::<Vec<_>>();
            let empty = connected.is_empty();
            match self.call("POST", "/heartbeat", Some(json!({ "players": connected }))).await {
                Some(heartbeat) if heartbeat.status == 200 => {
                    answered = Instant::now();
                    self.disconnect_unknown(&heartbeat);
                    let reserved = heartbeat.body.get("reserved").and_then(Value::as_u64).unwrap_or(0);
                    if heartbeat.text("/state") == "draining" && reserved == 0 && self.is_idle() {
                        self.until_answered("DELETE", "", None).await;
                        return 0;
                    }
                }
                Some(refused) if (400..500).contains(&refused.status) => return 1,
                _ if empty && answered.elapsed() > ABANDONED_AFTER => return 1,
                _ => {}
            }
        }
    }

    fn is_idle(&self) -> bool {
        let roster = lock(&self.roster);
        roster.connected.is_empty() && roster.turns.values().all(|turn| Arc::strong_count(turn) == 1)
    }

    async fn stop_by_order(&self) {
        let current = self.world.check(|checks| {
            let ledger = checks.ledgers.get(&self.id)?;
            let current = ledger.token_hash == TokenHash::of(&self.token);
            (current && ledger.state != ServerState::Stopped).then(|| ledger.clone())
        });
        self.world.must(Invariant::KeptWord, current.is_none(), || {
            format!("the task of {} is being stopped, but its ledger is not: {current:?}", self.id)
        });
        self.close();
        // ECS kills the task soon after.
        let _ = timeout(DEREGISTER_WITHIN, self.until_answered("DELETE", "", None)).await;
    }

    /// Closes the port and all connections.
    fn close(&self) {
        lock(&self.world.servers).remove(&self.port);
        self.dead.set();
        self.world.check(|checks| checks.died(&self.id, &TokenHash::of(&self.token)));
    }

    /// Runs a future until it ends or the process dies.
    fn spawn(self: &Arc<Self>, something: impl Future<Output = ()> + Send + 'static) {
        let dead = self.dead.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = dead.wait() => {}
                () = something => {}
            }
        });
    }

    fn turn_of(&self, player: &PlayerId) -> Arc<Turn<()>> {
        Arc::clone(lock(&self.roster).turns.entry(player.clone()).or_default())
    }

    async fn turn(&self, player: &PlayerId) -> OwnedMutexGuard<()> {
        self.turn_of(player).lock_owned().await
    }

    /// Disconnects the players that the heartbeat's answer lists as `unknown`: connected in the ledger but not here.
    fn disconnect_unknown(self: &Arc<Self>, heartbeat: &Reply) {
        for one in heartbeat.body.get("unknown").and_then(Value::as_array).into_iter().flatten() {
            let player = one.get("player").and_then(Value::as_str).and_then(|id| PlayerId::parse(id).ok());
            let placement = one.get("placement").and_then(Value::as_i64).and_then(Placement::new);
            let (Some(player), Some(placement)) = (player, placement) else { continue };
            let server = Arc::clone(self);
            self.spawn(async move {
                // The call that has the player's turn updates the ledger itself.
                let Ok(_turn) = server.turn_of(&player).try_lock_owned() else { return };
                if !lock(&server.roster).connected.contains_key(&player) {
                    server.disconnect(&player, placement, None).await;
                }
            });
        }
    }

    async fn disconnect(&self, player: &PlayerId, placement: Placement, grace: Option<u64>) {
        self.world.check(|checks| checks.disconnect(&self.id, player));
        let grace = grace.map_or_else(String::new, |seconds| format!("&grace={seconds}"));
        self.until_answered("DELETE", &format!("/players/{player}?placement={}{grace}", placement.get()), None).await;
        self.world.check(|checks| checks.gone(self.world.now(), &self.id, player));
    }

    async fn serve(
        &self,
        player: PlayerId,
        ticket: String,
        admit: oneshot::Sender<bool>,
        left: oneshot::Receiver<Option<u64>>,
    ) {
        let visit = self.world.number();
        let turn = self.turn(&player).await;
        let body = self.chance.hit(900).then(|| json!({ "ticket": ticket }));
        let reply = self.until_answered("PUT", &format!("/players/{player}"), body).await;
        let placement = reply.body.get("placement").and_then(Value::as_i64).and_then(Placement::new);
        let Some(placement) = placement.filter(|_| reply.status == 200) else {
            // A failed send means that the player no longer waits.
            let _ = admit.send(false);
            return;
        };
        lock(&self.roster).connected.insert(player.clone(), (visit, placement));
        self.world.record(format_args!("{player} is connected to {}", self.id));
        self.world.check(|checks| checks.let_in(self.world.now(), &self.id, &player, placement));
        let _ = admit.send(true);
        drop(turn);
        let grace = match left.await {
            Ok(grace) => grace,
            Err(_) => {
                // The server notices a lost connection after a while.
                sleep(self.chance.ms(0, 5_000)).await;
                self.grace
            }
        };
        let _turn = self.turn(&player).await;
        let mine = lock(&self.roster).connected.get(&player).is_some_and(|(of, _)| *of == visit);
        if mine {
            lock(&self.roster).connected.remove(&player);
            self.world.record(format_args!("{player} is no longer connected to {}", self.id));
            self.world.check(|checks| checks.let_out(&self.id, &player));
            self.disconnect(&player, placement, grace).await;
        }
    }
}

impl Entrance for GameServer {
    fn connect(self: Arc<Self>, player: PlayerId, ticket: String) -> Connection {
        let (admit, admitted) = oneshot::channel();
        let (leave, left) = oneshot::channel();
        let (server, dead) = (Arc::clone(&self), self.dead.clone());
        self.spawn(async move { server.serve(player, ticket, admit, left).await });
        Connection { admitted, leave, dead }
    }
}
