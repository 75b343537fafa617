//! The release of a player by an operator, which ends the player's placement.
//!
//! 1. A reservation is cancelled as the player would cancel it ([`CancelReservation`]): the seat decides whether the
//!    release or the registration of the player by the server was first.
//! 2. A connected seat changes only when its server disconnects the player, or once that server is stopped. So the
//!    protocol reads the ledger. As long as the ledger has the connected claim under the seat's placement, **nothing is
//!    changed**: the player is probably connected, and a vacant seat would let a second server connect the same player.
//!    An operator who has to release the player nevertheless stops the server, which frees all players on it.
//! 3. If the ledger does not have that claim (the server is stopped, its ledger is deleted, or a disconnect has changed
//!    only the ledger), the player is connected to no server. The protocol vacates the seat under the exact placement,
//!    which is the second half of a disconnect.

use super::{Answer, CancelReservation, Effect, Protocol, Reply, Step};
use crate::{Assignment, Claim, Ledger, Placement, PlayerId, Seat, SeatWrite, ServerId, ServerState, Time};

/// The outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Released {
    /// The player has no placement any more: this call ended it, or there was none.
    Free,
    /// The player has never been placed.
    Unknown,
    /// The player is connected to this server, and only the server can disconnect the player.
    StillConnected(ServerId),
    /// Other calls changed the player's seat at the same time; the operator repeats the release.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    Reading,
    Cancelling { placement: Placement, cancel: CancelReservation },
    ReadingAgain { placement: Placement },
    Looking(Assignment),
    Voiding(Assignment),
    Over,
}

/// The protocol of the release of a player by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    player: PlayerId,
    stage: Stage,
}

impl Assignment {
    /// Whether seat and ledger agree that the player is connected: the ledger of a server that is not stopped has the
    /// connected claim under the seat's placement.
    pub fn is_connected_on(&self, ledger: Option<&Ledger>, player: &PlayerId) -> bool {
        let ledger = ledger.filter(|ledger| ledger.state != ServerState::Stopped);
        self.claim.is_connected() && ledger.is_some_and(|ledger| ledger.claims.get(player) == Some(&self.claim))
    }
}

impl Release {
    /// The release of `player`.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: Stage::Start }
    }

    fn read_ledger(&mut self, place: Assignment) -> Step<Released> {
        let server = place.server.clone();
        self.stage = Stage::Looking(place);
        Step::Effect(Effect::ReadLedger(server))
    }

    fn cancel(
        &mut self,
        placement: Placement,
        mut cancel: CancelReservation,
        now: Time,
        reply: Reply,
    ) -> Step<Released> {
        match cancel.next(now, reply) {
            Step::Effect(effect) => {
                self.stage = Stage::Cancelling { placement, cancel };
                Step::Effect(effect)
            }
            Step::ProtocolError => Step::ProtocolError,
            // The outcome does not say whether the server registered the player first, so the seat is read again.
            Step::Done(()) => {
                self.stage = Stage::ReadingAgain { placement };
                Step::Effect(Effect::ReadSeat(self.player.clone()))
            }
        }
    }
}

impl Protocol for Release {
    type Outcome = Released;

