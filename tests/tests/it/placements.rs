//! A placement's life: reserved, connected, over; and what comes late or twice.

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
    assert_eq!(first.ticket(), second.ticket(), "the same placement, the same expiry: the same ticket");
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
    // With the fresh ticket the server lets the same placement in again: a reconnect after a drop.
    let back = server.connect(&world, "alice", Some(again.ticket())).await.is(200);
    assert_eq!(back.body["placement"], placement);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_does_not_touch_a_player_who_has_come_back() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let old = server.let_in(&world, "alice").await;
    server.disconnect(&world, "alice", &format!("?placement={old}")).await.is(204);
    let new = server.let_in(&world, "alice").await;
    assert!(new > old);
    // The disconnect of the first visit arrives once more, late.
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
    // The slot that was freed is found, though the server was full and so in no index.
    assert_eq!(world.join_for_good("bob").await.is(200).server(), server.id);
    // Without a placement the disconnect is to whoever is there; with nobody there it is to nobody.
    server.disconnect(&world, "bob", "").await.is(204);
    server.disconnect(&world, "bob", "").await.is(204);
    assert_eq!(world.audit().await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_runs_out_is_used_again() {
    let world = World::new(|options| {
        limits(1, 1)(options);
        options.limits.reservation = seconds(1);
        options.limits.lease = seconds(3);
    })
    .await;
    let server = world.ready_server("alice").await;
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    world.join("bob").await.problem(503, "pool_full");
    // The server beats on, and so puts itself back into the index once the reservation's time is up.
    let beat_and_join = || async {
        server.beat(&world, None).await.is(200);
        world.join("bob").await
    };
    let placed = eventually("bob gets the slot", beat_and_join, |reply| reply.status == 200).await;
    assert_eq!(placed.server(), server.id);
    assert_eq!(world.ledger(&server.id).await.claims.keys().collect::<Vec<_>>(), [&player("bob")]);
    // Alice comes too late: her ticket is not good any more, and she may ask anew.
    server.connect(&world, "alice", Some(&ticket)).await.problem(409, "no_claim");
    server.connect(&world, "alice", None).await.problem(409, "no_claim");
    world.join("alice").await.problem(503, "pool_full");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reservation_that_nobody_took_is_renewed_on_the_same_server() {
    let world = World::new(|options| options.limits.reservation = seconds(1)).await;
    let server = world.ready_server("alice").await;
    let first = world.join("alice").await.is(200);
    let over = |ledger: &Ledger| ledger.live_claims(world.stack.owmm().time()) == 0;
    world.until(&server.id, "the reservation is over", over).await;
    let second = world.join("alice").await.is(200);
    assert_eq!(second.server(), server.id);
    assert_ne!(first.ticket(), second.ticket());
    server.connect(&world, "alice", Some(first.ticket())).await.problem(409, "no_claim");
    server.connect(&world, "alice", Some(second.ticket())).await.is(200);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_who_gives_up_holds_nothing() {
    let world = World::new(|_| {}).await;
    world.call("DELETE", "/join", Some("nobody"), None).await.is(204);
    let server = world.join("alice").await.is(202).server().to_owned();
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server).await.claims.is_empty(), "on a server that is starting");
    let hand = world.hand(&server).await;
    hand.register(&world).await.is(200);
    world.join("alice").await.is(200);
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server).await.claims.is_empty(), "on a server that is ready");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_player_leaves_through_the_server_only() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert!(world.ledger(&server.id).await.claims[&player("alice")].is_connected());
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_held_for_a_reconnect_as_long_as_the_server_says() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    let path = format!("?placement={placement}&grace=120");
    server.disconnect(&world, "alice", &path).await.is(204);
    // The same disconnect again: its answer was lost. The hold is not begun anew.
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
async fn a_heartbeat_names_those_whom_the_server_does_not_have() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    server.let_in(&world, "bob").await;
    world.join("carol").await.is(200);
    let beat = server.beat(&world, Some(&["bob"])).await.is(200);
    assert_eq!(beat.body["unknown"], json!([{ "player": "alice", "placement": placement }]));
    assert_eq!(beat.body["reserved"], 1, "carol is on her way");
    assert!(world.ledger(&server.id).await.claims.contains_key(&player("alice")), "a heartbeat ends no claim");
    server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    let beat = server.beat(&world, Some(&["bob"])).await.is(200);
    assert_eq!(beat.body["unknown"], json!([]));
    assert_eq!(server.beat(&world, None).await.is(200).body["unknown"], json!([]), "who is not asked names nobody");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_claims_of_a_server_that_says_disconnect_are_void() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    world.join("bob").await.is(200);
    server.close(&world).await.is(204);
    server.close(&world).await.is(204);
    assert!(world.ledger(&server.id).await.claims.is_empty());
    // Nothing of it comes back, and both players are placed anew.
    server.connect(&world, "alice", None).await.problem(410, "server_stopped");
    server.beat(&world, None).await.problem(410, "server_stopped");
    server.register(&world).await.problem(410, "server_stopped");
    server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    for player in ["alice", "bob"] {
        assert_ne!(world.join(player).await.is(202).server(), server.id);
    }
    assert_eq!(world.audit().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_is_let_in_by_one_server_only_the_one_that_the_seat_names() {
    let world = World::new(limits(1, 2)).await;
    let first = world.ready_server("alice").await;
    let ticket = world.join("alice").await.is(200).ticket().to_owned();
    // Alice gives up, another takes the slot, and alice is placed on a second server.
    world.call("DELETE", "/join", Some("alice"), None).await.is(204);
    assert_eq!(world.join("bob").await.is(200).server(), first.id);
    let second = world.join("alice").await.is(202).server().to_owned();
    assert_ne!(second, first.id);
    first.connect(&world, "alice", Some(&ticket)).await.problem(409, "no_claim");
    let hand = world.hand(&second).await;
    hand.register(&world).await.is(200);
    let there = world.join("alice").await.is(200);
    hand.connect(&world, "alice", Some(there.ticket())).await.is(200);
    first.connect(&world, "alice", Some(there.ticket())).await.problem(403, "invalid_ticket");
    assert_eq!(world.audit().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_seat_has_moved_is_released_and_not_let_in() {
    // What a race leaves behind, made by hand: the ledger of one server holds a reservation, the seat names another.
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
    assert!(world.ledger(&server.id).await.claims.is_empty(), "the claim was released again");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_on_a_starting_server_is_promised_no_longer_than_it_is_held() {
    let world = World::new(|options| options.limits.reservation = seconds(5)).await;
    let joined = world.stack.owmm().join(&player("alice"), None).await.unwrap();
    let shared::JoinOutcome::Slot(shared::Slot::Starting { expires: promised, .. }) = joined else {
        panic!("{joined:?}")
    };
    let reply = world.join("alice").await.is(202);
    let hand = world.hand(reply.server()).await;
    hand.register(&world).await.is(200);
    let ledger = world.ledger(reply.server()).await;
    let held = ledger.expires(ledger.claims[&player("alice")]).unwrap();
    assert!(promised <= held, "{promised:?} was promised, {held:?} is held");
    world.end().await;
}

impl World {
    /// Joins that pool.
    async fn join_pool(&self, player: &str, pool: &str) -> crate::reply::Reply {
        self.call("POST", "/join", Some(player), Some(json!({ "pool": pool }))).await
    }

    /// Makes a pool.
    async fn make_pool(&self, pool: &str, change: impl FnOnce(&mut serde_json::Value)) {
        self.operate("PUT", &format!("/pools/{pool}"), Some(crate::support::settings(change))).await.is(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_of_another_pool_that_is_full_leaves_nothing_behind() {
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
        assert!(world.ledger(&server).await.claims.is_empty(), "503 means that nothing is held");
    }
    let ledgers = world.ledgers().await;
    assert_eq!(ledgers.iter().filter(|ledger| ledger.pool.as_str() == "default").count(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_whose_slot_in_another_pool_is_gone_is_placed_in_the_pool_that_the_seat_says() {
    let world = World::new(|_| {}).await;
    world.make_pool("eu", |it| it["capacity"] = json!(1)).await;
    let server = world.join_pool("ann", "eu").await.is(202).server().to_owned();
    let hand = world.hand(&server).await;
    hand.register(&world).await.is(200);
    hand.close(&world).await.is(204);
    // Without a pool: her place in `eu` is over, so this is the default one.
    let placed = world.join("ann").await.is(202).server().to_owned();
    assert_eq!(world.ledger(&placed).await.pool.as_str(), "default");
    let Some(Seat::Assigned(place)) = world.seat("ann").await else { panic!("no seat") };
    assert_eq!((place.pool.as_str(), place.server.as_str()), ("default", placed.as_str()));
    let there = world.join_pool("ann", "eu").await.is(202).server().to_owned();
    assert_eq!(world.ledger(&there).await.pool.as_str(), "eu");
    assert_eq!(world.audit().await, 1);
    world.end().await;
}
