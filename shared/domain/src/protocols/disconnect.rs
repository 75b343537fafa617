//! The disconnect of a player by a server, which ends a connected placement.
//!
//! The protocol writes the ledger first and then the seat, each only under the exact placement, so a late call cannot
//! disconnect a player who has reconnected since. With a grace period the protocol writes the seat first and then the
//! ledger, both reserved under a new placement, because the seat decides which placement that is.

use super::{Answer, Effect, Protocol, Reply, Step};
use crate::{
    Assignment, Claim, Ledger, LedgerWrite, Placement, PlayerId, Seat, SeatWrite, ServerId, ServerState, Span, Time,
    TokenHash,
};

/// The outcome of a disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disconnected {
    /// The placement has ended, or there was none.
    Ended,
    /// The slot is held for a reconnect until this time.
    KeptUntil(Time),
    /// The token is not this server's.
    WrongToken,
    /// There is no such server.
    UnknownServer,
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
pub struct Disconnect {
    by: TokenHash,
    server: ServerId,
    player: PlayerId,
    placement: Option<Placement>,
    grace: Option<Span>,
    stage: Stage,
}

impl Disconnect {
    /// The disconnect of `player` by the server whose token hashes to `by`. It ends `placement`, or if that is `None`,
    /// the placement that the ledger has. With `grace` the slot is kept for a reconnect for that time.
    pub const fn new(
        by: TokenHash,
        server: ServerId,
        player: PlayerId,
        placement: Option<Placement>,
        grace: Option<Span>,
    ) -> Self {
        Self { by, server, player, placement, grace, stage: Stage::Start }
    }

    fn read(&mut self) -> Step<Disconnected> {
        self.stage = Stage::Reading;
        Step::Effect(Effect::ReadLedger(self.server.clone()))
    }

    fn release(&mut self, placement: Placement, ready: bool) -> Step<Disconnected> {
        self.stage = Stage::Releasing { placement, ready };
        let (by, player) = (Some(self.by), self.player.clone());
        let write = LedgerWrite::Free { by, player, claim: Claim::Connected(placement), ready };
        Step::Effect(Effect::WriteLedger(self.server.clone(), write))
    }

    fn vacate(&mut self, placement: Placement) -> Step<Disconnected> {
        self.stage = Stage::Voiding;
        let (server, claim) = (self.server.clone(), Claim::Connected(placement));
        Step::Effect(Effect::WriteSeat(self.player.clone(), SeatWrite::Vacate { server, claim }))
    }

    fn refusal(&self, image: Option<&Ledger>) -> Option<Disconnected> {
        match image {
            None => Some(Disconnected::UnknownServer),
            Some(ledger) if ledger.token_hash != self.by => Some(Disconnected::WrongToken),
            Some(_) => None,
        }
    }

    fn on_image(&mut self, ledger: Option<Ledger>, now: Time) -> Step<Disconnected> {
        if let Some(refusal) = self.refusal(ledger.as_ref()) {
            return Step::Done(refusal);
        }
        let Some(ledger) = ledger else {
            return Step::Done(Disconnected::UnknownServer);
        };
        let held = ledger.claims.get(&self.player).copied();
        let named = |claim: &Claim| self.placement.is_none_or(|placement| placement == claim.placement());
        let ready = ledger.state == ServerState::Ready;
        match (held.filter(named), self.grace) {
            (Some(Claim::Connected(from)), Some(grace)) => {
                // A reservation expires `reservation` after its placement, so the choice of the placement sets the end.
                let to = Placement::next(now + grace - ledger.reservation, Some(from));
                self.stage = Stage::KeepingSeat { from, reservation: ledger.reservation, ready };
                let server = self.server.clone();
                Step::Effect(Effect::WriteSeat(self.player.clone(), SeatWrite::KeepForReconnect { server, from, to }))
            }
            (Some(claim @ Claim::Reserved(_)), Some(_)) => {
                Step::Done(Disconnected::KeptUntil(ledger.expires(claim).unwrap_or(now)))
            }
            (Some(claim), None) => self.release(claim.placement(), ready),
            // The ledger does not have this placement any more, but the seat may.
            (None, _) => match self.placement {
                Some(placement) => self.vacate(placement),
                None => Step::Done(Disconnected::Ended),
            },
        }
    }
}

impl Protocol for Disconnect {
    type Outcome = Disconnected;

