//! `POST /servers/{serverId}/heartbeat`: a server lives, and may say who is inside.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm,
    domain::{PlayerId, ServerId},
    http::{Body, Code, Problem, Request, Response, answer, json, json_body, path, present, server_token, timestamp},
};

/// As many as a server may have slots.
const MAX_PLAYERS: usize = 1_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inside {
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
    let inside = json_body::<Inside>(request)?.unwrap_or_default().players.as_deref().map(parse).transpose()?;
    let heartbeat = owmm.heartbeat(token, &server, inside.as_deref()).await??;
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
        return Err(Problem::new(Code::InvalidBody, "`players` has at most 1000 names."));
    }
    let parsed = players.iter().map(|player| PlayerId::parse(player)).collect::<Result<_, _>>();
    parsed.map_err(|bad| Problem::new(Code::InvalidBody, format!("`players`: {bad}.")))
}
