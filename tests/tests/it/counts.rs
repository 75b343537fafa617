//! Number and cost of requests to the table, counted by an interceptor in the SDK's client; nothing is timed.

use std::sync::Arc;

use shared::domain::{Answer, Claim, FrontierWrite, Ledger, LedgerWrite, Placement, PlayerId, ServerId, Span};
use tokio::task::JoinSet;

use crate::support::{World, limits, seconds};

fn per(total: u64, calls: u64) -> String {
    format!("{}.{:02}", total / calls, total * 100 / calls % 100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_in_the_steady_state_makes_two_writes() {
    let world = World::new(|options| {
        limits(50, 100)(options);
        // No server sends a heartbeat and no player connects, so leases and reservations must outlast a slow machine.
        (options.limits.lease, options.limits.reservation) = (seconds(600), seconds(600));
    });
    let world = Arc::new(world.await);
    // Forty servers with free slots: each is marked as used up while it starts, so that the next join starts another.
    let pool = crate::support::pool("default");
    let mut hands = Vec::new();
    for i in 0..40 {
        let server = world.join(&format!("first-{i}")).await.is(202).server().to_owned();
        let hand = world.game_server(&server).await;
        let used_up = FrontierWrite::UsedUp { server: ServerId::parse(&server).unwrap() };
        world.stack.owmm().table().write_frontier(&pool, 0, &used_up).await.unwrap();
        hands.push(hand);
    }
    for (i, hand) in hands.iter().enumerate() {
        hand.register(&world).await.is(200);
        hand.disconnect(&world, &format!("first-{i}"), "").await.is(204);
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
async fn a_join_into_an_empty_pool_makes_at_most_four_requests() {
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
async fn every_other_call_makes_its_expected_number_of_requests() {
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
    let hand = world.game_server(&server).await;
    meter.reset();
    hand.register(&world).await.is(200);
    count("register-server", 3);
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    meter.reset();
    world.join("alice").await.is(200);
    count("a reconnect", 2);
    hand.connect(&world, "alice", Some(&ticket)).await.is(200);
    count("register-player with the ticket", 2);
    hand.connect(&world, "alice", None).await.is(200);
    count("register-player without the ticket", 3);
    hand.heartbeat(&world, Some(&["alice"])).await.is(200);
    count("heartbeat", 1);
    let placement = world.ledger(&server).await.claims.values().next().unwrap().placement().get();
    meter.reset();
    hand.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    count("deregister-player with the placement", 2);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    count("DELETE /join without a slot", 1);
    world.join("alice").await.is(200);
    meter.reset();
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    count("DELETE /join with a slot", 3);
    world.join("alice").await.is(200);
    meter.reset();
    world.operate("GET", &format!("/servers/{server}"), None).await.is(200);
    count("one server", 1);
    world.operate("GET", "/players/alice", None).await.is(200);
    count("one player", 2);
    world.operate("DELETE", "/players/alice", None).await.is(204);
    count("a release of a reservation", 5);
    world.operate("POST", "/pools/default/pause", None).await.is(200);
    count("pause", 2);
    world.operate("POST", "/pools/default/resume", None).await.is(200);
    count("resume", 2);
    world.operate("POST", "/pools/default/launch", Some(serde_json::json!({ "atLeast": 2 }))).await.is(200);
    count("launch of one server", 5);
    hand.close(&world).await.is(204);
    count("deregister-server", 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_a_write_grows_with_the_claims_on_the_ledger() {
    let world = World::new(limits(1_000, 1)).await;
    let server = world.ready_server("alice").await;
    let template = world.ledger(&server.id).await;
    let table = world.stack.owmm().table();
    let now = world.stack.owmm().time();
    let name = |i: u32| PlayerId::parse(&format!("player-0123456789-{i:04}")).unwrap();
    assert_eq!(name(0).as_str().len(), 22);
    let mut last = 0.0;
    println!("| capacity | units of a claim | claims a second on one item | units of a heartbeat |");
    for capacity in [1, 25, 50, 100, 200, 500, 1_000] {
        let placement = Placement::next(now, None);
        let claims = (1..capacity).map(|i| (name(i), Claim::Connected(placement)));
        let ledger = Ledger { capacity, claims: claims.collect(), ..template.clone() };
        let put = world.stack.dynamodb().put_item().table_name(&world.table);
        put.set_item(Some(shared::table::ledger::to_item(&ledger))).send().await.unwrap();
        let mut units = Vec::new();
        for write in [
            LedgerWrite::Claim { player: name(0), placement, now, seen_by: now + Span(60_000) },
            LedgerWrite::Heartbeat { by: ledger.token_hash, now },
        ] {
            world.stack.meter().reset();
            assert!(matches!(table.write_ledger(&ledger.id, &write).await.unwrap(), Answer::Written(_)));
            units.push(world.stack.meter().read().units["UpdateItem"]);
        }
        // DynamoDB allows 1,000 write units per second on one item.
        println!("| {capacity} | {} | {:.0} | {} |", units[0], 1_000.0 / units[0], units[1]);
        assert!(units[0] >= last, "more claims must not cost less");
        last = units[0];
    }
    assert!((20.0..=40.0).contains(&last), "a claim among 1,000 costs {last} units");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_meter_counts_the_reads_of_a_reconcile_run() {
    let world = World::new(limits(1, 100)).await;
    for i in 0..8 {
        world.ready_server(&format!("player-{i}")).await;
    }
    world.stack.meter().reset();
    world.reconcile().await;
    let usage = world.stack.meter().read();
    println!("reconcile, 8 servers and nothing to do: {usage:?}");
    // An eventually consistent read of a ledger below 4 KB costs half a unit.
    assert_eq!(usage.units["BatchGetItem"], 4.0, "{usage:?}");
    // Consistent reads of the pools and of the roster.
    assert_eq!(usage.units["Query"], 2.0, "{usage:?}");
    assert_eq!((usage.write_units(), usage.read_units()), (0.0, 6.0 + usage.units["GetItem"]), "{usage:?}");
    world.operate("PUT", "/pools/another", Some(crate::support::settings(|_| {}))).await.is(200);
    assert!(world.stack.meter().read().write_units() >= 1.0);
    world.end().await;
}
