//! The HTTP contract: each route, each answer, each problem code; and bad input, which writes nothing.

use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::{http::Code, ticket};

use crate::support::{Hand, World, limits};

#[tokio::test(flavor = "multi_thread")]
async fn a_join_answers_202_while_the_server_starts_and_200_once_it_is_ready() {
    let world = World::new(|_| {}).await;
    let starting = world.join("alice").await.is(202);
    assert_eq!(starting.body["status"], "starting");
    assert_eq!(starting.retry_after, starting.body["retryAfterSeconds"].as_i64());
    assert!(starting.retry_after.unwrap() >= 1);
    let expires = starting.body["expiresAt"].as_str().unwrap().to_owned();
    assert!(expires.ends_with('Z'), "{expires}");
    let hand = world.hand(starting.server()).await;
    let registered = hand.register(&world).await.is(200);
    assert_eq!(registered.body["state"], "ready");
    assert_eq!(registered.body["capacity"], 50);
    assert_eq!(registered.body["heartbeatSeconds"], 10.0);
    assert!(registered.body["leaseExpiresAt"].is_string());
    let ready = world.join("alice").await.is(200);
    assert_eq!(ready.content_type, "application/json");
    assert_eq!(ready.body["status"], "ready");
    assert_eq!(ready.body["server"], json!({ "id": hand.id, "address": "127.0.0.1", "port": 7777 }));
    // The ticket can be checked with what the server was given at its launch, and nothing else.
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
    assert_eq!(world.ledger(&server.id).await.ready_at, ready_at, "a repeat must not extend reservations");
    let other = json!({ "address": "127.0.0.1", "port": 7778 });
    server.register_as(&world, other).await.problem(409, "already_registered");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_address_is_auto_is_found_where_its_registration_came_from() {
    let mut world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.hand(&server).await;
    // All of 127/8 is this machine, so the server may come from an address that nothing else here has.
    let from = |last| reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, last]));
    let auto = json!({ "address": "auto", "port": 7777 });
    world.http = from(77).build().unwrap();
    hand.register_as(&world, auto.clone()).await.is(200);
    hand.register_as(&world, auto.clone()).await.is(200);
    let ready = world.join("alice").await.is(200);
    assert_eq!(ready.body["server"]["address"], "127.0.0.77");
    // Behind a NAT with several addresses, say: it is another address, and a server keeps its first.
    world.http = from(78).build().unwrap();
    hand.register_as(&world, auto).await.problem(409, "already_registered");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_have_another_capacity_than_its_pool_but_not_less_than_is_held() {
    let world = World::new(limits(3, 1)).await;
    let server = world.join("a").await.is(202).server().to_owned();
    world.join("b").await.is(202);
    let hand = world.hand(&server).await;
    let hello = |capacity: i64| json!({ "address": "127.0.0.1", "port": 1, "capacity": capacity });
    hand.register_as(&world, hello(1)).await.problem(409, "capacity_too_small");
    assert_eq!(hand.register_as(&world, hello(2)).await.is(200).body["capacity"], 2);
    world.join("c").await.problem(503, "pool_full");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_of_itself_is_kept() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.hand(&server).await;
    let hello = json!({ "address": "game.example", "port": 1, "metadata": { "build": "1.2.3", "map": "forest" } });
    hand.register_as(&world, hello).await.is(200);
    assert_eq!(world.ledger(&server).await.metadata["map"], "forest");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_join_say_what_to_do() {
    let world = World::new(limits(1, 1)).await;
    world.call("POST", "/join", Some("alice"), Some(json!({ "pool": "nowhere" }))).await.problem(404, "unknown_pool");
    let server = world.ready_server("alice").await;
    let full = world.join("bob").await.problem(503, "pool_full");
    assert!(full.retry_after.is_some());
    // A player who is inside must leave before another pool is possible.
    let mut other = world.stack.owmm().table().pool(&crate::support::pool("default")).await.unwrap().unwrap();
    other.name = crate::support::pool("arena");
    world.stack.owmm().table().put_pool(&other, None).await.unwrap();
    let arena = || Some(json!({ "pool": "arena" }));
    // A reservation moves, and gives its old slot up.
    let moved = world.call("POST", "/join", Some("alice"), arena()).await.is(202);
    assert_ne!(moved.server(), server.id);
    assert!(world.ledger(&server.id).await.claims.is_empty());
    let hand = world.hand(moved.server()).await;
    hand.register(&world).await.is(200);
    hand.connect(&world, "alice", None).await.is(200);
    let default = Some(json!({ "pool": "default" }));
    let elsewhere = world.call("POST", "/join", Some("alice"), default).await.problem(409, "placed_elsewhere");
    assert!(elsewhere.body["detail"].as_str().unwrap().contains("arena"));
    // Who names no pool stays where they are.
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
    let stranger = Hand { token: other.token.clone(), ..server.clone() };
    let nobody = Hand { id: "no-such-server".into(), ..server.clone() };
    for (hand, status, code) in [(&stranger, 403, "wrong_token"), (&nobody, 404, "unknown_server")] {
        hand.register(&world).await.problem(status, code);
        hand.beat(&world, None).await.problem(status, code);
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
async fn a_ticket_counts_for_its_player_on_its_server_only() {
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
async fn a_server_registers_itself_before_its_players() {
    let world = World::new(|_| {}).await;
    let hand = world.hand(world.join("alice").await.is(202).server()).await;
    hand.connect(&world, "alice", None).await.problem(409, "not_registered");
    hand.beat(&world, None).await.problem(409, "not_registered");
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
async fn a_body_that_is_not_what_the_call_takes_is_refused_and_nothing_is_written() {
    let world = World::new(|_| {}).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    let hand = world.hand(&server).await;
    let before = world.scan().await;
    let path = format!("/servers/{server}");
    let hello = |change: fn(&mut Value)| {
        let mut hello = json!({ "address": "127.0.0.1", "port": 7777 });
        change(&mut hello);
        hello.to_string()
    };
    let registrations = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "\u{0}".into(),
        hello(|hello| hello["port"] = json!("7777")),
        hello(|hello| hello["port"] = json!(0)),
        hello(|hello| hello["port"] = json!(65_536)),
        hello(|hello| hello["port"] = json!(-1)),
        hello(|hello| hello["port"] = json!(1.5)),
        hello(|hello| hello["address"] = json!("")),
        hello(|hello| hello["address"] = json!("a b")),
        hello(|hello| hello["address"] = json!("é")),
        hello(|hello| hello["address"] = json!("a".repeat(256))),
        hello(|hello| hello["capacity"] = json!(0)),
        hello(|hello| hello["capacity"] = json!(1_001)),
        hello(|hello| hello["capacity"] = json!("many")),
        hello(|hello| hello["surprise"] = json!(true)),
        hello(|hello| hello["metadata"] = json!({ "a": 1 })),
        hello(|hello| hello["metadata"] = json!({ "": "b" })),
        hello(|hello| hello["metadata"] = json!({ "a": "b".repeat(129) })),
        hello(|hello| {
            hello["metadata"] = (0..9).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
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
        ("POST", format!("{path}/heartbeat"), &hand.token, r#"{"inside":[]}"#),
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
    hand.beat(&world, Some(&names)).await.problem(400, "invalid_body");
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
async fn a_heartbeat_has_room_for_the_longest_names_of_a_full_server() {
    let world = World::new(limits(1_000, 1)).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let names = (0..1_000).map(|i| format!("{i:0>128}")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let told = server.beat(&world, Some(&names)).await.is(200);
    assert_eq!(told.body["unknown"][0]["player"], "alice", "the names were read");
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
async fn what_is_no_route_is_a_problem_too() {
    let world = World::new(|_| {}).await;
    for path in ["/", "/joins", "/join/", "/servers", "/servers//heartbeat", "/servers/a/players", "/pools/"] {
        world.call("GET", path, None, None).await.problem(404, "not_found");
    }
    let problem = world.call("GET", "/join", Some("alice"), None).await.problem(405, "method_not_allowed");
    assert!(problem.body["detail"].as_str().unwrap().contains("POST"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_does_not_answer_is_a_reason_to_ask_again() {
    let world = World::new(|_| {}).await;
    let mut options = crate::support::options();
    options.dynamodb = Some(world.stack.dynamodb_url().to_owned());
    options.table = world.table.clone();
    let broken = local::Stack::start(options).await.unwrap();
    let url = broken.url().to_owned();
    world.end().await;
    if std::env::var_os("OWMM_TEST_DYNAMODB").is_none() {
        // The engine is gone with the first stack.
        let http = demo::http_client().unwrap();
        let reply = http.post(format!("{url}/join")).bearer_auth("alice").send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()["retry-after"], "1");
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["code"], "busy");
        assert!(!body.to_string().contains("127.0.0.1"), "internals stay inside: {body}");
    }
    broken.stop().await;
}

/// Every problem code is one that some test of these brings about; `internal` alone is for what
/// we do not know yet.
#[test]
fn every_problem_code_is_tried() {
    let tests = [include_str!("contract.rs"), include_str!("launches.rs"), include_str!("placements.rs")].concat();
    let tests = [tests.as_str(), include_str!("operators.rs")].concat();
    for code in Code::ALL.iter().filter(|code| **code != Code::Internal) {
        let name = format!("\"{}\"", code.as_str());
        assert!(tests.contains(&name), "no test brings about {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_host_gets_an_answer() {
    let world = World::new(|_| {}).await;
    for (name, value) in [("host", "\""), ("host", "[::1"), ("x-forwarded-proto", "ht tp")] {
        let odd = world.http.get(format!("{}/pools", world.stack.url())).header(name, value).send().await.unwrap();
        assert_eq!(odd.status(), 403, "{name}: {value}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_stack_serves_the_document_beside_the_routes() {
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
