//! `PUT /servers/{serverId}/players/{playerId}`: a game server asks whether to let a player in.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm, ServerOutcome,
    domain::{Connected, PlayerId, ServerId},
    http::{Body, Code, Problem, Request, Response, answer, json, json_body, path, present, server_token},
    ticket,
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default, deserialize_with = "present")]
    ticket: Option<String>,
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
    let player = path(request, "playerId", PlayerId::parse)?;
    let token = server_token(request)?;
    let params = json_body::<Params>(request)?.unwrap_or_default();
    let ticket = params.ticket.map(|text| ticket::read(&token, &server, &player, &text)).transpose();
    let ticket = ticket.map_err(|bad| Problem::new(Code::InvalidTicket, format!("{bad}.")))?;
    match owmm.register_player(token, &server, &player, ticket).await? {
        Connected::Admitted(placement) => Ok(json(StatusCode::OK, &json!({ "placement": placement.get() }))),
        Connected::NoClaim => Err(Problem::new(
            Code::NoClaim,
            "Do not let the player in. POST /join gives the player a slot and a new ticket.",
        )),
        Connected::PlacedElsewhere => Err(Problem::new(
            Code::PlacedElsewhere,
            "Do not let the player in: the player is placed on another server.",
        )),
        Connected::NotRegistered => Err(ServerOutcome::NotRegistered.into()),
        Connected::Stopped => Err(ServerOutcome::Stopped.into()),
        Connected::WrongToken => Err(ServerOutcome::WrongToken.into()),
        Connected::UnknownServer => Err(ServerOutcome::Unknown.into()),
    }
}
