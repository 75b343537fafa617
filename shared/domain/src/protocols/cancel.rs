//! The cancellation of a player's reservation.
//!
//! The protocol vacates the seat first, because the seat decides whether the cancellation or the registration of the
//! player by the server was first. Then it frees the claim, and gives a slot on a starting server back to its frontier.
//! It does nothing for a connected player, whom only the server can disconnect.

use super::{Answer, Effect, Protocol, Reply, Step};
use crate::{Claim, LedgerWrite, PlayerId, Seat, SeatWrite, ServerId, ServerState, Time};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    Reading,
    Voiding(ServerId, Claim),
    Releasing { server: ServerId, claim: Claim, ready: bool },
    GivingBack,
    Over,
}

/// The protocol of the cancellation of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CancelReservation {
    player: PlayerId,
    stage: Stage,
}

impl CancelReservation {
    /// Cancels the reservation of `player`, if there is one.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: Stage::Start }
    }

    fn release(&mut self, server: ServerId, claim: Claim, ready: bool) -> Step<()> {
        let write = LedgerWrite::Free { by: None, player: self.player.clone(), claim, ready };
        self.stage = Stage::Releasing { server: server.clone(), claim, ready };
        Step::Effect(Effect::WriteLedger(server, write))
    }
}

impl Protocol for CancelReservation {
    type Outcome = ();

    fn next(&mut self, _now: Time, reply: Reply) -> Step<()> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) => {
                self.stage = Stage::Reading;
                Step::Effect(Effect::ReadSeat(self.player.clone()))
            }
            (Stage::Reading, Reply::SeatRead(Some(Seat::Assigned(place)))) if !place.claim.is_connected() => {
                self.stage = Stage::Voiding(place.server.clone(), place.claim);
                let write = SeatWrite::Vacate { server: place.server, claim: place.claim };
                Step::Effect(Effect::WriteSeat(self.player.clone(), write))
            }
            (Stage::Voiding(server, claim), Reply::SeatWritten(Answer::Written(_))) => {
                self.release(server, claim, true)
            }
            // The frontier has counted this slot as handed out. If it were not given back, no player could get the slot
            // before the server is ready.
            (Stage::Releasing { .. }, Reply::LedgerWritten(Answer::Written(ledger)))
                if ledger.state == ServerState::Starting =>
            {
                self.stage = Stage::GivingBack;
                Step::Effect(Effect::GiveBack(Box::new(ledger)))
            }
            (Stage::Releasing { server, claim, ready: true }, Reply::LedgerWritten(Answer::Refused(Some(ledger)))) => {
                let held = ledger.claims.get(&self.player) == Some(&claim);
                if held && ledger.state != ServerState::Ready {
                    self.release(server, claim, false)
                } else {
                    Step::Done(())
                }
            }
            // Nothing is reserved, the server has registered the player first, or the slot is free already.
            (Stage::Reading, Reply::SeatRead(_))
            | (Stage::Voiding(..), Reply::SeatWritten(Answer::Refused(_)))
            | (Stage::Releasing { .. }, Reply::LedgerWritten(_))
            | (Stage::GivingBack, Reply::Done) => Step::Done(()),
            _ => Step::ProtocolError,
        }
    }
}
