//! The local gateway: replaces API Gateway's HTTP API on loopback.
//!
//! The gateway converts an HTTP request into the event that API Gateway would send (payload format 2.0), invokes the
//! function of the route, in this process or at a Lambda endpoint, and converts the response back. It does not depend
//! on what the functions do.
//!
//! The authorizers are for a laptop only and check nothing: `Authorization: Bearer ID` sets the player's `sub` to `ID`,
//! and any `Authorization: AWS4-HMAC-SHA256 ...` counts as signed by an operator.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body as HttpBody, to_bytes},
    extract::{ConnectInfo, Request as HttpRequest, State},
    http::{
        HeaderMap, Method,
        header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
    },
    response::Response as HttpResponse,
    routing::get,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use functions::{Function, Handler};
use lambda_http::{Context, RequestExt, request::from_str};
use serde_json::{Value, json};
use shared::{
    Owmm,
    http::{Body, Code, Problem, Request, Response, answer},
};
use tokio::sync::Semaphore;

use crate::{iam::acting_as, remote::Remote};

/// Longest request body that API Gateway accepts, in bytes ("Quotas for HTTP APIs" in its developer guide).
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
/// Time limit for receiving a whole request body, as at API Gateway.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Most concurrent requests; further requests wait. Stands for an account's Lambda concurrency, sized for a laptop.
const CONCURRENCY: usize = 256;

/// Authorizer of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authorizer {
    /// The JWT authorizer. Here, any bearer token is accepted, and is the `sub`.
    Jwt,
    /// IAM. Here, any `Authorization: AWS4-HMAC-SHA256 ...` is accepted.
    Iam,
    /// None at the gateway: the function checks the server's token.
    None,
}

/// Every route: method, path, authorizer and function.
static ROUTES: &[(&str, &str, Authorizer, &Function)] = &[
    ("POST", "/join", Authorizer::Jwt, &functions::JOIN),
    ("DELETE", "/join", Authorizer::Jwt, &functions::JOIN),
    ("PUT", "/servers/{serverId}", Authorizer::None, &functions::REGISTER_SERVER),
    ("DELETE", "/servers/{serverId}", Authorizer::None, &functions::DEREGISTER_SERVER),
    ("POST", "/servers/{serverId}/heartbeat", Authorizer::None, &functions::HEARTBEAT),
    ("POST", "/servers/{serverId}/drain", Authorizer::Iam, &functions::DRAIN),
    ("GET", "/pools", Authorizer::Iam, &functions::POOLS),
    ("GET", "/pools/{pool}", Authorizer::Iam, &functions::POOLS),
    ("PUT", "/pools/{pool}", Authorizer::Iam, &functions::POOLS),
    ("POST", "/pools/{pool}/pause", Authorizer::Iam, &functions::POOLS),
    ("POST", "/pools/{pool}/resume", Authorizer::Iam, &functions::POOLS),
    ("POST", "/pools/{pool}/launch", Authorizer::Iam, &functions::LAUNCH),
    ("GET", "/pools/{pool}/servers", Authorizer::Iam, &functions::SERVERS),
    ("GET", "/servers/{serverId}", Authorizer::Iam, &functions::SERVERS),
    ("GET", "/players/{playerId}", Authorizer::Iam, &functions::PLAYERS),
    ("DELETE", "/players/{playerId}", Authorizer::Iam, &functions::PLAYERS),
    ("POST", "/pools/{pool}/join", Authorizer::Iam, &functions::PARTY),
    ("PUT", "/servers/{serverId}/players/{playerId}", Authorizer::None, &functions::REGISTER_PLAYER),
    ("DELETE", "/servers/{serverId}/players/{playerId}", Authorizer::None, &functions::DEREGISTER_PLAYER),
];

/// The HTTP contract. The local stack serves it at `/openapi.yaml`, a path that does not exist on AWS.
const CONTRACT: &str = include_str!("../../../openapi.yaml");

#[derive(Debug)]
struct Gateway {
    owmm: Owmm,
    functions: Option<Remote>,
    requests: AtomicU64,
    permits: Semaphore,
}

/// Returns the gateway for the functions in this process, for callers without a socket.
pub fn in_process(owmm: Owmm) -> Router {
    router(owmm, None)
}