    fn next(&mut self, now: Time, reply: Reply) -> Step<Released> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) => {
                self.stage = Stage::Reading;
                Step::Effect(Effect::ReadSeat(self.player.clone()))
            }
            (Stage::Reading, Reply::SeatRead(None)) => Step::Done(Released::Unknown),
            (Stage::Reading, Reply::SeatRead(Some(Seat::Assigned(place)))) => match place.claim {
                Claim::Reserved(placement) => {
                    self.cancel(placement, CancelReservation::new(self.player.clone()), now, Reply::Start)
                }
                Claim::Connected(_) => self.read_ledger(place),
            },
            (Stage::Cancelling { placement, cancel }, reply) => self.cancel(placement, cancel, now, reply),
            // The server may have registered the player in between. A newer placement is not the one to end.
            (Stage::ReadingAgain { placement }, Reply::SeatRead(Some(Seat::Assigned(place))))
                if place.claim.placement() == placement =>
            {
                if place.claim.is_connected() {
                    self.read_ledger(place)
                } else {
                    Step::Done(Released::Busy)
                }
            }
            (Stage::Reading | Stage::ReadingAgain { .. }, Reply::SeatRead(_)) => Step::Done(Released::Free),
            (Stage::Looking(place), Reply::LedgerRead(ledger)) => {
                if place.is_connected_on(ledger.as_ref(), &self.player) {
                    return Step::Done(Released::StillConnected(place.server));
                }
                let write = SeatWrite::Vacate { server: place.server.clone(), claim: place.claim };
                self.stage = Stage::Voiding(place);
                Step::Effect(Effect::WriteSeat(self.player.clone(), write))
            }
            (Stage::Voiding(_), Reply::SeatWritten(Answer::Written(_))) => Step::Done(Released::Free),
            // Unless the seat still has this placement, another call has ended it.
            (Stage::Voiding(place), Reply::SeatWritten(Answer::Refused(seat))) => {
                let same = matches!(seat, Some(Seat::Assigned(at)) if at.claim.placement() == place.claim.placement());
                Step::Done(if same { Released::Busy } else { Released::Free })
            }
            _ => Step::ProtocolError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LedgerWrite,
        fixtures::{NOW, connected, placement, player, ready, reserved, seat, server, stopped},
    };

    /// The release of a player with this seat, up to its second step.
    fn begun(seat: Option<Seat>) -> (Release, Step<Released>) {
        let mut releasing = Release::new(player("a"));
        assert_eq!(releasing.next(NOW, Reply::Start), Step::Effect(Effect::ReadSeat(player("a"))));
        let next = releasing.next(NOW, Reply::SeatRead(seat));
        (releasing, next)
    }

    #[test]
    fn a_player_with_a_vacant_seat_is_free_and_a_player_without_a_seat_is_unknown() {
        assert_eq!(begun(None).1, Step::Done(Released::Unknown));
        assert_eq!(begun(Some(Seat::Vacant(placement(1_000)))).1, Step::Done(Released::Free));
    }

    #[test]
    fn a_reservation_is_cancelled_and_the_seat_then_decides_the_outcome() {
        let reservation = seat("s", reserved(1_000));
        let after = [
            ("connected meanwhile", Some(seat("s", connected(1_000))), Step::Effect(Effect::ReadLedger(server("s")))),
            ("the same reservation", Some(reservation.clone()), Step::Done(Released::Busy)),
            ("a newer reservation", Some(seat("s", reserved(1_001))), Step::Done(Released::Free)),
            ("a newer connection", Some(seat("s", connected(1_001))), Step::Done(Released::Free)),
            ("vacant", Some(Seat::Vacant(placement(1_000))), Step::Done(Released::Free)),
            ("no seat", None, Step::Done(Released::Free)),
        ];
        for (case, seat, end) in after {
            let (mut releasing, next) = begun(Some(reservation.clone()));
            assert_eq!(next, Step::Effect(Effect::ReadSeat(player("a"))), "the first step of a cancellation");
            let vacate = SeatWrite::Vacate { server: server("s"), claim: reserved(1_000) };
            let next = releasing.next(NOW, Reply::SeatRead(Some(reservation.clone())));
            assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), vacate)));
            let free = LedgerWrite::Free { by: None, player: player("a"), claim: reserved(1_000), ready: true };
            let next = releasing.next(NOW, Reply::SeatWritten(Answer::Written(Seat::Vacant(placement(1_000)))));
            assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), free)));
            assert_eq!(
                releasing.next(NOW, Reply::LedgerWritten(Answer::Written(ready(&[])))),
                Step::Effect(Effect::ReadSeat(player("a")))
            );
            assert_eq!(releasing.next(NOW, Reply::SeatRead(seat)), end, "{case}");
        }
    }

    #[test]
    fn a_player_who_is_connected_on_seat_and_ledger_stays_connected() {
        let (mut releasing, next) = begun(Some(seat("s", connected(1_000))));
        assert_eq!(next, Step::Effect(Effect::ReadLedger(server("s"))));
        let next = releasing.next(NOW, Reply::LedgerRead(Some(ready(&[("a", connected(1_000))]))));
        assert_eq!(next, Step::Done(Released::StillConnected(server("s"))));
    }

    #[test]
    fn a_connected_seat_without_a_connected_claim_is_vacated() {
        let ledgers = [
            ("no ledger", None),
            ("stopped", Some(stopped())),
            (
                "stopped with the claim",
                Some(Ledger { state: ServerState::Stopped, ..ready(&[("a", connected(1_000))]) }),
            ),
            ("no claim", Some(ready(&[]))),
            ("a newer connection", Some(ready(&[("a", connected(1_001))]))),
            ("a reservation", Some(ready(&[("a", reserved(1_000))]))),
        ];
        let answers = [
            ("written", Answer::Written(Seat::Vacant(placement(1_000))), Released::Free),
            ("refused, unchanged", Answer::Refused(Some(seat("s", connected(1_000)))), Released::Busy),
            ("refused, a newer connection", Answer::Refused(Some(seat("s", connected(1_001)))), Released::Free),
            ("refused, vacant", Answer::Refused(Some(Seat::Vacant(placement(1_000)))), Released::Free),
            ("refused, no seat", Answer::Refused(None), Released::Free),
        ];
        for (case, ledger) in ledgers {
            for (outcome, answer, end) in answers.clone() {
                let (mut releasing, _) = begun(Some(seat("s", connected(1_000))));
                let vacate = SeatWrite::Vacate { server: server("s"), claim: connected(1_000) };
                let next = releasing.next(NOW, Reply::LedgerRead(ledger.clone()));
                assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), vacate)), "{case}");
                assert_eq!(releasing.next(NOW, Reply::SeatWritten(answer)), Step::Done(end), "{case}, {outcome}");
            }
        }
    }
}
