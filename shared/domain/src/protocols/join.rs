//! The join of one player: the seat first, then the claim under the seat's placement.
//!
//! 1. Find a server that may have room: a ready one from the index, otherwise the one that the frontier fills.
//! 2. Write the seat, if it is absent or vacant. If the write is refused, its reply has the current seat: try the
//!    server of that seat first, because a player with a live claim gets the same slot back. So a repeated join, a poll
//!    and a reconnect are the same call.
//! 3. For the frontier's server, take a slot from the frontier. If the frontier is used up, query the index anew,
//!    because a server costs money and may not be started while another one has room; then start a server.
//! 4. Claim on that server's ledger in one write. If the write is refused, its reply has the reason. If the server is
//!    full, try the next one, and change the seat by compare-and-swap. If it is full but has expired claims, claim
//!    again and remove exactly these. If it drains or is lapsed, try the next one.
//! 5. Give back a frontier's slot for which there is no claim in the end. So a client that joins and cancels in a loop,
//!    or joins and cancels at the same time, starts no servers.
//!
//! If the player has a reservation in another pool than the requested one, the join cancels that reservation first. So
//! the player never holds two slots, and holds none if the outcome is [`Joined::No`].
//!
//! The number of tries is bounded (`search::Tries`): three servers of the index, then six turns at the frontier, then
//! the outcome is [`NoSlot::Busy`].

use super::{Answer, Effect, Hint, NoSlot, Protocol, Reply, Step, TakenSlots, search::Search};
use crate::{
    Assignment, Claim, ExpectedSeat, Ledger, LedgerWrite, Placement, PlayerId, PoolName, Seat, SeatWrite, ServerId,
    ServerState, Span, Time,
};

/// The slot that a join has placed its player on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    /// The server's ledger with the player's claim in it.
    pub ledger: Ledger,
    /// The player's claim.
    pub claim: Claim,
}

/// The outcome of a join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Joined {
    /// The player has a slot.
    Placed(Box<Placed>),
    /// The player is connected to a server of this pool, which is not the requested one.
    Elsewhere(PoolName),
    /// The player has no slot, for this reason.
    No(NoSlot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    /// The seat is being read. `no_name`: it is read instead of written, because no server is known that it could name.
    ReadingSeat {
        no_name: bool,
    },
    Finding,
    Seating {
        server: ServerId,
        from_frontier: bool,
    },
    Looking(Assignment),
    TakingSlot,
    /// The claim is being written. `anew`: only as a new claim on the server, not as the renewal of an older one.
    Claiming {
        server: ServerId,
        placement: Placement,
        anew: bool,
    },
    /// A server that accepts no claims is being removed from the index.
    Unlisting(ServerId),
    MovingOn,
    Finishing(Box<Placed>),
    /// The seat of a reservation in another pool is being vacated; then this write frees the claim.
    Leaving(ServerId, LedgerWrite),
    Freed,
    /// The server of an unused slot of the frontier is being read, before the slot is given back.
    Returning(Box<Joined>),
    Returned(Box<Joined>),
    Over,
}

/// The protocol of a join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    player: PlayerId,
    /// The requested pool; `None` keeps a player on the server of the current placement, whatever its pool.
    asked: Option<PoolName>,
    /// The search for a server with room.
    search: Search,
    /// The seat as it was last read or written.
    seat: ExpectedSeat,
    /// Whether this call has written the seat. Of several calls about one player, only the one that has written the
    /// seat may take a slot or start a server.
    mine: bool,
    /// The player's last known placement.
    last: Option<Placement>,
    /// The server on which the frontier has handed out a slot that no claim uses yet.
    taken: Option<ServerId>,
    stage: Stage,
}

impl Join {
    /// The join of `player` into the pool `asked`. If that is `None`, the player stays on the server of the current
    /// placement, or is placed in `pool` if there is none. The servers of `pool` have `capacity` slots and send a
    /// heartbeat every `heartbeat`.
    pub fn new(player: PlayerId, asked: Option<PoolName>, pool: PoolName, capacity: u32, heartbeat: Span) -> Self {
        Self {
            player,
            asked,
            search: Search::new(pool, capacity, heartbeat),
            seat: ExpectedSeat::Vacant,
            mine: false,
            last: None,
            taken: None,
            stage: Stage::Start,
        }
    }

