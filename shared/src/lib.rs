//! OWMM, Open World Matchmaking: one call puts a player into a world.
//!
//! | module | owns | does not know |
//! |---|---|---|
//! | [`domain`], a crate of its own | what may happen to a slot | AWS, HTTP, the clock |
//! | [`table`] | keys, items, expressions, DynamoDB | HTTP, ECS |
//! | [`launching`] | starting servers, ECS | HTTP |
//! | `reconcile` | looking after the fleet | HTTP |
//! | [`hints`] | what a warm process remembers | HTTP, ECS |
//! | [`http`] | requests, answers, problem codes | the table |
//! | [`ticket`] | what a player shows to a server | everything else |
//! | [`metrics`] | names of metrics, and their record | what is measured |
//! | [`clock`], [`config`], [`telemetry`] | the surroundings | the domain's rules |
//!
//! [`Owmm`] puts them together: one method an operation, which is what a function's handler calls.

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
