//! The registration of a player by a server: first on the ledger, then on the seat, both under exactly one placement.
//!
//! The player is connected only if both writes are applied. If the ledger refuses, nothing has changed. If the seat
//! refuses, the claim is freed again by its exact placement, so nothing ever has to be undone on the seat.

use super::{Answer, Effect, Protocol, Reply, Step};
use crate::{Claim, Ledger, LedgerWrite, Placement, PlayerId, Seat, SeatWrite, ServerId, ServerState, Time, TokenHash};

/// The content of a valid ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresentedTicket {
    /// The placement.
    pub placement: Placement,
    /// When the reservation expires.
    pub expires: Time,
}

/// The outcome of the registration of a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connected {
    /// The player is connected, under this placement, which the server names when it deregisters the player.
    Admitted(Placement),
    /// The player holds no live claim on this server.
    NoClaim,
    /// The player's seat names another server.
    PlacedElsewhere,
    /// The server is still starting and has not registered itself.
    NotRegistered,
    /// The server is stopped.
    Stopped,
    /// The token is not this server's.
    WrongToken,
    /// There is no such server.
    UnknownServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    Reading,
    OnLedger(Placement),
    OnSeat(Placement),
    Undoing(Placement, Connected),
    Over,
}

/// The protocol of register-player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connect {
    by: TokenHash,
    server: ServerId,
    player: PlayerId,
    ticket: Option<PresentedTicket>,
    /// Whether the server is ready, so that the write that frees the claim lists it in the index again.
    ready: bool,
    stage: Stage,
}

impl Connect {
    /// The registration of `player` by the server whose token hashes to `by`. With a ticket the ledger is not read
    /// first.
    pub const fn new(by: TokenHash, server: ServerId, player: PlayerId, ticket: Option<PresentedTicket>) -> Self {
        Self { by, server, player, ticket, ready: true, stage: Stage::Start }
    }

    fn on_ledger(&mut self, placement: Placement, reserved: bool) -> Step<Connected> {
        self.stage = Stage::OnLedger(placement);
        let write = LedgerWrite::Connect { by: self.by, player: self.player.clone(), placement, reserved };
        Step::Effect(Effect::WriteLedger(self.server.clone(), write))
    }

    fn undo(&mut self, placement: Placement, outcome: Connected) -> Step<Connected> {
        self.stage = Stage::Undoing(placement, outcome);
        let (by, player, claim) = (Some(self.by), self.player.clone(), Claim::Connected(placement));
        let write = LedgerWrite::Free { by, player, claim, ready: self.ready };
        Step::Effect(Effect::WriteLedger(self.server.clone(), write))
    }

    fn why_not(&self, image: Option<&Ledger>) -> Connected {
        match image {
            None => Connected::UnknownServer,
            Some(ledger) if ledger.token_hash != self.by => Connected::WrongToken,
            Some(ledger) => match ledger.state {
                ServerState::Starting => Connected::NotRegistered,
                ServerState::Stopped => Connected::Stopped,
                ServerState::Ready | ServerState::Draining => Connected::NoClaim,
            },
        }
    }
}

impl Protocol for Connect {
    type Outcome = Connected;

