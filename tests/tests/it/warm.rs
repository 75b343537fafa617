//! What a warm process remembers between calls, and for how long it believes it. The clock of these processes stands still
//! until a test turns it, so every limit is met exactly.

use shared::{
    JoinOutcome, Owmm, Pool, Slot,
    domain::{Fill, Ledger, PlayerId, PoolLimits, Rollout, ServerId, Span},
    table,
};

use crate::reconcile_crash::{Death, Ground, Wire, a_fleet, a_pool, id, ready};

/// The functions in one process, which remembers what it has seen.
fn process(ground: &Ground, seed: u64) -> Owmm {
    ground.owmm(&Wire::new(Death::Never), seed)
}

/// The server on which a join places a player.
async fn join(owmm: &Owmm, player: &str) -> ServerId {
    match owmm.join(&PlayerId::parse(player).unwrap(), None).await.unwrap() {
        JoinOutcome::Slot(Slot::Ready { server, .. } | Slot::Starting { server, .. }) => server,
        other => panic!("{player} has no slot: {other:?}"),
    }
}

/// The default pool with that capacity, as an operator configures it.
fn of_capacity(capacity: u32) -> Pool {
    let pool = a_pool("default", 0);
    Pool { limits: PoolLimits { capacity, ..pool.limits }, ..pool }
}

/// A server of the default pool that is up and has room for three.
fn with_room(name: &str, ground: &Ground) -> Ledger {
    ready(name, ground.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_settings_are_believed_for_ten_seconds_and_no_longer() {
    let ground = Ground::new().await;
    let (warm, operator) = (process(&ground, 1), process(&ground, 2));
    operator.configure(of_capacity(1)).await.unwrap();
    let first = join(&warm, "ann").await;
    assert_eq!(ground.ledger(&first).await.capacity, 1);
    operator.configure(of_capacity(3)).await.unwrap();
    // Each server is full with one player, so each join starts one, with the settings that the process believes.
    for (case, player, turn, capacity) in [
        ("at once", "bob", 0, 1),
        ("a millisecond before the ten seconds", "cat", 9_999, 1),
        ("after ten seconds", "dan", 1, 3),
    ] {
        ground.later(Span(turn));
        let server = join(&warm, player).await;
        assert_eq!(ground.ledger(&server).await.capacity, capacity, "{case}");
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_configures_a_pool_goes_by_the_new_settings_at_once() {
    let ground = Ground::new().await;
    let warm = process(&ground, 1);
    warm.configure(of_capacity(1)).await.unwrap();
    let first = join(&warm, "ann").await;
    assert_eq!(ground.ledger(&first).await.capacity, 1);
    warm.configure(of_capacity(3)).await.unwrap();
    let second = join(&warm, "bob").await;
    assert_eq!(ground.ledger(&second).await.capacity, 3);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_lands_on_no_old_build_on_an_old_answer_of_the_index() {
    let ground = Ground::new().await;
    let warm = process(&ground, 1);
    let lazy = Pool { rollout: Rollout::Lazy, ..a_pool("default", 0) };
    let old = Ledger { build: 0, ..with_room("old", &ground) };
    a_fleet(&ground, &lazy, &[old]).await;
    assert_eq!(join(&warm, "ann").await, id("old"), "no server of the new build is up");
    ground.put(vec![table::ledger::to_item(&with_room("new", &ground))]).await;
    // No time has passed: the index's answer without the new server would still be believed.
    assert_eq!(join(&warm, "bob").await, id("new"));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_indexs_answer_is_believed_for_a_second_and_no_longer() {
    let ground = Ground::new().await;
    let warm = process(&ground, 1);
    let of_nine = |name: &str| Ledger { capacity: 9, ..with_room(name, &ground) };
    a_fleet(&ground, &of_capacity(9), &[of_nine("emptier")]).await;
    assert_eq!(join(&warm, "ann").await, id("emptier"));
    let fuller = Ledger { listed: Some(Fill::TOP), ..of_nine("fuller") };
    ground.put(vec![table::ledger::to_item(&fuller)]).await;
    for (case, player, turn, server) in [("at once", "bob", 0, "emptier"), ("after a second", "cat", 1_000, "fuller")] {
        ground.later(Span(turn));
        assert_eq!(join(&warm, player).await, id(server), "{case}");
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_this_process_has_filled_is_not_asked_again() {
    let ground = Ground::new().await;
    let wire = Wire::new(Death::Never);
    let warm = ground.owmm(&wire, 1);
    // Three of four slots are taken, so the index names it first.
    let mut nearly_full = Ledger { listed: Some(Fill::TOP), ..with_room("nearly-full", &ground) };
    let claim = *nearly_full.claims.values().next().unwrap();
    nearly_full.claims.extend(["b", "c"].map(|name| (PlayerId::parse(name).unwrap(), claim)));
    a_fleet(&ground, &a_pool("default", 0), &[nearly_full, with_room("another", &ground)]).await;
    assert_eq!(join(&warm, "ann").await, id("nearly-full"));
    wire.bodies.lock().unwrap().clear();
    assert_eq!(join(&warm, "bob").await, id("another"));
    let asked = wire.bodies.lock().unwrap().iter().filter(|body| body.contains("nearly-full")).count();
    assert_eq!(asked, 0, "requests about the server that this process has filled");
    ground.end().await;
}
