//! `GET` and `DELETE /players/{playerId}`: an operator reads a player's seat and claim, or releases them.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde_json::{Value, json};
use shared::{
    Owmm, PlayerView,
    domain::{PlayerId, Released, Seat, Time},
    http::{
        Body, Code, Method, Problem, Request, Response, answer, claim_view, json, method_not_allowed, no_content,
        operator, path,
    },
};

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
    let player = path(request, "playerId", PlayerId::parse)?;
    match *request.method() {
        Method::GET => {
            let view = owmm.player(&player).await?.ok_or_else(unknown)?;
            Ok(json(StatusCode::OK, &shown(&player, &view, owmm.time())))
        }
        Method::DELETE => match owmm.release_player(&player).await? {
            Released::Free => Ok(no_content()),
            Released::Unknown => Err(unknown()),
            Released::StillConnected(server) => {
                let detail = format!(
                    "The player is connected to `{server}`, and only this server can disconnect the player. If the \
                     server hangs, drain it with a deadline (POST /servers/{server}/drain): its stop releases all \
                     its players."
                );
                Err(Problem::new(Code::PlayerInside, detail))
            }
            Released::Busy => Err(Problem::busy("another call changed the placement of the player at the same time")),
        },
        _ => Err(method_not_allowed("GET, DELETE")),
    }
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownPlayer, "No player with this id has been placed within the last day.")
}

fn shown(player: &PlayerId, PlayerView { seat, ledger }: &PlayerView, now: Time) -> Value {
    let (state, place) = match seat {
        Seat::Vacant(_) => ("void", None),
        Seat::Assigned(place) if place.claim.is_connected() => ("connected", Some(place)),
        Seat::Assigned(place) => ("reserved", Some(place)),
    };
    let held = ledger.as_ref().and_then(|ledger| Some((ledger, *ledger.claims.get(player)?)));
    json!({
        "player": player.as_str(),
        "seat": {
            "state": state,
            "placement": seat.placement().get(),
            "server": place.map(|place| place.server.as_str()),
            "pool": place.map(|place| place.pool.as_str()),
        },
        "serverState": ledger.as_ref().map(|ledger| ledger.state.as_str()),
        "claim": held.map(|(ledger, claim)| claim_view(ledger, claim, now)),
    })
}
