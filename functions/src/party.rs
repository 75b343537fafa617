//! `POST /pools/{pool}/join`: a trusted backend places all players of a party on one server, or none.

use std::{collections::HashSet, convert::Infallible};

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    Owmm, PartyOutcome, Slot,
    domain::{PlayerId, PoolName},
    http::{
        Body, Code, POLL_SECONDS, Problem, Request, Response, answer, json, json_body, no_slot, operator, path,
        starting, timestamp,
    },
};

/// Most players of one party.
const MAX_PLAYERS: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    players: Vec<String>,
}

/// Handles one request.
///
/// # Errors
/// Never: a refusal is a response.
pub async fn handle(owmm: &Owmm, request: Request) -> Result<Response<Body>, Infallible> {
    let outcome = route(owmm, &request).await;
    Ok(answer(&request, outcome))
}

async fn route(owmm: &Owmm, request: &Request) -> Result<Response<Body>, Problem> {
    operator(request)?;
    let pool = path(request, "pool", PoolName::parse)?;
    let players = players(request)?;
    match owmm.party(&players, &pool).await? {
        PartyOutcome::Slots(slots) => Ok(placed(&slots)),
        PartyOutcome::Elsewhere(elsewhere) => {
            let names = elsewhere.iter().map(|player| format!("`{player}`")).collect::<Vec<_>>().join(", ");
            let detail = format!(
                "These players hold slots on servers that cannot take the rest of the party: {names}. \
                 No player was placed."
            );
            Err(Problem::new(Code::PlacedElsewhere, detail).about(elsewhere))
        }
        PartyOutcome::TooLarge(capacity) => Err(Problem::new(
            Code::InvalidBody,
            format!("`players`: a server of this pool has only {capacity} slots, too few for the party."),
        )),
        PartyOutcome::No(reason) => Err(no_slot(reason, owmm.time())),
    }
}

/// Parses the player ids of the body: 1 to [`MAX_PLAYERS`], each listed once.
fn players(request: &Request) -> Result<Vec<PlayerId>, Problem> {
    let bad = |problem: String| Problem::new(Code::InvalidBody, format!("`players`: {problem}."));
    let params = json_body::<Params>(request)?.ok_or_else(|| bad("send the ids of the party's players".to_owned()))?;
    if !(1..=MAX_PLAYERS).contains(&params.players.len()) {
        return Err(bad(format!("a party has 1 to {MAX_PLAYERS} players")));
    }
    let players = params.players.iter().map(|player| PlayerId::parse(player)).collect::<Result<Vec<_>, _>>();
    let players = players.map_err(|error| bad(error.to_string()))?;
    if players.iter().collect::<HashSet<_>>().len() < players.len() {
        return Err(bad("a player id is listed twice".to_owned()));
    }
    Ok(players)
}

fn placed(slots: &[(PlayerId, Slot)]) -> Response<Body> {
    // The whole party is on one server, so the state of the first slot is the state of every slot.
    match slots.first() {
        Some((_, Slot::Ready { server, address, port, .. })) => {
            let ready = slots.iter().filter_map(|(player, slot)| match slot {
                Slot::Ready { ticket, expires, .. } => {
                    Some(json!({ "player": player.as_str(), "ticket": ticket, "expiresAt": timestamp(*expires) }))
                }
                Slot::Starting { .. } => None,
            });
            let players = ready.collect::<Vec<Value>>();
            let server = json!({ "id": server.as_str(), "address": address, "port": port });
            json(StatusCode::OK, &json!({ "status": "ready", "server": server, "players": players }))
        }
        Some((_, Slot::Starting { server, expires })) => starting(server, *expires, POLL_SECONDS),
        None => json(StatusCode::OK, &json!({ "status": "ready", "players": [] })),
    }
}
