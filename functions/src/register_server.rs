//! `PUT /servers/{serverId}`: a server has started and says where players find it.

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

/// Slots that a server may have. The bound is what one DynamoDB item bears: docs/internals/costs.md.
const MAX_CAPACITY: u32 = 1_000;
/// Metadata counts towards the size of the ledger, which every claim pays for.
const MAX_METADATA_PAIRS: usize = 8;
const MAX_METADATA_KEY: usize = 32;
const MAX_METADATA_VALUE: usize = 128;
/// For an address: the one that the registration comes from.
const AUTO: &str = "auto";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    address: String,
    port: u16,
    #[serde(default, deserialize_with = "present")]
    capacity: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl TryFrom<Hello> for Registration {
    type Error = Problem;

    fn try_from(hello: Hello) -> Result<Self, Problem> {
        let bad = |what: &str| Err(Problem::new(Code::InvalidBody, what));
        let Hello { address, port, capacity, metadata } = hello;
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
    let hello = json_body::<Hello>(request)?;
    let mut hello = hello.ok_or_else(|| Problem::new(Code::InvalidBody, "Send a body with `address` and `port`."))?;
    if hello.address == AUTO {
        hello.address = source_address(request)?.to_string();
    }
    let registered = owmm.register_server(token, &server, hello.try_into()?).await??;
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
