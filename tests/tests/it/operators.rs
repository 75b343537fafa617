//! Routes of operators: pools, servers, players, drain, launch, pause and resume.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::Pool;
use shared::domain::{
    Claim, LedgerWrite, Placement, PlayerId, PoolStatusWrite, Seat, ServerId, ServerState, Span, TokenHash,
};

use crate::reply::Reply;
use crate::support::{World, limits, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_configured_listed_and_used() {
    let world = World::new(|_| {}).await;
    let arena = world.operate("PUT", "/pools/arena", Some(settings(|_| {}))).await.is(200);
    assert_eq!(arena.body["settings"]["capacity"], 20);
    assert_eq!(arena.body["settings"]["reservationSeconds"], 60, "an omitted setting has its default");
    assert_eq!(world.operate("GET", "/pools/arena", None).await.is(200).body, arena.body);
    let all = world.operate("GET", "/pools", None).await.is(200);
    let names = all.body["pools"].as_array().unwrap().iter().map(|pool| pool["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names, ["arena", "default"]);
    let joined = world.call("POST", "/join", Some("alice"), Some(json!({ "pool": "arena" }))).await.is(202);
    assert_eq!(world.ledger(joined.server()).await.capacity, 20);
    assert_eq!(world.operate("GET", "/pools/arena", None).await.is(200).body["liveServers"], 1);
    world.operate("GET", "/pools/nowhere", None).await.problem(404, "unknown_pool");
    world.operate("GET", "/pools/nowhere/servers", None).await.problem(404, "unknown_pool");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_pool_update_does_not_overwrite_a_newer_one() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table();
    let seen = table.pool(&crate::support::pool("default")).await.unwrap().unwrap();
    type Change = fn(&mut Pool);
    let changes: [(&str, Change); 4] = [
        ("maximum", |pool| pool.limits.max_servers += 1),
        ("build", |pool| pool.task.task_definition.push_str(":new")),
        ("concurrentLaunches", |pool| pool.limits.concurrent_launches += 1),
        ("cluster", |pool| pool.task.cluster.push_str("-new")),
    ];
    for (what, change) in changes {
        let mut first = seen.clone();
        change(&mut first);
        let first = first.succeeding(Some(&seen));
        assert!(table.put_pool(&first, Some(&seen)).await.unwrap());
        let second = seen.clone().succeeding(Some(&seen));
        assert!(!table.put_pool(&second, Some(&seen)).await.unwrap(), "the update did not see the current {what}");
        assert!(!table.put_pool(&first, Some(&seen)).await.unwrap(), "a repeated update must be refused");
        assert_eq!(table.pool(&first.name).await.unwrap(), Some(first.clone()));
        assert!(table.put_pool(&seen, Some(&first)).await.unwrap(), "restored");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_setting_is_refused_by_name_and_changes_nothing() {
    let world = World::new(|_| {}).await;
    let before = world.operate("GET", "/pools/default", None).await.is(200).body;
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 30] = [
        ("capacity", |it| it["capacity"] = json!(0)),
        ("capacity", |it| it["capacity"] = json!(1_001)),
        ("maxServers", |it| it["maxServers"] = json!(0)),
        ("concurrentLaunches", |it| it["concurrentLaunches"] = json!(17)),
        ("headroom", |it| it["headroom"] = json!(-1)),
        ("idleSeconds", |it| it["idleSeconds"] = json!(86_401)),
        ("reservationSeconds", |it| it["reservationSeconds"] = json!(0)),
        ("launchSeconds", |it| it["launchSeconds"] = json!(4_294_967_297_i64)),
        ("leaseSeconds", |it| it["leaseSeconds"] = json!(601)),
        ("task.taskDefinition", |it| it["task"]["taskDefinition"] = json!("game-server")),
        ("task.cluster", |it| it["task"]["cluster"] = json!("")),
        ("task.url", |it| it["task"]["url"] = json!("owmm.example")),
        ("task.launchType", |it| it["task"]["launchType"] = json!("MOON")),
        ("task.launchType", |it| it["task"]["launchType"] = json!(null)),
        ("task.subnets", |it| it["task"]["subnets"] = json!(vec!["subnet-1"; 17])),
        ("task.subnets", |it| it["task"]["subnets"] = json!(["subnet 1"])),
        ("task.securityGroups", |it| it["task"]["securityGroups"] = json!(["sg-1"])),
        ("task.assignPublicIp", |it| it["task"]["assignPublicIp"] = json!(true)),
        ("task.subnets", |it| it["task"]["launchType"] = json!("FARGATE")),
        ("capacity", |it| it["capacity"] = json!("many")),
        ("headroom", |it| it["headroom"] = json!(1.5)),
        ("rollout", |it| it["rollout"] = json!("later")),
        ("task.container", |it| it["task"]["container"] = json!(null)),
        ("task.subnets[1]", |it| it["task"]["subnets"] = json!(["subnet-1", 2])),
        ("task.surprise", |it| it["task"]["surprise"] = json!(1)),
        ("surprise", |it| it["surprise"] = json!(1)),
        ("task", |it| it["task"] = json!(null)),
        ("task", |it| {
            it["task"] = json!(["default", "game-server:7", "game", [], [], false, "EC2", "https://owmm.example"]);
        }),
        ("rollout", |it| it["rollout"] = json!({ "lazy": null })),
        ("task", |it| drop(it.as_object_mut().unwrap().remove("task"))),
    ];
    for (name, change) in bad {
        let reply = world.operate("PUT", "/pools/default", Some(settings(change))).await.problem(400, "invalid_body");
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("`{name}`")), "{name}: {detail}");
    }
    world.operate("PUT", "/pools/default", None).await.problem(400, "invalid_body");
    world.operate("PUT", "/pools/a%20b", Some(settings(|_| {}))).await.problem(400, "invalid_parameter");
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_routes_refuse_unsigned_requests() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let (one, drain) = (format!("/servers/{}", server.id), format!("/servers/{}/drain", server.id));
    let before = world.scan().await.len();
    let calls = [
        ("GET", "/pools"),
        ("GET", "/pools/default"),
        ("PUT", "/pools/default"),
        ("GET", "/pools/default/servers"),
        ("POST", &drain),
        ("POST", "/pools/default/pause"),
        ("POST", "/pools/default/resume"),
        ("POST", "/pools/default/launch"),
        ("GET", &one),
        ("GET", "/players/alice"),
        ("DELETE", "/players/alice"),
    ];
    for (method, path) in calls {
        let body = (method == "PUT").then(|| settings(|_| {}));
        for bearer in [None, Some("alice"), Some(server.token.as_str())] {
            world.call(method, path, bearer, body.clone()).await.problem(403, "forbidden");
        }
    }
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready);
    assert_eq!(world.ledger(&server.id).await.claims.len(), 1);
    assert_eq!(world.scan().await.len(), before, "nothing was written");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_pool_are_listed_page_by_page() {
    let world = World::new(limits(1, 1_000)).await;
    for i in 0..103 {
        world.join(&format!("player-{i}")).await.is(202);
    }
    let first = world.operate("GET", "/pools/default/servers", None).await.is(200);
    let ids = |reply: &Reply| {
        let servers = reply.body["servers"].as_array().unwrap().clone();
        servers.into_iter().map(|server| server["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let next = first.body["next"].as_str().unwrap().to_owned();
    let second = world.operate("GET", &format!("/pools/default/servers?after={next}"), None).await.is(200);
    assert_eq!((ids(&first).len(), ids(&second).len()), (100, 3));
    assert_eq!(second.body["next"], Value::Null);
    let mut all = [ids(&first), ids(&second)].concat();
    all.dedup();
    assert_eq!(all.len(), 103);
    assert_eq!(first.body["servers"][0]["reserved"], 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_keeps_its_players_takes_no_new_ones_and_stops_when_empty() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let drain = format!("/servers/{server}/drain");
    world.operate("POST", &drain, None).await.problem(409, "not_registered");
    let hand = world.game_server(&server).await;
    hand.register(&world).await.is(200);
    hand.let_in(&world, "alice").await;
    let ticket = world.join("bob").await.is(200).ticket().to_owned();
    let drained = world.operate("POST", &drain, None).await.is(200);
    assert_eq!((&drained.body["connected"], &drained.body["reserved"]), (&json!(1), &json!(1)));
    assert_eq!(hand.heartbeat(&world, None).await.is(200).body["state"], "draining");
    // Bob's reservation made before the drain is still good. No other player is placed on this server.
    hand.connect(&world, "bob", Some(&ticket)).await.is(200);
    assert_eq!(world.join("alice").await.is(200).server(), server, "a connected player stays");
    assert_ne!(world.join_for_good_or_starting("carol").await.server(), server);
    world.reconcile().await;
    assert_eq!(world.ledger(&server).await.state, ServerState::Draining, "a player is still connected");
    hand.disconnect(&world, "alice", "").await.is(204);
    hand.disconnect(&world, "bob", "").await.is(204);
    world.reconcile().await;
    assert_eq!(world.ledger(&server).await.state, ServerState::Stopped);
    world.operate("POST", &drain, None).await.problem(410, "server_stopped");
    world.operate("POST", "/servers/nobody/drain", None).await.problem(404, "unknown_server");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_deadline_stops_a_server_with_connected_players() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let drain = format!("/servers/{}/drain", server.id);
    let later = world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 3_600 }))).await.is(200);
    assert!(later.body["deadline"].is_string());
    world.reconcile().await;
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Draining);
    world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 0 }))).await.is(200);
    world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 86_401 }))).await.problem(400, "invalid_body");
    world.reconcile().await;
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Stopped);
    assert_ne!(world.join("alice").await.is(202).server(), server.id);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_server_shows_state_and_claims_but_not_the_token() {
    let world = World::new(|_| {}).await;
    let starting = world.join("alice").await.is(202).server().to_owned();
    let path = format!("/servers/{starting}");
    let shown = world.operate("GET", &path, None).await.is(200).body;
    assert_eq!(
        (&shown["state"], &shown["pool"], &shown["attempt"]),
        (&json!("starting"), &json!("default"), &json!(1))
    );
    assert!(shown["launchDeadline"].is_string() && shown["task"].is_string(), "{shown}");
    assert_eq!(shown["claims"][0]["player"], "alice");
    assert_eq!(shown["claims"][0]["expiresAt"], Value::Null, "a reservation on a starting server has no expiry");
    let hand = world.game_server(&starting).await;
    assert!(!shown.to_string().contains(&hand.token));
    hand.register(&world).await.is(200);
    let placement = hand.let_in(&world, "alice").await;
    world.join("bob").await.is(200);
    let shown = world.operate("GET", &path, None).await.is(200).body;
    assert_eq!((&shown["connected"], &shown["reserved"], &shown["port"]), (&json!(1), &json!(1), &json!(7777)));
    assert_eq!(shown["launchDeadline"], Value::Null);
    let alice =
        json!({ "player": "alice", "state": "connected", "placement": placement, "live": true, "expiresAt": null });
    assert_eq!(shown["claims"][0], alice);
    assert_eq!(shown["claims"][1]["state"], "reserved");
    assert!(shown["claims"][1]["expiresAt"].is_string());
    hand.close(&world).await.is(204);
    let shown = world.operate("GET", &path, None).await.is(200).body;
    assert_eq!((&shown["state"], &shown["claims"]), (&json!("stopped"), &json!([])));
    world.operate("GET", "/servers/nobody", None).await.problem(404, "unknown_server");
    world.operate("GET", "/servers/a%20b", None).await.problem(400, "invalid_parameter");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_may_have_the_name_of_an_api_path_segment() {
    let world = World::new(|_| {}).await;
    for name in ["servers", "pools", "pause", "launch"] {
        let path = format!("/pools/{name}");
        world.operate("PUT", &path, Some(settings(|_| {}))).await.is(200);
        assert_eq!(world.operate("GET", &path, None).await.is(200).body["name"], name);
        assert_eq!(world.operate("GET", &format!("{path}/servers"), None).await.is(200).body["servers"], json!([]));
        let paused = world.operate("POST", &format!("{path}/pause"), None).await.is(200).body;
        assert_eq!((&paused["name"], &paused["operatorPause"]), (&json!(name), &json!({ "until": null })));
    }
    assert_eq!(world.operate("GET", "/pools", None).await.is(200).body["pools"].as_array().unwrap().len(), 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_player_shows_the_seat_and_a_release_is_refused_while_connected() {
    let world = World::new(|_| {}).await;
    let path = "/players/alice";
    for method in ["GET", "DELETE"] {
        world.operate(method, path, None).await.problem(404, "unknown_player");
        world.operate(method, "/players/a%20b", None).await.problem(400, "invalid_parameter");
    }
    let server = world.ready_server("alice").await;
    let shown = world.operate("GET", path, None).await.is(200).body;
    assert_eq!((&shown["seat"]["state"], &shown["seat"]["server"]), (&json!("reserved"), &json!(server.id)));
    assert_eq!((&shown["claim"]["live"], &shown["claim"]["placement"]), (&json!(true), &shown["seat"]["placement"]));
    // A reservation is released, and a repeat changes nothing.
    for _ in 0..2 {
        world.operate("DELETE", path, None).await.is(204);
        assert!(world.ledger(&server.id).await.claims.is_empty());
        let shown = world.operate("GET", path, None).await.is(200).body;
        assert_eq!((&shown["seat"]["state"], &shown["seat"]["server"]), (&json!("void"), &Value::Null));
        assert_eq!((&shown["claim"], &shown["serverState"]), (&Value::Null, &Value::Null));
    }
    // A connected player is not released, even if the server's lease has lapsed; the refusal names the drain call.
    let placement = server.let_in(&world, "alice").await;
    let (ledger, seat) = (world.ledger(&server.id).await, world.seat("alice").await);
    let refused = world.operate("DELETE", path, None).await.problem(409, "player_inside");
    assert!(refused.body["detail"].as_str().unwrap().contains(&format!("/servers/{}/drain", server.id)));
    assert_eq!((world.ledger(&server.id).await, world.seat("alice").await), (ledger, seat), "nothing was written");
    // If the server hangs, an operator drains it with a deadline, and the player can then be released.
    let drain = format!("/servers/{}/drain", server.id);
    world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 0 }))).await.is(200);
    world.operate("DELETE", path, None).await.problem(409, "player_inside");
    world.reconcile().await;
    let shown = world.operate("GET", path, None).await.is(200).body;
    assert_eq!((&shown["seat"]["state"], &shown["serverState"]), (&json!("connected"), &json!("stopped")));
    assert_eq!(shown["claim"], Value::Null);
    world.operate("DELETE", path, None).await.is(204);
    let vacant = world.operate("GET", path, None).await.is(200).body;
    assert_eq!((&vacant["seat"]["state"], &vacant["seat"]["placement"]), (&json!("void"), &json!(placement)));
    assert_ne!(world.join("alice").await.is(202).server(), server.id);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_that_died_half_way_is_finished_by_a_release() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let placement = server.let_in(&world, "alice").await;
    let claim = Claim::Connected(Placement::new(placement).unwrap());
    let alice = PlayerId::parse("alice").unwrap();
    let by = Some(TokenHash::of(&server.token));
    let release = LedgerWrite::Free { by, player: alice, claim, ready: true };
    let id = ServerId::parse(&server.id).unwrap();
    world.stack.owmm().table().write_ledger(&id, &release).await.unwrap();
    assert!(matches!(world.seat("alice").await, Some(Seat::Assigned(_))), "the seat is not yet vacated");
    world.operate("DELETE", "/players/alice", None).await.is(204);
    assert_eq!(world.seat("alice").await, Some(Seat::Vacant(claim.placement())));
    // A repeated disconnect of the server changes nothing, even after the player has reconnected.
    let back = server.let_in(&world, "alice").await;
    server.disconnect(&world, "alice", &format!("?placement={placement}")).await.is(204);
    assert_eq!(world.ledger(&server.id).await.claims.len(), 1);
    assert!(back > placement);
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_and_a_registration_of_the_same_player_cannot_both_succeed() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("first").await;
    let (mut released, mut let_in) = (0, 0);
    for i in 0..60 {
        let player = format!("player-{i}");
        let ticket = world.join(&player).await.is(200).ticket().to_owned();
        let path = format!("/players/{player}");
        let head_start = async |is_late: bool| {
            if is_late {
                tokio::time::sleep(Duration::from_millis(i / 6)).await;
            }
        };
        let connect = async {
            head_start(i % 2 == 0).await;
            server.connect(&world, &player, Some(&ticket)).await
        };
        let release = async {
            head_start(i % 2 == 1).await;
            world.operate("DELETE", &path, None).await
        };
        let (connect, release) = tokio::join!(connect, release);
        match (connect.status.as_u16(), release.status.as_u16()) {
            (200, 409) => let_in += 1,
            (409, 204) => released += 1,
            other => panic!("{other:?}: {connect:?} {release:?}"),
        }
        let is_connected =
            matches!(world.seat(&player).await, Some(Seat::Assigned(place)) if place.claim.is_connected());
        assert_eq!(is_connected, connect.status == 200);
        if is_connected {
            server.disconnect(&world, &player, "").await.is(204);
        }
    }
    assert!(released > 0 && let_in > 0, "only one of both ever won: {released} released, {let_in} connected");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_launch_starts_no_more_servers() {
    let world = World::new(limits(10, 3)).await;
    let launch = async |body: Value| world.operate("POST", "/pools/default/launch", Some(body)).await;
    let first = world.operate("POST", "/pools/default/launch", None).await.is(200).body;
    assert_eq!((first["started"].as_array().unwrap().len(), &first["liveServers"]), (1, &json!(1)), "one by default");
    // Four operators at once, each with a repeated call.
    let twice = async || {
        for _ in 0..2 {
            let reply = launch(json!({ "atLeast": 3 })).await;
            assert!(reply.status == 200 || reply.code() == "busy", "{reply:?}");
        }
    };
    tokio::join!(twice(), twice(), twice(), twice());
    let done = launch(json!({ "atLeast": 3 })).await.is(200).body;
    assert_eq!((&done["started"], &done["liveServers"], &done["missing"]), (&json!([]), &json!(3), &json!(0)));
    assert_eq!(world.stack.ecs().counts().processes_started, 3);
    launch(json!({ "atLeast": 4 })).await.problem(409, "at_maximum");
    for bad in
        [json!({ "atLeast": 0 }), json!({ "atLeast": 10_001 }), json!({ "atLeast": null }), json!({ "servers": 1 })]
    {
        launch(bad).await.problem(400, "invalid_body");
    }
    world.operate("POST", "/pools/nowhere/launch", None).await.problem(404, "unknown_pool");
    // A join finds such a server once it has registered.
    let server = first["started"][0].as_str().unwrap();
    world.game_server(server).await.register(&world).await.is(200);
    assert_eq!(world.join_for_good("alice").await.is(200).server(), server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_of_more_servers_than_the_maximum_starts_none() {
    let world = World::new(limits(10, 2)).await;
    let body = Some(json!({ "atLeast": 3 }));
    world.operate("POST", "/pools/default/launch", body).await.problem(409, "at_maximum");
    assert_eq!(world.stack.ecs().counts().run_task_calls, 0);
    assert!(world.ledgers().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_pause_is_ended_by_resume_and_not_by_a_registration() {
    let world = World::new(|options| {
        limits(1, 10)(options);
        options.limits.headroom = 2;
    })
    .await;
    let (pause, resume) = ("/pools/default/pause", "/pools/default/resume");
    let first = world.join("alice").await.is(202).server().to_owned();
    let paused = world.operate("POST", pause, None).await.is(200).body;
    assert_eq!((&paused["operatorPause"], &paused["launchPausedUntil"]), (&json!({ "until": null }), &Value::Null));
    // During the pause no server is started for players, for headroom or by an operator.
    let refused = world.join("bob").await.problem(503, "launch_paused");
    assert!((1..=30).contains(&refused.retry_after.unwrap()), "{refused:?}");
    world.operate("POST", "/pools/default/launch", Some(json!({ "atLeast": 2 }))).await.problem(503, "launch_paused");
    world.reconcile().await;
    // A starting server can register. Its registration ends the pause after failures, and not the operator's pause.
    let hand = world.game_server(&first).await;
    let failed = PoolStatusWrite::Failed { was: 0, backoff_until: Some(world.stack.owmm().time() + Span(60_000)) };
    let name = crate::support::pool("default");
    world.stack.owmm().table().write_pool_status(&name, &failed).await.unwrap();
    assert!(world.operate("GET", "/pools/default", None).await.is(200).body["launchPausedUntil"].is_string());
    hand.register(&world).await.is(200);
    let shown = world.operate("GET", "/pools/default", None).await.is(200).body;
    assert_eq!((&shown["operatorPause"], &shown["launchPausedUntil"]), (&json!({ "until": null }), &Value::Null));
    world.join("bob").await.problem(503, "launch_paused");
    assert_eq!(world.join("alice").await.is(200).server(), first, "free slots are still handed out");
    assert_eq!(world.stack.ecs().counts().processes_started, 1);
    // Resume ends both kinds of pause.
    let now = world.stack.owmm().time();
    let again = PoolStatusWrite::Recount { changes: 2, live: 1 };
    world.stack.owmm().table().write_pool_status(&name, &again).await.unwrap();
    let failed = PoolStatusWrite::Failed { was: 0, backoff_until: Some(now + Span(60_000)) };
    world.stack.owmm().table().write_pool_status(&name, &failed).await.unwrap();
    let resumed = world.operate("POST", resume, None).await.is(200).body;
    let nothing = (&Value::Null, &Value::Null, &json!(0));
    assert_eq!((&resumed["operatorPause"], &resumed["launchPausedUntil"], &resumed["failedLaunches"]), nothing);
    world.join("bob").await.is(202);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_with_a_duration_ends_by_itself() {
    let world = World::new(|_| {}).await;
    let pause = "/pools/default/pause";
    let paused = world.operate("POST", pause, Some(json!({ "seconds": 3_600 }))).await.is(200).body;
    assert!(paused["operatorPause"]["until"].is_string());
    let refused = world.join("alice").await.problem(503, "launch_paused");
    assert!(refused.retry_after.unwrap() <= 30, "the pause may be resumed at any moment: {refused:?}");
    world.operate("POST", pause, Some(json!({ "seconds": 1 }))).await.is(200);
    let begun = Instant::now();
    world.join_until("alice", |reply| reply.code() != "launch_paused").await;
    assert!(begun.elapsed() > Duration::from_millis(500));
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body["operatorPause"], Value::Null);
    for bad in
        [json!({ "seconds": 0 }), json!({ "seconds": 604_801 }), json!({ "seconds": null }), json!({ "hours": 1 })]
    {
        world.operate("POST", pause, Some(bad)).await.problem(400, "invalid_body");
    }
    for path in ["/pools/nowhere/pause", "/pools/nowhere/resume"] {
        world.operate("POST", path, None).await.problem(404, "unknown_pool");
    }
    world.end().await;
}
