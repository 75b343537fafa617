//! What operators do: pools, a look at the servers, a drain.

use serde_json::{Value, json};
use shared::domain::ServerState;

use crate::support::{Reply, World, limits, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_configured_listed_and_used() {
    let world = World::new(|_| {}).await;
    let arena = world.operate("PUT", "/pools/arena", Some(settings(|_| {}))).await.is(200);
    assert_eq!(arena.body["settings"]["capacity"], 20);
    assert_eq!(arena.body["settings"]["reservationSeconds"], 60, "what is not said has its default");
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
async fn a_bad_setting_names_itself_and_nothing_changes() {
    let world = World::new(|_| {}).await;
    let before = world.operate("GET", "/pools/default", None).await.is(200).body;
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 17] = [
        ("capacity", |it| it["capacity"] = json!(0)),
        ("capacity", |it| it["capacity"] = json!(1_001)),
        ("maxServers", |it| it["maxServers"] = json!(0)),
        ("frontiers", |it| it["frontiers"] = json!(17)),
        ("headroom", |it| it["headroom"] = json!(-1)),
        ("idleSeconds", |it| it["idleSeconds"] = json!(86_401)),
        ("reservationSeconds", |it| it["reservationSeconds"] = json!(0)),
        ("launchSeconds", |it| it["launchSeconds"] = json!(4_294_967_297_i64)),
        ("leaseSeconds", |it| it["leaseSeconds"] = json!(601)),
        ("task.taskDefinition", |it| it["task"]["taskDefinition"] = json!("game-server")),
        ("task.cluster", |it| it["task"]["cluster"] = json!("")),
        ("task.url", |it| it["task"]["url"] = json!("owmm.example")),
        ("task.launchType", |it| it["task"]["launchType"] = json!("MOON")),
        ("expected a string", |it| it["task"]["launchType"] = json!(null)),
        ("task.subnets", |it| it["task"]["subnets"] = json!(vec!["subnet-1"; 17])),
        ("surprise", |it| it["surprise"] = json!(1)),
        ("task", |it| it["task"] = json!(null)),
    ];
    for (name, change) in bad {
        let reply = world.operate("PUT", "/pools/default", Some(settings(change))).await.problem(400, "invalid_body");
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains(name) || name == "task", "{name}: {detail}");
    }
    world.operate("PUT", "/pools/default", None).await.problem(400, "invalid_body");
    world.operate("PUT", "/pools/a%20b", Some(settings(|_| {}))).await.problem(400, "invalid_parameter");
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_signed_operate() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let drain = format!("/servers/{}/drain", server.id);
    let calls = [
        ("GET", "/pools"),
        ("GET", "/pools/default"),
        ("PUT", "/pools/default"),
        ("GET", "/pools/default/servers"),
        ("POST", &drain),
    ];
    for (method, path) in calls {
        let body = (method == "PUT").then(|| settings(|_| {}));
        for bearer in [None, Some("alice"), Some(server.token.as_str())] {
            world.call(method, path, bearer, body.clone()).await.problem(403, "forbidden");
        }
    }
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready);
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
    let hand = world.hand(&server).await;
    hand.register(&world).await.is(200);
    hand.let_in(&world, "alice").await;
    let ticket = world.join("bob").await.is(200).ticket().to_owned();
    let drained = world.operate("POST", &drain, None).await.is(200);
    assert_eq!((&drained.body["players"], &drained.body["reserved"]), (&json!(1), &json!(1)));
    assert_eq!(hand.beat(&world, None).await.is(200).body["state"], "draining");
    // A promise is kept: bob may still come in. Nobody else is sent there.
    hand.connect(&world, "bob", Some(&ticket)).await.is(200);
    assert_eq!(world.join("alice").await.is(200).server(), server, "a reconnect");
    assert_ne!(world.join_for_good_or_starting("carol").await.server(), server);
    world.stack.owmm().reconcile().await.unwrap();
    assert_eq!(world.ledger(&server).await.state, ServerState::Draining, "somebody is inside");
    hand.goodbye(&world, "alice", "").await.is(204);
    hand.goodbye(&world, "bob", "").await.is(204);
    world.stack.owmm().reconcile().await.unwrap();
    assert_eq!(world.ledger(&server).await.state, ServerState::Stopped);
    world.operate("POST", &drain, None).await.problem(410, "server_stopped");
    world.operate("POST", "/servers/nobody/drain", None).await.problem(404, "unknown_server");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_drain_with_players_inside() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let drain = format!("/servers/{}/drain", server.id);
    let later = world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 3_600 }))).await.is(200);
    assert!(later.body["deadline"].is_string());
    world.stack.owmm().reconcile().await.unwrap();
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Draining);
    world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 0 }))).await.is(200);
    world.operate("POST", &drain, Some(json!({ "deadlineSeconds": 86_401 }))).await.problem(400, "invalid_body");
    world.stack.owmm().reconcile().await.unwrap();
    assert_eq!(world.ledger(&server.id).await.state, ServerState::Stopped);
    assert_ne!(world.join("alice").await.is(202).server(), server.id);
    world.end().await;
}
