//! Players, and the backends that place parties. They join, wait, connect, stay, disconnect, lose their connection,
//! reconnect and cancel.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use shared::domain::PlayerId;
use tokio::time::{Instant, sleep, timeout};

use super::{
    chance::Chance,
    checks::Caller,
    flag::Flag,
    functions::{FunctionRequest, Functions, Reply},
    plan::Theme,
    world::{POOL, World, lock},
};

/// Name of the second pool.
pub(super) const OTHER_POOL: &str = "other";

/// A simulated player.
pub(super) struct Player {
    pub(super) world: Arc<World>,
    pub(super) functions: Arc<Functions>,
    pub(super) chance: Chance,
    pub(super) id: PlayerId,
}

/// A slot on a ready server.
struct Ready {
    port: u16,
    ticket: String,
}

impl Ready {
    fn read(reply: &Reply, ticket: &Value) -> Option<Self> {
        let port = reply.body.pointer("/server/port").and_then(Value::as_u64);
        Some(Self { port: u16::try_from(port?).ok()?, ticket: ticket.as_str()?.to_owned() })
    }
}

/// The end of a visit.
#[derive(Clone, Debug)]
pub(super) enum Stay {
    /// After a duration.
    For(Duration),
    /// Once the flag is set.
    Until(Flag),
}

impl Stay {
    async fn over(self) {
        match self {
            Self::For(span) => sleep(span).await,
            Self::Until(flag) => flag.wait().await,
        }
    }
}

impl Player {
    fn ask(&self, method: &'static str, body: Option<Value>) -> impl Future<Output = Option<Reply>> + use<> {
        let (functions, id) = (Arc::clone(&self.functions), self.id.clone());
        async move {
            let request = FunctionRequest::bearer(method, "/join", id.as_str(), body);
            functions.call(Caller::Player(id), request).await
        }
    }

    /// Visits servers until faults have stopped.
    pub(super) async fn live(self) {
        while !self.world.is_calm() {
            sleep(self.away()).await;
            if self.world.is_calm() {
                break;
            }
            self.visit().await;
        }
    }

    fn away(&self) -> Duration {
        if self.world.plan.theme != Theme::OnTheMinute {
            return self.chance.ms(50, self.world.plan.away_ms);
        }
        // The visit is shortly before a reconcile run, but not the next one, so that servers are idle in between.
        let minutes = self.world.ms() / 60_000 + self.chance.within(2, 3);
        let at = minutes * 60_000 + self.chance.within(0, 4_000);
        Duration::from_millis(at.saturating_sub(2_000 + self.world.ms()))
    }

    async fn visit(&self) {
        let pool = match self.chance.below(10) {
            0 => Some(OTHER_POOL),
            1 | 2 => Some(POOL),
            _ => None,
        };
        if pool.is_some() {
            // A join that names a pool frees the slot that the player has in another pool.
            self.world.check(|checks| checks.gives_up(self.world.now(), &self.id));
        }
        let patience = self.chance.hit(200).then(|| Instant::now() + self.chance.ms(500, 20_000));
        let stay = Stay::For(self.chance.ms(10, self.world.plan.stay_ms));
        self.join_and_play(pool, patience, stay).await;
    }

    /// Joins until there is a slot, connects, stays and disconnects. Returns whether the player was connected.
    pub(super) async fn join_and_play(&self, pool: Option<&str>, patience: Option<Instant>, stay: Stay) -> bool {
        let body = pool.map(|pool| json!({ "pool": pool }));
        let mut connections_lost = 0;
        loop {
            if patience.is_some_and(|end| end < Instant::now()) {
                self.cancel().await;
                return false;
            }
            if !self.world.is_calm() && self.chance.hit(100) {
                tokio::spawn(self.ask("POST", body.clone()));
            }
            let reply = self.ask("POST", body.clone()).await;
            let Some(reply) = reply else { continue };
            match reply.status {
                200 => {
                    let Some(ready) = reply.body.get("ticket").and_then(|ticket| Ready::read(&reply, ticket)) else {
                        continue;
                    };
                    if !self.world.is_calm() && self.chance.hit(100) {
                        // The player never connects.
                        return false;
                    }
                    if !self.world.is_calm() {
                        sleep(self.chance.ms(1, if self.chance.hit(200) { 12_000 } else { 500 })).await;
                    }
                    match self.play(ready, stay.clone()).await {
                        Played::Left => return true,
                        Played::NotLetIn => sleep(self.chance.ms(100, 1_000)).await,
                        Played::ServerDied | Played::Dropped if connections_lost < 3 => connections_lost += 1,
                        Played::ServerDied | Played::Dropped if self.world.is_calm() => {}
                        Played::ServerDied | Played::Dropped => return true,
                    }
                }
                202 => sleep(self.chance.ms(500, 1_500)).await,
                // The player is connected to another server according to OWMM. That lasts until the server notices the
                // lost connection.
                409 => sleep(self.chance.ms(1_000, 3_000)).await,
                _ => sleep(self.chance.ms(500, 4_000)).await,
            }
        }
    }

