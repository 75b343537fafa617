//! OWMM, Open World Matchmaking: one HTTP call places a player on a dedicated game server.
//!
//! | module | owns | does not know |
//! |---|---|---|
//! | [`domain`], a crate of its own | the rules for slots and servers, the protocols | AWS, HTTP, the clock |
//! | [`pool`] | a pool as operators configure it | AWS, HTTP |
//! | [`table`] | keys, items, expressions, DynamoDB | HTTP, ECS |
//! | [`launching`] | starting and stopping servers, ECS | HTTP |
//! | [`hints`] | what a warm process remembers between calls | HTTP, ECS |
//! | `app` | the operations, which perform protocols, and the reconcile run | HTTP, the layout of items |
//! | [`http`] | parsing requests, rendering responses, problem codes | the table |
//! | [`ticket`] | the signed ticket that a player presents to a server | every other module but the domain |
//! | [`metrics`] | names of metrics, and the log line that carries them | what is measured |
//! | [`telemetry`] | JSON logs, one metrics record per call, counting of DynamoDB requests | the domain's rules |
//! | [`clock`] | the time and the random numbers of a process | the domain's rules |
//! | [`config`] | environment variables, and the AWS clients built from them | the domain's rules |
//! | `sdk_error` | the text of an AWS SDK error, free of secrets | the operation that failed |
//!
//! [`Owmm`] combines these modules: it has one method per operation, and a function's handler calls that method.

mod app;
pub mod clock;
pub mod config;
pub mod hints;
pub mod http;
pub mod launching;
pub mod metrics;
pub mod pool;
mod sdk_error;
pub mod table;
pub mod telemetry;
pub mod ticket;

pub use app::{
    Failure, Heartbeat, JoinOutcome, LaunchOutcome, Owmm, PartyOutcome, PlayerView, Reconciled, Registered,
    ServerOutcome, Slot, UnknownPlayer,
};
pub use domain;
pub use pool::{Pool, TaskSettings};
