//! The local stack: one command runs all of OWMM on a laptop.
//!
//! The functions are the same code as on AWS and call the real SDK over real sockets. Only the services differ:
//!
//! | on AWS | here |
//! |---|---|
//! | API Gateway | [`gateway`]: the same events, authorizers that accept every caller |
//! | DynamoDB | [`engine`]: an embedded engine, in memory or in a file; or any DynamoDB endpoint |
//! | ECS | the crate `ecs`: the same protocol, real processes |
//! | IAM | [`iam`]: rejects calls that the function's role in `template.yaml` does not allow |
//!
//! [`stack`] connects the parts, [`play`] plays both flows, [`cli`] is the command line, and [`log`] formats the log on
//! stderr. Every port is on loopback only.

pub mod cli;
pub mod engine;
mod error;
pub mod gateway;
pub mod iam;
pub mod log;
pub mod play;
mod pools_file;
mod remote;
pub mod stack;
pub mod template;

pub use error::Error;
pub use stack::{Options, Stack};
