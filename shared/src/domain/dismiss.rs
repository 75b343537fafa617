//! An operator releases a player, so that nothing holds them any more.
//!
//! 1. A reservation is given up exactly as the player would ([`GiveUp`]): the seat decides whether the operator was faster
//!    than the server that is registering the player.
//! 2. A connected seat is moved by its server's goodbye, or once that server is over. So the ledger is looked at, and as
//!    long as it holds the connection under the seat's stamp, **nothing is changed**: the player may well be inside, and a
//!    seat that was void would let another server take them in. Who must act all the same ends the server, which frees
//!    everybody on it.
//! 3. Where the ledger does not hold it (the server is stopped, its ledger is gone, or a goodbye got no further than the
//!    ledger), the player can be inside nowhere, and the seat is made void: the second half of a goodbye, bound to the
//!    exact stamp.

use super::{
    Answer, Ask, GiveUp, Ledger, Mark, Next, Place, PlayerId, Protocol, Seat, SeatWrite, ServerId, ServerState, Stamp,
    Time, Told,
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
    GivingUp { stamp: Stamp, give_up: GiveUp },
    ReadingAgain { stamp: Stamp },
    Looking(Place),
    Voiding(Place),
    Over,
}

/// The protocol of an operator who releases a player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dismiss {
    player: PlayerId,
    stage: Stage,
}

impl Place {
    /// Whether the ledger of the server says so too: connected, under this very stamp, and not over.
    pub fn is_inside(&self, ledger: Option<&Ledger>, player: &PlayerId) -> bool {
        let ledger = ledger.filter(|ledger| ledger.state != ServerState::Stopped);
        self.mark.is_connected() && ledger.is_some_and(|ledger| ledger.claims.get(player) == Some(&self.mark))
    }
}

impl Dismiss {
    /// `player` is released.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: Stage::Start }
    }

    fn look(&mut self, place: Place) -> Next<Dismissed> {
        let server = place.server.clone();
        self.stage = Stage::Looking(place);
        Next::Ask(Ask::ReadLedger(server))
    }

    fn give_up(&mut self, stamp: Stamp, mut give_up: GiveUp, now: Time, told: Told) -> Next<Dismissed> {
        match give_up.next(now, told) {
            Next::Ask(ask) => {
                self.stage = Stage::GivingUp { stamp, give_up };
                Next::Ask(ask)
            }
            // Which does not say whether the server was faster.
            Next::Done(()) => {
                self.stage = Stage::ReadingAgain { stamp };
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
            (Stage::Reading, Told::SeatIs(Some(Seat::At(place)))) => match place.mark {
                Mark::Reserved(stamp) => self.give_up(stamp, GiveUp::new(self.player.clone()), now, Told::Start),
                Mark::Connected(_) => self.look(place),
            },
            (Stage::GivingUp { stamp, give_up }, told) => self.give_up(stamp, give_up, now, told),
            // Connected in the meantime. A newer placement is another one, which nobody has asked to end.
            (Stage::ReadingAgain { stamp }, Told::SeatIs(Some(Seat::At(place)))) if place.mark.stamp() == stamp => {
                if place.mark.is_connected() {
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
                let write = SeatWrite::Void { server: place.server.clone(), mark: place.mark };
                self.stage = Stage::Voiding(place);
                Next::Ask(Ask::WriteSeat(write))
            }
            (Stage::Voiding(_), Told::Seat(Answer::Written(_))) => Next::Done(Dismissed::Free),
            // That placement was over before; whatever stands now is another one.
            (Stage::Voiding(place), Told::Seat(Answer::Refused(seat))) => {
                let same = matches!(seat, Some(Seat::At(at)) if at.mark.stamp() == place.mark.stamp());
                Next::Done(if same { Dismissed::Busy } else { Dismissed::Free })
            }
            _ => Next::Done(Dismissed::Busy),
        }
    }
}
