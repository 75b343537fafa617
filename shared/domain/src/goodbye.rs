//! The end of a placement: the server's goodbye for a player, and a player giving a reservation up.
//!
//! A goodbye goes first to the ledger, then to the seat, each for the exact placement only, so a late one cannot touch a
//! player who has come back since. With a grace period it is the other way round (the seat and then the ledger get a new
//! placement, reserved), because the seat decides which placement that is.

use super::{
    Answer, Ask, Assignment, Claim, Ledger, LedgerWrite, Next, Placement, PlayerId, Protocol, Seat, SeatWrite,
    ServerId, ServerState, Span, Time, TokenHash, Told,
};

/// How a goodbye ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// The placement is over, or there was none.
    Gone,
    /// The slot is held for a reconnect until this time.
    Held(Time),
    /// The token is not this server's.
    WrongToken,
    /// There is no such server.
    UnknownServer,
    /// Other calls about the same player were faster, again and again; ask again.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    Reading,
    Releasing { placement: Placement, ready: bool },
    Voiding,
    KeepingSeat { from: Placement, reservation: Span, ready: bool },
    KeepingClaim { to: Placement, reservation: Span },
    Over,
}

/// The protocol of deregister-player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Goodbye {
    by: TokenHash,
    server: ServerId,
    player: PlayerId,
    placement: Option<Placement>,
    grace: Option<Span>,
    stage: Stage,
}

impl Goodbye {
    /// A goodbye of the server whose token hashes to `by` to `player`: for `placement`, or, without one, for whatever
    /// placement the ledger holds. With `grace` the slot is held that long.
    pub const fn new(
        by: TokenHash,
        server: ServerId,
        player: PlayerId,
        placement: Option<Placement>,
        grace: Option<Span>,
    ) -> Self {
        Self { by, server, player, placement, grace, stage: Stage::Start }
    }

    fn read(&mut self) -> Next<Left> {
        self.stage = Stage::Reading;
        Next::Ask(Ask::ReadLedger(self.server.clone()))
    }

    fn release(&mut self, placement: Placement, ready: bool) -> Next<Left> {
        self.stage = Stage::Releasing { placement, ready };
        let (by, player) = (Some(self.by), self.player.clone());
        let write = LedgerWrite::Release { by, player, claim: Claim::Connected(placement), ready };
        Next::Ask(Ask::WriteLedger(self.server.clone(), write))
    }

    fn void(&mut self, placement: Placement) -> Next<Left> {
        self.stage = Stage::Voiding;
        let (server, claim) = (self.server.clone(), Claim::Connected(placement));
        Next::Ask(Ask::WriteSeat(SeatWrite::Vacate { server, claim }))
    }

    fn refusal(&self, image: Option<&Ledger>) -> Option<Left> {
        match image {
            None => Some(Left::UnknownServer),
            Some(ledger) if ledger.token_hash != self.by => Some(Left::WrongToken),
            Some(_) => None,
        }
    }

    fn on_image(&mut self, ledger: Option<Ledger>, now: Time) -> Next<Left> {
        if let Some(refusal) = self.refusal(ledger.as_ref()) {
            return Next::Done(refusal);
        }
        let Some(ledger) = ledger else {
            return Next::Done(Left::UnknownServer);
        };
        let held = ledger.claims.get(&self.player).copied();
        let named = |claim: &Claim| self.placement.is_none_or(|placement| placement == claim.placement());
        let ready = ledger.state == ServerState::Ready;
        match (held.filter(named), self.grace) {
            (Some(Claim::Connected(from)), Some(grace)) => {
                // A reservation ends `hold` after its placement, so the placement is what sets the end.
                let to = Placement::next(now + grace - ledger.reservation, Some(from));
                self.stage = Stage::KeepingSeat { from, reservation: ledger.reservation, ready };
                let server = self.server.clone();
                Next::Ask(Ask::WriteSeat(SeatWrite::KeepForReconnect { server, from, to }))
            }
            (Some(claim @ Claim::Reserved(_)), Some(_)) => Next::Done(Left::Held(ledger.expires(claim).unwrap_or(now))),
            (Some(claim), None) => self.release(claim.placement(), ready),
            // The ledger has forgotten this placement: the seat may not have.
            (None, _) => match self.placement {
                Some(placement) => self.void(placement),
                None => Next::Done(Left::Gone),
            },
        }
    }
}

impl Protocol for Goodbye {
    type Outcome = Left;

