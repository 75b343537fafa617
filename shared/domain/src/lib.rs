//! The rules of matchmaking, without input and output.
//!
//! This crate owns the rules of a slot: which player holds it, until when, which write may change it, and what the
//! table makes of that write. It knows neither AWS nor HTTP, reads no clock and draws no random number: times and
//! random values are arguments, so a test or a model checker can run exactly this code.
//!
//! The crate has three kinds of types:
//!
//! * **images** ([`Ledger`], [`Seat`], [`Frontier`], [`PoolStatus`]): an item of the table as it was read;
//! * **writes** ([`LedgerWrite`], [`SeatWrite`], …): one conditional write as data. `apply` returns what the table
//!   makes of the write; `shared::table` renders the same value as a DynamoDB expression;
//! * **protocols** ([`Join`], [`Party`], [`Connect`], [`Disconnect`], [`CancelReservation`], [`Release`]): the life of
//!   a placement as state machines. Each takes the reply to its last call and returns the next call. A function that is
//!   killed between two calls is a protocol that receives no further reply.
pub mod bug;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod fixtures;
mod frontier;
mod ids;
mod ledger;
mod pool;
mod pool_status;
mod protocols;
mod repair;
mod seat;
mod time;

pub use frontier::{Frontier, FrontierWrite, MAX_FREED};
pub use ids::{BadId, PlayerId, PoolName, ServerId, TokenHash};
pub use ledger::{
    Claim, Due, Endpoint, Fill, Launch, Ledger, LedgerWrite, MAX_EVICTIONS, MAX_LAUNCH_ATTEMPTS, REPEAT_CALL_AFTER,
    Rank, Registration, ServerState, StopBy, fill,
};
pub use pool::{Bound, PoolBuild, PoolLimits, Rollout};
pub use pool_status::{NoLaunch, PAUSE_AFTER_FAILURES, PoolStatus, PoolStatusWrite, UNTIL_RESUMED, pause_after};
pub use protocols::{
    Answer, CancelReservation, Connect, Connected, Disconnect, Disconnected, Effect, Hint, Join, Joined, NoSlot, Party,
    PartyJoined, Placed, PresentedTicket, Protocol, Release, Released, Reply, Step, TakenSlots, Together,
};
pub use repair::{Repair, StopReason, TaskStatus, is_mass_lapse, servers_wanted};
pub use seat::{Assignment, ExpectedSeat, Seat, SeatWrite};
pub use time::{Placement, Span, Time};
