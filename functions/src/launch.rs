//! `POST /pools/{pool}/launch`: an operator starts servers ahead of demand.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    LaunchOutcome, Owmm,
    domain::{Bound, NoLaunch, PoolName},
    http::{Body, Code, Problem, Request, Response, answer, json, json_body, launch_paused, operator, path, present},
};

/// Range and default of `atLeast`, the number of live servers to reach.
///
/// The body has a target and no increment, because a repeated call with an increment would start more servers again.
const AT_LEAST: Bound = Bound { name: "atLeast", default: 1, ..Bound::MAX_SERVERS };

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    #[serde(default, deserialize_with = "present")]
    at_least: Option<i64>,
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
    let params = json_body::<Params>(request)?.unwrap_or_default();
    let at_least = AT_LEAST.count(params.at_least.unwrap_or(AT_LEAST.default));
    let at_least = at_least.map_err(|error| Problem::new(Code::InvalidBody, error))?;
    match owmm.launch(&pool, at_least).await? {
        LaunchOutcome::Started { started, live } => Ok(json(
            StatusCode::OK,
            &json!({
                "started": started.iter().map(|server| server.as_str()).collect::<Vec<_>>(),
                "liveServers": live,
                "missing": at_least.saturating_sub(live),
            }),
        )),
        LaunchOutcome::No(NoLaunch::Paused(until)) => Err(launch_paused(until, owmm.time())),
        LaunchOutcome::No(NoLaunch::AtMaximum) => Err(Problem::new(
            Code::AtMaximum,
            "`atLeast` is higher than the pool's `maxServers`. Lower `atLeast`, or raise `maxServers`.",
        )),
        LaunchOutcome::Busy => Err(Problem::busy("every retry lost against concurrent launches and stops in the pool")),
    }
}
