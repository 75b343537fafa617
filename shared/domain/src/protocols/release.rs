//! An operator releases a player, so that nothing holds them any more.
//!
//! 1. A reservation is given up exactly as the player would ([`CancelReservation`]): the seat decides whether the
//!    operator was faster than the server that is registering the player.
//! 2. A connected seat is moved by its server's disconnect, or once that server is over. So the ledger is looked at,
//!    and as long as it holds the connection under the seat's placement, **nothing is changed**: the player may well be
//!    inside, and a seat that was void would let another server take them in. Who must act all the same ends the
//!    server, which frees everybody on it.
//! 3. Where the ledger does not hold it (the server is stopped, its ledger is gone, or a disconnect got no further than
//!    the ledger), the player can be inside nowhere, and the seat is made void: the second half of a disconnect, bound
//!    to the exact placement.

use super::{Answer, CancelReservation, Effect, Protocol, Reply, Step};
use crate::{Assignment, Claim, Ledger, Placement, PlayerId, Seat, SeatWrite, ServerId, ServerState, Time};

/// How a release ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Released {
    /// Nothing holds the player: by this call, or before it.
    Free,
    /// The player has never been placed.
    Unknown,
    /// The player is connected to this server, which alone can let them go.
    Inside(ServerId),
    /// Other calls about the player were faster; ask again.
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

/// The protocol of an operator who releases a player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    player: PlayerId,
    stage: Stage,
}

impl Assignment {
    /// Whether the ledger of the server says so too: connected, under this very placement, and not over.
    pub fn is_inside(&self, ledger: Option<&Ledger>, player: &PlayerId) -> bool {
        let ledger = ledger.filter(|ledger| ledger.state != ServerState::Stopped);
        self.claim.is_connected() && ledger.is_some_and(|ledger| ledger.claims.get(player) == Some(&self.claim))
    }
}

impl Release {
    /// `player` is released.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: Stage::Start }
    }

    fn look(&mut self, place: Assignment) -> Step<Released> {
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
            // Which does not tell whether the server was faster.
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
                Claim::Connected(_) => self.look(place),
            },
            (Stage::Cancelling { placement, cancel }, reply) => self.cancel(placement, cancel, now, reply),
            // Connected in the meantime. A newer placement is another one, which nobody has asked to end.
            (Stage::ReadingAgain { placement }, Reply::SeatRead(Some(Seat::Assigned(place))))
                if place.claim.placement() == placement =>
            {
                if place.claim.is_connected() {
                    self.look(place)
                } else {
                    Step::Done(Released::Busy)
                }
            }
            (Stage::Reading | Stage::ReadingAgain { .. }, Reply::SeatRead(_)) => Step::Done(Released::Free),
            (Stage::Looking(place), Reply::LedgerRead(ledger)) => {
                if place.is_inside(ledger.as_ref(), &self.player) {
                    return Step::Done(Released::Inside(place.server));
                }
                let write = SeatWrite::Vacate { server: place.server.clone(), claim: place.claim };
                self.stage = Stage::Voiding(place);
                Step::Effect(Effect::WriteSeat(self.player.clone(), write))
            }
            (Stage::Voiding(_), Reply::SeatWritten(Answer::Written(_))) => Step::Done(Released::Free),
            // That placement was over before; whatever stands now is another one.
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

    /// A release of a player whose seat is this, up to the second question.
    fn begun(seat: Option<Seat>) -> (Release, Step<Released>) {
        let mut releasing = Release::new(player("a"));
        assert_eq!(releasing.next(NOW, Reply::Start), Step::Effect(Effect::ReadSeat(player("a"))));
        let next = releasing.next(NOW, Reply::SeatRead(seat));
        (releasing, next)
    }

    #[test]
    fn who_is_placed_nowhere_is_free_and_who_never_was_is_unknown() {
        assert_eq!(begun(None).1, Step::Done(Released::Unknown));
        assert_eq!(begun(Some(Seat::Vacant(placement(1_000)))).1, Step::Done(Released::Free));
    }

    #[test]
    fn a_reservation_is_given_up_and_then_the_seat_says_who_was_faster() {
        let reservation = seat("s", reserved(1_000));
        let after = [
            ("connected meanwhile", Some(seat("s", connected(1_000))), Step::Effect(Effect::ReadLedger(server("s")))),
            ("the same reservation", Some(reservation.clone()), Step::Done(Released::Busy)),
            ("a newer reservation", Some(seat("s", reserved(1_001))), Step::Done(Released::Free)),
            ("a newer connection", Some(seat("s", connected(1_001))), Step::Done(Released::Free)),
            ("void", Some(Seat::Vacant(placement(1_000))), Step::Done(Released::Free)),
            ("no seat", None, Step::Done(Released::Free)),
        ];
        for (case, seat, end) in after {
            let (mut releasing, next) = begun(Some(reservation.clone()));
            assert_eq!(next, Step::Effect(Effect::ReadSeat(player("a"))), "as the player would");
            let void = SeatWrite::Vacate { server: server("s"), claim: reserved(1_000) };
            let next = releasing.next(NOW, Reply::SeatRead(Some(reservation.clone())));
            assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), void)));
            let release = LedgerWrite::Free { by: None, player: player("a"), claim: reserved(1_000), ready: true };
            let next = releasing.next(NOW, Reply::SeatWritten(Answer::Written(Seat::Vacant(placement(1_000)))));
            assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), release)));
            assert_eq!(
                releasing.next(NOW, Reply::LedgerWritten(Answer::Written(ready(&[])))),
                Step::Effect(Effect::ReadSeat(player("a")))
            );
            assert_eq!(releasing.next(NOW, Reply::SeatRead(seat)), end, "{case}");
        }
    }

    #[test]
    fn who_is_inside_is_left_there() {
        let (mut releasing, next) = begun(Some(seat("s", connected(1_000))));
        assert_eq!(next, Step::Effect(Effect::ReadLedger(server("s"))));
        let next = releasing.next(NOW, Reply::LedgerRead(Some(ready(&[("a", connected(1_000))]))));
        assert_eq!(next, Step::Done(Released::Inside(server("s"))));
    }

    #[test]
    fn a_connected_seat_that_no_ledger_stands_for_is_made_void() {
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
            ("refused as it was", Answer::Refused(Some(seat("s", connected(1_000)))), Released::Busy),
            ("refused, connected anew", Answer::Refused(Some(seat("s", connected(1_001)))), Released::Free),
            ("refused, void", Answer::Refused(Some(Seat::Vacant(placement(1_000)))), Released::Free),
            ("refused, no seat", Answer::Refused(None), Released::Free),
        ];
        for (case, ledger) in ledgers {
            for (outcome, answer, end) in answers.clone() {
                let (mut releasing, _) = begun(Some(seat("s", connected(1_000))));
                let void = SeatWrite::Vacate { server: server("s"), claim: connected(1_000) };
                let next = releasing.next(NOW, Reply::LedgerRead(ledger.clone()));
                assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), void)), "{case}");
                assert_eq!(releasing.next(NOW, Reply::SeatWritten(answer)), Step::Done(end), "{case}, {outcome}");
            }
        }
    }
}