    fn effect(&mut self, stage: Stage, effect: Effect) -> Step<Joined> {
        self.stage = stage;
        Step::Effect(effect)
    }

    fn no(reason: NoSlot) -> Step<Joined> {
        Step::Done(Joined::No(reason))
    }

    fn find(&mut self) -> Step<Joined> {
        let find = self.search.find(1);
        self.effect(Stage::Finding, find)
    }

    fn read_seat(&mut self) -> Step<Joined> {
        self.effect(Stage::ReadingSeat { no_name: false }, Effect::ReadSeat(self.player.clone()))
    }

    fn take_slot(&mut self, now: Time) -> Step<Joined> {
        let Some(may_start) = self.search.turn() else { return Self::no(NoSlot::Busy) };
        if let Some(server) = self.taken.clone() {
            return self.on_slot(server, now);
        }
        let take = self.search.take_slots(1, may_start);
        self.effect(Stage::TakingSlot, take)
    }

    /// Uses the slot that the frontier has handed out on `server`: claims it, or writes the seat first.
    fn on_slot(&mut self, server: ServerId, now: Time) -> Step<Joined> {
        self.taken = Some(server.clone());
        match &self.seat {
            ExpectedSeat::Exactly { server: seated, claim: Claim::Reserved(placement) } if *seated == server => {
                let placement = *placement;
                self.claim_slot(server, placement, now)
            }
            _ => self.write_seat(server, false, now),
        }
    }

    /// Writes the seat under a new placement on `server`, a server of the pool that is searched.
    fn write_seat(&mut self, server: ServerId, from_frontier: bool, now: Time) -> Step<Joined> {
        self.write_seat_in(self.search.pool.clone(), server, from_frontier, now)
    }

    fn write_seat_in(&mut self, pool: PoolName, server: ServerId, from_frontier: bool, now: Time) -> Step<Joined> {
        let placement = Placement::next(now, self.last);
        self.last = Some(placement);
        let write = SeatWrite::Assign { from: self.seat.clone(), server: server.clone(), pool, placement };
        self.effect(Stage::Seating { server, from_frontier }, Effect::WriteSeat(self.player.clone(), write))
    }

    /// Notes that the seat carries `claim` on `server`, and whether this call has written it.
    fn seated(&mut self, server: ServerId, claim: Claim, mine: bool) {
        self.mine = mine;
        self.last = Some(claim.placement());
        self.seat = ExpectedSeat::Exactly { server, claim };
    }

    fn claim(&mut self, server: ServerId, placement: Placement, now: Time) -> Step<Joined> {
        let seen_by = self.search.seen_by(now);
        let write = LedgerWrite::Claim { player: self.player.clone(), placement, now, seen_by };
        self.effect(
            Stage::Claiming { server: server.clone(), placement, anew: false },
            Effect::WriteLedger(server, write),
        )
    }

    /// Claims the slot that the frontier has handed out. The write is refused if the player has an older claim on the
    /// server: that claim is renewed instead, and the frontier's slot is given back.
    fn claim_slot(&mut self, server: ServerId, placement: Placement, now: Time) -> Step<Joined> {
        self.claim_anew(server, self.search.capacity, Vec::new(), placement, now)
    }

    fn claim_evicting(&mut self, ledger: &Ledger, placement: Placement, now: Time) -> Step<Joined> {
        self.claim_anew(ledger.id.clone(), ledger.capacity, ledger.evictable(now), placement, now)
    }

    fn claim_anew(
        &mut self,
        server: ServerId,
        capacity: u32,
        evict: Vec<(PlayerId, Claim)>,
        placement: Placement,
        now: Time,
    ) -> Step<Joined> {
        let players = vec![(self.player.clone(), None)];
        let seen_by = self.search.seen_by(now);
        let write = LedgerWrite::ClaimExactly { players, placement, now, seen_by, evict, capacity };
        self.effect(
            Stage::Claiming { server: server.clone(), placement, anew: true },
            Effect::WriteLedger(server, write),
        )
    }

