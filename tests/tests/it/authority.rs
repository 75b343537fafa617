//! Who is let in where (invariant I7): every route of `openapi.yaml` against every kind of caller. A route without a row
//! fails, and so does a row without a route.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    openapi::operations,
    support::{SIGNED, World, settings},
};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Nobody,
    Player,
    AnotherPlayer,
    Server,
    AnotherServer,
    Backend,
    Operator,
}

use Caller::{AnotherPlayer, AnotherServer, Backend, Nobody, Operator, Player, Server};

const ALL: [Caller; 7] = [Nobody, Player, AnotherPlayer, Server, AnotherServer, Backend, Operator];

/// The gateway reads `sub` from whatever bearer token it is shown, and on a laptop any text is one: a server's token makes
/// a player of that name there. So these are let in as who they say they are, never as anybody else.
const PLAYERS: &[Caller] = &[Player, AnotherPlayer, Server, AnotherServer];
/// The server that the path names, and no other.
const THE_SERVER: &[Caller] = &[Server];
/// IAM decides which of the studio's identities may call which route; to OWMM a signature is a signature.
const SIGNED_ONES: &[Caller] = &[Backend, Operator];

/// Who is let in, route by route.
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

/// A body that the route takes, so that only the caller can be what is wrong.
fn body(method: &str, template: &str) -> Option<Value> {
    Some(match (method, template) {
        ("PUT", "/servers/{serverId}") => json!({ "address": "127.0.0.1", "port": 7777 }),
        ("PUT", "/pools/{pool}") => settings(|_| {}),
        ("POST", "/pools/{pool}/join") => json!({ "players": ["zoe"] }),
        _ => return None,
    })
}

#[test]
fn every_route_has_its_row() {
    let rows = MATRIX.iter().map(|(method, path, _)| format!("{method} {path}")).collect::<BTreeSet<_>>();
    let routes = operations().map(|(method, path, _)| format!("{method} {path}")).collect::<BTreeSet<_>>();
    assert_eq!(rows, routes);
    assert_eq!(rows.len(), MATRIX.len(), "a row twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_is_let_in_where_the_matrix_says_and_nowhere_else() {
    for (method, template, allowed) in MATRIX {
        for caller in ALL {
            // A world each: what one is allowed to do must not be in the next one's way.
            let world = World::new(|options| options.limits.capacity = 1).await;
            let server = world.ready_server("ann").await;
            let another = world.ready_server("bob").await;
            let authorization = match caller {
                Nobody => None,
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
