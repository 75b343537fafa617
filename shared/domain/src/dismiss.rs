//! An operator releases a player, so that nothing holds them any more.
//!
//! 1. A reservation is given up exactly as the player would ([`GiveUp`]): the seat decides whether the operator was faster
//!    than the server that is registering the player.
//! 2. A connected seat is moved by its server's goodbye, or once that server is over. So the ledger is looked at, and as
//!    long as it holds the connection under the seat's placement, **nothing is changed**: the player may well be inside, and a
//!    seat that was void would let another server take them in. Who must act all the same ends the server, which frees
//!    everybody on it.
//! 3. Where the ledger does not hold it (the server is stopped, its ledger is gone, or a goodbye got no further than the
//!    ledger), the player can be inside nowhere, and the seat is made void: the second half of a goodbye, bound to the
//!    exact placement.

use super::{
    Answer, Ask, Assignment, Claim, GiveUp, Ledger, Next, Placement, PlayerId, Protocol, Seat, SeatWrite, ServerId,
    ServerState, Time, Told,
};

/// How a release ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dismissed {
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
    GivingUp { placement: Placement, give_up: GiveUp },
    ReadingAgain { placement: Placement },
    Looking(Assignment),
    Voiding(Assignment),
    Over,
}

/// The protocol of an operator who releases a player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dismiss {
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

impl Dismiss {
    /// `player` is released.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: Stage::Start }
    }

    fn look(&mut self, place: Assignment) -> Next<Dismissed> {
        let server = place.server.clone();
        self.stage = Stage::Looking(place);
        Next::Ask(Ask::ReadLedger(server))
    }

    fn give_up(&mut self, placement: Placement, mut give_up: GiveUp, now: Time, told: Told) -> Next<Dismissed> {
        match give_up.next(now, told) {
            Next::Ask(ask) => {
                self.stage = Stage::GivingUp { placement, give_up };
                Next::Ask(ask)
            }
            // Which does not say whether the server was faster.
            Next::Done(()) => {
                self.stage = Stage::ReadingAgain { placement };
                Next::Ask(Ask::ReadSeat)
            }
        }
    }
}

impl Protocol for Dismiss {
    type Outcome = Dismissed;

