//! The edge: requests are parsed into types here, once, and answers and refusals are rendered here, once.
//!
//! Owns the HTTP words (bodies, headers, problem codes). Never touches the table. What a handler gets from here is in
//! range, and what it returns is `Infallible` to the runtime: an SDK error has no way to leak out.

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
