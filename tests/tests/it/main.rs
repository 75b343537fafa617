//! Integration tests with the real AWS SDK, a real DynamoDB engine, real sockets and real processes.
//!
//! With `OWMM_TEST_DYNAMODB=URL` the same tests run on the engine at that URL instead of the embedded one; each test
//! creates its own table there.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking, and its name is its documentation"
)]

mod authority;
mod cli;
mod contract;
mod counts;
mod demo_flows;
mod expressions;
mod fleet;
mod function_list;
mod launches;
mod openapi;
mod operators;
mod parties;
mod placements;
mod races;
mod reconcile_crash;
mod reconnect;
mod reply;
mod rollouts;
mod support;
mod telemetry;
mod template;
mod warm;
