//! The HTTP edge: parses requests into the domain's types, and renders responses and refusals.
//!
//! Owns bodies, headers and problem codes. Never calls the table. Every value that a handler gets from here is in
//! range, and a handler's error type is `Infallible`, so the text of an SDK error cannot reach a client.

mod bad_json;
mod problem;
mod request;
mod response;

pub use bad_json::BadJson;
pub use lambda_http::{Body, Request, Response, http::Method};
pub use problem::{Code, Problem};
pub use request::{
    MAX_BODY_BYTES, bearer, body, json_body, object, operator, parse_object, path, player, present, query, query_text,
    resource, server_token, source_address,
};
pub use response::{
    POLL_SECONDS, answer, claim_view, json, launch_paused, method_not_allowed, no_content, no_slot, starting, timestamp,
};
