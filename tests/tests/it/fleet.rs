//! Reconcile: repairs of the fleet, scale-in, headroom, and servers that send no heartbeats.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_ecs::types::DesiredStatus;
use serde_json::json;
use shared::{
    Reconciled,
    domain::{Answer, Ledger, LedgerWrite, PoolStatusWrite, ServerId, ServerState, Span, StopBy, StopReason},
    table::keys,
};
use tokio::task::JoinSet;

use crate::support::{GameServer, World, ecs_client, eventually, limits, reconcile_as_function, seconds};

impl World {
    async fn running_tasks(&self) -> Vec<String> {
        let list = ecs_client(self.stack.ecs_url()).list_tasks().desired_status(DesiredStatus::Running);
        list.send().await.unwrap().task_arns().to_vec()
    }

    async fn live(&self) -> u32 {
        self.stack.owmm().table().pool_status(&crate::support::pool("default")).await.unwrap().live
    }

    /// Waits until a server whose lease lasts a second has been silent for three more.
    async fn long_silent(&self, server: &GameServer) {
        let is =
            |ledger: &Ledger| ledger.lease_until.is_some_and(|until| until + Span(4_000) < self.stack.owmm().time());
        self.until(&server.id, "its lease lapsed three seconds ago", is).await;
    }

    /// Updates a server's ledger with an arbitrary expression; `:it` stands for the value.
    async fn edit(&self, server: &GameServer, update: &str, it: Option<AttributeValue>) {
        let key = keys::ledger(&ServerId::parse(&server.id).unwrap());
        let edit = self.stack.dynamodb().update_item().table_name(&self.table).set_key(Some(key));
        let values = it.map(|it| HashMap::from([(":it".to_owned(), it)]));
        edit.update_expression(update).set_expression_attribute_values(values).send().await.unwrap();
    }

    /// Runs reconcile until its report satisfies `is`.
    async fn reconcile_until(&self, what: &str, is: impl AsyncFn(&Reconciled) -> bool) -> Reconciled {
        let probe = || async {
            let report = self.reconcile().await;
            (is(&report).await, report)
        };
        eventually(what, probe, |(is, _)| *is).await.1
    }
}