    async fn cancel(&self) {
        if self.chance.hit(500) {
            self.world.check(|checks| checks.gives_up(self.world.now(), &self.id));
            self.ask("DELETE", None).await;
        }
    }

    async fn play(&self, ready: Ready, stay: Stay) -> Played {
        let server = lock(&self.world.servers).get(&ready.port).cloned();
        let Some(server) = server else { return Played::NotLetIn };
        let mut connection = server.connect(self.id.clone(), ready.ticket);
        let admitted = timeout(Duration::from_secs(30), &mut connection.admitted).await;
        if !matches!(admitted, Ok(Ok(true))) {
            return Played::NotLetIn;
        }
        tokio::select! {
            biased;
            () = connection.over() => return Played::ServerDied,
            () = stay.over() => {}
        }
        if !self.world.is_calm() && self.chance.hit(300) {
            // The connection is lost. Some players join again at once, before the server notices.
            drop(connection.leave);
            return if self.chance.hit(600) { Played::Dropped } else { Played::Left };
        }
        let grace = (!self.world.is_calm() && self.chance.hit(200)).then(|| self.chance.within(1, 15));
        // A failed send means that the server died at the same time.
        let _ = connection.leave.send(grace);
        Played::Left
    }
}

enum Played {
    Left,
    Dropped,
    NotLetIn,
    ServerDied,
}

/// A simulated party and the backend that places it.
pub(super) struct Party {
    pub(super) world: Arc<World>,
    pub(super) functions: Arc<Functions>,
    pub(super) chance: Chance,
    pub(super) number: u64,
}

impl Party {
    /// Visits servers until faults have stopped.
    pub(super) async fn live(self) {
        while !self.world.is_calm() {
            sleep(self.chance.ms(50, self.world.plan.away_ms)).await;
            let most = u64::from(self.world.plan.limits.capacity).clamp(1, 4);
            let names = (0..self.chance.within(1, most))
                .filter_map(|i| PlayerId::parse(&format!("party{}-{i}", self.number)).ok());
            self.visit(&names.collect::<Vec<_>>()).await;
        }
    }

    async fn visit(&self, members: &[PlayerId]) {
        let names = members.iter().map(PlayerId::as_str).collect::<Vec<_>>();
        let path = format!("/pools/{POOL}/join");
        for _ in 0..self.chance.within(1, 12) {
            let request = FunctionRequest::signed("POST", &path, Some(json!({ "players": names })));
            let reply = self.functions.call(Caller::Backend(members.to_vec()), request).await;
            let Some(reply) = reply else { continue };
            if reply.status != 200 {
                sleep(self.chance.ms(500, 2_000)).await;
                continue;
            }
            let mut visits = Vec::new();
            for slot in reply.body.get("players").and_then(Value::as_array).into_iter().flatten() {
                let name = slot.get("player").and_then(Value::as_str).and_then(|id| PlayerId::parse(id).ok());
                let ready = slot.get("ticket").and_then(|ticket| Ready::read(&reply, ticket));
                let (Some(id), Some(ready)) = (name, ready) else { continue };
                let (world, functions) = (Arc::clone(&self.world), Arc::clone(&self.functions));
                let player = Player { world, functions, chance: Chance::new(self.chance.seed(), 3), id };
                let stay = Stay::For(self.chance.ms(10, self.world.plan.stay_ms));
                visits.push(tokio::spawn(async move {
                    player.play(ready, stay).await;
                }));
            }
            for visit in visits {
                // A panic in a visit is found by other checks.
                let _ = visit.await;
            }
            return;
        }
    }
}
