//! `POST /join` and `DELETE /join`: a player gets a slot, or gives it up.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm, Place, Slot,
    domain::{NoSlot, PlayerId, PoolName},
    http::{
        Body, Code, Method, Problem, Request, Response, answer, json, json_body, method_not_allowed, no_content,
        player, present, timestamp,
    },
};

/// How long a client should wait before it asks again whether its server is up, in seconds.
const POLL_SECONDS: i64 = 1;
/// Before another look at a full pool, in seconds.
const FULL_SECONDS: i64 = 5;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
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
            owmm.give_up(&player).await?;
            Ok(no_content())
        }
        _ => Err(method_not_allowed("POST, DELETE")),
    }
}

async fn join(owmm: &Owmm, request: &Request, player: &PlayerId) -> Result<Response<Body>, Problem> {
    let wish = json_body::<Wish>(request)?.unwrap_or_default();
    let pool = wish.pool.map(|pool| PoolName::parse(&pool)).transpose();
    let pool = pool.map_err(|bad| Problem::new(Code::InvalidBody, format!("`pool`: {bad}.")))?;
    match owmm.join(player, pool).await? {
        Place::Slot(slot) => Ok(placed(&slot)),
        Place::Elsewhere(pool) => Err(Problem::new(
            Code::PlacedElsewhere,
            format!("The player is inside a server of the pool `{pool}` and has to leave it first."),
        )),
        Place::No(NoSlot::PoolFull) => {
            let detail = "Every server of the pool is full, and no more may be started.";
            Err(Problem::new(Code::PoolFull, detail).retry_after(FULL_SECONDS))
        }
        Place::No(NoSlot::LaunchPaused(until)) => {
            let detail = format!("Servers have failed to start repeatedly. The next is tried at {}.", timestamp(until));
            let seconds = owmm.until(until).whole_seconds_up();
            Err(Problem::new(Code::LaunchPaused, detail).retry_after(seconds))
        }
        Place::No(NoSlot::Busy) => Err(Problem::busy("the tries of this request are used up")),
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
        Slot::Starting { server, expires } => {
            let body = json!({
                "status": "starting",
                "server": { "id": server.as_str() },
                "expiresAt": timestamp(*expires),
                "retryAfterSeconds": POLL_SECONDS,
            });
            let mut response = json(StatusCode::ACCEPTED, &body);
            response.headers_mut().insert("retry-after", POLL_SECONDS.into());
            response
        }
    }
}