fn many_servers_with_a_one_second_lease(options: &mut local::stack::Options) {
    limits(1, 100)(options);
    options.limits.lease = seconds(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_run_on_a_healthy_fleet_changes_nothing() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let before = world.ledger(&server.id).await;
    for _ in 0..2 {
        let report = world.reconcile().await;
        assert_eq!((report.servers, report.repaired.len(), report.failed), (1, 0, 0), "{report:?}");
    }
    assert_eq!(world.ledger(&server.id).await, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reconcile_runs_at_once_start_the_headroom_once() {
    let world = World::new(|options| {
        limits(10, 100)(options);
        options.limits.headroom = 25;
    })
    .await;
    let (a, b) = (world.stack.owmm().another_copy(), world.stack.owmm().another_copy());
    let (a, b) = tokio::join!(reconcile_as_function(&a), reconcile_as_function(&b));
    a.unwrap();
    b.unwrap();
    world.reconcile().await;
    assert_eq!(world.stack.ecs().counts().processes_started, 3, "ceil(25 / 10), however many runs there are");
    assert_eq!(world.live().await, 3);
    for ledger in world.ledgers().await {
        world.game_server(ledger.id.as_str()).await.register(&world).await.is(200);
    }
    // A join finds one of these servers at once.
    world.join_for_good("alice").await.is(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_drains_and_stops_and_the_pool_scales_to_zero() {
    let world = World::new(|options| options.limits.idle = seconds(1)).await;
    let server = world.ready_server("alice").await;
    server.disconnect(&world, "alice", "").await.is(204);
    let stopped = async |_: &Reconciled| world.ledger(&server.id).await.state == ServerState::Stopped;
    world.reconcile_until("it stops", stopped).await;
    world.reconcile_until("its task too", async |_| world.running_tasks().await.is_empty()).await;
    assert_eq!(world.live().await, 0);
    world.join("alice").await.is(202);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_a_scale_in_at_the_same_time_cannot_both_succeed() {
    let world = Arc::new(World::new(limits(50, 100)).await);
    let server = world.ready_server("alice").await;
    server.disconnect(&world, "alice", "").await.is(204);
    let table = world.stack.owmm().table().clone();
    let mut ledger = world.ledger(&server.id).await;
    let (mut joined, mut drained) = (0, 0);
    for i in 0..1_000 {
        // Reset to a server that has been idle for a long time.
        ledger.idle_since = Some(shared::domain::Time(1));
        ledger.state = ServerState::Ready;
        ledger.claims.clear();
        let put = world.stack.dynamodb().put_item().table_name(&world.table);
        put.set_item(Some(shared::table::ledger::to_item(&ledger))).send().await.unwrap();
        let now = world.stack.owmm().time();
        let player = shared::domain::PlayerId::parse(&format!("player-{i}")).unwrap();
        let placement = shared::domain::Placement::next(now, None);
        let claim = LedgerWrite::Claim { player, placement, now, seen_by: now + Span(60_000) };
        let drain = ledger.scale_in(Span(0), now).unwrap();
        let id = &ledger.id;
        let (claim, drain) = if i % 2 == 0 {
            tokio::join!(table.write_ledger(id, &claim), table.write_ledger(id, &drain))
        } else {
            let (drain, claim) = tokio::join!(table.write_ledger(id, &drain), table.write_ledger(id, &claim));
            (claim, drain)
        };
        let won = |answer: Answer<_>| u32::from(matches!(answer, Answer::Written(_)));
        let (claim, drain) = (won(claim.unwrap()), won(drain.unwrap()));
        assert_eq!(claim + drain, 1, "round {i}");
        joined += claim;
        drained += drain;
    }
    assert!(joined > 0 && drained > 0, "only one of both ever won: {joined} joined, {drained} drained");
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_that_was_not_counted_out_is_counted_out_by_reconcile() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let ledger = world.ledger(&server.id).await;
    let stop = LedgerWrite::Stop { by: StopBy::Attempt(ledger.attempt), now: world.stack.owmm().time() };
    world.stack.owmm().table().write_ledger(&ledger.id, &stop).await.unwrap();
    assert_eq!(world.live().await, 1);
    let report = world.reconcile().await;
    assert_eq!(report.repaired.get("counted_out"), Some(&1), "{report:?}");
    assert_eq!(report.repaired.get("orphan_task"), None, "a task is an orphan once its server is off the roster");
    assert_eq!(world.live().await, 0);
    // Its task still runs although its server is off the roster.
    let report = world.reconcile().await;
    assert_eq!(report.repaired.get("orphan_task"), Some(&1), "{report:?}");
    world.reconcile_until("the task has stopped", async |_| world.running_tasks().await.is_empty()).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_launch_without_a_polling_player_is_abandoned_by_reconcile() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let abandoned = async |_: &Reconciled| world.ledger(&server).await.state == ServerState::Stopped;
    world.reconcile_until("the launch is abandoned", abandoned).await;
    assert_eq!(world.live().await, 0);
    world.reconcile_until("no task is left", async |_| world.running_tasks().await.is_empty()).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_stopped_only_without_connected_players() {
    let world = World::new(|options| options.limits.lease = seconds(1)).await;
    let empty = world.ready_server("alice").await;
    empty.disconnect(&world, "alice", "").await.is(204);
    let stopped = async |_: &Reconciled| world.ledger(&empty.id).await.state == ServerState::Stopped;
    world.reconcile_until("the empty server stops", stopped).await;
    let full = world.ready_server("bob").await;
    full.connect(&world, "bob", None).await.is(200);
    world.long_silent(&full).await;
    let report = world.reconcile().await;
    assert_eq!(report.lapsed, 1);
    assert_eq!(world.ledger(&full.id).await.state, ServerState::Ready, "a lapse alone ends no game: {report:?}");
    assert_eq!(world.running_tasks().await.len(), 1);
    // A lapsed server gets no new players until its next heartbeat.
    assert_ne!(world.join("carol").await.is(202).server(), full.id);
    full.heartbeat(&world, None).await.is(200);
    assert_eq!(world.reconcile().await.lapsed, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_many_leases_lapse_at_once_no_server_is_stopped() {
    let world = World::new(many_servers_with_a_one_second_lease).await;
    let mut servers = Vec::new();
    for i in 0..6 {
        let player = format!("player-{i}");
        let server = world.ready_server(&player).await;
        server.disconnect(&world, &player, "").await.is(204);
        servers.push(server);
        // The next join starts a server only once this one is no candidate any more.
        world
            .until(&servers[i].id, "its lease has lapsed", |ledger| ledger.has_lapsed(world.stack.owmm().time()))
            .await;
    }
    world.long_silent(&servers[5]).await;
    let report = world.reconcile().await;
    assert_eq!((report.lapsed, report.mass_lapses), (6, 1), "{report:?}");
    for server in &servers {
        assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready);
    }
    // One server sends a heartbeat: five lapsed leases are below the limit of a mass lapse.
    servers[0].heartbeat(&world, None).await.is(200);
    let report = world.reconcile().await;
    assert_eq!(report.repaired.get("silent"), Some(&5), "{report:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_silent_servers_without_a_task_in_ecs_are_stopped_even_in_a_mass_lapse() {
    let world = World::new(many_servers_with_a_one_second_lease).await;
    let mut servers = Vec::new();
    for i in 0..6 {
        let player = format!("player-{i}");
        let server = world.ready_server(&player).await;
        server.let_in(&world, &player).await;
        // ECS does not describe the task, as an hour after its end.
        let forgotten = AttributeValue::S(format!("arn:aws:ecs:local:000000000000:task/default/{i}"));
        world.edit(&server, "SET task = :it", Some(forgotten)).await;
        servers.push(server);
    }
    world.long_silent(&servers[5]).await;
    let report = world.reconcile().await;
    assert_eq!((report.lapsed, report.mass_lapses), (6, 1), "a mass lapse must still be reported: {report:?}");
    assert_eq!(report.repaired.get("task_missing"), Some(&6), "{report:?}");
    assert_eq!(world.live().await, 0);
    world.join("player-0").await.is(202);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_recorded_task_is_stopped_when_ecs_runs_no_task_of_its_attempt() {
    let world = World::new(|options| options.limits.lease = seconds(1)).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    // As if the function that started the task had ended before it recorded the task.
    world.edit(&server, "REMOVE task", None).await;
    let lapsed = |ledger: &Ledger| ledger.has_lapsed(world.stack.owmm().time());
    world.until(&server.id, "its lease has lapsed", lapsed).await;
    world.reconcile().await;
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready, "its task runs");
    let owmm = world.stack.owmm();
    let pool = owmm.table().pool(&crate::support::pool("default")).await.unwrap().unwrap();
    let mut moved = pool.clone();
    moved.task.cluster = "elsewhere".to_owned();
    owmm.configure(moved).await.unwrap();
    world.reconcile().await;
    assert_eq!(
        world.ledger(&server.id).await.state,
        ServerState::Ready,
        "its task runs in the previous cluster of its pool"
    );
    owmm.configure(pool).await.unwrap();
    // No task of attempt 2 runs.
    world.edit(&server, "SET attempt = :it", Some(AttributeValue::N("2".to_owned()))).await;
    let report = world.reconcile().await;
    assert_eq!(report.repaired.get("task_missing"), Some(&1), "{report:?}");
    world.join("alice").await.is(202);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_older_attempt_is_stopped_and_the_one_of_the_current_attempt_runs_on() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    // As if the first attempt had failed while its task hung instead of ending.
    let run = ecs_client(world.stack.ecs_url()).run_task().task_definition("game:1").count(1);
    let run = run.started_by(format!("{}/2", server.id)).group(format!("owmm:{}", world.table));
    let current = run.send().await.unwrap().tasks()[0].task_arn().unwrap().to_owned();
    world.edit(&server, "SET attempt = :it", Some(AttributeValue::N("2".to_owned()))).await;
    world.edit(&server, "SET task = :it", Some(AttributeValue::S(current.clone()))).await;
    assert_eq!(world.running_tasks().await.len(), 2);
    let report = world.reconcile().await;
    assert_eq!(report.repaired, BTreeMap::from([("orphan_task", 1)]), "{report:?}");
    assert_eq!(world.running_tasks().await, [current]);
    let report = world.reconcile().await;
    assert!(report.repaired.is_empty(), "{report:?}");
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_count_of_live_servers_is_corrected() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let pool = crate::support::pool("default");
    let wrong = PoolStatusWrite::Recount { changes: 1, live: 9 };
    world.stack.owmm().table().write_pool_status(&pool, &wrong).await.unwrap();
    let report = world.reconcile().await;
    assert_eq!(report.repaired.get("recounted"), Some(&1), "{report:?}");
    assert_eq!(world.live().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_reservations_are_swept_and_their_server_is_found_again() {
    let world = World::new(|options| {
        limits(2, 1)(options);
        options.limits.reservation = seconds(1);
    })
    .await;
    let server = world.ready_server("alice").await;
    world.join("bob").await.is(200);
    let free = async |_: &Reconciled| world.ledger(&server.id).await.claims.is_empty();
    let report = world.reconcile_until("both slots are free", free).await;
    assert_eq!(report.repaired.get("expired_claims"), Some(&1), "{report:?}");
    world.join_for_good("carol").await.is(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_reconcile_runs_at_once_start_the_headroom_once() {
    let world = Arc::new(
        World::new(|options| {
            limits(10, 100)(options);
            options.limits.headroom = 30;
            options.limits.launch = seconds(1);
        })
        .await,
    );
    let mut runs = JoinSet::new();
    for _ in 0..6 {
        let owmm = world.stack.owmm().another_copy();
        runs.spawn(async move { reconcile_as_function(&owmm).await.unwrap() });
    }
    runs.join_all().await;
    let ledgers = world.ledgers().await;
    assert_eq!(ledgers.len(), 3, "{ledgers:?}");
    assert_eq!(world.live().await, 3);
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_or_connection_during_reconcile_prevents_the_stop_of_a_silent_server() {
    let world = World::new(|options| {
        options.limits.lease = seconds(1);
        options.limits.reservation = seconds(600);
    })
    .await;
    let server = world.ready_server("alice").await;
    let long = |ledger: &shared::domain::Ledger| {
        ledger.lease_until.is_some_and(|until| until + Span(3_000) < world.stack.owmm().time())
    };
    let seen = world.until(&server.id, "its lease lapsed three seconds ago, and it has a reservation", long).await;
    let table = world.stack.owmm().table();
    let stop = |reason| seen.stop_for(reason, world.stack.owmm().time());
    // The claims differ from those that were seen: the player has connected.
    let (silent, missing) = (stop(StopReason::Silent), stop(StopReason::TaskMissing));
    server.connect(&world, "alice", None).await.is(200);
    assert!(matches!(table.write_ledger(&seen.id, &silent).await.unwrap(), Answer::Refused(Some(_))));
    // The server sends a heartbeat.
    server.disconnect(&world, "alice", "").await.is(204);
    let seen = world.ledger(&server.id).await;
    let silent = seen.stop_for(StopReason::Silent, world.stack.owmm().time());
    server.heartbeat(&world, None).await.is(200);
    for write in [silent, missing] {
        assert!(matches!(table.write_ledger(&seen.id, &write).await.unwrap(), Answer::Refused(Some(_))));
    }
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready);
    assert_eq!(world.live().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_be_reconciled_does_not_affect_the_other_pools() {
    let world = World::new(|_| {}).await;
    let put = async |item: shared::table::keys::Attributes| {
        world.stack.dynamodb().put_item().table_name(&world.table).set_item(Some(item)).send().await.unwrap();
    };
    // A pool without a readable ledger, a pool whose own item cannot be read, and the default pool.
    let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    let (ill, worse) = (crate::support::pool("ill"), crate::support::pool("worse"));
    let mut pool = world.stack.owmm().table().pool(&crate::support::pool("default")).await.unwrap().unwrap();
    pool.name = ill.clone();
    put(shared::table::pool::to_item(&pool).unwrap()).await;
    let bad = shared::domain::ServerId::parse("bad").unwrap();
    put(shared::table::keys::roster(&ill, &bad)).await;
    let mut item = shared::table::keys::ledger(&bad);
    item.insert(shared::table::keys::STATE.into(), text("unheard of"));
    put(item).await;
    put(shared::table::keys::pool(&worse)).await;
    for round in 0..4 {
        let server = world.ready_server(&format!("player-{round}")).await;
        let ledger = world.ledger(&server.id).await;
        let stop = LedgerWrite::Stop { by: StopBy::Attempt(ledger.attempt), now: world.stack.owmm().time() };
        world.stack.owmm().table().write_ledger(&ledger.id, &stop).await.unwrap();
        // Reconcile takes the pools in another order each time.
        let report = world.reconcile().await;
        assert_eq!((report.failed, report.repaired.get("counted_out")), (2, Some(&1)), "{report:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_found_after_the_pool_has_been_given_fewer_frontiers() {
    let world = World::new(|_| {}).await;
    let set = async |concurrent_launches: u32| {
        let body = crate::support::settings(|it| {
            it["capacity"] = json!(2);
            it["concurrentLaunches"] = json!(concurrent_launches);
        });
        world.operate("PUT", "/pools/default", Some(body)).await.is(200);
    };
    set(16).await;
    world.operate("POST", "/pools/default/launch", Some(json!({ "atLeast": 6 }))).await.is(200);
    for ledger in world.ledgers().await {
        world.game_server(ledger.id.as_str()).await.register(&world).await.is(200);
    }
    set(1).await;
    for player in 0..12 {
        world.join_for_good(&format!("player-{player}")).await.is(200);
    }
    assert_eq!(world.ledgers().await.len(), 6, "the six servers have room for all twelve players");
    world.end().await;
}
