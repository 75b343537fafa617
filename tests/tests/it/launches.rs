//! Launches that fail, hang or are repeated.

use ecs::Fault;
use functions::task_stopped;
use local::iam::acting_as;
use shared::domain::{Launch, Ledger, LedgerWrite, MAX_LAUNCH_ATTEMPTS, PoolStatusWrite, ServerState, StopBy};

use crate::support::{SOON, World, limits, seconds};

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_is_retried_then_abandoned_and_its_players_are_placed_anew() {
    let world = World::new(|options| {
        options.game_server = vec!["sh".into(), "-c".into(), "exit 3".into()];
        options.limits.launch = seconds(1);
    })
    .await;
    let first = world.join("alice").await.is(202).server().to_owned();
    let second = world.placed_anew("alice", &first).await;
    let ledger = world.ledger(&first).await;
    assert_eq!((ledger.state, ledger.attempt), (ServerState::Stopped, MAX_LAUNCH_ATTEMPTS));
    assert!(ledger.claims.is_empty());
    assert!(world.ledger(&second).await.claims.keys().any(|player| player.as_str() == "alice"));
    let status = world.stack.owmm().table().pool_status(&crate::support::pool("default")).await.unwrap();
    assert_eq!((status.live, status.failures), (1, 1), "the failed server is counted out once");
    assert_eq!(world.stack.ecs().counts().processes_started, u64::from(MAX_LAUNCH_ATTEMPTS) + 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_that_fail_repeatedly_pause_launching_until_a_server_registers() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let pool = crate::support::pool("default");
    let paused = world.join_until("alice", |reply| reply.code() == "launch_paused").await.problem(503, "launch_paused");
    assert!((1..=30).contains(&paused.retry_after.unwrap()), "{paused:?}");
    let status = world.stack.owmm().table().pool_status(&pool).await.unwrap();
    assert_eq!((status.live, status.failures), (0, shared::domain::PAUSE_AFTER_FAILURES));
    let started = world.stack.ecs().counts().processes_started;
    world.join("bob").await.problem(503, "launch_paused");
    assert_eq!(world.stack.ecs().counts().processes_started, started, "no server is started during the pause");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_resets_the_count_of_failed_launches() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let pool = crate::support::pool("default");
    let first = world.join("alice").await.is(202).server().to_owned();
    let second = world.placed_anew("alice", &first).await;
    assert_eq!(world.stack.owmm().table().pool_status(&pool).await.unwrap().failures, 1);
    world.game_server(&second).await.register(&world).await.is(200);
    assert_eq!(world.stack.owmm().table().pool_status(&pool).await.unwrap().failures, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_task_with_a_lost_response_is_repeated_and_starts_no_second_task() {
    let world = World::new(|_| {}).await;
    // All three attempts of the SDK lose their response: the task runs, and OWMM does not know its ARN.
    world.stack.ecs().inject(Fault::AnswerLost, 3);
    let server = world.join("alice").await.is(202).server().to_owned();
    assert_eq!(world.ledger(&server).await.task, None);
    world.polled_until("alice", &server, "the task is on record", |ledger| ledger.task.is_some()).await;
    let counts = world.stack.ecs().counts();
    assert!(counts.run_task_calls >= 4, "{counts:?}");
    assert_eq!(counts.processes_started, 1, "RunTask takes effect once per server and attempt");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_task_without_capacity_is_retried_with_a_new_token_of_the_server() {
    let world = World::new(|_| {}).await;
    world.stack.ecs().inject(Fault::NoCapacity, 1);
    let server = world.join("alice").await.is(202).server().to_owned();
    let refused = world.ledger(&server).await;
    assert_eq!((refused.attempt, &refused.task), (2, &None), "the second attempt has no task yet");
    world.polled_until("alice", &server, "the task is on record", |ledger| ledger.task.is_some()).await;
    assert_eq!(world.processes_started().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_run_task_is_retried_in_the_same_attempt() {
    let world = World::new(|_| {}).await;
    // All three attempts of the SDK are throttled.
    world.stack.ecs().inject(Fault::Throttled, 3);
    let server = world.join("alice").await.is(202).server().to_owned();
    let ledger = world.ledger(&server).await;
    assert_eq!((ledger.attempt, &ledger.task), (1, &None), "{ledger:?}");
    let token = ledger.launch.unwrap().token;
    let started = |ledger: &Ledger| ledger.task.is_some();
    let ledger = world.polled_until("alice", &server, "the task is on record", started).await;
    assert_eq!((ledger.attempt, ledger.launch.unwrap().token), (1, token), "the attempt and its token must not change");
    assert_eq!(world.processes_started().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_older_attempt_cannot_register() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let old = world.game_server(&server).await;
    world.polled_until("alice", &server, "the second attempt", |ledger| ledger.attempt > 1).await;
    // The task of the first attempt was slow and registers only now.
    old.register(&world).await.problem(403, "wrong_token");
    let new = world.game_server(&server).await;
    assert_ne!(old.token, new.token);
    new.register(&world).await.is(200);
    assert_eq!(world.join("alice").await.is(200).server(), server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_in_the_table_only_until_its_server_has_registered() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    let items = format!("{:?}", world.scan().await);
    assert!(!items.contains(&hand.token));
    assert!(world.ledger(&server).await.launch.is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_makes_room_for_another() {
    let world = World::new(limits(1, 1)).await;
    let first = world.ready_server("alice").await;
    world.join("bob").await.problem(503, "pool_full");
    first.close(&world).await.is(204);
    first.close(&world).await.is(204);
    let status = world.stack.owmm().table().pool_status(&crate::support::pool("default")).await.unwrap();
    assert_eq!(status.live, 0, "counted out exactly once");
    assert_ne!(world.join("bob").await.is(202).server(), first.id);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_stopped_event_of_an_older_attempt_has_no_effect() {
    let world = World::new(|options| options.limits.launch = seconds(1)).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    world.polled_until("alice", &server, "the second attempt", |ledger| ledger.attempt > 1).await;
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    let owmm = world.stack.owmm();
    let id = shared::domain::ServerId::parse(&server).unwrap();
    assert!(!acting_as("task-stopped", owmm.task_stopped(&id, 1)).await.unwrap());
    assert_eq!(world.ledger(&server).await.state, ServerState::Ready);
    // An event of the current attempt stops the server, and a repeat changes nothing.
    let attempt = world.ledger(&server).await.attempt;
    for _ in 0..2 {
        assert!(acting_as("task-stopped", owmm.task_stopped(&id, attempt)).await.unwrap());
        assert_eq!(world.ledger(&server).await.state, ServerState::Stopped);
    }
    let status = owmm.table().pool_status(&crate::support::pool("default")).await.unwrap();
    assert_eq!(status.live, 0, "counted out exactly once");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_deregisters_before_it_registers_counts_as_a_failed_launch() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    hand.close(&world).await.is(204);
    assert_eq!(world.ledger(&server).await.state, ServerState::Stopped);
    let status = world.stack.owmm().table().pool_status(&crate::support::pool("default")).await.unwrap();
    assert_eq!((status.live, status.failures), (0, 1));
    assert_ne!(world.join("alice").await.is(202).server(), server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_stopped_event_counts_a_stopped_server_out_once() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let (owmm, pool) = (world.stack.owmm(), crate::support::pool("default"));
    let ledger = world.ledger(&server.id).await;
    // As if the function that stopped the server had ended before it counted the server out.
    let stop = LedgerWrite::Stop { by: StopBy::Attempt(ledger.attempt), now: owmm.time() };
    owmm.table().write_ledger(&ledger.id, &stop).await.unwrap();
    assert_eq!(owmm.table().pool_status(&pool).await.unwrap().live, 1);
    for case in ["the first event", "a repeated event"] {
        assert!(acting_as("task-stopped", owmm.task_stopped(&ledger.id, ledger.attempt)).await.unwrap(), "{case}");
        let status = owmm.table().pool_status(&pool).await.unwrap();
        assert_eq!((status.live, status.failures), (0, 0), "{case}");
    }
    world.end().await;
}

/// All permutations of the elements.
fn orders<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (i, first) in things.iter().enumerate() {
        let mut rest = things.to_vec();
        rest.remove(i);
        all.extend(orders(&rest).into_iter().map(|rest| std::iter::once(first.clone()).chain(rest).collect()));
    }
    all
}

/// All events of one task of the local ECS, from its start to its end, oldest first.
async fn life(world: &World) -> Vec<serde_json::Value> {
    let mut events = world.stack.ecs().events();
    let ecs = crate::support::ecs_client(world.stack.ecs_url());
    let run = ecs.run_task().task_definition("game:1").started_by("another-programs").send().await.unwrap();
    ecs.stop_task().task(run.tasks()[0].task_arn().unwrap()).send().await.unwrap();
    let mut life = Vec::new();
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
        let is_last = event["detail"]["lastStatus"] == "STOPPED";
        life.push(event);
        if is_last {
            return life;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_events_have_the_same_result_in_every_order_and_when_repeated() {
    let world = World::new(|_| {}).await;
    let life = life(&world).await;
    let versions = life.iter().map(|event| event["detail"]["version"].as_u64().unwrap()).collect::<Vec<_>>();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert!(life.iter().all(|event| event["source"] == "aws.ecs" && event["detail-type"] == "ECS Task State Change"));
    // The first event, one in the middle, and the last one, which alone has the status STOPPED.
    let (first, middle, last) = (&life[0], &life[life.len() / 2], &life[life.len() - 1]);
    assert_eq!(life.iter().filter(|event| event["detail"]["lastStatus"] == "STOPPED").count(), 1);
    let server = world.ready_server("alice").await;
    let owmm = world.stack.owmm();
    let up = Ledger { attempt: 2, ..world.ledger(&server.id).await };
    let starting = Ledger {
        state: ServerState::Starting,
        ready_at: None,
        launch: Some(Launch {
            token: "token".into(),
            call_at: up.ready_at.unwrap(),
            deadline: owmm.time() + seconds(3_600),
            time_to_start: seconds(3_600),
            spec: "{}".into(),
        }),
        ..up.clone()
    };
    let of = |event: &serde_json::Value, attempt: u32| {
        let mut event = event.clone();
        event["detail"]["startedBy"] = format!("{}/{attempt}", up.id).into();
        event
    };
    let put = async |item: shared::table::keys::Attributes| {
        world.stack.dynamodb().put_item().table_name(&world.table).set_item(Some(item)).send().await.unwrap();
    };
    let older = [of(last, 1), of(middle, 1), of(first, 2), of(middle, 2)];
    let all = [of(last, 1), of(first, 2), of(middle, 2), of(last, 2)];
    let status = PoolStatusWrite::Started { max_servers: 100, now: owmm.time() }.apply(None).unwrap();
    for (case, image, events, state, attempt, live) in [
        ("a ready server, its older attempt", &up, older.clone(), ServerState::Ready, 2, 1),
        ("a ready server, its attempt", &up, all.clone(), ServerState::Stopped, 2, 0),
        ("a starting server, its older attempt", &starting, older, ServerState::Starting, 2, 1),
        ("a starting server, its attempt", &starting, all, ServerState::Starting, 3, 1),
    ] {
        for order in orders(&events) {
            put(shared::table::ledger::to_item(image)).await;
            put(shared::table::pool_status::to_item(&image.pool, &status)).await;
            put(shared::table::keys::roster(&image.pool, &image.id)).await;
            // EventBridge delivers at least once: the last event is repeated.
            for event in order.iter().chain(order.last()) {
                task_stopped::handle(owmm, serde_json::from_value(event.clone()).unwrap()).await.unwrap();
            }
            let after = world.ledger(&server.id).await;
            assert_eq!((after.state, after.attempt), (state, attempt), "{case}: {order:#?}");
            assert_eq!(owmm.table().pool_status(&image.pool).await.unwrap().live, live, "{case}: {order:#?}");
        }
    }
    world.end().await;
}
