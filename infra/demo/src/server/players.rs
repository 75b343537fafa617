//! Connecting and disconnecting players. Each change takes the player's turn, calls OWMM, and updates the roster.

use tracing::{info, warn};

use super::{
    owmm::{Owmm, Placed},
    roster::{Roster, Stay},
    ticket::CheckedTicket,
};
use crate::{http::Problem, secret::Secret};

/// Longest grace that a player may request, in seconds.
const MAX_GRACE_SECONDS: u32 = 300;

/// The players of one server.
pub(super) struct Players {
    owmm: Owmm,
    roster: Roster,
}

/// Visit of a connected player.
pub(super) struct Visit {
    player: String,
    placement: u64,
    stay: Stay,
}

impl Visit {
    /// Waits until a newer connection of the same player replaces this one.
    pub(super) async fn replaced(&mut self) {
        self.stay.replaced().await;
    }
}

impl Players {
    pub(super) fn new(owmm: Owmm) -> Self {
        Self { owmm, roster: Roster::default() }
    }

    /// Registers the player at OWMM and connects them. A player who is already connected is registered again,
    /// because only OWMM knows the current placement; if OWMM accepts, the new connection replaces the old one.
    pub(super) async fn let_in(&self, checked: CheckedTicket, ticket: &Secret) -> Result<Visit, Problem> {
        let turn = self.roster.turn(&checked.player).await;
        let placement = self.owmm.register_player(&checked.player, ticket).await?;
        let reconnect = turn.is_connected();
        let stay = turn.let_in();
        info!(player = checked.player, ticket_placement = checked.placement, placement, reconnect, "player connected");
        Ok(Visit { player: checked.player, placement, stay })
    }

    /// Ends a visit and disconnects the player. The slot is kept for `grace_seconds` for a reconnect.
    ///
    /// If a newer connection has replaced the visit, OWMM is not called, because the placement is still in use.
    pub(super) async fn let_out(&self, visit: Visit, grace_seconds: u32) {
        let turn = self.roster.turn(&visit.player).await;
        if !turn.let_out(visit.stay) {
            return;
        }
        info!(player = visit.player, placement = visit.placement, "player left");
        self.disconnect(&visit.player, visit.placement, grace_seconds.min(MAX_GRACE_SECONDS)).await;
    }

    /// Disconnects a player that OWMM counts as connected and who is not. This happens if OWMM registered the player
    /// and its answer was lost, or if the retry was refused.
    ///
    /// The heartbeat's list may be older than a connection, so the current roster decides. If another call about the
    /// player is in flight, nothing is done: that call, or the next heartbeat, resolves the difference.
    pub(super) async fn disconnect_unknown(&self, unknown: Placed) {
        let Some(turn) = self.roster.try_turn(&unknown.player) else { return };
        if !turn.is_connected() {
            warn!(
                player = unknown.player,
                placement = unknown.placement,
                "OWMM counts a player as connected who is not, disconnecting"
            );
            self.disconnect(&unknown.player, unknown.placement, 0).await;
        }
    }

    /// Disconnects a player at OWMM. The caller must have the player's turn.
    async fn disconnect(&self, player: &str, placement: u64, grace_seconds: u32) {
        match self.owmm.deregister_player(player, placement, grace_seconds).await {
            Ok(()) => info!(player, placement, grace_seconds, "player disconnected at OWMM"),
            Err(problem) => warn!(player, placement, %problem, "OWMM refused to disconnect the player"),
        }
    }

    /// Returns the ids of the connected players.
    pub(super) fn connected(&self) -> Vec<String> {
        self.roster.players()
    }

    /// Returns whether no player is connected and no call about a player is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.roster.is_idle()
    }
}
