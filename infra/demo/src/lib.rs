//! The demo game server and the demo player: small working examples of both sides of OWMM's API.
//!
//! [`server`] is the example of a dedicated game server. A game server has six duties:
//!
//! 1. **Register** when the socket is open: `PUT /servers/{id}` with the address that players can reach.
//! 2. **Send a heartbeat** every `heartbeatSeconds` with the connected players. The answer has the state that OWMM
//!    wants, and in `unknown` the players that OWMM counts as connected and the list lacks: disconnect them if they are
//!    not connected.
//! 3. **Check the ticket** of a player. This needs no call: the key is derived from the server's own token.
//! 4. **Register the player** with the ticket, and let the player in only after a 200.
//! 5. **Disconnect** each player who leaves, and **deregister** the server when it ends.
//! 6. **Make one call at a time per player**: send the next call after the answer to the previous one, and repeat a
//!    call until it is answered. `server/roster.rs` shows how.
//!
//! [`player`] is the game client: it joins over HTTP, waits while a server starts, connects, plays and leaves.
//!
//! Like your own game, this crate depends only on the HTTP contract and shares no code with OWMM.

mod http;
mod line;
pub mod player;
mod secret;
pub mod server;

pub use http::{Failure, Problem, http_client};
pub use secret::Secret;
