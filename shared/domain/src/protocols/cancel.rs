//! A player cancels a reservation.
//!
//! The seat is vacated first: it decides whether the player was faster than the server that is registering them. Then
//! the claim is freed, and a slot on a starting server goes back to its frontier. A connected player leaves through the
//! server, not through this protocol.

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

/// The protocol of a player who cancels a reservation.
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
            // The frontier has counted this slot as handed out; without this nobody could have it before the server is
            // ready.
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
            // Nothing is reserved, the server was faster, or the slot is free already.
            (Stage::Reading, Reply::SeatRead(_))
            | (Stage::Voiding(..), Reply::SeatWritten(Answer::Refused(_)))
            | (Stage::Releasing { .. }, Reply::LedgerWritten(_))
            | (Stage::GivingBack, Reply::Done) => Step::Done(()),
            _ => Step::ProtocolError,
        }
    }
}
