//! Caches of a warm process: what it keeps between calls, and for how long. The clock of these processes stands still
//! until a test advances it, so every time limit is tested exactly.

use shared::{
    JoinOutcome, Owmm, Pool, Slot,
    domain::{Fill, Ledger, PlayerId, PoolLimits, Rollout, ServerId, Span},
    table,
};

use crate::reconcile_crash::{Interrupt, Testbed, Wire, a_pool, id, ready, write_fleet};

/// The functions in one process, with their caches.
fn process(testbed: &Testbed, seed: u64) -> Owmm {
    testbed.owmm(&Wire::new(Interrupt::Never), seed)
}

/// Joins a player and returns the server of the slot.
async fn join(owmm: &Owmm, player: &str) -> ServerId {
    match owmm.join(&PlayerId::parse(player).unwrap(), None).await.unwrap() {
        JoinOutcome::Slot(Slot::Ready { server, .. } | Slot::Starting { server, .. }) => server,
        other => panic!("{player} has no slot: {other:?}"),
    }
}

/// The default pool with another capacity.
fn of_capacity(capacity: u32) -> Pool {
    let pool = a_pool("default", 0);
    Pool { limits: PoolLimits { capacity, ..pool.limits }, ..pool }
}

/// A ready server of the default pool with three free slots.
fn with_room(name: &str, testbed: &Testbed) -> Ledger {
    ready(name, testbed.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_caches_pool_settings_for_ten_seconds() {
    let testbed = Testbed::new().await;
    let (warm, operator) = (process(&testbed, 1), process(&testbed, 2));
    operator.configure(of_capacity(1)).await.unwrap();
    let first = join(&warm, "ann").await;
    assert_eq!(testbed.ledger(&first).await.capacity, 1);
    operator.configure(of_capacity(3)).await.unwrap();
    // Each server is full with one player, so each join starts a server with the cached settings.
    for (case, player, turn, capacity) in [
        ("at once", "bob", 0, 1),
        ("a millisecond before the ten seconds", "cat", 9_999, 1),
        ("after ten seconds", "dan", 1, 3),
    ] {
        testbed.advance(Span(turn));
        let server = join(&warm, player).await;
        assert_eq!(testbed.ledger(&server).await.capacity, capacity, "{case}");
    }
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_configures_a_pool_uses_the_new_settings_at_once() {
    let testbed = Testbed::new().await;
    let warm = process(&testbed, 1);
    warm.configure(of_capacity(1)).await.unwrap();
    let first = join(&warm, "ann").await;
    assert_eq!(testbed.ledger(&first).await.capacity, 1);
    warm.configure(of_capacity(3)).await.unwrap();
    let second = join(&warm, "bob").await;
    assert_eq!(testbed.ledger(&second).await.capacity, 3);
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_index_result_does_not_place_a_join_on_an_old_build() {
    let testbed = Testbed::new().await;
    let warm = process(&testbed, 1);
    let lazy = Pool { rollout: Rollout::Lazy, ..a_pool("default", 0) };
    let old = Ledger { build: 0, ..with_room("old", &testbed) };
    write_fleet(&testbed, &lazy, &[old]).await;
    assert_eq!(join(&warm, "ann").await, id("old"), "there is no server of the new build yet");
    testbed.put(vec![table::ledger::to_item(&with_room("new", &testbed))]).await;
    // No time has passed, so the cached index result without the new server is still valid.
    assert_eq!(join(&warm, "bob").await, id("new"));
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_caches_an_index_result_for_one_second() {
    let testbed = Testbed::new().await;
    let warm = process(&testbed, 1);
    let of_nine = |name: &str| Ledger { capacity: 9, ..with_room(name, &testbed) };
    write_fleet(&testbed, &of_capacity(9), &[of_nine("emptier")]).await;
    assert_eq!(join(&warm, "ann").await, id("emptier"));
    let fuller = Ledger { listed: Some(Fill::TOP), ..of_nine("fuller") };
    testbed.put(vec![table::ledger::to_item(&fuller)]).await;
    for (case, player, turn, server) in [("at once", "bob", 0, "emptier"), ("after a second", "cat", 1_000, "fuller")] {
        testbed.advance(Span(turn));
        assert_eq!(join(&warm, player).await, id(server), "{case}");
    }
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_makes_no_request_about_a_server_that_it_has_filled() {
    let testbed = Testbed::new().await;
    let wire = Wire::new(Interrupt::Never);
    let warm = testbed.owmm(&wire, 1);
    // Three of four slots are taken, so the index lists this server first.
    let mut nearly_full = Ledger { listed: Some(Fill::TOP), ..with_room("nearly-full", &testbed) };
    let claim = *nearly_full.claims.values().next().unwrap();
    nearly_full.claims.extend(["b", "c"].map(|name| (PlayerId::parse(name).unwrap(), claim)));
    write_fleet(&testbed, &a_pool("default", 0), &[nearly_full, with_room("another", &testbed)]).await;
    assert_eq!(join(&warm, "ann").await, id("nearly-full"));
    wire.bodies.lock().unwrap().clear();
    assert_eq!(join(&warm, "bob").await, id("another"));
    let requests = wire.bodies.lock().unwrap().iter().filter(|body| body.contains("nearly-full")).count();
    assert_eq!(requests, 0, "requests about the server that this process has filled");
    testbed.end().await;
}
