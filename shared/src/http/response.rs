//! Renders outcomes and problems as responses of API Gateway.

use lambda_http::{
    Body, Request, RequestExt, Response,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use serde_json::{Value, json};
use time::{
    OffsetDateTime,
    format_description::well_known::{
        Iso8601,
        iso8601::{Config, TimePrecision},
    },
};

use super::{Code, Problem};
use crate::domain::{Claim, Ledger, NoSlot, ServerId, Time};

/// Format of timestamps, valid in RFC 3339 and ISO 8601, with exactly three digits after the second.
const MILLISECONDS: Iso8601<{ Config::DEFAULT.set_time_precision(THREE_DIGITS).encode() }> = Iso8601;
const THREE_DIGITS: TimePrecision = TimePrecision::Second { decimal_digits: std::num::NonZeroU8::new(3) };

/// Formats a time as RFC 3339 in UTC, with milliseconds.
pub fn timestamp(time: Time) -> String {
    let nanos = i128::from(time.0) * 1_000_000;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(&MILLISECONDS).unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned())
}

/// Creates an empty response with status 204.
pub fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Creates a response with a JSON body. `no-store`, because a response holds for one caller at one moment.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Interval at which a client should poll while its server starts, in seconds.
pub const POLL_SECONDS: i64 = 1;
/// Time after which a client should repeat a call to a full pool, in seconds.
const FULL_SECONDS: i64 = 5;

/// Creates the response 202: the slot is reserved on a starting server.
pub fn starting(server: &ServerId, expires: Time, retry_after_seconds: i64) -> Response<Body> {
    let body = json!({
        "status": "starting",
        "server": { "id": server.as_str() },
        "expiresAt": timestamp(expires),
        "retryAfterSeconds": retry_after_seconds,
    });
    let mut response = json(StatusCode::ACCEPTED, &body);
    response.headers_mut().insert(RETRY_AFTER, retry_after_seconds.into());
    response
}

/// Renders a claim of a ledger for operators.
pub fn claim_view(ledger: &Ledger, claim: Claim, now: Time) -> Value {
    json!({
        "state": if claim.is_connected() { "connected" } else { "reserved" },
        "placement": claim.placement().get(),
        "live": !ledger.is_over(claim, now),
        "expiresAt": ledger.expires(claim).map(timestamp),
    })
}

/// Creates the problem `launch_paused`: no server is started until `until`.
pub fn launch_paused(until: Time, now: Time) -> Problem {
    let why = "No server is started now: servers have failed to start repeatedly, or an operator has paused launching.";
    let detail = format!("{why} Ask again at {}.", timestamp(until));
    Problem::new(Code::LaunchPaused, detail).retry_after((until - now).whole_seconds_up())
}

/// Creates the problem for a join that found no slot.
pub fn no_slot(reason: NoSlot, now: Time) -> Problem {
    match reason {
        NoSlot::PoolFull => {
            let detail = "Every server of the pool is full, and no more may be started.";
            Problem::new(Code::PoolFull, detail).retry_after(FULL_SECONDS)
        }
        NoSlot::LaunchPaused(until) => launch_paused(until, now),
        NoSlot::Busy => Problem::busy("the request lost too many races"),
    }
}

/// Creates the problem `method_not_allowed`. `allowed` lists the methods of the route.
pub fn method_not_allowed(allowed: &str) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("This route takes {allowed}."))
}

/// Renders the outcome of a handler as a response, and writes one log record for the call.
pub fn answer(request: &Request, outcome: Result<Response<Body>, Problem>) -> Response<Body> {
    let context = request.lambda_context_ref();
    let request_id = context.map_or("", |context| context.request_id.as_str());
    let (method, path) = (request.method().as_str(), request.uri().path());
    match outcome {
        Ok(response) => {
            tracing::info!(request_id, method, path, status = response.status().as_u16(), "http: request answered");
            response
        }
        Err(problem) => {
            let (status, code) = (problem.code.status(), problem.code.as_str());
            let internals = problem.internals.as_deref();
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(
                    request_id,
                    method,
                    path,
                    status = status.as_u16(),
                    code,
                    internals,
                    "http: request failed"
                );
            } else {
                tracing::info!(
                    request_id,
                    method,
                    path,
                    status = status.as_u16(),
                    code,
                    internals,
                    "http: request refused"
                );
            }
            render(&problem, request_id)
        }
    }
}

fn render(problem: &Problem, request_id: &str) -> Response<Body> {
    let status = problem.code.status();
    let mut body = json!({
        "type": format!("urn:owmm:problem:{}", problem.code.as_str()),
        "title": problem.code.title(),
        "status": status.as_u16(),
        "detail": problem.detail,
        "code": problem.code.as_str(),
        "requestId": request_id,
    });
    if let (Some(body), false) = (body.as_object_mut(), problem.players.is_empty()) {
        let players = problem.players.iter().map(|player| player.as_str().into()).collect::<Vec<Value>>();
        body.insert("players".to_owned(), players.into());
    }
    let mut response = json(status, &body);
    // Read by `telemetry` for the call's metrics record.
    response.extensions_mut().insert(problem.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.code == Code::Unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if problem.code == Code::MethodNotAllowed {
        let allowed = problem.detail.trim_start_matches("This route takes ").trim_end_matches('.');
        if let Ok(value) = HeaderValue::from_str(allowed) {
            headers.insert(ALLOW, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_exactly_three_digits_after_the_second() {
        let timestamps = [0, 1_795_652_385_238, 1_795_652_385_200, 1_795_652_385_000].map(|ms| timestamp(Time(ms)));
        let expected = [
            "1970-01-01T00:00:00.000Z",
            "2026-11-26T00:19:45.238Z",
            "2026-11-26T00:19:45.200Z",
            "2026-11-26T00:19:45.000Z",
        ];
        assert_eq!(timestamps, expected);
    }
}
