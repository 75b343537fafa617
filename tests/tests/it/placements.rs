//! Lifecycle of a placement (reserved, connected, ended), with calls that arrive late or repeatedly.

use serde_json::json;
use shared::domain::{Claim, Ledger, PlayerId, Seat};

use crate::support::{World, eventually, limits, seconds};

fn player(id: &str) -> PlayerId {
    PlayerId::parse(id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_repeated_gives_the_same_slot_and_the_same_placement() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let (first, second) = (world.join("alice").await.is(200), world.join("alice").await.is(200));
    assert_eq!((first.server(), second.server()), (server.id.as_str(), server.id.as_str()));
    assert_eq!(first.ticket(), second.ticket(), "the same placement and expiry give the same ticket");
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_player_who_joins_again_stays_connected() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    let again = world.join("alice").await.is(200);
    assert_eq!(again.server(), server.id);
    let claim = world.ledger(&server.id).await.claims[&player("alice")];
    assert!(claim.is_connected(), "a second join must not turn connected back into reserved");
    assert_eq!(claim.placement().get(), placement);
    // A reconnect after a lost connection: the new ticket has the same placement.
    let back = server.connect(&world, "alice", Some(again.ticket())).await.is(200);
    assert_eq!(back.body["placement"], placement);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_disconnect_does_not_affect_a_player_who_has_reconnected() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let old = server.let_in(&world, "alice").await;
    server.disconnect(&world, "alice", &format!("?placement={old}")).await.is(204);
    let new = server.let_in(&world, "alice").await;
    assert!(new > old);
    // A repeat of the first placement's disconnect arrives late.
    server.disconnect(&world, "alice", &format!("?placement={old}")).await.is(204);
    let claim = world.ledger(&server.id).await.claims[&player("alice")];
    assert_eq!((claim.is_connected(), claim.placement().get()), (true, new));
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_is_repeated_safely_and_frees_the_slot_once() {
    let world = World::new(limits(1, 1)).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    world.join("bob").await.problem(503, "pool_full");
    for _ in 0..3 {
        server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    }
    assert!(matches!(world.seat("alice").await, Some(Seat::Vacant(last)) if last.get() == placement));
    // The join finds the freed slot, although the full server was not in the index.
    assert_eq!(world.join_for_good("bob").await.is(200).server(), server.id);
    // Without a placement, a disconnect ends the player's current claim; without a claim it changes nothing.
    server.disconnect(&world, "bob", "").await.is(204);
    server.disconnect(&world, "bob", "").await.is(204);
    assert_eq!(world.audit().await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_an_expired_reservation_goes_to_another_player() {
    let world = World::new(|options| {
        limits(1, 1)(options);
        options.limits.reservation = seconds(1);
        options.limits.lease = seconds(3);
    })
    .await;
    let server = world.ready_server("alice").await;
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    world.join("bob").await.problem(503, "pool_full");
    // The server's heartbeats list the server in the index again once the reservation has expired.
    let beat_and_join = || async {
        server.heartbeat(&world, None).await.is(200);
        world.join("bob").await
    };
    let placed = eventually("bob gets the slot", beat_and_join, |reply| reply.status == 200).await;
    assert_eq!(placed.server(), server.id);
    assert_eq!(world.ledger(&server.id).await.claims.keys().collect::<Vec<_>>(), [&player("bob")]);
    // Alice's reservation has expired: her ticket is refused, and she can join again.
    server.connect(&world, "alice", Some(&ticket)).await.problem(409, "no_claim");
    server.connect(&world, "alice", None).await.problem(409, "no_claim");
    world.join("alice").await.problem(503, "pool_full");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reservation_whose_slot_is_still_free_is_renewed_on_the_same_server() {
    let world = World::new(|options| options.limits.reservation = seconds(1)).await;
    let server = world.ready_server("alice").await;
    let first = world.join("alice").await.is(200);
    let expired = |ledger: &Ledger| ledger.live_claims(world.stack.owmm().time()) == 0;
    world.until(&server.id, "the reservation has expired", expired).await;
    let second = world.join("alice").await.is(200);
    assert_eq!(second.server(), server.id);
    assert_ne!(first.ticket(), second.ticket());
    server.connect(&world, "alice", Some(first.ticket())).await.problem(409, "no_claim");
    server.connect(&world, "alice", Some(second.ticket())).await.is(200);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_who_cancels_the_join_holds_no_claim() {
    let world = World::new(|_| {}).await;
    world.call("DELETE", "/join", Some("nobody"), None).await.is(204);
    let server = world.join("alice").await.is(202).server().to_owned();
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server).await.claims.is_empty(), "no claim must be left on a starting server");
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    world.join("alice").await.is(200);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server).await.claims.is_empty(), "no claim must be left on a ready server");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_join_does_not_disconnect_a_connected_player() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server.id).await.claims[&player("alice")].is_connected());
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_with_grace_holds_the_slot_for_that_time() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    let path = format!("?placement={placement}&grace=120");
    server.disconnect(&world, "alice", &path).await.is(204);
    // A repeat of the disconnect, as after a lost response, does not extend the time.
    let held = world.ledger(&server.id).await.claims[&player("alice")];
    server.disconnect(&world, "alice", &path).await.is(204);
    assert_eq!(world.ledger(&server.id).await.claims[&player("alice")], held);
    assert!(!held.is_connected() && held.placement().get() > placement);
    let ledger = world.ledger(&server.id).await;
    let left = ledger.expires(held).unwrap() - world.stack.owmm().time();
    assert!((100_000..=120_000).contains(&left.0), "held for {left:?}");
    let back = world.join("alice").await.is(200);
    assert_eq!(back.server(), server.id);
    server.connect(&world, "alice", Some(back.ticket())).await.is(200);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_response_lists_connected_players_that_the_request_does_not_name() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    server.let_in(&world, "bob").await;
    world.join("carol").await.is(200);
    let reply = server.heartbeat(&world, Some(&["bob"])).await.is(200);
    assert_eq!(reply.body["unknown"], json!([{ "player": "alice", "placement": placement }]));
    assert_eq!(reply.body["reserved"], 1, "carol has a reservation");
    assert!(world.ledger(&server.id).await.claims.contains_key(&player("alice")), "a heartbeat must not end a claim");
    server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    let reply = server.heartbeat(&world, Some(&["bob"])).await.is(200);
    assert_eq!(reply.body["unknown"], json!([]));
    assert_eq!(
        server.heartbeat(&world, None).await.is(200).body["unknown"],
        json!([]),
        "a heartbeat without names lists no player"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_claims_of_a_server_that_deregisters_are_removed() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    world.join("bob").await.is(200);
    server.close(&world).await.is(204);
    server.close(&world).await.is(204);
    assert!(world.ledger(&server.id).await.claims.is_empty());
    // Every later call of the server is refused or has no effect, and both players are placed anew.
    server.connect(&world, "alice", None).await.problem(410, "server_stopped");
    server.heartbeat(&world, None).await.problem(410, "server_stopped");
    server.register(&world).await.problem(410, "server_stopped");
    server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    for player in ["alice", "bob"] {
        assert_ne!(world.join(player).await.is(202).server(), server.id);
    }
    assert_eq!(world.audit().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_can_connect_only_to_the_server_that_the_seat_names() {
    let world = World::new(limits(1, 2)).await;
    let first = world.ready_server("alice").await;
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    // Alice cancels, Bob takes the slot, and Alice is placed on a second server.
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert_eq!(world.join("bob").await.is(200).server(), first.id);
    let second = world.join("alice").await.is(202).server().to_owned();
    assert_ne!(second, first.id);
    first.connect(&world, "alice", Some(&ticket)).await.problem(409, "no_claim");
    let hand = world.game_server(&second).await;
    hand.register(&world).await.is(200);
    let there = world.join("alice").await.is(200);
    hand.connect(&world, "alice", Some(there.ticket())).await.is(200);
    first.connect(&world, "alice", Some(there.ticket())).await.problem(403, "invalid_ticket");
    assert_eq!(world.audit().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_whose_seat_has_moved_cannot_connect_and_the_claim_is_freed() {
    // The state that a race can leave: one server's ledger has the claim, and the seat names another server.
    let world = World::new(limits(2, 2)).await;
    let server = world.ready_server("alice").await;
    let ledger = world.ledger(&server.id).await;
    let Claim::Reserved(placement) = ledger.claims[&player("alice")] else { panic!("reserved") };
    let elsewhere = shared::domain::ServerId::parse("elsewhere").unwrap();
    let write = shared::domain::SeatWrite::Assign {
        from: shared::domain::ExpectedSeat::Exactly { server: ledger.id.clone(), claim: Claim::Reserved(placement) },
        server: elsewhere,
        pool: ledger.pool.clone(),
        placement: shared::domain::Placement::next(world.stack.owmm().time(), Some(placement)),
    };
    world.stack.owmm().table().write_seat(&player("alice"), &write).await.unwrap();
    server.connect(&world, "alice", None).await.problem(409, "placed_elsewhere");
    assert!(world.ledger(&server.id).await.claims.is_empty(), "the claim must be freed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_on_a_starting_server_is_held_at_least_until_its_promised_expiry() {
    let world = World::new(|options| options.limits.reservation = seconds(5)).await;
    let joined = world.stack.owmm().join(&player("alice"), None).await.unwrap();
    let shared::JoinOutcome::Slot(shared::Slot::Starting { expires: promised, .. }) = joined else {
        panic!("{joined:?}")
    };
    let reply = world.join("alice").await.is(202);
    let hand = world.game_server(reply.server()).await;
    hand.register(&world).await.is(200);
    let ledger = world.ledger(reply.server()).await;
    let held = ledger.expires(ledger.claims[&player("alice")]).unwrap();
    assert!(promised <= held, "promised until {promised:?}, held until {held:?}");
    world.end().await;
}

impl World {
    /// Joins a pool by name.
    async fn join_pool(&self, player: &str, pool: &str) -> crate::reply::Reply {
        self.call("POST", "/join", Some(player), Some(json!({ "pool": pool }))).await
    }

    /// Creates a pool.
    async fn make_pool(&self, pool: &str, change: impl FnOnce(&mut serde_json::Value)) {
        self.operate("PUT", &format!("/pools/{pool}"), Some(crate::support::settings(change))).await.is(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_of_another_full_pool_frees_the_old_reservation() {
    let world = World::new(limits(5, 10)).await;
    world
        .make_pool("small", |it| {
            it["capacity"] = json!(1);
            it["maxServers"] = json!(1);
        })
        .await;
    world.join_pool("bob", "small").await.is(202);
    for _ in 0..12 {
        let server = world.join("eve").await.is(202).server().to_owned();
        assert_eq!(world.ledger(&server).await.claims.len(), 1);
        world.join_pool("eve", "small").await.problem(503, "pool_full");
        assert!(world.ledger(&server).await.claims.is_empty(), "503 pool_full means that no claim is held");
    }
    let ledgers = world.ledgers().await;
    assert_eq!(ledgers.iter().filter(|ledger| ledger.pool.as_str() == "default").count(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_without_pool_after_the_server_has_stopped_goes_to_the_default_pool() {
    let world = World::new(|_| {}).await;
    world.make_pool("eu", |it| it["capacity"] = json!(1)).await;
    let server = world.join_pool("ann", "eu").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    hand.close(&world).await.is(204);
    // A join without a pool: Ann's server in `eu` has stopped, so she is placed in the default pool.
    let placed = world.join("ann").await.is(202).server().to_owned();
    assert_eq!(world.ledger(&placed).await.pool.as_str(), "default");
    let Some(Seat::Assigned(place)) = world.seat("ann").await else { panic!("no seat") };
    assert_eq!((place.pool.as_str(), place.server.as_str()), ("default", placed.as_str()));
    let there = world.join_pool("ann", "eu").await.is(202).server().to_owned();
    assert_eq!(world.ledger(&there).await.pool.as_str(), "eu");
    assert_eq!(world.audit().await, 1);
    world.end().await;
}
