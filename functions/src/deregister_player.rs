//! `DELETE /servers/{serverId}/players/{playerId}`: a game server disconnects a player.

use std::convert::Infallible;

use shared::{
    Owmm, ServerOutcome,
    domain::{Disconnected, Placement, PlayerId, ServerId, Span},
    http::{Body, Problem, Request, Response, answer, no_content, path, query, server_token},
};

/// Longest time that a slot is kept for a reconnect, in seconds.
const MAX_GRACE_SECONDS: i64 = 3_600;

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
    let player = path(request, "playerId", PlayerId::parse)?;
    let token = server_token(request)?;
    let placement = query(request, "placement", 1..=i64::MAX)?.and_then(Placement::new);
    let grace = query(request, "grace", 1..=MAX_GRACE_SECONDS)?.map(|seconds| Span(seconds * 1_000));
    match owmm.deregister_player(token, &server, &player, placement, grace).await? {
        Disconnected::Ended | Disconnected::KeptUntil(_) => Ok(no_content()),
        Disconnected::WrongToken => Err(ServerOutcome::WrongToken.into()),
        Disconnected::UnknownServer => Err(ServerOutcome::Unknown.into()),
    }
}
