//! Parties: all players of a party get slots on one server in one write, or none of them gets one.

use std::sync::Arc;

use serde_json::json;
use shared::domain::{Seat, ServerState};
use tokio::task::JoinSet;

use crate::reply::Reply;
use crate::support::{World, eventually, limits, seconds, settings};

impl World {
    async fn party(&self, players: &[impl AsRef<str>]) -> Reply {
        let players = players.iter().map(AsRef::as_ref).collect::<Vec<_>>();
        self.operate("POST", "/pools/default/join", Some(json!({ "players": players }))).await
    }

    /// Joins as a party, and retries while the response is `busy`, as every caller should.
    async fn party_unless_busy(&self, players: &[String]) -> Reply {
        eventually("a response other than `busy`", || self.party(players), |reply| reply.code() != "busy").await
    }

    /// A ready server without claims.
    async fn empty_server(&self) -> crate::support::GameServer {
        let server = self.ready_server("nobody").await;
        server.disconnect(self, "nobody", "").await.is(204);
        server
    }
}

fn tickets(reply: &Reply) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let players = reply.body["players"].as_array().unwrap();
    players.iter().map(|it| (text(&it["player"]), text(&it["ticket"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_is_placed_on_one_server_and_a_repeat_answers_the_same() {
    let world = World::new(limits(20, 10)).await;
    let server = world.empty_server().await;
    let names = (0..16).map(|i| format!("player-{i}")).collect::<Vec<_>>();
    let first = world.party(&names).await.is(200);
    assert_eq!(first.server(), server.id);
    assert_eq!(tickets(&first).iter().map(|(player, _)| player.clone()).collect::<Vec<_>>(), names);
    let again = world.party(&names).await.is(200);
    assert_eq!(tickets(&again), tickets(&first));
    assert_eq!(world.audit().await, 16);
    for (player, ticket) in tickets(&first) {
        // The player's own join returns the same slot, and the ticket is accepted.
        assert_eq!(world.join(&player).await.is(200).ticket(), ticket);
        server.connect(&world, &player, Some(&ticket)).await.is(200);
    }
    assert_eq!(world.party(&names).await.is(200).server(), server.id, "connected players are placed too");
    assert_eq!(world.audit().await, 16);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_is_placed_into_a_server_that_is_starting() {
    let world = World::new(limits(4, 10)).await;
    let first = world.party(&["a", "b", "c"]).await.is(202);
    assert_eq!(first.retry_after, Some(1));
    let server = first.server().to_owned();
    assert_eq!(world.party(&["a", "b", "c"]).await.is(202).server(), server, "the same call is the poll");
    // One slot is left on that server: too few for two players, enough for one.
    let second = world.party(&["d", "e"]).await.is(202).server().to_owned();
    assert_ne!(second, server);
    assert_eq!(world.stack.ecs().counts().processes_started, 2);
    world.game_server(&server).await.register(&world).await.is(200);
    assert_eq!(world.party(&["a", "b", "c"]).await.is(200).server(), server);
    assert_eq!(world.join_afresh("f").await, server, "the slot that the party left free is found");
    assert_eq!(world.audit().await, 6);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_with_players_placed_elsewhere_is_refused_and_names_them() {
    let world = World::new(limits(3, 10)).await;
    let first = world.empty_server().await;
    first.let_in(&world, "ann").await;
    world.operate("PUT", "/pools/arena", Some(settings(|it| it["task"]["cluster"] = json!("default")))).await.is(200);
    let arena = world.call("POST", "/join", Some("bob"), Some(json!({ "pool": "arena" }))).await.is(202);
    let refused = world.party(&["carol", "bob", "ann"]).await.problem(409, "placed_elsewhere");
    assert_eq!(refused.body["players"], json!(["bob", "ann"]));
    assert_eq!(world.seat("carol").await, None);
    assert!(world.ledger(arena.server()).await.claims.len() == 1 && world.ledger(&first.id).await.claims.len() == 1);
    // Three players cannot join Ann on a server with three slots.
    let three = world.party(&["ann", "carol", "dave", "erin"]).await.problem(400, "invalid_body");
    assert!(three.body["detail"].as_str().unwrap().contains("3 slots"));
    world.join("frank").await.is(200);
    let refused = world.party(&["ann", "carol", "dave"]).await.problem(409, "placed_elsewhere");
    assert_eq!(refused.body["players"], json!(["ann"]));
    assert_eq!(world.party(&["ann", "carol"]).await.is(200).server(), first.id, "on Ann's server");
    assert_eq!(world.ledger(&first.id).await.claims.len(), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_or_unsigned_party_is_refused() {
    let world = World::new(|_| {}).await;
    let many = (0..17).map(|i| format!("player-{i}")).collect::<Vec<_>>();
    world.party(&many).await.problem(400, "invalid_body");
    world.party(&[] as &[&str]).await.problem(400, "invalid_body");
    world.party(&["ann", "ann"]).await.problem(400, "invalid_body");
    world.party(&["a b"]).await.problem(400, "invalid_body");
    world.operate("POST", "/pools/default/join", None).await.problem(400, "invalid_body");
    world
        .operate("POST", "/pools/nowhere/join", Some(json!({ "players": ["ann"] })))
        .await
        .problem(404, "unknown_pool");
    for bearer in [None, Some("ann")] {
        let body = json!({ "players": ["ann"] });
        world.call("POST", "/pools/default/join", bearer, Some(body)).await.problem(403, "forbidden");
    }
    assert!(world.seats().await.is_empty() && world.ledgers().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_joins_of_the_same_party_result_in_one_placement() {
    let world = Arc::new(World::new(limits(8, 100)).await);
    let names = (0..8).map(|i| format!("player-{i}")).collect::<Vec<_>>();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let (world, names) = (Arc::clone(&world), names.clone());
        calls.spawn(async move { world.party_unless_busy(&names).await });
    }
    for reply in calls.join_all().await {
        // Each response must match the ledger of the server that it names.
        let ledger = world.ledger(reply.is(202).server()).await;
        assert!(names.iter().all(|name| ledger.claims.keys().any(|player| player.as_str() == name)), "{ledger:?}");
    }
    let settled = world.party_unless_busy(&names).await.is(202);
    let ledger = world.ledger(settled.server()).await;
    assert_eq!(ledger.claims.len(), 8);
    for name in &names {
        let seat = world.seat(name).await;
        assert!(
            matches!(&seat, Some(Seat::Assigned(place)) if place.server == ledger.id),
            "the seat must name the party's server: {seat:?}"
        );
    }
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_parties_and_single_joins_overfill_no_server_and_split_no_party() {
    let world = Arc::new(World::new(limits(10, 100)).await);
    let mut calls = JoinSet::new();
    for p in 0..12 {
        let world = Arc::clone(&world);
        calls.spawn(async move {
            let names = (0..4).map(|i| format!("party-{p}-{i}")).collect::<Vec<_>>();
            world.party_unless_busy(&names).await.is(202);
        });
    }
    for i in 0..12 {
        let world = Arc::clone(&world);
        calls.spawn(async move {
            world.join_unless_busy(&format!("single-{i}")).await.is(202);
        });
    }
    calls.join_all().await;
    assert_eq!(world.audit().await, 60);
    for ledger in world.ledgers().await {
        assert_eq!(ledger.state, ServerState::Starting);
        for p in 0..12 {
            let of_party = format!("party-{p}-");
            let members = ledger.claims.keys().filter(|player| player.as_str().starts_with(&of_party)).count();
            assert!(members == 0 || members == 4, "party {p} is split: {ledger:?}");
        }
    }
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_whose_server_never_starts_is_placed_on_another_server() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let names = ["a".to_owned(), "b".to_owned()];
    let first = world.party_unless_busy(&names).await.is(202).server().to_owned();
    // Only the party's own polls can abandon the launch: there is no other join, no reconcile, and its task is idle.
    let poll = || async { world.party_unless_busy(&names).await.is(202) };
    let second = eventually("the party waits for another server", poll, |reply| reply.server() != first).await;
    let second = second.server().to_owned();
    assert_eq!(world.ledger(&first).await.state, ServerState::Stopped);
    assert_eq!(world.ledger(&second).await.claims.len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_party_keeps_its_slots_after_the_pools_capacity_is_lowered() {
    let world = World::new(limits(4, 10)).await;
    let players = ["ann", "bob", "cat", "dan"];
    let first = world.party(&players).await.is(202);
    let smaller = settings(|it| it["capacity"] = json!(3));
    world.operate("PUT", "/pools/default", Some(smaller)).await.is(200);
    assert_eq!(world.party(&players).await.is(202).server(), first.server());
    world.party(&["eve", "fay", "gus", "hal"]).await.problem(400, "invalid_body");
    world.end().await;
}