    fn next(&mut self, now: Time, told: Told) -> Next<Left> {
        match (std::mem::replace(&mut self.stage, Stage::Over), told) {
            (Stage::Start, Told::Start) => match (self.placement, self.grace) {
                (Some(placement), None) => self.release(placement, true),
                _ => self.read(),
            },
            (Stage::Reading, Told::LedgerIs(ledger)) => self.on_image(ledger, now),
            (Stage::Releasing { placement, .. }, Told::Ledger(Answer::Written(_))) => self.void(placement),
            (Stage::Releasing { placement, ready }, Told::Ledger(Answer::Refused(image))) => {
                if let Some(refusal) = self.refusal(image.as_ref()) {
                    return Next::Done(refusal);
                }
                let held = image.as_ref().and_then(|ledger| ledger.claims.get(&self.player));
                let is_ready = image.as_ref().is_some_and(|ledger| ledger.state == ServerState::Ready);
                match held {
                    Some(claim) if claim.placement() == placement && is_ready != ready => {
                        self.release(placement, is_ready)
                    }
                    _ => self.void(placement),
                }
            }
            (Stage::Voiding, Told::Seat(_)) => Next::Done(Left::Gone),
            (Stage::KeepingSeat { from, reservation, ready }, Told::Seat(answer)) => {
                let seat = match answer {
                    Answer::Written(seat) | Answer::Refused(Some(seat)) => seat,
                    Answer::Refused(None) => return self.release(from, ready),
                };
                match seat {
                    // Held now, or by an earlier run of this goodbye whose answer was lost.
                    Seat::Assigned(Assignment { server, claim: Claim::Reserved(to), .. })
                        if server == self.server && to > from =>
                    {
                        self.stage = Stage::KeepingClaim { to, reservation };
                        let write =
                            LedgerWrite::KeepForReconnect { by: self.by, player: self.player.clone(), from, to };
                        Next::Ask(Ask::WriteLedger(self.server.clone(), write))
                    }
                    // The seat has moved on: what the ledger holds is a leftover.
                    _ => self.release(from, ready),
                }
            }
            (Stage::KeepingClaim { to, reservation }, Told::Ledger(_)) => {
                Next::Done(Left::Held(to.time() + reservation))
            }
            _ => Next::Done(Left::Busy),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum GivingUp {
    Start,
    Reading,
    Voiding(ServerId, Claim),
    Releasing { server: ServerId, claim: Claim, ready: bool },
    GivingBack,
    Over,
}

/// The protocol of a player who gives a reservation up. The seat is vacanted first: it decides whether the player was
/// faster than the server that is registering them. A connected player leaves through the server, not through here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GiveUp {
    player: PlayerId,
    stage: GivingUp,
}

impl GiveUp {
    /// `player` gives up what is reserved for them, if anything.
    pub const fn new(player: PlayerId) -> Self {
        Self { player, stage: GivingUp::Start }
    }

    fn release(&mut self, server: ServerId, claim: Claim, ready: bool) -> Next<()> {
        let write = LedgerWrite::Release { by: None, player: self.player.clone(), claim, ready };
        self.stage = GivingUp::Releasing { server: server.clone(), claim, ready };
        Next::Ask(Ask::WriteLedger(server, write))
    }
}

impl Protocol for GiveUp {
    type Outcome = ();

    fn next(&mut self, _now: Time, told: Told) -> Next<()> {
        match (std::mem::replace(&mut self.stage, GivingUp::Over), told) {
            (GivingUp::Start, Told::Start) => {
                self.stage = GivingUp::Reading;
                Next::Ask(Ask::ReadSeat)
            }
            (GivingUp::Reading, Told::SeatIs(Some(Seat::Assigned(place)))) if !place.claim.is_connected() => {
                self.stage = GivingUp::Voiding(place.server.clone(), place.claim);
                Next::Ask(Ask::WriteSeat(SeatWrite::Vacate { server: place.server, claim: place.claim }))
            }
            (GivingUp::Voiding(server, claim), Told::Seat(Answer::Written(_))) => self.release(server, claim, true),
            // The frontier has counted this slot as given away; without this nobody could have it before the server is up.
            (GivingUp::Releasing { .. }, Told::Ledger(Answer::Written(ledger)))
                if ledger.state == ServerState::Starting =>
            {
                self.stage = GivingUp::GivingBack;
                Next::Ask(Ask::GiveBack(Box::new(ledger)))
            }
            (GivingUp::Releasing { server, claim, ready: true }, Told::Ledger(Answer::Refused(Some(ledger)))) => {
                let held = ledger.claims.get(&self.player) == Some(&claim);
                if held && ledger.state != ServerState::Ready {
                    self.release(server, claim, false)
                } else {
                    Next::Done(())
                }
            }
            _ => Next::Done(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, connected, draining, placement, player, ready, reserved, seat, server, token};

    const GRACE: Span = Span::seconds(10);

    fn goodbye(of: Option<i64>, grace: Option<Span>) -> Goodbye {
        Goodbye::new(token(), server("s"), player("a"), of.map(placement), grace)
    }

    fn release(of: i64, ready: bool) -> Next<Left> {
        let (by, player) = (Some(token()), player("a"));
        Next::Ask(Ask::WriteLedger(server("s"), LedgerWrite::Release { by, player, claim: connected(of), ready }))
    }

    fn void(of: i64) -> Next<Left> {
        Next::Ask(Ask::WriteSeat(SeatWrite::Vacate { server: server("s"), claim: connected(of) }))
    }

    fn not_ours() -> Ledger {
        Ledger { token_hash: TokenHash::of("another"), ..ready(&[("a", connected(1_000))]) }
    }

    #[test]
    fn a_placement_ends_on_the_ledger_and_then_on_the_seat() {
        let mut goodbye = goodbye(Some(1_000), None);
        assert_eq!(goodbye.next(NOW, Told::Start), release(1_000, true));
        assert_eq!(goodbye.next(NOW, Told::Ledger(Answer::Written(ready(&[])))), void(1_000));
        assert_eq!(goodbye.next(NOW, Told::Seat(Answer::Refused(None))), Next::Done(Left::Gone));
    }

    #[test]
    fn a_refused_release_is_repeated_only_where_the_state_was_the_reason() {
        let cases = [
            (None, Next::Done(Left::UnknownServer)),
            (Some(not_ours()), Next::Done(Left::WrongToken)),
            (Some(draining(&[("a", connected(1_000))])), release(1_000, false)),
            (Some(draining(&[("a", connected(1_001))])), void(1_000)),
            (Some(draining(&[])), void(1_000)),
            (Some(ready(&[("a", connected(1_000))])), void(1_000)),
        ];
        for (image, next) in cases {
            let mut goodbye = goodbye(Some(1_000), None);
            goodbye.next(NOW, Told::Start);
            assert_eq!(goodbye.next(NOW, Told::Ledger(Answer::Refused(image.clone()))), next, "{image:?}");
        }
    }

    #[test]
    fn without_a_placement_it_is_for_the_one_that_the_ledger_holds() {
        let cases = [
            (None, Next::Done(Left::UnknownServer)),
            (Some(not_ours()), Next::Done(Left::WrongToken)),
            (Some(ready(&[("a", connected(1_000))])), release(1_000, true)),
            (Some(draining(&[("a", reserved(1_000))])), release(1_000, false)),
            (Some(ready(&[])), Next::Done(Left::Gone)),
        ];
        for (image, next) in cases {
            let mut goodbye = goodbye(None, None);
            assert_eq!(goodbye.next(NOW, Told::Start), Next::Ask(Ask::ReadLedger(server("s"))));
            assert_eq!(goodbye.next(NOW, Told::LedgerIs(image.clone())), next, "{image:?}");
        }
    }

    /// A goodbye with grace, up to the write on the seat.
    fn held() -> Goodbye {
        let mut goodbye = goodbye(Some(1_000), Some(GRACE));
        assert_eq!(goodbye.next(NOW, Told::Start), Next::Ask(Ask::ReadLedger(server("s"))));
        let ledger = ready(&[("a", connected(1_000))]);
        let to = Placement::new((NOW + GRACE - ledger.reservation).0).unwrap();
        let write = SeatWrite::KeepForReconnect { server: server("s"), from: placement(1_000), to };
        assert_eq!(goodbye.next(NOW, Told::LedgerIs(Some(ledger))), Next::Ask(Ask::WriteSeat(write)));
        goodbye
    }

    #[test]
    fn with_grace_the_slot_is_held_under_the_placement_that_the_seat_says() {
        let by_another_run = 1_500_000;
        for (answer, to) in [
            (Answer::Written(seat("s", reserved(1_950_000))), 1_950_000),
            (Answer::Refused(Some(seat("s", reserved(by_another_run)))), by_another_run),
        ] {
            let mut goodbye = held();
            let write = LedgerWrite::KeepForReconnect {
                by: token(),
                player: player("a"),
                from: placement(1_000),
                to: placement(to),
            };
            assert_eq!(goodbye.next(NOW, Told::Seat(answer)), Next::Ask(Ask::WriteLedger(server("s"), write)));
            let until = Time(to) + ready(&[]).reservation;
            assert_eq!(goodbye.next(NOW, Told::Ledger(Answer::Refused(None))), Next::Done(Left::Held(until)));
        }
    }

    #[test]
    fn with_grace_a_seat_that_has_moved_on_leaves_nothing_to_hold() {
        let elsewhere = [
            None,
            Some(Seat::Vacant(placement(1_001))),
            Some(seat("another", reserved(1_500_000))),
            Some(seat("s", reserved(1_000))),
            Some(seat("s", connected(1_500_000))),
        ];
        for seat in elsewhere {
            assert_eq!(held().next(NOW, Told::Seat(Answer::Refused(seat))), release(1_000, true));
        }
    }

    #[test]
    fn with_grace_what_is_held_already_stays_and_what_is_forgotten_ends() {
        let told = |ledger| {
            let mut goodbye = goodbye(Some(1_000), Some(GRACE));
            goodbye.next(NOW, Told::Start);
            goodbye.next(NOW, Told::LedgerIs(Some(ledger)))
        };
        let until = NOW + ready(&[]).reservation;
        assert_eq!(told(ready(&[("a", reserved(1_000))])), Next::Done(Left::Held(until)));
        assert_eq!(told(ready(&[("a", connected(1_001))])), void(1_000));
        assert_eq!(told(ready(&[])), void(1_000));
    }
}
