//! `GET /servers/{serverId}` and `GET /pools/{pool}/servers`: operators read servers.
//!
//! The response never has the server's token, nor the token's hash, which is the key that signs tickets.

use std::convert::Infallible;

use lambda_http::http::StatusCode;
use serde_json::{Value, json};
use shared::{
    Owmm, ServerOutcome,
    domain::{Ledger, PoolName, ServerId, Time},
    http::{
        Body, Problem, Request, Response, answer, claim_view, json, operator, path, query_text, resource, timestamp,
    },
};

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
    if resource(request) == Some("servers") {
        let pool = path(request, "pool", PoolName::parse)?;
        let after = query_text(request, "after", ServerId::parse)?;
        let (servers, next) = owmm.servers(&pool, after.as_ref()).await?;
        let servers = servers.iter().map(|ledger| summary(ledger, owmm.time())).collect::<Vec<_>>();
        return Ok(json(StatusCode::OK, &json!({ "servers": servers, "next": next.map(|id| id.to_string()) })));
    }
    let server = path(request, "serverId", ServerId::parse)?;
    let ledger = owmm.server(&server).await?.ok_or(ServerOutcome::Unknown)?;
    Ok(json(StatusCode::OK, &whole(&ledger, owmm.time())))
}

fn summary(ledger: &Ledger, now: Time) -> Value {
    json!({
        "id": ledger.id.as_str(),
        "state": ledger.state.as_str(),
        "capacity": ledger.capacity,
        "connected": ledger.connected(),
        "reserved": ledger.reserved(now),
        "address": ledger.endpoint.as_ref().map(|endpoint| &endpoint.address),
        "port": ledger.endpoint.as_ref().map(|endpoint| endpoint.port),
        "build": ledger.build,
        "attempt": ledger.attempt,
        "task": ledger.task,
        "readyAt": ledger.ready_at.map(timestamp),
        "leaseExpiresAt": ledger.lease_until.map(timestamp),
        "drainDeadline": ledger.drain_by.map(timestamp),
        "metadata": ledger.metadata,
    })
}

fn whole(ledger: &Ledger, now: Time) -> Value {
    let mut server = summary(ledger, now);
    let claims = ledger.claims.iter().map(|(player, claim)| {
        let mut claim = claim_view(ledger, *claim, now);
        if let Some(claim) = claim.as_object_mut() {
            claim.insert("player".to_owned(), player.as_str().into());
        }
        claim
    });
    let more = [
        ("pool", ledger.pool.as_str().into()),
        ("claims", claims.collect()),
        ("lastHeartbeatAt", ledger.seen.map(timestamp).into()),
        ("idleSince", ledger.idle_since.map(timestamp).into()),
        ("launchDeadline", ledger.launch.as_ref().map(|launch| timestamp(launch.deadline)).into()),
    ];
    if let Some(server) = server.as_object_mut() {
        server.extend(more.map(|(name, value): (_, Value)| (name.to_owned(), value)));
    }
    server
}
