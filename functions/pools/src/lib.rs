//! `GET /pools`, `GET` and `PUT /pools/{pool}`, `GET /pools/{pool}/servers`: operators configure pools and look at them.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::{
    Owmm,
    domain::{Bound, Fleet, Ledger, Pool, PoolLimits, PoolName, Rollout, ServerId, Span, TaskPlacement, Time},
    http::{
        Body, Code, Method, Problem, Request, Response, answer, json, json_body, method_not_allowed, operator, path,
        query_text, timestamp,
    },
};

/// A pool as operators write it. What is not said has its default.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wish {
    #[serde(default = "capacity")]
    capacity: i64,
    #[serde(default = "max_servers")]
    max_servers: i64,
    #[serde(default = "frontiers")]
    frontiers: i64,
    #[serde(default = "headroom")]
    headroom: i64,
    #[serde(default = "idle_seconds")]
    idle_seconds: i64,
    #[serde(default = "reservation_seconds")]
    reservation_seconds: i64,
    #[serde(default = "launch_seconds")]
    launch_seconds: i64,
    #[serde(default = "lease_seconds")]
    lease_seconds: i64,
    #[serde(default)]
    rollout: Rollout,
    task: TaskPlacement,
}

macro_rules! defaults {
    ($($name:ident = $bound:ident;)*) => { $(const fn $name() -> i64 { Bound::$bound.default })* };
}

defaults! {
    capacity = CAPACITY;
    max_servers = MAX_SERVERS;
    frontiers = FRONTIERS;
    headroom = HEADROOM;
    idle_seconds = IDLE_SECONDS;
    reservation_seconds = RESERVATION_SECONDS;
    launch_seconds = LAUNCH_SECONDS;
    lease_seconds = LEASE_SECONDS;
}

impl Wish {
    /// The pool that is wished for, if every value is in its range.
    fn parse(self, name: PoolName) -> Result<Pool, Problem> {
        let bad = |error: String| Problem::new(Code::InvalidBody, error);
        let count = |bound: Bound, value| bound.count(value).map_err(bad);
        let span = |bound: Bound, value| bound.count(value).map(Span::seconds).map_err(bad);
        let limits = PoolLimits {
            capacity: count(Bound::CAPACITY, self.capacity)?,
            max_servers: count(Bound::MAX_SERVERS, self.max_servers)?,
            frontiers: count(Bound::FRONTIERS, self.frontiers)?,
            headroom: count(Bound::HEADROOM, self.headroom)?,
            idle: span(Bound::IDLE_SECONDS, self.idle_seconds)?,
            reservation: span(Bound::RESERVATION_SECONDS, self.reservation_seconds)?,
            launch: span(Bound::LAUNCH_SECONDS, self.launch_seconds)?,
            lease: span(Bound::LEASE_SECONDS, self.lease_seconds)?,
        };
        self.task.check().map_err(bad)?;
        // Which generation it is, the table says.
        Ok(Pool { name, limits, task: self.task, rollout: self.rollout, generation: 0 })
    }

    fn of(pool: &Pool) -> Self {
        let limits = &pool.limits;
        let seconds = Span::whole_seconds_up;
        Self {
            capacity: limits.capacity.into(),
            max_servers: limits.max_servers.into(),
            frontiers: limits.frontiers.into(),
            headroom: limits.headroom.into(),
            idle_seconds: seconds(limits.idle),
            reservation_seconds: seconds(limits.reservation),
            launch_seconds: seconds(limits.launch),
            lease_seconds: seconds(limits.lease),
            rollout: pool.rollout,
            task: pool.task.clone(),
        }
    }
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
    let on_servers = request.uri().path().ends_with("/servers");
    let one = request.uri().path().trim_start_matches('/').contains('/');
    match (request.method(), one, on_servers) {
        (&Method::GET, false, _) => {
            let pools = owmm.pools().await?;
            let pools = pools.iter().map(|(pool, fleet)| shown(pool, fleet)).collect::<Vec<_>>();
            Ok(json(StatusCode::OK, &json!({ "pools": pools })))
        }
        (&Method::GET, true, false) => {
            let (pool, fleet) = owmm.pool_and_fleet(&name(request)?).await?;
            Ok(json(StatusCode::OK, &shown(&pool, &fleet)))
        }
        (&Method::PUT, true, false) => {
            let name = name(request)?;
            let wish = json_body::<Wish>(request)?;
            let wish = wish.ok_or_else(|| Problem::new(Code::InvalidBody, "Send a body with at least `task`."))?;
            let pool = wish.parse(name)?;
            let name = pool.name.clone();
            owmm.configure(pool).await?;
            let (pool, fleet) = owmm.pool_and_fleet(&name).await?;
            Ok(json(StatusCode::OK, &shown(&pool, &fleet)))
        }
        (&Method::GET, true, true) => {
            let after = query_text(request, "after", ServerId::parse)?;
            let (servers, next) = owmm.servers(&name(request)?, after.as_ref()).await?;
            let servers = servers.iter().map(|ledger| server(ledger, owmm.time())).collect::<Vec<_>>();
            Ok(json(StatusCode::OK, &json!({ "servers": servers, "next": next.map(|id| id.to_string()) })))
        }
        (_, false, _) | (_, true, true) => Err(method_not_allowed("GET")),
        (_, true, false) => Err(method_not_allowed("GET, PUT")),
    }
}

fn name(request: &Request) -> Result<PoolName, Problem> {
    path(request, "pool", PoolName::parse)
}

fn shown(pool: &Pool, fleet: &Fleet) -> Value {
    json!({
        "name": pool.name.as_str(),
        "settings": Wish::of(pool),
        "generation": pool.generation,
        "liveServers": fleet.live,
        "failedLaunches": fleet.failures,
        "launchPausedUntil": fleet.paused_until.map(timestamp),
    })
}

fn server(ledger: &Ledger, now: Time) -> Value {
    let connected = ledger.claims.values().filter(|mark| mark.is_connected()).count();
    json!({
        "id": ledger.id.as_str(),
        "state": ledger.state.as_str(),
        "capacity": ledger.capacity,
        "players": connected,
        "reserved": ledger.live_claims(now).saturating_sub(connected),
        "address": ledger.endpoint.as_ref().map(|endpoint| &endpoint.address),
        "port": ledger.endpoint.as_ref().map(|endpoint| endpoint.port),
        "generation": ledger.generation,
        "attempt": ledger.attempt,
        "task": ledger.task,
        "readyAt": ledger.ready_at.map(timestamp),
        "leaseExpiresAt": ledger.lease_until.map(timestamp),
        "drainDeadline": ledger.drain_by.map(timestamp),
        "metadata": ledger.metadata,
    })
}
