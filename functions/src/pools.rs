//! `GET /pools`, `GET` and `PUT /pools/{pool}`, `POST /pools/{pool}/pause` and `resume`: operators read and configure
//! pools, and pause their launches.

use std::convert::Infallible;

use lambda_http::{RequestExt, http::StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use shared::{
    Owmm, Pool, TaskSettings,
    domain::{Bound, PoolLimits, PoolName, PoolStatus, Rollout, Span, Time, UNTIL_RESUMED},
    http::{
        Body, Code, Method, Problem, Request, Response, answer, json, json_body, method_not_allowed, object, operator,
        path, present, resource, timestamp,
    },
};

/// Range of a pause of launches, in seconds. A pause without `seconds` lasts until `resume`.
const PAUSE_SECONDS: Bound = Bound { name: "seconds", least: 1, most: 604_800, default: 0 };

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    #[serde(default, deserialize_with = "present")]
    seconds: Option<i64>,
}

/// Settings of a pool in a request or response body. An omitted field has its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    #[serde(default = "capacity")]
    capacity: i64,
    #[serde(default = "max_servers")]
    max_servers: i64,
    #[serde(default = "concurrent_launches")]
    concurrent_launches: i64,
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
    #[serde(default, deserialize_with = "task")]
    task: Option<TaskSettings>,
}

fn task<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TaskSettings>, D::Error> {
    object(deserializer).map(Some)
}

macro_rules! defaults {
    ($($name:ident = $bound:ident;)*) => { $(const fn $name() -> i64 { Bound::$bound.default })* };
}

defaults! {
    capacity = CAPACITY;
    max_servers = MAX_SERVERS;
    concurrent_launches = CONCURRENT_LAUNCHES;
    headroom = HEADROOM;
    idle_seconds = IDLE_SECONDS;
    reservation_seconds = RESERVATION_SECONDS;
    launch_seconds = LAUNCH_SECONDS;
    lease_seconds = LEASE_SECONDS;
}

impl Params {
    /// Checks every value and returns the pool `name` with these settings. `task` replaces an omitted `task`.
    ///
    /// # Errors
    /// A value is out of range, and the error names it; or `task` is missing in both.
    pub fn parse(self, name: PoolName, task: Option<TaskSettings>) -> Result<Pool, String> {
        let count = |bound: Bound, value| bound.count(value);
        let span = |bound: Bound, value| bound.count(value).map(Span::seconds);
        let limits = PoolLimits {
            capacity: count(Bound::CAPACITY, self.capacity)?,
            max_servers: count(Bound::MAX_SERVERS, self.max_servers)?,
            concurrent_launches: count(Bound::CONCURRENT_LAUNCHES, self.concurrent_launches)?,
            headroom: count(Bound::HEADROOM, self.headroom)?,
            idle: span(Bound::IDLE_SECONDS, self.idle_seconds)?,
            reservation: span(Bound::RESERVATION_SECONDS, self.reservation_seconds)?,
            launch: span(Bound::LAUNCH_SECONDS, self.launch_seconds)?,
            lease: span(Bound::LEASE_SECONDS, self.lease_seconds)?,
        };
        let task = self.task.or(task).ok_or("`task` is missing.")?;
        task.check()?;
        // `version`, `build` and `previous_clusters` come from the table when the pool is written.
        Ok(Pool {
            name,
            limits,
            task,
            rollout: self.rollout,
            version: 0,
            build: 0,
            shards: limits.concurrent_launches,
            previous_clusters: Vec::new(),
        })
    }

    fn of(pool: &Pool) -> Self {
        let limits = &pool.limits;
        let seconds = Span::whole_seconds_up;
        Self {
            capacity: limits.capacity.into(),
            max_servers: limits.max_servers.into(),
            concurrent_launches: limits.concurrent_launches.into(),
            headroom: limits.headroom.into(),
            idle_seconds: seconds(limits.idle),
            reservation_seconds: seconds(limits.reservation),
            launch_seconds: seconds(limits.launch),
            lease_seconds: seconds(limits.lease),
            rollout: pool.rollout,
            task: Some(pool.task.clone()),
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
    match resource(request) {
        Some("pause" | "resume") if *request.method() != Method::POST => Err(method_not_allowed("POST")),
        Some("pause") => {
            let name = name(request)?;
            let within = json_body::<Pause>(request)?.unwrap_or_default().seconds;
            let within = within.map(|seconds| PAUSE_SECONDS.count(seconds).map(Span::seconds)).transpose();
            let within = within.map_err(|error| Problem::new(Code::InvalidBody, error))?;
            shown(owmm, owmm.pause(&name, within).await?)
        }
        Some("resume") => shown(owmm, owmm.resume(&name(request)?).await?),
        _ => pool(owmm, request).await,
    }
}

async fn pool(owmm: &Owmm, request: &Request) -> Result<Response<Body>, Problem> {
    let all = request.path_parameters_ref().is_none_or(|parameters| parameters.first("pool").is_none());
    match *request.method() {
        Method::GET if all => {
            let now = owmm.time();
            let pools = owmm.pools().await?;
            let pools = pools.iter().map(|(pool, status)| view(pool, status, now)).collect::<Vec<_>>();
            Ok(json(StatusCode::OK, &json!({ "pools": pools })))
        }
        _ if all => Err(method_not_allowed("GET")),
        Method::GET => shown(owmm, owmm.pool_and_status(&name(request)?).await?),
        Method::PUT => {
            let name = name(request)?;
            let params = json_body::<Params>(request)?;
            let params = params.ok_or_else(|| Problem::new(Code::InvalidBody, "Send a body with at least `task`."))?;
            let params = params.parse(name.clone(), None).map_err(|error| Problem::new(Code::InvalidBody, error))?;
            owmm.configure(params).await?;
            shown(owmm, owmm.pool_and_status(&name).await?)
        }
        _ => Err(method_not_allowed("GET, PUT")),
    }
}

fn name(request: &Request) -> Result<PoolName, Problem> {
    path(request, "pool", PoolName::parse)
}

fn shown(owmm: &Owmm, (pool, status): (Pool, PoolStatus)) -> Result<Response<Body>, Problem> {
    Ok(json(StatusCode::OK, &view(&pool, &status, owmm.time())))
}

fn view(pool: &Pool, status: &PoolStatus, now: Time) -> Value {
    let by_operator = status.operator_pause(now);
    json!({
        "name": pool.name.as_str(),
        "settings": Params::of(pool),
        "build": pool.build,
        "liveServers": status.live,
        "failedLaunches": status.failures,
        "launchPausedUntil": status.backoff_until.map(timestamp),
        "operatorPause": by_operator.map(|until| {
            json!({ "until": (until < UNTIL_RESUMED).then(|| timestamp(until)) })
        }),
    })
}
