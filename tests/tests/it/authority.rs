//! Authorization (invariant I7): every kind of caller calls every route of `openapi.yaml`. A route without a row in the
//! matrix fails, and so does a row without a route.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    openapi::operations,
    support::{SIGNED, World, settings},
};

/// Kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Anonymous,
    Player,
    AnotherPlayer,
    Server,
    AnotherServer,
    Backend,
    Operator,
}

use Caller::{Anonymous, AnotherPlayer, AnotherServer, Backend, Operator, Player, Server};

const ALL: [Caller; 7] = [Anonymous, Player, AnotherPlayer, Server, AnotherServer, Backend, Operator];

/// Callers that the routes of players accept. The local gateway takes any bearer token as the player's id, so the token
/// of a server is accepted as a player with that id, never as another player.
const PLAYERS: &[Caller] = &[Player, AnotherPlayer, Server, AnotherServer];
/// Only the server that the path names.
const THE_SERVER: &[Caller] = &[Server];
/// Callers with an AWS signature. IAM decides which identity may call which route; OWMM does not distinguish them.
const SIGNED_ONES: &[Caller] = &[Backend, Operator];

/// Method, path and accepted callers of every route.
const MATRIX: &[(&str, &str, &[Caller])] = &[
    ("POST", "/join", PLAYERS),
    ("DELETE", "/join", PLAYERS),
    ("POST", "/pools/{pool}/join", SIGNED_ONES),
    ("PUT", "/servers/{serverId}", THE_SERVER),
    ("DELETE", "/servers/{serverId}", THE_SERVER),
    ("POST", "/servers/{serverId}/heartbeat", THE_SERVER),
    ("PUT", "/servers/{serverId}/players/{playerId}", THE_SERVER),
    ("DELETE", "/servers/{serverId}/players/{playerId}", THE_SERVER),
    ("GET", "/servers/{serverId}", SIGNED_ONES),
    ("POST", "/servers/{serverId}/drain", SIGNED_ONES),
    ("GET", "/players/{playerId}", SIGNED_ONES),
    ("DELETE", "/players/{playerId}", SIGNED_ONES),
    ("GET", "/pools", SIGNED_ONES),
    ("GET", "/pools/{pool}", SIGNED_ONES),
    ("PUT", "/pools/{pool}", SIGNED_ONES),
    ("GET", "/pools/{pool}/servers", SIGNED_ONES),
    ("POST", "/pools/{pool}/launch", SIGNED_ONES),
    ("POST", "/pools/{pool}/pause", SIGNED_ONES),
    ("POST", "/pools/{pool}/resume", SIGNED_ONES),
];

/// A valid body for the route, so that a refusal can only be due to the caller.
fn body(method: &str, template: &str) -> Option<Value> {
    Some(match (method, template) {
        ("PUT", "/servers/{serverId}") => json!({ "address": "127.0.0.1", "port": 7777 }),
        ("PUT", "/pools/{pool}") => settings(|_| {}),
        ("POST", "/pools/{pool}/join") => json!({ "players": ["zoe"] }),
        _ => return None,
    })
}

#[test]
fn every_route_has_one_row_in_the_matrix() {
    let rows = MATRIX.iter().map(|(method, path, _)| format!("{method} {path}")).collect::<BTreeSet<_>>();
    let routes = operations().map(|(method, path, _)| format!("{method} {path}")).collect::<BTreeSet<_>>();
    assert_eq!(rows, routes);
    assert_eq!(rows.len(), MATRIX.len(), "a route has two rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_accepts_the_callers_of_its_row_and_refuses_all_others() {
    for (method, template, allowed) in MATRIX {
        for caller in ALL {
            // A new world for each caller, so that no allowed call affects the next caller.
            let world = World::new(|options| options.limits.capacity = 1).await;
            let server = world.ready_server("ann").await;
            let another = world.ready_server("bob").await;
            let authorization = match caller {
                Anonymous => None,
                Player => Some("Bearer ann".to_owned()),
                AnotherPlayer => Some("Bearer bob".to_owned()),
                Server => Some(format!("Bearer {}", server.token)),
                AnotherServer => Some(format!("Bearer {}", another.token)),
                Backend | Operator => Some(SIGNED.to_owned()),
            };
            let path =
                template.replace("{serverId}", &server.id).replace("{playerId}", "ann").replace("{pool}", "default");
            let bytes = body(method, template).map(|body| body.to_string().into_bytes());
            let (before, anns) = (world.ledger(&server.id).await, world.seat("ann").await);
            let reply = world.authorized(method, &path, authorization.as_deref(), bytes).await;
            let refused = matches!(reply.status.as_u16(), 401 | 403);
            assert_eq!(refused, !allowed.contains(&caller), "{caller:?} at {method} {template}: {reply:?}");
            if refused {
                assert_eq!(world.ledger(&server.id).await, before, "{caller:?} at {method} {template}");
            }
            if refused || (template == &"/join" && caller != Player) {
                assert_eq!(world.seat("ann").await, anns, "{caller:?} at {method} {template}");
            }
            world.end().await;
        }
    }
}
