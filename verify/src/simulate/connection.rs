//! Where players meet game servers.

use std::sync::Arc;

use shared::domain::PlayerId;
use tokio::sync::oneshot;

use super::flag::Flag;

/// A game server's process, as players know it.
pub(super) trait Entrance: Send + Sync {
    /// A player connects.
    fn connect(self: Arc<Self>, player: PlayerId, ticket: String) -> Connection;
}

/// A player's side of a connection.
pub(super) struct Connection {
    /// Whether the player is let in; closed when the server dies.
    pub(super) admitted: oneshot::Receiver<bool>,
    /// A polite disconnect, with the seconds that the slot is to be held; dropped without one, the connection is lost.
    pub(super) leave: oneshot::Sender<Option<u64>>,
    /// Set when the server has died.
    pub(super) dead: Flag,
}

impl Connection {
    /// Waits for the end of the server.
    pub(super) async fn over(&self) {
        self.dead.wait().await;
    }
}
