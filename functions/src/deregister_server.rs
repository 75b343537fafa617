//! `DELETE /servers/{serverId}`: a game server deregisters, which voids every claim on it.

use std::convert::Infallible;

use shared::{
    Owmm,
    domain::ServerId,
    http::{Body, Problem, Request, Response, answer, no_content, path, server_token},
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
    let server = path(request, "serverId", ServerId::parse)?;
    let token = server_token(request)?;
    owmm.deregister_server(token, &server).await??;
    Ok(no_content())
}
