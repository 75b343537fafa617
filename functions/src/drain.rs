//! `POST /servers/{serverId}/drain`: an operator drains a server: no new players, and it stops when empty.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm,
    domain::{ServerId, Span},
    http::{Body, Code, Problem, Request, Response, answer, json, json_body, operator, path, present, timestamp},
};

/// Longest time that a drain may give connected players to leave, in seconds: one day.
const MAX_DEADLINE_SECONDS: i64 = 86_400;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    #[serde(default, deserialize_with = "present")]
    deadline_seconds: Option<i64>,
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
    let server = path(request, "serverId", ServerId::parse)?;
    let params = json_body::<Params>(request)?.unwrap_or_default();
    let deadline = params.deadline_seconds;
    if deadline.is_some_and(|seconds| !(0..=MAX_DEADLINE_SECONDS).contains(&seconds)) {
        return Err(Problem::new(Code::InvalidBody, "`deadlineSeconds` must be 0 to 86400."));
    }
    let ledger = owmm.drain(&server, deadline.map(|seconds| Span(seconds * 1_000))).await??;
    Ok(json(
        StatusCode::OK,
        &json!({
            "state": ledger.state.as_str(),
            "connected": ledger.connected(),
            "reserved": ledger.reserved(owmm.time()),
            "deadline": ledger.drain_by.map(timestamp),
        }),
    ))
}
