//! The HTTP contract: every route, every response and every problem code; invalid input writes nothing.

use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::{http::Code, ticket};

use crate::support::{GameServer, World, limits};

#[tokio::test(flavor = "multi_thread")]
async fn a_join_answers_202_while_the_server_starts_and_200_once_it_is_ready() {
    let world = World::new(|_| {}).await;
    let starting = world.join("alice").await.is(202);
    assert_eq!(starting.body["status"], "starting");
    assert_eq!(starting.retry_after, starting.body["retryAfterSeconds"].as_i64());
    assert!(starting.retry_after.unwrap() >= 1);
    let expires = starting.body["expiresAt"].as_str().unwrap().to_owned();
    assert!(expires.ends_with('Z'), "{expires}");
    let hand = world.game_server(starting.server()).await;
    let registered = hand.register(&world).await.is(200);
    assert_eq!(registered.body["state"], "ready");
    assert_eq!(registered.body["capacity"], 50);
    assert_eq!(registered.body["heartbeatSeconds"], 10.0);
    assert!(registered.body["leaseExpiresAt"].is_string());
    let ready = world.join("alice").await.is(200);
    assert_eq!(ready.content_type, "application/json");
    assert_eq!(ready.body["status"], "ready");
    assert_eq!(ready.body["server"], json!({ "id": hand.id, "address": "127.0.0.1", "port": 7777 }));
    // The server can check the ticket with the environment of its launch alone.
    let server = shared::domain::ServerId::parse(&hand.id).unwrap();
    let alice = shared::domain::PlayerId::parse("alice").unwrap();
    let key = shared::domain::TokenHash::of(&hand.token);
    assert!(ticket::read(&key, &server, &alice, ready.ticket()).is_ok());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_repeated_safely_and_its_address_stays() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let ready_at = world.ledger(&server.id).await.ready_at;
    server.register(&world).await.is(200);
    assert_eq!(
        world.ledger(&server.id).await.ready_at,
        ready_at,
        "a repeated registration must not extend reservations"
    );
    let other = json!({ "address": "127.0.0.1", "port": 7778 });
    server.register_as(&world, other).await.problem(409, "already_registered");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_with_address_auto_uses_the_source_address_of_the_request() {
    let mut world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    // All of 127.0.0.0/8 is this machine, so the request can have a source address of its own.
    let from = |last| reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, last]));
    let auto = json!({ "address": "auto", "port": 7777 });
    world.http = from(77).build().unwrap();
    hand.register_as(&world, auto.clone()).await.is(200);
    hand.register_as(&world, auto.clone()).await.is(200);
    let ready = world.join("alice").await.is(200);
    assert_eq!(ready.body["server"]["address"], "127.0.0.77");
    // Another source address, as behind a NAT with several: a server keeps its first address.
    world.http = from(78).build().unwrap();
    hand.register_as(&world, auto).await.problem(409, "already_registered");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_may_change_the_capacity_but_not_below_the_number_of_claims() {
    let world = World::new(limits(3, 1)).await;
    let server = world.join("a").await.is(202).server().to_owned();
    world.join("b").await.is(202);
    let hand = world.game_server(&server).await;
    let registration = |capacity: i64| json!({ "address": "127.0.0.1", "port": 1, "capacity": capacity });
    hand.register_as(&world, registration(1)).await.problem(409, "capacity_too_small");
    assert_eq!(hand.register_as(&world, registration(2)).await.is(200).body["capacity"], 2);
    world.join("c").await.problem(503, "pool_full");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_of_a_registration_is_stored() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    let registration =
        json!({ "address": "game.example", "port": 1, "metadata": { "build": "1.2.3", "map": "forest" } });
    hand.register_as(&world, registration).await.is(200);
    assert_eq!(world.ledger(&server).await.metadata["map"], "forest");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_a_join_has_the_code_of_its_reason() {
    let world = World::new(limits(1, 1)).await;
    world.call("POST", "/join", Some("alice"), Some(json!({ "pool": "nowhere" }))).await.problem(404, "unknown_pool");
    let server = world.ready_server("alice").await;
    let full = world.join("bob").await.problem(503, "pool_full");
    assert!(full.retry_after.is_some());
    // A connected player must leave before a join of another pool.
    let mut other = world.stack.owmm().table().pool(&crate::support::pool("default")).await.unwrap().unwrap();
    other.name = crate::support::pool("arena");
    world.stack.owmm().table().put_pool(&other, None).await.unwrap();
    let arena = || Some(json!({ "pool": "arena" }));
    // A reservation moves to the other pool, and its old slot is freed.
    let moved = world.call("POST", "/join", Some("alice"), arena()).await.is(202);
    assert_ne!(moved.server(), server.id);
    assert!(world.ledger(&server.id).await.claims.is_empty());
    let hand = world.game_server(moved.server()).await;
    hand.register(&world).await.is(200);
    hand.connect(&world, "alice", None).await.is(200);
    let default = Some(json!({ "pool": "default" }));
    let elsewhere = world.call("POST", "/join", Some("alice"), default).await.problem(409, "placed_elsewhere");
    assert!(elsewhere.body["detail"].as_str().unwrap().contains("arena"));
    // A join without a pool returns the player's current server.
    assert_eq!(world.join("alice").await.is(200).server(), hand.id);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_a_servers_token_changes_that_server() {
    let world = World::new(limits(2, 2)).await;
    let server = world.ready_server("alice").await;
    world.join("bob").await.is(200);
    let other = world.ready_server("carol").await;
    assert_ne!(server.id, other.id);
    let before = world.ledger(&server.id).await;
    let stranger = GameServer { token: other.token.clone(), ..server.clone() };
    let missing = GameServer { id: "no-such-server".into(), ..server.clone() };
    for (hand, status, code) in [(&stranger, 403, "wrong_token"), (&missing, 404, "unknown_server")] {
        hand.register(&world).await.problem(status, code);
        hand.heartbeat(&world, None).await.problem(status, code);
        hand.connect(&world, "alice", None).await.problem(status, code);
        hand.disconnect(&world, "alice", "").await.problem(status, code);
        hand.disconnect(&world, "alice", "?placement=1").await.problem(status, code);
        hand.disconnect(&world, "alice", "?placement=1&grace=10").await.problem(status, code);
        hand.close(&world).await.problem(status, code);
    }
    for (method, path) in
        [("PUT", ""), ("DELETE", ""), ("POST", "/heartbeat"), ("PUT", "/players/alice"), ("DELETE", "/players/alice")]
    {
        let path = format!("/servers/{}{path}", server.id);
        let body = (path.ends_with(&server.id) && method == "PUT").then(|| json!({ "address": "a", "port": 1 }));
        world.call(method, &path, None, body).await.problem(401, "unauthorized");
    }
    world.call("POST", "/join", None, None).await.problem(401, "unauthorized");
    world.call("DELETE", "/join", None, None).await.problem(401, "unauthorized");
    assert_eq!(world.ledger(&server.id).await, before, "nothing was written");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_valid_only_for_its_player_on_its_server() {
    let world = World::new(limits(2, 2)).await;
    let server = world.ready_server("alice").await;
    let bob = world.join("bob").await.is(200).ticket().to_owned();
    let carol = world.ready_server("carol").await;
    let carols = world.join("carol").await.is(200).ticket().to_owned();
    for ticket in ["", "x", "a.b.c", &bob, &carols, &"x".repeat(3_000)] {
        server.connect(&world, "alice", Some(ticket)).await.problem(403, "invalid_ticket");
    }
    server.connect(&world, "bob", Some(&bob)).await.is(200);
    carol.connect(&world, "bob", Some(&bob)).await.problem(403, "invalid_ticket");
    carol.connect(&world, "bob", None).await.problem(409, "no_claim");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_about_a_player_before_the_server_has_registered_is_refused() {
    let world = World::new(|_| {}).await;
    let hand = world.game_server(world.join("alice").await.is(202).server()).await;
    hand.connect(&world, "alice", None).await.problem(409, "not_registered");
    hand.heartbeat(&world, None).await.problem(409, "not_registered");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_may_be_percent_encoded_and_are_decoded_once() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("auth0|a@b.c+d=e").await;
    let encoded = "auth0%7Ca%40b.c%2Bd%3De";
    server.connect(&world, encoded, None).await.is(200);
    server.disconnect(&world, encoded, "").await.is(204);
    for bad in ["a%20b", "a%2Fb", "a%00b", "a%FF", "%2541%25"] {
        server.connect(&world, bad, None).await.problem(400, "invalid_parameter");
        world
            .call("PUT", &format!("/servers/{bad}"), Some("t"), Some(json!({ "address": "a", "port": 1 })))
            .await
            .problem(400, "invalid_parameter");
    }
    let long = "p".repeat(129);
    server.connect(&world, &long, None).await.problem(400, "invalid_parameter");
    world.join(&long).await.problem(403, "forbidden");
    world.join("white space").await.problem(403, "forbidden");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_body_or_parameter_is_refused_and_nothing_is_written() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.game_server(&server).await;
    let before = world.scan().await;
    let path = format!("/servers/{server}");
    let registration = |change: fn(&mut Value)| {
        let mut registration = json!({ "address": "127.0.0.1", "port": 7777 });
        change(&mut registration);
        registration.to_string()
    };
    let registrations = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "\u{0}".into(),
        registration(|registration| registration["port"] = json!("7777")),
        registration(|registration| registration["port"] = json!(0)),
        registration(|registration| registration["port"] = json!(65_536)),
        registration(|registration| registration["port"] = json!(-1)),
        registration(|registration| registration["port"] = json!(1.5)),
        registration(|registration| registration["address"] = json!("")),
        registration(|registration| registration["address"] = json!("a b")),
        registration(|registration| registration["address"] = json!("é")),
        registration(|registration| registration["address"] = json!("a".repeat(256))),
        registration(|registration| registration["capacity"] = json!(0)),
        registration(|registration| registration["capacity"] = json!(1_001)),
        registration(|registration| registration["capacity"] = json!("many")),
        registration(|registration| registration["surprise"] = json!(true)),
        registration(|registration| registration["metadata"] = json!({ "a": 1 })),
        registration(|registration| registration["metadata"] = json!({ "": "b" })),
        registration(|registration| registration["metadata"] = json!({ "a": "b".repeat(129) })),
        registration(|registration| {
            registration["metadata"] =
                (0..9).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
        }),
    ];
    for body in registrations {
        let reply = world.raw("PUT", &path, Some(&hand.token), Some(body.clone().into())).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid_body"), "{body}");
    }
    let others = [
        ("POST", "/join".to_owned(), "alice", r#"{"pool":1}"#),
        ("POST", "/join".to_owned(), "alice", r#"{"pool":"a b"}"#),
        ("POST", "/join".to_owned(), "alice", r#"{"pools":"a"}"#),
        ("POST", "/join".to_owned(), "alice", "\"default\""),
        ("POST", "/join".to_owned(), "alice", r#"["default"]"#),
        ("PUT", path.clone(), &hand.token, r#"["127.0.0.1", 7777, 50, {}]"#),
        ("POST", format!("{path}/heartbeat"), &hand.token, r#"[["alice"]]"#),
        ("PUT", format!("{path}/players/alice"), &hand.token, r#"["ticket"]"#),
        ("POST", format!("{path}/heartbeat"), &hand.token, r#"{"players":"alice"}"#),
        ("POST", format!("{path}/heartbeat"), &hand.token, r#"{"players":["a b"]}"#),
        ("POST", format!("{path}/heartbeat"), &hand.token, r#"{"surprise":[]}"#),
        ("PUT", format!("{path}/players/alice"), &hand.token, r#"{"ticket":7}"#),
        ("PUT", format!("{path}/players/alice"), &hand.token, r#"{"tickets":"x"}"#),
    ];
    for (method, path, bearer, body) in others {
        let reply = world.raw(method, &path, Some(bearer), Some(body.into())).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid_body"), "{method} {path} {body}");
    }
    let array = world.raw("POST", "/join", Some("alice"), Some(r#"["default"]"#.into())).await;
    let due = r#"The body is refused: expected an object, as in {"name": "value"}, found `[`, at line 1, column 1."#;
    assert_eq!(array.body["detail"], due);
    world.raw("POST", "/join", Some("alice"), Some(vec![0xff, 0xfe])).await.problem(400, "invalid_body");
    let names = vec!["p"; 1_001];
    hand.heartbeat(&world, Some(&names)).await.problem(400, "invalid_body");
    for query in [
        "?placement=0",
        "?placement=-1",
        "?placement=x",
        "?grace=0",
        "?grace=3601",
        "?grace=",
        "?placement=9223372036854775808",
    ] {
        hand.disconnect(&world, "alice", query).await.problem(400, "invalid_parameter");
    }
    let large = vec![b' '; 192 * 1024 + 1];
    for (method, path, bearer) in [
        ("POST", "/join".to_owned(), "alice"),
        ("PUT", path.clone(), &hand.token),
        ("POST", format!("{path}/heartbeat"), &hand.token),
    ] {
        world.raw(method, &path, Some(bearer), Some(large.clone())).await.problem(413, "body_too_large");
    }
    let after = world.scan().await;
    assert_eq!(before.len(), after.len());
    assert!(before.iter().all(|item| after.contains(item)), "something was written");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_accepts_a_thousand_names_of_maximum_length() {
    let world = World::new(limits(1_000, 1)).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let names = (0..1_000).map(|i| format!("{i:0>128}")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let reply = server.heartbeat(&world, Some(&names)).await.is(200);
    assert_eq!(reply.body["unknown"][0]["player"], "alice", "the names were read");
    let path = format!("/servers/{}/heartbeat", server.id);
    let padded = |bytes: usize| {
        let mut body = json!({ "players": names }).to_string().into_bytes();
        body.resize(bytes, b' ');
        Some(body)
    };
    world.raw("POST", &path, Some(&server.token), padded(196_608)).await.is(200);
    world.raw("POST", &path, Some(&server.token), padded(196_609)).await.problem(413, "body_too_large");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_or_method_gets_a_problem_response() {
    let world = World::new(|_| {}).await;
    for path in ["/", "/joins", "/join/", "/servers", "/servers//heartbeat", "/servers/a/players", "/pools/"] {
        world.call("GET", path, None, None).await.problem(404, "not_found");
    }
    let problem = world.call("GET", "/join", Some("alice"), None).await.problem(405, "method_not_allowed");
    assert!(problem.body["detail"].as_str().unwrap().contains("POST"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_table_gives_503_busy_with_retry_after() {
    let world = World::new(|_| {}).await;
    let mut options = crate::support::options();
    options.dynamodb = Some(world.stack.dynamodb_url().to_owned());
    options.table = world.table.clone();
    let broken = local::Stack::start(options).await.unwrap();
    let url = broken.url().to_owned();
    world.end().await;
    if std::env::var_os("OWMM_TEST_DYNAMODB").is_none() {
        // The embedded engine ended with the first stack.
        let http = demo::http_client().unwrap();
        let reply = http.post(format!("{url}/join")).bearer_auth("alice").send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()["retry-after"], "1");
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["code"], "busy");
        assert!(!body.to_string().contains("127.0.0.1"), "the response must not show internal addresses: {body}");
    }
    broken.stop().await;
}

/// Every problem code appears in one of these tests, except `internal`, which is for unexpected errors.
#[test]
fn every_problem_code_has_a_test() {
    let tests = [include_str!("contract.rs"), include_str!("launches.rs"), include_str!("placements.rs")].concat();
    let tests = [tests.as_str(), include_str!("operators.rs")].concat();
    for code in Code::ALL.iter().filter(|code| **code != Code::Internal) {
        let name = format!("\"{}\"", code.as_str());
        assert!(tests.contains(&name), "no test has {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_host_header_gets_a_response() {
    let world = World::new(|_| {}).await;
    for (name, value) in [("host", "\""), ("host", "[::1"), ("x-forwarded-proto", "ht tp")] {
        let odd = world.http.get(format!("{}/pools", world.stack.url())).header(name, value).send().await.unwrap();
        assert_eq!(odd.status(), 403, "{name}: {value}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_stack_serves_openapi_yaml() {
    let world = World::new(|_| {}).await;
    let url = format!("{}/openapi.yaml", world.stack.url());
    let served = world.http.get(&url).send().await.unwrap();
    assert_eq!(
        (served.status().as_u16(), &served.headers()["content-type"]),
        (200, &"application/yaml".parse().unwrap())
    );
    assert_eq!(served.text().await.unwrap(), include_str!("../../../openapi.yaml"));
    world.call("POST", "/openapi.yaml", None, None).await.problem(404, "not_found");
    world.end().await;
}
