//! `POST /servers/{serverId}/heartbeat`: a game server renews its lease and may list its connected players.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm,
    domain::{PlayerId, ServerId},
    http::{Body, Code, Problem, Request, Response, answer, json, json_body, path, present, server_token, timestamp},
};

/// Most player ids in one heartbeat: the highest capacity of a server.
const MAX_PLAYERS: usize = 1_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default, deserialize_with = "present")]
    players: Option<Vec<String>>,
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
    let server = path(request, "serverId", ServerId::parse)?;
    let token = server_token(request)?;
    let connected = json_body::<Params>(request)?.unwrap_or_default().players.as_deref().map(parse).transpose()?;
    let heartbeat = owmm.heartbeat(token, &server, connected.as_deref()).await??;
    let unknown = heartbeat.unknown.iter();
    let unknown = unknown.map(|one| json!({ "player": one.player.as_str(), "placement": one.placement.get() }));
    Ok(json(
        StatusCode::OK,
        &json!({
            "state": heartbeat.state.as_str(),
            "leaseExpiresAt": timestamp(heartbeat.lease_until),
            "reserved": heartbeat.reserved,
            "unknown": unknown.collect::<Vec<_>>(),
        }),
    ))
}

fn parse(players: &[String]) -> Result<Vec<PlayerId>, Problem> {
    if players.len() > MAX_PLAYERS {
        return Err(Problem::new(Code::InvalidBody, "`players` must have at most 1000 player ids."));
    }
    let parsed = players.iter().map(|player| PlayerId::parse(player)).collect::<Result<_, _>>();
    parsed.map_err(|bad| Problem::new(Code::InvalidBody, format!("`players`: {bad}.")))
}
