//! Connections between players and game servers.

use std::sync::Arc;

use shared::domain::PlayerId;
use tokio::sync::oneshot;

use super::flag::Flag;

/// A game server's process, from the view of a player.
pub(super) trait Entrance: Send + Sync {
    /// Opens a connection for a player with a ticket.
    fn connect(self: Arc<Self>, player: PlayerId, ticket: String) -> Connection;
}

/// A player's side of a connection.
pub(super) struct Connection {
    /// Receives whether the server admits the player. Closed if the server dies.
    pub(super) admitted: oneshot::Receiver<bool>,
    /// Sends a disconnect, with the grace in seconds. Dropping it without a message is a lost connection.
    pub(super) leave: oneshot::Sender<Option<u64>>,
    /// Set once the server is dead.
    pub(super) dead: Flag,
}

impl Connection {
    /// Waits for the end of the server.
    pub(super) async fn over(&self) {
        self.dead.wait().await;
    }
}