/// Returns the gateway for the functions at the Lambda endpoint `functions`, or in this process without one.
pub(crate) fn router(owmm: Owmm, functions: Option<Remote>) -> Router {
    let gateway = Gateway { owmm, functions, requests: AtomicU64::new(0), permits: Semaphore::new(CONCURRENCY) };
    Router::new().route("/openapi.yaml", get(contract).fallback(serve)).fallback(serve).with_state(Arc::new(gateway))
}

async fn contract() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/yaml")], CONTRACT)
}

/// Returns method, path and function of every route, for comparison with the documents.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str, &'static Function)> {
    ROUTES.iter().map(|(method, path, _, function)| (*method, *path, *function))
}

/// Returns the path parameters of `path`, or `None` if `path` does not match `pattern`.
fn matching<'a>(pattern: &'a str, path: &'a str) -> Option<HashMap<&'a str, &'a str>> {
    let (mut parts, mut names) = (path.split('/'), pattern.split('/'));
    let mut parameters = HashMap::new();
    loop {
        match (names.next(), parts.next()) {
            (None, None) => return Some(parameters),
            (Some(name), Some(part)) => match name.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(_) if part.is_empty() => return None,
                Some(name) => {
                    parameters.insert(name, part);
                }
                None if name != part => return None,
                None => {}
            },
            _ => return None,
        }
    }
}

async fn serve(State(gateway): State<Arc<Gateway>>, request: HttpRequest) -> HttpResponse {
    let id = format!("local-{}", gateway.requests.fetch_add(1, Ordering::Relaxed));
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip());
    // The body is read before the permit is acquired, so that a slow sender does not block other requests.
    let body = match tokio::time::timeout(BODY_WITHIN, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(body) => body.ok(),
        Err(_) => return HttpResponse::builder().status(408).body(HttpBody::empty()).unwrap_or_default(),
    };
    let Ok(_permit) = gateway.permits.acquire().await else { return HttpResponse::default() };
    let path = parts.uri.path();
    let matches = ROUTES.iter().filter_map(|route| matching(route.1, path).map(|parameters| (route, parameters)));
    let matches = matches.collect::<Vec<_>>();
    let route = matches.iter().find(|((method, ..), _)| *method == parts.method.as_str());
    let problem = match (route, matches.as_slice()) {
        (Some(((method, pattern, authorizer, function), parameters)), _) => match body {
            Some(body) => {
                let authorized = authorize(*authorizer, &parts.headers);
                let route = format!("{method} {pattern}");
                let event =
                    event(&id, &route, peer, &parts.method, &parts.uri, &parts.headers, parameters, authorized, &body);
                match gateway.answer(function, &event, &id).await {
                    Ok(answered) => return answered,
                    Err(error) => Problem::internal(error),
                }
            }
            None => Problem::new(
                Code::BodyTooLarge,
                "The body is too large: the gateway takes at most 10 MB, and a function at most 192 KiB.",
            ),
        },
        (None, []) => Problem::new(Code::NotFound, "There is no such route. openapi.yaml lists every route."),
        (None, others) => {
            let allowed = others.iter().map(|((method, ..), _)| *method).collect::<Vec<_>>().join(", ");
            shared::http::method_not_allowed(&allowed)
        }
    };
    let mut request = Request::new(Body::Empty);
    (*request.method_mut(), *request.uri_mut()) = (parts.method, parts.uri);
    response(answer(&with_id(request, &id), Err(problem)))
}

fn with_id(request: Request, id: &str) -> Request {
    let mut context = Context::default();
    id.clone_into(&mut context.request_id);
    request.with_lambda_context(context)
}

/// Returns the `authorizer` part of the event, or `None` if the authorizer rejects the caller or the route has none.
fn authorize(authorizer: Authorizer, headers: &HeaderMap) -> Option<Value> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    match authorizer {
        Authorizer::Jwt if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() => {
            Some(json!({ "jwt": { "claims": { "sub": rest }, "scopes": null } }))
        }
        Authorizer::Iam if scheme == "AWS4-HMAC-SHA256" && !rest.is_empty() => Some(json!({
            "iam": {
                "accessKey": "local",
                "accountId": "000000000000",
                "callerId": "local",
                "cognitoIdentity": null,
                "principalOrgId": null,
                "userArn": "arn:aws:iam::000000000000:user/local",
                "userId": "local",
            },
        })),
        Authorizer::Jwt | Authorizer::Iam | Authorizer::None => None,
    }
}

