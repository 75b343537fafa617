//! The local stack: OWMM whole on a laptop, from one command.
//!
//! The functions are the same code as on AWS, with the real SDK in front of real sockets; what differs is behind the wire:
//!
//! | on AWS | here |
//! |---|---|
//! | API Gateway | [`gateway`]: the same events, an authorizer that believes everybody |
//! | DynamoDB | [`engine`]: an embedded engine, in memory or in a file; or any endpoint |
//! | ECS | the crate `ecs`: the same protocol, real processes |
//! | IAM | [`iam`]: a function gets no call that its role in `template.yaml` does not allow |
//!
//! [`stack`] puts them together, [`play`] shows both flows, [`cli`] is what the user types, [`log`] what stderr shows. Everything listens on loopback
//! only.

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
