//! Rollouts: new servers run the new build, and old servers end as the pool's `rollout` setting says.

use serde_json::json;
use shared::domain::{Rollout, ServerState};

use crate::support::{World, eventually, limits, seconds, settings};

impl World {
    /// Sets another task definition, and so a new build, for the default pool.
    async fn new_build(&self, revision: u32, rollout: Rollout) {
        let body = settings(|it| {
            it["capacity"] = json!(4);
            it["idleSeconds"] = json!(86_400);
            it["rollout"] = json!(rollout.as_str());
            it["task"]["cluster"] = json!("default");
            it["task"]["taskDefinition"] = json!(format!("game-server:{revision}"));
            it["task"]["url"] = json!(self.stack.url());
        });
        self.operate("PUT", "/pools/default", Some(body)).await.is(200);
    }

    /// Runs reconcile until a server is stopped.
    async fn reconcile_until_stopped(&self, server: &str) {
        let probe = || async {
            let report = self.reconcile().await;
            (self.ledger(server).await, report)
        };
        eventually("the server stops", probe, |(ledger, _)| ledger.state == ServerState::Stopped).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_new_task_definition_begins_a_new_build() {
    let world = World::new(|_| {}).await;
    let build = async || world.operate("GET", "/pools/default", None).await.is(200).body["build"].clone();
    assert_eq!(build().await, 0);
    world.new_build(7, Rollout::Lazy).await;
    assert_eq!(build().await, 1);
    world.new_build(7, Rollout::Drain).await;
    assert_eq!(build().await, 1, "another rollout setting begins no build");
    world.new_build(8, Rollout::Drain).await;
    assert_eq!(build().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_build_takes_no_new_players_and_keeps_the_connected_ones() {
    let world = World::new(limits(4, 10)).await;
    let old = world.ready_server("ann").await;
    old.connect(&world, "ann", None).await.is(200);
    world.new_build(7, Rollout::Drain).await;
    // No reconcile run has happened yet.
    assert_eq!(world.ledger(&old.id).await.state, ServerState::Ready);
    let new = world.join_afresh("bob").await;
    assert_ne!(new, old.id);
    assert_eq!(world.ledger(&new).await.build, 1);
    world.reconcile().await;
    assert_eq!(old.heartbeat(&world, Some(&["ann"])).await.is(200).body["state"], "draining");
    assert_eq!(world.ledger(&old.id).await.claims.len(), 1, "the connected player stays");
    old.disconnect(&world, "ann", "").await.is(204);
    world.reconcile_until_stopped(&old.id).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starting_server_of_a_drained_build_hands_out_no_more_slots() {
    let world = World::new(limits(4, 10)).await;
    let old = world.join("ann").await.is(202).server().to_owned();
    world.new_build(7, Rollout::Drain).await;
    let new = world.join_afresh("bob").await;
    assert_ne!(new, old);
    assert_eq!(world.join_afresh("carol").await, new);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_never_lands_on_an_old_build_while_a_new_one_has_room() {
    let world = World::new(|options| {
        limits(4, 10)(options);
        options.limits.lease = seconds(600);
    })
    .await;
    let old = world.ready_server("ann").await;
    for player in ["bob", "carol"] {
        old.let_in(&world, player).await;
    }
    world.new_build(7, Rollout::Lazy).await;
    assert_eq!(world.join_afresh("dave").await, old.id, "lazy: an old server is used while it has free slots");
    old.disconnect(&world, "bob", "").await.is(204);
    // Headroom starts a server of the new build.
    let pool = crate::support::pool("default");
    let (config, status) = world.stack.owmm().pool_and_status(&pool).await.unwrap();
    let headroom = shared::Pool { limits: shared::domain::PoolLimits { headroom: 4, ..config.limits }, ..config };
    assert_eq!(status.live, 1);
    world.stack.owmm().configure(headroom).await.unwrap();
    world.reconcile().await;
    let ledgers = world.ledgers().await;
    let new = ledgers.iter().find(|ledger| ledger.build == 1).unwrap().id.to_string();
    world.game_server(&new).await.register(&world).await.is(200);
    // The old server has more claims than the new one, and a free slot.
    assert!(world.ledger(&old.id).await.claims.len() == 3 && world.ledger(&new).await.claims.is_empty());
    for player in ["erin", "frank", "grace", "heidi"] {
        assert_eq!(
            world.join(player).await.is(200).server(),
            new,
            "{player}: also with a cached index result: {:?}",
            world.ledger(&new).await
        );
    }
    assert_eq!(world.join_afresh("ivan").await, old.id);
    // The old server runs while a player is connected, and stops when it is empty, before `idleSeconds` have passed.
    world.reconcile().await;
    assert_eq!(world.ledger(&old.id).await.state, ServerState::Ready);
    for player in ["ann", "carol", "dave", "ivan"] {
        let left = old.disconnect(&world, player, "").await.status;
        assert!(left.is_success());
    }
    world.reconcile_until_stopped(&old.id).await;
    world.end().await;
}