    fn next(&mut self, now: Time, told: Told) -> Next<Dismissed> {
        match (std::mem::replace(&mut self.stage, Stage::Over), told) {
            (Stage::Start, Told::Start) => {
                self.stage = Stage::Reading;
                Next::Ask(Ask::ReadSeat)
            }
            (Stage::Reading, Told::SeatIs(None)) => Next::Done(Dismissed::Unknown),
            (Stage::Reading, Told::SeatIs(Some(Seat::Assigned(place)))) => match place.claim {
                Claim::Reserved(placement) => {
                    self.give_up(placement, GiveUp::new(self.player.clone()), now, Told::Start)
                }
                Claim::Connected(_) => self.look(place),
            },
            (Stage::GivingUp { placement, give_up }, told) => self.give_up(placement, give_up, now, told),
            // Connected in the meantime. A newer placement is another one, which nobody has asked to end.
            (Stage::ReadingAgain { placement }, Told::SeatIs(Some(Seat::Assigned(place))))
                if place.claim.placement() == placement =>
            {
                if place.claim.is_connected() {
                    self.look(place)
                } else {
                    Next::Done(Dismissed::Busy)
                }
            }
            (Stage::Reading | Stage::ReadingAgain { .. }, Told::SeatIs(_)) => Next::Done(Dismissed::Free),
            (Stage::Looking(place), Told::LedgerIs(ledger)) => {
                if place.is_inside(ledger.as_ref(), &self.player) {
                    return Next::Done(Dismissed::Inside(place.server));
                }
                let write = SeatWrite::Vacate { server: place.server.clone(), claim: place.claim };
                self.stage = Stage::Voiding(place);
                Next::Ask(Ask::WriteSeat(write))
            }
            (Stage::Voiding(_), Told::Seat(Answer::Written(_))) => Next::Done(Dismissed::Free),
            // That placement was over before; whatever stands now is another one.
            (Stage::Voiding(place), Told::Seat(Answer::Refused(seat))) => {
                let same = matches!(seat, Some(Seat::Assigned(at)) if at.claim.placement() == place.claim.placement());
                Next::Done(if same { Dismissed::Busy } else { Dismissed::Free })
            }
            _ => Next::Done(Dismissed::Busy),
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
    fn begun(seat: Option<Seat>) -> (Dismiss, Next<Dismissed>) {
        let mut dismiss = Dismiss::new(player("a"));
        assert_eq!(dismiss.next(NOW, Told::Start), Next::Ask(Ask::ReadSeat));
        let next = dismiss.next(NOW, Told::SeatIs(seat));
        (dismiss, next)
    }

    #[test]
    fn who_is_placed_nowhere_is_free_and_who_never_was_is_unknown() {
        assert_eq!(begun(None).1, Next::Done(Dismissed::Unknown));
        assert_eq!(begun(Some(Seat::Vacant(placement(1_000)))).1, Next::Done(Dismissed::Free));
    }

    #[test]
    fn a_reservation_is_given_up_and_then_the_seat_says_who_was_faster() {
        let reservation = seat("s", reserved(1_000));
        let after = [
            (Some(seat("s", connected(1_000))), Next::Ask(Ask::ReadLedger(server("s")))),
            (Some(reservation.clone()), Next::Done(Dismissed::Busy)),
            (Some(seat("s", reserved(1_001))), Next::Done(Dismissed::Free)),
            (Some(seat("s", connected(1_001))), Next::Done(Dismissed::Free)),
            (Some(Seat::Vacant(placement(1_000))), Next::Done(Dismissed::Free)),
            (None, Next::Done(Dismissed::Free)),
        ];
        for (seat, end) in after {
            let (mut dismiss, next) = begun(Some(reservation.clone()));
            assert_eq!(next, Next::Ask(Ask::ReadSeat), "as the player would");
            let void = SeatWrite::Vacate { server: server("s"), claim: reserved(1_000) };
            let next = dismiss.next(NOW, Told::SeatIs(Some(reservation.clone())));
            assert_eq!(next, Next::Ask(Ask::WriteSeat(void)));
            let (player, claim) = (player("a"), reserved(1_000));
            let release = LedgerWrite::Release { by: None, player, claim, ready: true };
            let next = dismiss.next(NOW, Told::Seat(Answer::Written(Seat::Vacant(placement(1_000)))));
            assert_eq!(next, Next::Ask(Ask::WriteLedger(server("s"), release)));
            assert_eq!(dismiss.next(NOW, Told::Ledger(Answer::Written(ready(&[])))), Next::Ask(Ask::ReadSeat));
            assert_eq!(dismiss.next(NOW, Told::SeatIs(seat.clone())), end, "{seat:?}");
        }
    }

    #[test]
    fn who_is_inside_is_left_there() {
        let (mut dismiss, next) = begun(Some(seat("s", connected(1_000))));
        assert_eq!(next, Next::Ask(Ask::ReadLedger(server("s"))));
        let next = dismiss.next(NOW, Told::LedgerIs(Some(ready(&[("a", connected(1_000))]))));
        assert_eq!(next, Next::Done(Dismissed::Inside(server("s"))));
    }

    #[test]
    fn a_connected_seat_that_no_ledger_stands_for_is_made_void() {
        let ledgers = [
            None,
            Some(stopped()),
            Some(Ledger { state: ServerState::Stopped, ..ready(&[("a", connected(1_000))]) }),
            Some(ready(&[])),
            Some(ready(&[("a", connected(1_001))])),
            Some(ready(&[("a", reserved(1_000))])),
        ];
        let answers = [
            (Answer::Written(Seat::Vacant(placement(1_000))), Dismissed::Free),
            (Answer::Refused(Some(seat("s", connected(1_000)))), Dismissed::Busy),
            (Answer::Refused(Some(seat("s", connected(1_001)))), Dismissed::Free),
            (Answer::Refused(Some(Seat::Vacant(placement(1_000)))), Dismissed::Free),
            (Answer::Refused(None), Dismissed::Free),
        ];
        for ledger in ledgers {
            for (answer, end) in answers.clone() {
                let (mut dismiss, _) = begun(Some(seat("s", connected(1_000))));
                let void = SeatWrite::Vacate { server: server("s"), claim: connected(1_000) };
                let next = dismiss.next(NOW, Told::LedgerIs(ledger.clone()));
                assert_eq!(next, Next::Ask(Ask::WriteSeat(void)), "{ledger:?}");
                assert_eq!(dismiss.next(NOW, Told::Seat(answer.clone())), Next::Done(end), "{answer:?}");
            }
        }
    }
}