    /// Continues with `next` after another call about the same player or slot was first, a bounded number of times.
    fn raced(&mut self, next: impl FnOnce(&mut Self) -> Step<Joined>) -> Step<Joined> {
        if self.search.tries.race() { next(self) } else { Self::no(NoSlot::Busy) }
    }

    /// Tries another server, because this one accepts no claims, and corrects its index entry first.
    fn turned_away(&mut self, ledger: &Ledger, now: Time) -> Step<Joined> {
        self.search.tries.closed();
        let server = ledger.id.clone();
        match ledger.listing_fix(now) {
            Some(write) => self.effect(Stage::Unlisting(server.clone()), Effect::WriteLedger(server, write)),
            None => self.move_on(server),
        }
    }

    fn move_on(&mut self, server: ServerId) -> Step<Joined> {
        self.taken.take_if(|taken| *taken == server);
        let used_up = self.search.without_room(server);
        self.effect(Stage::MovingOn, used_up)
    }

    fn read_ledger(&mut self, place: Assignment) -> Step<Joined> {
        let server = place.server.clone();
        self.effect(Stage::Looking(place), Effect::ReadLedger(server))
    }

    fn placed(&mut self, ledger: Ledger, claim: Claim, now: Time) -> Step<Joined> {
        let fix = ledger.listing_fix_after_claim(1, now);
        let placed = Box::new(Placed { claim, ledger });
        match fix {
            Some(write) => {
                let server = placed.ledger.id.clone();
                self.effect(Stage::Finishing(placed), Effect::WriteLedger(server, write))
            }
            None => Self::done(placed),
        }
    }

    const fn done(placed: Box<Placed>) -> Step<Joined> {
        Step::Done(Joined::Placed(placed))
    }

    /// Gives back the unused slot of the frontier on `server` before the join ends with `outcome`.
    fn give_back(&mut self, server: ServerId, outcome: Joined) -> Step<Joined> {
        match &outcome {
            Joined::Placed(placed) if placed.ledger.id == server => {
                let ledger = placed.ledger.clone();
                self.on_left_over(Some(ledger), Box::new(outcome))
            }
            _ => self.effect(Stage::Returning(Box::new(outcome)), Effect::ReadLedger(server)),
        }
    }

    fn on_left_over(&mut self, ledger: Option<Ledger>, outcome: Box<Joined>) -> Step<Joined> {
        match ledger.filter(|ledger| ledger.state == ServerState::Starting) {
            Some(ledger) => self.effect(Stage::Returned(outcome), Effect::GiveBack(Box::new(ledger))),
            None => Step::Done(*outcome),
        }
    }

    fn on_hint(&mut self, hint: Hint, now: Time) -> Step<Joined> {
        match hint {
            Hint::Listed(server) => {
                self.search.tries.listed();
                self.search.used_up = false;
                self.write_seat(server, false, now)
            }
            _ if self.search.used_up => self.take_slot(now),
            _ if self.mine => self.take_slot(now),
            Hint::Frontier(server) => self.write_seat(server, true, now),
            // No server is known that the seat could name. An assigned seat gets a new placement on its own server, so
            // that only one call takes a slot. If no assigned seat is known, reading the seat shows whether this call
            // is a poll.
            Hint::Unknown => match &self.seat {
                ExpectedSeat::Exactly { server, .. } => {
                    let server = server.clone();
                    self.write_seat(server, true, now)
                }
                ExpectedSeat::Vacant => {
                    self.effect(Stage::ReadingSeat { no_name: true }, Effect::ReadSeat(self.player.clone()))
                }
            },
        }
    }

    /// Continues with the seat as it was read: reads the ledger of an assigned seat, and runs `otherwise` without one.
    fn on_seat(&mut self, seat: Option<Seat>, otherwise: impl FnOnce(&mut Self) -> Step<Joined>) -> Step<Joined> {
        self.last = seat.as_ref().map(Seat::placement).max(self.last);
        match seat {
            Some(Seat::Assigned(place)) => self.read_ledger(place),
            Some(Seat::Vacant(_)) | None => {
                (self.seat, self.mine) = (ExpectedSeat::Vacant, false);
                otherwise(self)
            }
        }
    }

