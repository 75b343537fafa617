//! Players come in, go out, and are sent away: each time first a turn, then the call, then what it changes here.

use tracing::{info, warn};

use super::{
    owmm::{Owmm, Placed},
    roster::{Roster, Stay},
    ticket::Pass,
};
use crate::{http::Problem, secret::Secret};

/// A slot may not be held for longer than this, whatever a player asks for.
const MAX_GRACE_SECONDS: u32 = 300;

/// The players of one server.
pub(super) struct Players {
    owmm: Owmm,
    roster: Roster,
}

/// A player who has been let in.
pub(super) struct Visit {
    player: String,
    placement: u64,
    stay: Stay,
}

impl Visit {
    /// Waits until another connection of the same player has taken over.
    pub(super) async fn replaced(&mut self) {
        self.stay.replaced().await;
    }
}

impl Players {
    pub(super) fn new(owmm: Owmm) -> Self {
        Self { owmm, roster: Roster::default() }
    }

    /// Asks OWMM whether this player may come in. A player who is inside already is asked for as well, since only OWMM
    /// knows which placement counts; a yes then hands the place over to the new connection.
    pub(super) async fn let_in(&self, pass: Pass, ticket: &Secret) -> Result<Visit, Problem> {
        let turn = self.roster.turn(&pass.player).await;
        let placement = self.owmm.register_player(&pass.player, ticket).await?;
        let again = turn.is_inside();
        let stay = turn.let_in();
        info!(player = pass.player, ticket_placement = pass.placement, placement, again, "player in");
        Ok(Visit { player: pass.player, placement, stay })
    }

    /// Ends a visit. With `grace_seconds` the slot is held that long for a reconnect.
    ///
    /// Nothing is said about a player whose place a newer connection has taken over: the placement goes on.
    pub(super) async fn let_out(&self, visit: Visit, grace_seconds: u32) {
        let turn = self.roster.turn(&visit.player).await;
        if !turn.let_out(visit.stay) {
            return;
        }
        info!(player = visit.player, placement = visit.placement, "player out");
        self.disconnect(&visit.player, visit.placement, grace_seconds.min(MAX_GRACE_SECONDS)).await;
    }

    /// Says disconnect to one whom OWMM believes inside and who is not. How that comes about: the server was told to let
    /// the player in and never heard the answer, or heard it as a refusal of the repetition.
    ///
    /// The list that was sent may be older than a connection, so what counts is who is inside now; and while anyone
    /// speaks about the player, that one will see to it, or the next heartbeat.
    pub(super) async fn disconnect_unknown(&self, unknown: Placed) {
        let Some(turn) = self.roster.try_turn(&unknown.player) else { return };
        if !turn.is_inside() {
            warn!(player = unknown.player, placement = unknown.placement, "OWMM believes a player inside who is not");
            self.disconnect(&unknown.player, unknown.placement, 0).await;
        }
    }

    /// Only with the player's turn.
    async fn disconnect(&self, player: &str, placement: u64, grace_seconds: u32) {
        match self.owmm.deregister_player(player, placement, grace_seconds).await {
            Ok(()) => info!(player, placement, grace_seconds, "player disconnected"),
            Err(problem) => warn!(player, placement, %problem, "the player disconnected was refused"),
        }
    }

    /// Everyone who is inside.
    pub(super) fn inside(&self) -> Vec<String> {
        self.roster.players()
    }

    /// Nobody is inside, and no call about anyone is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.roster.is_idle()
    }
}
