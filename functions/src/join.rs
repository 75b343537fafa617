//! `POST /join` and `DELETE /join`: a player reserves a slot, or cancels the reservation.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    JoinOutcome, Owmm, Slot,
    domain::{PlayerId, PoolName},
    http::{
        Body, Code, Method, POLL_SECONDS, Problem, Request, Response, answer, json, json_body, method_not_allowed,
        no_content, no_slot, player, present, starting, timestamp,
    },
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default, deserialize_with = "present")]
    pool: Option<String>,
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
    let player = player(request)?;
    match *request.method() {
        Method::POST => join(owmm, request, &player).await,
        Method::DELETE => {
            owmm.cancel_reservation(&player).await?;
            Ok(no_content())
        }
        _ => Err(method_not_allowed("POST, DELETE")),
    }
}

async fn join(owmm: &Owmm, request: &Request, player: &PlayerId) -> Result<Response<Body>, Problem> {
    let params = json_body::<Params>(request)?.unwrap_or_default();
    let pool = params.pool.map(|pool| PoolName::parse(&pool)).transpose();
    let pool = pool.map_err(|bad| Problem::new(Code::InvalidBody, format!("`pool`: {bad}.")))?;
    match owmm.join(player, pool).await? {
        JoinOutcome::Slot(slot) => Ok(placed(&slot)),
        JoinOutcome::Elsewhere(pool) => Err(Problem::new(
            Code::PlacedElsewhere,
            format!("The player is connected to a server of the pool `{pool}` and must leave it first."),
        )),
        JoinOutcome::No(reason) => Err(no_slot(reason, owmm.time())),
    }
}

fn placed(slot: &Slot) -> Response<Body> {
    match slot {
        Slot::Ready { server, address, port, ticket, expires } => json(
            StatusCode::OK,
            &json!({
                "status": "ready",
                "server": { "id": server.as_str(), "address": address, "port": port },
                "ticket": ticket,
                "expiresAt": timestamp(*expires),
            }),
        ),
        Slot::Starting { server, expires } => starting(server, *expires, POLL_SECONDS),
    }
}