    fn next(&mut self, now: Time, reply: Reply) -> Step<Disconnected> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) => match (self.placement, self.grace) {
                (Some(placement), None) => self.release(placement, true),
                _ => self.read(),
            },
            (Stage::Reading, Reply::LedgerRead(ledger)) => self.on_image(ledger, now),
            (Stage::Releasing { placement, .. }, Reply::LedgerWritten(Answer::Written(_))) => self.vacate(placement),
            (Stage::Releasing { placement, ready }, Reply::LedgerWritten(Answer::Refused(image))) => {
                if let Some(refusal) = self.refusal(image.as_ref()) {
                    return Step::Done(refusal);
                }
                let held = image.as_ref().and_then(|ledger| ledger.claims.get(&self.player));
                let is_ready = image.as_ref().is_some_and(|ledger| ledger.state == ServerState::Ready);
                match held {
                    Some(claim) if claim.placement() == placement && is_ready != ready => {
                        self.release(placement, is_ready)
                    }
                    _ => self.vacate(placement),
                }
            }
            (Stage::Voiding, Reply::SeatWritten(_)) => Step::Done(Disconnected::Ended),
            (Stage::KeepingSeat { from, reservation, ready }, Reply::SeatWritten(answer)) => {
                let seat = match answer {
                    Answer::Written(seat) | Answer::Refused(Some(seat)) => seat,
                    Answer::Refused(None) => return self.release(from, ready),
                };
                match seat {
                    // Kept by this write, or by an earlier run of this disconnect whose answer was lost.
                    Seat::Assigned(Assignment { server, claim: Claim::Reserved(to), .. })
                        if server == self.server && to > from =>
                    {
                        self.stage = Stage::KeepingClaim { to, reservation };
                        let write =
                            LedgerWrite::KeepForReconnect { by: self.by, player: self.player.clone(), from, to };
                        Step::Effect(Effect::WriteLedger(self.server.clone(), write))
                    }
                    // The seat has another placement by now, so the claim on the ledger is a leftover.
                    _ => self.release(from, ready),
                }
            }
            (Stage::KeepingClaim { to, reservation }, Reply::LedgerWritten(_)) => {
                Step::Done(Disconnected::KeptUntil(to.time() + reservation))
            }
            _ => Step::ProtocolError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, connected, draining, placement, player, ready, reserved, seat, server, token};

    const GRACE: Span = Span::seconds(10);

    fn disconnect(of: Option<i64>, grace: Option<Span>) -> Disconnect {
        Disconnect::new(token(), server("s"), player("a"), of.map(placement), grace)
    }

    fn release(of: i64, ready: bool) -> Step<Disconnected> {
        let (by, player) = (Some(token()), player("a"));
        Step::Effect(Effect::WriteLedger(server("s"), LedgerWrite::Free { by, player, claim: connected(of), ready }))
    }

    fn vacate(of: i64) -> Step<Disconnected> {
        Step::Effect(Effect::WriteSeat(player("a"), SeatWrite::Vacate { server: server("s"), claim: connected(of) }))
    }

    fn not_ours() -> Ledger {
        Ledger { token_hash: TokenHash::of("another"), ..ready(&[("a", connected(1_000))]) }
    }

    #[test]
    fn a_placement_ends_on_the_ledger_and_then_on_the_seat() {
        let mut disconnect = disconnect(Some(1_000), None);
        assert_eq!(disconnect.next(NOW, Reply::Start), release(1_000, true));
        assert_eq!(disconnect.next(NOW, Reply::LedgerWritten(Answer::Written(ready(&[])))), vacate(1_000));
        assert_eq!(disconnect.next(NOW, Reply::SeatWritten(Answer::Refused(None))), Step::Done(Disconnected::Ended));
    }

    #[test]
    fn a_refused_free_write_is_repeated_only_if_the_servers_state_was_the_reason() {
        let cases = [
            ("no ledger", None, Step::Done(Disconnected::UnknownServer)),
            ("another token", Some(not_ours()), Step::Done(Disconnected::WrongToken)),
            ("draining with the claim", Some(draining(&[("a", connected(1_000))])), release(1_000, false)),
            ("draining with a newer claim", Some(draining(&[("a", connected(1_001))])), vacate(1_000)),
            ("draining without a claim", Some(draining(&[])), vacate(1_000)),
            ("ready with the claim", Some(ready(&[("a", connected(1_000))])), vacate(1_000)),
        ];
        for (case, image, next) in cases {
            let mut disconnect = disconnect(Some(1_000), None);
            disconnect.next(NOW, Reply::Start);
            assert_eq!(disconnect.next(NOW, Reply::LedgerWritten(Answer::Refused(image))), next, "{case}");
        }
    }

    #[test]
    fn a_disconnect_without_a_placement_ends_the_one_on_the_ledger() {
        let cases = [
            ("no ledger", None, Step::Done(Disconnected::UnknownServer)),
            ("another token", Some(not_ours()), Step::Done(Disconnected::WrongToken)),
            ("ready with a connection", Some(ready(&[("a", connected(1_000))])), release(1_000, true)),
            ("draining with a reservation", Some(draining(&[("a", reserved(1_000))])), release(1_000, false)),
            ("ready without a claim", Some(ready(&[])), Step::Done(Disconnected::Ended)),
        ];
        for (case, image, next) in cases {
            let mut disconnect = disconnect(None, None);
            assert_eq!(disconnect.next(NOW, Reply::Start), Step::Effect(Effect::ReadLedger(server("s"))), "{case}");
            assert_eq!(disconnect.next(NOW, Reply::LedgerRead(image)), next, "{case}");
        }
    }

    /// A disconnect with a grace period, up to its write on the seat.
    fn keeping_seat() -> Disconnect {
        let mut disconnect = disconnect(Some(1_000), Some(GRACE));
        assert_eq!(disconnect.next(NOW, Reply::Start), Step::Effect(Effect::ReadLedger(server("s"))));
        let ledger = ready(&[("a", connected(1_000))]);
        let to = Placement::new((NOW + GRACE - ledger.reservation).0).unwrap();
        let write = SeatWrite::KeepForReconnect { server: server("s"), from: placement(1_000), to };
        assert_eq!(
            disconnect.next(NOW, Reply::LedgerRead(Some(ledger))),
            Step::Effect(Effect::WriteSeat(player("a"), write))
        );
        disconnect
    }

    #[test]
    fn with_a_grace_period_the_slot_is_kept_under_the_placement_of_the_seat() {
        let by_another_run = 1_500_000;
        for (case, answer, to) in [
            ("written", Answer::Written(seat("s", reserved(1_950_000))), 1_950_000),
            ("written by another run", Answer::Refused(Some(seat("s", reserved(by_another_run)))), by_another_run),
        ] {
            let mut disconnect = keeping_seat();
            let write = LedgerWrite::KeepForReconnect {
                by: token(),
                player: player("a"),
                from: placement(1_000),
                to: placement(to),
            };
            let next = disconnect.next(NOW, Reply::SeatWritten(answer));
            assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), write)), "{case}");
            let until = Time(to) + ready(&[]).reservation;
            let next = disconnect.next(NOW, Reply::LedgerWritten(Answer::Refused(None)));
            assert_eq!(next, Step::Done(Disconnected::KeptUntil(until)), "{case}");
        }
    }

    #[test]
    fn with_a_grace_period_a_seat_with_another_placement_frees_the_claim() {
        let elsewhere = [
            ("no seat", None),
            ("vacant", Some(Seat::Vacant(placement(1_001)))),
            ("another server", Some(seat("another", reserved(1_500_000)))),
            ("a reservation of the same placement", Some(seat("s", reserved(1_000)))),
            ("a newer connection", Some(seat("s", connected(1_500_000)))),
        ];
        for (case, seat) in elsewhere {
            assert_eq!(
                keeping_seat().next(NOW, Reply::SeatWritten(Answer::Refused(seat))),
                release(1_000, true),
                "{case}"
            );
        }
    }

    #[test]
    fn with_a_grace_period_a_reservation_stays_and_a_placement_missing_on_the_ledger_ends() {
        let reply = |ledger| {
            let mut disconnect = disconnect(Some(1_000), Some(GRACE));
            disconnect.next(NOW, Reply::Start);
            disconnect.next(NOW, Reply::LedgerRead(Some(ledger)))
        };
        let until = NOW + ready(&[]).reservation;
        assert_eq!(reply(ready(&[("a", reserved(1_000))])), Step::Done(Disconnected::KeptUntil(until)));
        assert_eq!(reply(ready(&[("a", connected(1_001))])), vacate(1_000));
        assert_eq!(reply(ready(&[])), vacate(1_000));
    }
}