/// Builds the event of API Gateway, payload format 2.0 ("Working with AWS Lambda proxy integrations for HTTP APIs").
#[allow(clippy::too_many_arguments, reason = "each parameter is a part of the event")]
fn event(
    id: &str,
    route: &str,
    peer: IpAddr,
    method: &Method,
    uri: &axum::http::Uri,
    headers: &HeaderMap,
    parameters: &HashMap<&str, &str>,
    authorized: Option<Value>,
    body: &[u8],
) -> Value {
    // API Gateway sets these two headers itself, and `lambda_http` builds the request's URL from them.
    let own = [("host", "localhost"), ("x-forwarded-proto", "https")];
    let headers = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).chain(own);
    #[expect(clippy::disallowed_methods, reason = "only functions must take the time from their clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let (text, is_base64) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (BASE64_STANDARD.encode(body), true),
    };
    let query = uri.query().unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('=')).collect::<HashMap<_, _>>();
    let mut context = json!({
        "accountId": "000000000000",
        "apiId": "local",
        "domainName": "localhost",
        "domainPrefix": "localhost",
        "http": {
            "method": method.as_str(),
            "path": uri.path(),
            "protocol": "HTTP/1.1",
            "sourceIp": peer.to_string(),
            "userAgent": "",
        },
        "requestId": id,
        "routeKey": route,
        "stage": "$default",
        "time": "",
        "timeEpoch": u64::try_from(now).unwrap_or(0),
    });
    if let (Some(authorized), Some(context)) = (authorized, context.as_object_mut()) {
        context.insert("authorizer".to_owned(), authorized);
    }
    json!({
        "version": "2.0",
        "routeKey": route,
        "rawPath": uri.path(),
        "rawQueryString": query,
        "headers": headers.collect::<HashMap<_, _>>(),
        "queryStringParameters": pairs,
        "pathParameters": parameters,
        "requestContext": context,
        "body": if body.is_empty() { Value::Null } else { text.into() },
        "isBase64Encoded": is_base64,
    })
}

impl Gateway {
    async fn answer(&self, function: &'static Function, event: &Value, id: &str) -> Result<HttpResponse, String> {
        let Handler::Http(handle) = function.handler else {
            return Err(format!("the function {} has no HTTP handler", function.name));
        };
        if let Some(functions) = &self.functions {
            return functions.invoke(function.name, event).await;
        }
        let request = from_str(&event.to_string()).map_err(|error| error.to_string())?;
        match acting_as(function.name, handle(&self.owmm, with_id(request, id))).await {
            Ok(answered) => Ok(response(answered)),
        }
    }
}

fn response(response: Response<Body>) -> HttpResponse {
    let (parts, body) = response.into_parts();
    HttpResponse::from_parts(parts, HttpBody::from(body.to_vec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_route_pattern_matches_whole_paths_only_and_returns_their_parameters() {
        let found = matching("/servers/{serverId}/players/{playerId}", "/servers/s1/players/a%7Cb").unwrap();
        assert_eq!(found.get("serverId"), Some(&"s1"));
        assert_eq!(found.get("playerId"), Some(&"a%7Cb"));
        for path in ["/servers", "/servers/", "/servers/s1/", "/servers/s1/players", "/join", "/servers/s1/players/p/x"]
        {
            assert_eq!(matching("/servers/{serverId}/players/{playerId}", path), None, "{path}");
        }
    }

    #[test]
    fn an_event_has_an_authorizer_only_if_the_caller_is_authorized() {
        let uri = "/join?a=b".parse().unwrap();
        let (empty, peer) = ((HeaderMap::new(), HashMap::new()), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let jwt = |sub: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {sub}").parse().unwrap())]);
            authorize(Authorizer::Jwt, &headers)
        };
        let event =
            |authorized| event("1", "POST /join", peer, &Method::POST, &uri, &empty.0, &empty.1, authorized, b"{}");
        assert_eq!(event(jwt("p")).pointer("/requestContext/authorizer/jwt/claims/sub").unwrap(), "p");
        assert_eq!(event(None).pointer("/requestContext/authorizer"), None);
        assert_eq!(event(None).pointer("/queryStringParameters/a").unwrap(), "b");
    }
}
