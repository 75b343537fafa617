//! The real handlers of the functions, with a table and an ECS that never answer. Every request must be refused or
//! answered `busy`, and none may panic.

use std::sync::OnceLock;

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use functions::{drain, heartbeat, join, launch, party, pools, register_player, register_server};
use lambda_http::{RequestExt, request::RequestContext};
use serde_json::json;
use shared::{
    Owmm,
    clock::{Clock, Rng},
    config::{Config, assemble},
    domain::PoolName,
    http::{Body, Request},
};

/// An HTTP connector that fails every request to AWS.
#[derive(Debug)]
struct Unreachable;

impl HttpConnector for Unreachable {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Err(ConnectorError::io("the fuzz target has no AWS".into())))
    }
}

fn owmm() -> &'static Owmm {
    static OWMM: OnceLock<Owmm> = OnceLock::new();
    OWMM.get_or_init(|| {
        macro_rules! client {
            ($sdk:ident) => {{
                let credentials = $sdk::config::Credentials::new("any", "any", None, None, "fuzz");
                let config = $sdk::Config::builder()
                    .behavior_version($sdk::config::BehaviorVersion::v2026_01_12())
                    .region($sdk::config::Region::from_static("any"))
                    .credentials_provider(credentials)
                    .retry_config($sdk::config::retry::RetryConfig::disabled())
                    .http_client(http_client_fn(|_, _| SharedHttpConnector::new(Unreachable)));
                $sdk::Client::from_conf(config.build())
            }};
        }
        let pool = PoolName::parse("default").expect("a pool's name");
        let config = Config { table: "owmm".to_owned(), default_pool: pool };
        let (dynamodb, ecs) = (client!(aws_sdk_dynamodb), client!(aws_sdk_ecs));
        assemble(config, dynamodb, ecs, Clock::system(), Rng::seeded(1))
    })
}

/// Methods and paths of all routes that take a body.
pub const ROUTES: &[(&str, &str)] = &[
    ("POST", "/join"),
    ("POST", "/pools/default/join"),
    ("POST", "/pools/default/launch"),
    ("POST", "/pools/default/pause"),
    ("PUT", "/pools/default"),
    ("PUT", "/servers/s1"),
    ("POST", "/servers/s1/heartbeat"),
    ("POST", "/servers/s1/drain"),
    ("PUT", "/servers/s1/players/p1"),
];

/// The bearer token that [`call`] sends as a game server.
pub const TOKEN: &str = "token";

/// Calls a route with a body, asserts that the status is one of those in the contract for a refusal, and returns it.
pub fn call((method, path): (&str, &str), body: &[u8]) -> u16 {
    let body = match std::str::from_utf8(body) {
        Ok(text) => Body::Text(text.to_owned()),
        Err(_) => Body::Binary(body.to_vec()),
    };
    let mut request = Request::new(body);
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = path.parse().expect("a path");
    if path.starts_with("/servers/") && !path.ends_with("/drain") {
        request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("a header"));
    }
    let parameters = [("serverId", "s1"), ("playerId", "p1"), ("pool", "default")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
    let request = request
        .with_path_parameters(std::collections::HashMap::from(parameters))
        .with_request_context(RequestContext::ApiGatewayV2(authorized()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let response = runtime.block_on(async {
        let owmm = owmm();
        match (method, path) {
            (_, "/join") => join::handle(owmm, request).await,
            (_, "/pools/default/join") => party::handle(owmm, request).await,
            (_, "/pools/default/launch") => launch::handle(owmm, request).await,
            ("PUT", "/pools/default") | (_, "/pools/default/pause") => pools::handle(owmm, request).await,
            ("PUT", "/servers/s1") => register_server::handle(owmm, request).await,
            (_, "/servers/s1/heartbeat") => heartbeat::handle(owmm, request).await,
            (_, "/servers/s1/drain") => drain::handle(owmm, request).await,
            _ => register_player::handle(owmm, request).await,
        }
    });
    let status = match response {
        Ok(response) => response.status().as_u16(),
    };
    assert!(matches!(status, 400 | 403 | 413 | 503), "{method} {path}: {status}");
    status
}

fn authorized() -> lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext {
    let context = json!({
        "accountId": "0", "apiId": "any", "stage": "$default", "routeKey": "any", "requestId": "1", "timeEpoch": 0,
        "http": { "method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "" },
        "authorizer": {
            "jwt": { "claims": { "sub": "p1" }, "scopes": null },
            "iam": { "userArn": "any" },
        },
    });
    serde_json::from_value(context).expect("API Gateway's context")
}
