//! Requests to the table, counted by an interceptor in the SDK's client. Counted, not timed.

use std::sync::Arc;

use shared::domain::{FrontierWrite, ServerId};
use tokio::task::JoinSet;

use crate::support::{World, limits};

fn per(total: u64, calls: u64) -> String {
    format!("{}.{:02}", total / calls, total * 100 / calls % 100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_in_the_steady_state_is_two_writes() {
    let world = Arc::new(World::new(limits(50, 100)).await);
    // Forty servers with room everywhere: each is called used up while it starts, so that the next one is started.
    let pool = crate::support::pool("default");
    let mut hands = Vec::new();
    for i in 0..40 {
        let server = world.join(&format!("first-{i}")).await.is(202).server().to_owned();
        let hand = world.hand(&server).await;
        let used_up = FrontierWrite::UsedUp { server: ServerId::parse(&server).unwrap() };
        world.stack.owmm().table().write_frontier(&pool, 0, &used_up).await.unwrap();
        hands.push(hand);
    }
    for (i, hand) in hands.iter().enumerate() {
        hand.register(&world).await.is(200);
        hand.goodbye(&world, &format!("first-{i}"), "").await.is(204);
    }
    world.join_for_good("probe").await.is(200);
    world.call("DELETE", "/join", Some("probe"), None).await.is(204);
    let meter = world.stack.meter();
    meter.reset();
    let mut joins = JoinSet::new();
    for at_once in 0..25 {
        let world = Arc::clone(&world);
        joins.spawn(async move {
            for i in 0..40 {
                world.join(&format!("player-{at_once}-{i}")).await.is(200);
            }
        });
    }
    joins.join_all().await;
    let usage = meter.read();
    println!("steady state, 1,000 joins: {} requests a join: {usage:?}", per(usage.total_requests(), 1_000));
    assert!(usage.total_requests() <= 2_100, "{usage:?}");
    assert_eq!(world.audit().await, 1_000);
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_into_an_empty_pool_is_at_most_four_requests() {
    let world = Arc::new(World::new(limits(50, 100)).await);
    let meter = world.stack.meter().clone();
    meter.reset();
    let mut joins = JoinSet::new();
    for i in 0..1_000 {
        let world = Arc::clone(&world);
        joins.spawn(async move { world.join(&format!("player-{i}")).await.is(202) });
    }
    joins.join_all().await;
    let usage = meter.read();
    println!("empty pool, 1,000 joins at once: {} requests a join: {usage:?}", per(usage.total_requests(), 1_000));
    assert!(usage.total_requests() <= 4_000, "{usage:?}");
    assert_eq!(world.stack.ecs().counts().processes_started, 20);
    assert_eq!(world.audit().await, 1_000);
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_call_has_its_count() {
    let world = World::new(|_| {}).await;
    let meter = world.stack.meter().clone();
    let count = |what: &str, expected: u64| {
        let usage = meter.read();
        println!("{what}: {} requests: {usage:?}", usage.total_requests());
        assert_eq!(usage.total_requests(), expected, "{what}: {usage:?}");
        meter.reset();
    };
    let server = world.join("alice").await.is(202).server().to_owned();
    meter.reset();
    world.join("alice").await.is(202);
    count("a poll of a waiting player", 2);
    let hand = world.hand(&server).await;
    meter.reset();
    hand.register(&world).await.is(200);
    count("register-server", 2);
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    meter.reset();
    world.join("alice").await.is(200);
    count("a reconnect", 2);
    hand.connect(&world, "alice", Some(&ticket)).await.is(200);
    count("register-player with the ticket", 2);
    hand.connect(&world, "alice", None).await.is(200);
    count("register-player without the ticket", 3);
    hand.beat(&world, Some(&["alice"])).await.is(200);
    count("heartbeat", 1);
    let placement = world.ledger(&server).await.claims.values().next().unwrap().stamp().get();
    meter.reset();
    hand.goodbye(&world, "alice", &format!("?placement={placement}")).await.is(204);
    count("deregister-player with the placement", 2);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    count("DELETE /join without a slot", 1);
    world.join("alice").await.is(200);
    meter.reset();
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    count("DELETE /join with a slot", 3);
    hand.close(&world).await.is(204);
    count("deregister-server", 2);
    world.end().await;
}