    fn next(&mut self, now: Time, reply: Reply) -> Step<Connected> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) => match self.ticket {
                Some(ticket) => self.on_ledger(ticket.placement, now < ticket.expires),
                None => {
                    self.stage = Stage::Reading;
                    Step::Effect(Effect::ReadLedger(self.server.clone()))
                }
            },
            (Stage::Reading, Reply::LedgerRead(ledger)) => {
                let held = ledger.as_ref().filter(|ledger| ledger.token_hash == self.by).and_then(|ledger| {
                    ledger.claims.get(&self.player).copied().filter(|claim| !ledger.is_over(*claim, now))
                });
                match held {
                    Some(claim) => self.on_ledger(claim.placement(), true),
                    None => Step::Done(self.why_not(ledger.as_ref())),
                }
            }
            (Stage::OnLedger(placement), Reply::LedgerWritten(Answer::Written(ledger))) => {
                self.ready = ledger.state == ServerState::Ready;
                self.stage = Stage::OnSeat(placement);
                Step::Effect(Effect::WriteSeat(
                    self.player.clone(),
                    SeatWrite::Connect { server: self.server.clone(), placement },
                ))
            }
            (Stage::OnLedger(_), Reply::LedgerWritten(Answer::Refused(image))) => {
                Step::Done(self.why_not(image.as_ref()))
            }
            (Stage::OnSeat(placement), Reply::SeatWritten(Answer::Written(_))) => {
                Step::Done(Connected::Admitted(placement))
            }
            (Stage::OnSeat(placement), Reply::SeatWritten(Answer::Refused(seat))) => {
                let elsewhere = matches!(seat, Some(Seat::Assigned(place)) if place.server != self.server);
                let outcome = if elsewhere { Connected::PlacedElsewhere } else { Connected::NoClaim };
                self.undo(placement, outcome)
            }
            // The server has begun to drain in between: its drain must not wait for a player who is not connected.
            (Stage::Undoing(placement, outcome), Reply::LedgerWritten(Answer::Refused(Some(ledger))))
                if self.ready && ledger.state == ServerState::Draining =>
            {
                self.ready = false;
                self.undo(placement, outcome)
            }
            (Stage::Undoing(_, outcome), Reply::LedgerWritten(_)) => Step::Done(outcome),
            _ => Step::ProtocolError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Span,
        fixtures::{
            NOW, TICK, connected, draining, placement, player, ready, reserved, seat, server, starting, stopped, token,
        },
    };

    fn connect(ticket: Option<PresentedTicket>) -> Connect {
        Connect::new(token(), server("s"), player("a"), ticket)
    }

    fn ticket(expires: Time) -> Option<PresentedTicket> {
        Some(PresentedTicket { placement: placement(1_000), expires })
    }

    fn on_ledger(reserved: bool) -> Step<Connected> {
        let write = LedgerWrite::Connect { by: token(), player: player("a"), placement: placement(1_000), reserved };
        Step::Effect(Effect::WriteLedger(server("s"), write))
    }

    #[test]
    fn a_player_is_connected_once_ledger_and_seat_are_both_written() {
        let mut connect = connect(ticket(NOW + TICK));
        assert_eq!(connect.next(NOW, Reply::Start), on_ledger(true));
        let written = Answer::Written(ready(&[("a", connected(1_000))]));
        let on_seat = SeatWrite::Connect { server: server("s"), placement: placement(1_000) };
        assert_eq!(
            connect.next(NOW, Reply::LedgerWritten(written)),
            Step::Effect(Effect::WriteSeat(player("a"), on_seat))
        );
        let written = Answer::Written(seat("s", connected(1_000)));
        assert_eq!(connect.next(NOW, Reply::SeatWritten(written)), Step::Done(Connected::Admitted(placement(1_000))));
    }

    #[test]
    fn an_expired_ticket_succeeds_only_for_a_player_who_is_connected_already() {
        assert_eq!(connect(ticket(NOW)).next(NOW, Reply::Start), on_ledger(false));
    }

    #[test]
    fn without_a_ticket_the_claim_on_the_ledger_counts_unless_it_has_expired() {
        let now = NOW + Span(60_000);
        for (case, claim, is_live) in [
            ("an expired reservation", reserved(1_000), false),
            ("a connection", connected(1_000), true),
            ("a live reservation", reserved(2_000_001), true),
        ] {
            let mut connect = connect(None);
            assert_eq!(connect.next(now, Reply::Start), Step::Effect(Effect::ReadLedger(server("s"))));
            let next = connect.next(now, Reply::LedgerRead(Some(ready(&[("a", claim)]))));
            assert_eq!(matches!(next, Step::Effect(Effect::WriteLedger(..))), is_live, "{case}: {next:?}");
            assert_eq!(next == Step::Done(Connected::NoClaim), !is_live, "{case}: {next:?}");
        }
    }

    #[test]
    fn a_refused_registration_returns_the_reason() {
        let not_ours = Ledger { token_hash: TokenHash::of("another"), ..ready(&[("a", reserved(1_000))]) };
        let cases = [
            ("no ledger", None, Connected::UnknownServer),
            ("another token", Some(not_ours), Connected::WrongToken),
            ("starting", Some(starting(&[])), Connected::NotRegistered),
            ("stopped", Some(stopped()), Connected::Stopped),
            ("ready without a claim", Some(ready(&[])), Connected::NoClaim),
            ("draining without a claim", Some(draining(&[])), Connected::NoClaim),
        ];
        for (case, image, why) in cases {
            let mut with_ticket = connect(ticket(NOW + TICK));
            assert_eq!(with_ticket.next(NOW, Reply::Start), on_ledger(true), "{case}");
            let next = with_ticket.next(NOW, Reply::LedgerWritten(Answer::Refused(image.clone())));
            assert_eq!(next, Step::Done(why), "{case}: with a ticket");
            let mut without = connect(None);
            assert_eq!(without.next(NOW, Reply::Start), Step::Effect(Effect::ReadLedger(server("s"))), "{case}");
            assert_eq!(without.next(NOW, Reply::LedgerRead(image)), Step::Done(why), "{case}: without a ticket");
        }
    }

    #[test]
    fn a_claim_whose_seat_names_another_placement_is_freed_again() {
        let here = |claim| Some(seat("s", claim));
        let seats = [
            ("another server", Some(seat("another", reserved(1_001))), Connected::PlacedElsewhere),
            ("another placement", here(reserved(1_001)), Connected::NoClaim),
            ("no seat", None, Connected::NoClaim),
        ];
        for (case, seat, outcome) in seats {
            for (state, ledger, is_ready) in [("ready", ready(&[]), true), ("draining", draining(&[]), false)] {
                let mut connect = connect(ticket(NOW + TICK));
                connect.next(NOW, Reply::Start);
                connect.next(NOW, Reply::LedgerWritten(Answer::Written(ledger.clone())));
                let free = LedgerWrite::Free {
                    by: Some(token()),
                    player: player("a"),
                    claim: connected(1_000),
                    ready: is_ready,
                };
                let next = connect.next(NOW, Reply::SeatWritten(Answer::Refused(seat.clone())));
                assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), free)), "{case}, {state}");
                // The free write is repeated if it was refused because the server drains by now.
                let refused = Answer::Refused(Some(draining(&[("a", connected(1_000))])));
                let next = connect.next(NOW, Reply::LedgerWritten(refused));
                if is_ready {
                    let free = LedgerWrite::Free {
                        by: Some(token()),
                        player: player("a"),
                        claim: connected(1_000),
                        ready: false,
                    };
                    assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), free)), "{case}, {state}");
                    let next = connect.next(NOW, Reply::LedgerWritten(Answer::Written(ledger)));
                    assert_eq!(next, Step::Done(outcome), "{case}, {state}");
                } else {
                    assert_eq!(next, Step::Done(outcome), "{case}, {state}");
                }
            }
        }
    }
}