    /// Continues with the ledger of the server that the seat names, which is tried before any other server.
    fn on_standing(&mut self, place: Assignment, ledger: Option<Ledger>, now: Time) -> Step<Joined> {
        self.seated(place.server.clone(), place.claim, false);
        let Some(ledger) = ledger.filter(|ledger| ledger.state != ServerState::Stopped) else {
            return self.find();
        };
        let (placement, claim) = (place.claim.placement(), ledger.claims.get(&self.player).copied());
        let is_live = |claim: Claim| !ledger.is_over(claim, now);
        let kept = ledger.kept(&self.player, place.claim, now);
        if self.asked.as_ref().is_some_and(|asked| *asked != ledger.pool) {
            return match kept {
                Some(Claim::Connected(_)) => Step::Done(Joined::Elsewhere(ledger.pool)),
                // The reservation ends before the search for another slot, so the player holds nothing if there is
                // none.
                Some(claim) => {
                    let (player, ready) = (self.player.clone(), ledger.state == ServerState::Ready);
                    let free = LedgerWrite::Free { by: None, player, claim, ready };
                    let vacate = SeatWrite::Vacate { server: place.server.clone(), claim };
                    self.effect(Stage::Leaving(place.server, free), Effect::WriteSeat(self.player.clone(), vacate))
                }
                None => self.find(),
            };
        }
        if let Some(claim) = kept {
            return self.placed(ledger, claim, now);
        }
        match claim {
            Some(claim) if claim.placement() > placement => self.raced(Self::read_seat),
            _ if place.claim.is_connected() || !ledger.takes_claims(now) => self.find(),
            // The reservation has expired and its slot was not taken: claim on the same server under a new placement.
            Some(_) if !is_live(place.claim) => self.write_seat_in(ledger.pool, place.server, false, now),
            // The seat was written without a claim. The claim is written now, unless the placement has expired or the
            // server is full.
            None if !is_live(place.claim) || ledger.is_full() => self.find(),
            _ => self.claim(place.server, placement, now),
        }
    }

    fn on_refused_claim(
        &mut self,
        server: ServerId,
        placement: Placement,
        anew: bool,
        image: Option<Ledger>,
        now: Time,
    ) -> Step<Joined> {
        let Some(ledger) = image else {
            return self.move_on(server);
        };
        match ledger.claims.get(&self.player).copied() {
            Some(claim) if claim == Claim::Connected(placement) => return self.placed(ledger, claim, now),
            Some(claim) if claim.placement() > placement => return self.raced(Self::read_seat),
            // An earlier try of this write was applied, or another call about the player has claimed under this
            // placement. If the claim has expired since, the current seat decides the next step.
            Some(claim) if claim == Claim::Reserved(placement) => {
                if anew {
                    self.taken = None;
                }
                return if ledger.is_over(claim, now) {
                    self.raced(Self::read_seat)
                } else {
                    self.placed(ledger, claim, now)
                };
            }
            // Renewing the player's older claim needs no further slot, so a slot of the frontier stays unused.
            Some(_) if ledger.takes_claims(now) => return self.raced(|join| join.claim(server, placement, now)),
            Some(_) => {}
            // The player has no claim on the server: the plain claim below can use the frontier's slot.
            None => self.taken = None,
        }
        if !ledger.takes_claims(now) {
            return self.turned_away(&ledger, now);
        }
        if ledger.is_full() {
            return if ledger.evictable(now).is_empty() {
                self.move_on(server)
            } else {
                self.raced(|join| join.claim_evicting(&ledger, placement, now))
            };
        }
        self.raced(|join| join.claim(server, placement, now))
    }
}

