//! `PUT /servers/{serverId}`: a game server has started and registers its address.

use std::{collections::BTreeMap, convert::Infallible};

use lambda_http::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use shared::{
    Owmm,
    domain::{Endpoint, Registration, ServerId},
    http::{
        Body, Code, Problem, Request, Response, answer, json, json_body, path, present, server_token, source_address,
        timestamp,
    },
};

/// Most slots of one server. The limit is what writes on one DynamoDB item can bear: docs/internals/costs.md.
const MAX_CAPACITY: u32 = 1_000;
/// Most metadata pairs of one server. Metadata adds to the ledger's size, and so to the cost of writing each claim.
const MAX_METADATA_PAIRS: usize = 8;
/// Longest metadata key, in bytes.
const MAX_METADATA_KEY: usize = 32;
/// Longest metadata value, in bytes.
const MAX_METADATA_VALUE: usize = 128;
/// Value of `address` that stands for the source address of the request.
const AUTO: &str = "auto";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    address: String,
    port: u16,
    #[serde(default, deserialize_with = "present")]
    capacity: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl TryFrom<Params> for Registration {
    type Error = Problem;

    fn try_from(params: Params) -> Result<Self, Problem> {
        let bad = |what: &str| Err(Problem::new(Code::InvalidBody, what));
        let Params { address, port, capacity, metadata } = params;
        if !(1..=255).contains(&address.len()) || !address.bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad("`address` must be 1 to 255 printable ASCII characters without blanks.");
        }
        if port == 0 {
            return bad("`port` must be 1 to 65535.");
        }
        if capacity.is_some_and(|capacity| !(1..=MAX_CAPACITY).contains(&capacity)) {
            return bad("`capacity` must be 1 to 1000.");
        }
        let fits = |(key, value): (&String, &String)| {
            (1..=MAX_METADATA_KEY).contains(&key.len()) && value.len() <= MAX_METADATA_VALUE
        };
        if metadata.len() > MAX_METADATA_PAIRS || !metadata.iter().all(fits) {
            return bad("`metadata` must be at most 8 pairs, with keys of 1 to 32 and values of at most 128 bytes.");
        }
        Ok(Self { endpoint: Endpoint { address, port }, capacity, metadata })
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
    let server = path(request, "serverId", ServerId::parse)?;
    let token = server_token(request)?;
    let params = json_body::<Params>(request)?;
    let mut params = params.ok_or_else(|| Problem::new(Code::InvalidBody, "Send a body with `address` and `port`."))?;
    if params.address == AUTO {
        params.address = source_address(request)?.to_string();
    }
    let registered = owmm.register_server(token, &server, params.try_into()?).await??;
    Ok(json(
        StatusCode::OK,
        &json!({
            "state": registered.state.as_str(),
            "capacity": registered.capacity,
            "leaseExpiresAt": timestamp(registered.lease_until),
            "heartbeatSeconds": registered.heartbeat.as_seconds(),
        }),
    ))
}
