//! The demo game server and the demo player: the smallest real programs on either side of OWMM.
//!
//! Read [`server`] as the example of how a dedicated server integrates. All of it comes down to six duties:
//!
//! 1. **Register** once the socket is open: `PUT /servers/{id}` with the address that players can reach.
//! 2. **Beat** every `heartbeatSeconds`, telling who is inside. The answer says which state OWMM wants, and which
//!    players it believes inside that the list lacks: disconnect those that really are not there.
//! 3. **Check the ticket** that a player presents. This needs no call: it is signed with what the server was started with.
//! 4. **Register the player** with that ticket, and let the player in only when OWMM has said yes.
//! 5. **Say disconnect** for each player who leaves, and for the server itself when it ends.
//! 6. **One call at a time about one player**: the next goes out only when the last has been answered, and a call
//!    without an answer is repeated until it has one. `server/roster.rs` shows what that takes.
//!
//! [`player`] is the other side: join over HTTP, wait while a server starts, connect, play a moment, leave.
//!
//! This crate knows OWMM by its HTTP contract alone and shares no code with it, just like a game of yours would.

mod http;
mod line;
pub mod player;
mod secret;
pub mod server;

pub use http::{Failure, Problem, http_client};
pub use secret::Secret;