impl Join {
    fn step(&mut self, now: Time, reply: Reply) -> Step<Joined> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) | (Stage::MovingOn, Reply::Done) => self.find(),
            // A heartbeat has arrived since the server refused the claim.
            (Stage::Unlisting(_), Reply::LedgerWritten(Answer::Refused(Some(ledger)))) if ledger.takes_claims(now) => {
                self.raced(Self::read_seat)
            }
            (Stage::Unlisting(server), Reply::LedgerWritten(_)) => self.move_on(server),
            (Stage::Finding, Reply::Found(hint)) => self.on_hint(hint, now),
            (Stage::ReadingSeat { no_name: true }, Reply::SeatRead(seat)) => {
                self.on_seat(seat, |join| join.take_slot(now))
            }
            (Stage::ReadingSeat { no_name: false }, Reply::SeatRead(seat)) => self.on_seat(seat, Self::find),
            (Stage::Seating { server, from_frontier }, Reply::SeatWritten(Answer::Written(seat))) => {
                let placement = seat.placement();
                self.seated(server.clone(), Claim::Reserved(placement), true);
                if from_frontier {
                    self.take_slot(now)
                } else if self.taken.as_ref() == Some(&server) {
                    self.claim_slot(server, placement, now)
                } else {
                    self.claim(server, placement, now)
                }
            }
            (Stage::Seating { .. }, Reply::SeatWritten(Answer::Refused(seat))) => {
                self.raced(|join| join.on_seat(seat, Self::find))
            }
            (Stage::Looking(place), Reply::LedgerRead(ledger)) => self.on_standing(place, ledger, now),
            (Stage::TakingSlot, Reply::SlotsTaken(TakenSlots::On(server))) => self.on_slot(server, now),
            (Stage::TakingSlot, Reply::SlotsTaken(TakenSlots::UsedUp)) => {
                self.search.used_up = true;
                self.find()
            }
            (Stage::TakingSlot, Reply::SlotsTaken(TakenSlots::No(reason))) => Self::no(reason),
            (Stage::Claiming { server, placement, anew }, Reply::LedgerWritten(Answer::Written(ledger))) => {
                if anew {
                    self.taken.take_if(|taken| *taken == server);
                }
                self.placed(ledger, Claim::Reserved(placement), now)
            }
            (Stage::Claiming { server, placement, anew }, Reply::LedgerWritten(Answer::Refused(image))) => {
                self.on_refused_claim(server, placement, anew, image, now)
            }
            // The claim of another call has changed the fill again, and its index write was first.
            (Stage::Finishing(placed), Reply::LedgerWritten(Answer::Refused(Some(image)))) => {
                match image.listing_fix(now).filter(|_| image.is_full()) {
                    Some(write) if self.search.tries.race() => {
                        let server = placed.ledger.id.clone();
                        self.effect(Stage::Finishing(placed), Effect::WriteLedger(server, write))
                    }
                    _ => Self::done(placed),
                }
            }
            (Stage::Finishing(placed), Reply::LedgerWritten(_)) => Self::done(placed),
            (Stage::Leaving(server, free), Reply::SeatWritten(Answer::Written(_))) => {
                (self.seat, self.mine) = (ExpectedSeat::Vacant, false);
                self.effect(Stage::Freed, Effect::WriteLedger(server, free))
            }
            (Stage::Leaving(..), Reply::SeatWritten(Answer::Refused(seat))) => {
                self.raced(|join| join.on_seat(seat, Self::find))
            }
            (Stage::Freed, Reply::LedgerWritten(Answer::Written(ledger))) if ledger.state == ServerState::Starting => {
                self.effect(Stage::MovingOn, Effect::GiveBack(Box::new(ledger)))
            }
            (Stage::Freed, Reply::LedgerWritten(_)) => self.find(),
            (Stage::Returning(outcome), Reply::LedgerRead(ledger)) => self.on_left_over(ledger, outcome),
            (Stage::Returned(outcome), Reply::Done) => Step::Done(*outcome),
            _ => Step::ProtocolError,
        }
    }
}

impl Protocol for Join {
    type Outcome = Joined;

    fn next(&mut self, now: Time, reply: Reply) -> Step<Joined> {
        match self.step(now, reply) {
            Step::Done(outcome) => match self.taken.take() {
                Some(server) => self.give_back(server, outcome),
                None => Step::Done(outcome),
            },
            next => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Fill,
        fixtures::{NOW, TICK, connected, draining, placement, player, pool, ready, reserved, seat, server, starting},
    };

    const HEARTBEAT: Span = Span::seconds(10);

    /// A join of player `a` into the pool `asked`, or into the pool `p` if that is `None`; servers have two slots.
    fn join(asked: Option<&str>) -> Join {
        Join::new(player("a"), asked.map(pool), pool(asked.unwrap_or("p")), 2, HEARTBEAT)
    }

    fn is_find(next: &Step<Joined>) -> bool {
        matches!(next, Step::Effect(Effect::Find { .. }))
    }

    /// A join without any known server, up to its claim on server `s`, on which the frontier has handed out a slot.
    fn claiming() -> (Join, Placement) {
        let mut join = join(None);
        assert!(is_find(&join.next(NOW, Reply::Start)));
        assert_eq!(join.next(NOW, Reply::Found(Hint::Unknown)), Step::Effect(Effect::ReadSeat(player("a"))));
        let take = Step::Effect(Effect::TakeSlots { pool: pool("p"), slots: 1, may_start: false });
        assert_eq!(join.next(NOW, Reply::SeatRead(None)), take);
        let next = join.next(NOW, Reply::SlotsTaken(TakenSlots::On(server("s"))));
        let Step::Effect(Effect::WriteSeat(_, SeatWrite::Assign { placement, .. })) = next else { panic!("{next:?}") };
        let next = join.next(NOW, Reply::SeatWritten(Answer::Written(seat("s", Claim::Reserved(placement)))));
        assert!(matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::ClaimExactly { .. }))), "{next:?}");
        (join, placement)
    }

    #[test]
    fn a_frontiers_slot_on_a_server_without_a_ledger_is_not_given_back() {
        let (mut join, _) = claiming();
        assert_eq!(
            join.next(NOW, Reply::LedgerWritten(Answer::Refused(None))),
            Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") })
        );
        assert!(is_find(&join.next(NOW, Reply::Done)));
        let next = join.next(NOW, Reply::Found(Hint::Frontier(server("another"))));
        assert_eq!(next, Step::Effect(Effect::TakeSlots { pool: pool("p"), slots: 1, may_start: false }));
        let next = join.next(NOW, Reply::SlotsTaken(TakenSlots::No(NoSlot::PoolFull)));
        assert_eq!(next, Step::Done(Joined::No(NoSlot::PoolFull)));
    }

    #[test]
    fn an_older_claim_of_the_player_is_renewed_and_the_frontiers_slot_is_given_back() {
        let (mut join, placement) = claiming();
        let full = starting(&[("a", reserved(1_000)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(full))));
        let Step::Effect(Effect::WriteLedger(_, LedgerWrite::Claim { placement: of, .. })) = next else {
            panic!("{next:?}")
        };
        assert_eq!(of, placement, "the renewal needs no further slot");
        let renewed = starting(&[("a", Claim::Reserved(placement)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Written(renewed.clone())));
        assert_eq!(next, Step::Effect(Effect::GiveBack(Box::new(renewed))));
        assert!(matches!(join.next(NOW, Reply::Done), Step::Done(Joined::Placed(_))));
    }

    #[test]
    fn a_refused_claim_that_was_applied_before_places_the_player_unless_it_has_expired() {
        let (mut join, placement) = claiming();
        let applied = starting(&[("a", Claim::Reserved(placement)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(applied))));
        assert!(matches!(next, Step::Done(Joined::Placed(_))), "{next:?}");
        // A claim on a server of the index can have expired before the reply to its write arrives.
        let end = NOW + ready(&[]).reservation;
        for (case, now, expired) in [("1 ms before its end", end - TICK, false), ("at its end", end, true)] {
            let mut join = self::join(None);
            join.next(NOW, Reply::Start);
            join.next(NOW, Reply::Found(Hint::Listed(server("s"))));
            join.next(NOW, Reply::SeatWritten(Answer::Written(seat("s", Claim::Reserved(placement)))));
            let applied = Ledger { capacity: 1, ..ready(&[("a", Claim::Reserved(placement))]) };
            let next = join.next(now, Reply::LedgerWritten(Answer::Refused(Some(applied))));
            assert_eq!(next == Step::Effect(Effect::ReadSeat(player("a"))), expired, "{case}: {next:?}");
            assert_eq!(matches!(next, Step::Done(Joined::Placed(_))), !expired, "{case}: {next:?}");
        }
    }

    #[test]
    fn an_older_claim_on_a_draining_server_is_not_renewed() {
        let (mut join, _) = claiming();
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(draining(&[("a", reserved(1_000))])))));
        assert_eq!(next, Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }));
    }

    #[test]
    fn a_lapsed_server_that_sends_a_heartbeat_after_it_refused_a_claim_is_not_marked_used_up() {
        let lapsed = Ledger { lease_until: Some(NOW - TICK), listed: Some(Fill::TOP), ..ready(&[]) };
        for (case, image, has_lease) in [
            ("no heartbeat", lapsed.clone(), false),
            ("a heartbeat in between", Ledger { lease_until: Some(NOW + TICK), ..lapsed.clone() }, true),
        ] {
            let (mut join, _) = claiming();
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(lapsed.clone()))));
            assert!(
                matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))),
                "{case}: {next:?}"
            );
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(image))));
            assert_eq!(next == Step::Effect(Effect::ReadSeat(player("a"))), has_lease, "{case}: {next:?}");
            assert_eq!(
                next == Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }),
                !has_lease,
                "{case}: {next:?}"
            );
        }
    }

    /// A join into the pool `q` of a player with `claim` in the pool `p`, up to the step after it has read `ledger`.
    fn from_another_pool(ledger: Ledger, claim: Claim) -> (Join, Step<Joined>) {
        let mut join = join(Some("q"));
        assert!(is_find(&join.next(NOW, Reply::Start)));
        let next = join.next(NOW, Reply::Found(Hint::Listed(server("t"))));
        assert!(matches!(next, Step::Effect(Effect::WriteSeat(..))), "{next:?}");
        let next = join.next(NOW, Reply::SeatWritten(Answer::Refused(Some(seat("s", claim)))));
        assert_eq!(next, Step::Effect(Effect::ReadLedger(server("s"))));
        let next = join.next(NOW, Reply::LedgerRead(Some(ledger)));
        (join, next)
    }

    #[test]
    fn a_reservation_in_another_pool_is_cancelled_before_the_search() {
        for (case, ledger, is_ready) in [
            ("starting", starting(&[("a", reserved(1_000))]), false),
            ("ready", ready(&[("a", reserved(1_000))]), true),
        ] {
            let (mut join, next) = from_another_pool(ledger.clone(), reserved(1_000));
            let vacate = SeatWrite::Vacate { server: server("s"), claim: reserved(1_000) };
            assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), vacate)), "{case}");
            let (player, claim) = (player("a"), reserved(1_000));
            let free = LedgerWrite::Free { by: None, player, claim, ready: is_ready };
            let next = join.next(NOW, Reply::SeatWritten(Answer::Written(Seat::Vacant(placement(1_000)))));
            assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), free)), "{case}");
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Written(ledger.clone())));
            assert_eq!(is_find(&next), is_ready, "{case}: a frontier's slot is given back before the search: {next:?}");
            assert_eq!(next == Step::Effect(Effect::GiveBack(Box::new(ledger))), !is_ready, "{case}");
        }
    }

    #[test]
    fn a_seat_that_another_call_changes_during_a_cancellation_is_tried_first() {
        let (mut join, _) = from_another_pool(ready(&[("a", reserved(1_000))]), reserved(1_000));
        let next = join.next(NOW, Reply::SeatWritten(Answer::Refused(Some(seat("t", reserved(1_001))))));
        assert_eq!(next, Step::Effect(Effect::ReadLedger(server("t"))));
    }

    #[test]
    fn a_player_connected_in_another_pool_stays_there() {
        let (_, next) = from_another_pool(ready(&[("a", connected(1_000))]), connected(1_000));
        assert_eq!(next, Step::Done(Joined::Elsewhere(pool("p"))));
    }
}
