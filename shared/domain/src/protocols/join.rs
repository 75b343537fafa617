//! Placing a player: seat first, then the claim under the seat's placement.
//!
//! 1. Find a server that may have room: a ready one from the index, else the one that the frontier fills.
//! 2. Write the seat, if it is absent or vacant. A refusal returns the seat that stands: go there first, because a
//!    player with a live claim gets the same slot back. So a repeated join, a poll and a reconnect are the same call.
//! 3. For the frontier's server, take a slot from the frontier. If it is used up, ask the index anew, for a server
//!    costs money and may not be started while another has room; then start one.
//! 4. Claim on that server's ledger in one write. A refusal says why: full (the next candidate, moving the seat by
//!    compare-and-swap), full of expired claims (claim again, removing exactly those), draining or dead (move on).
//! 5. A frontier's slot for which there is no claim in the end goes back, so that joining and leaving in a loop, or
//!    both at once, starts no servers.
//!
//! A player with a reservation in another pool than the one asked for cancels that reservation first: whatever the
//! answer is then, nothing is held twice, and 503 means that nothing is held.
//!
//! Everything is bounded (`search::Tries`): three servers of the index, then six turns at the frontier, then
//! [`NoSlot::Busy`].

use super::{Answer, Effect, Hint, NoSlot, Protocol, Reply, Step, TakenSlots, search::Search};
use crate::{
    Assignment, Claim, ExpectedSeat, Ledger, LedgerWrite, Placement, PlayerId, PoolName, Seat, SeatWrite, ServerId,
    ServerState, Span, Time,
};

/// A slot that is the player's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    /// The server's ledger with the player's claim in it.
    pub ledger: Ledger,
    /// The claim.
    pub claim: Claim,
}

/// How a join ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Joined {
    /// With a slot.
    Placed(Box<Placed>),
    /// The player is inside a server of another pool than the one asked for.
    Elsewhere(PoolName),
    /// Without a slot.
    No(NoSlot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    /// `no_name`: there was no server to name, so the seat was read instead of written.
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
    /// `anew`: only as a further claim on the server, not in the place of an older one of the player's.
    Claiming {
        server: ServerId,
        placement: Placement,
        anew: bool,
    },
    /// A server that takes nobody is taken out of the index.
    Unlisting(ServerId),
    MovingOn,
    Finishing(Box<Placed>),
    /// A reservation in another pool is given up: first the seat, then the claim.
    Leaving(ServerId, LedgerWrite),
    Freed,
    /// A slot of a frontier that was not needed after all goes back.
    Returning(Box<Joined>),
    Returned(Box<Joined>),
    Over,
}

/// The protocol of a join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    player: PlayerId,
    /// The pool that was asked for; without one a player who is placed anywhere stays there.
    asked: Option<PoolName>,
    /// The search for a server with room.
    search: Search,
    /// What the seat is believed to be.
    seat: ExpectedSeat,
    /// Whether it is this very call that has written the seat. Of many calls about one player only that one may take a
    /// slot or start a server.
    mine: bool,
    /// The last placement that the player is known to have had.
    last: Option<Placement>,
    /// A frontier has given a slot on this server, and no claim stands for it yet.
    taken: Option<ServerId>,
    stage: Stage,
}

impl Join {
    /// A join of `player` into `asked`, or, if that is `None`, to where the player is already, else into `pool`, whose
    /// servers have `capacity` slots.
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

    /// A frontier has given a slot on `server`.
    fn on_slot(&mut self, server: ServerId, now: Time) -> Step<Joined> {
        self.taken = Some(server.clone());
        match &self.seat {
            ExpectedSeat::Exactly { server: seated, claim: Claim::Reserved(placement) } if *seated == server => {
                let placement = *placement;
                self.claim_slot(server, placement, now)
            }
            _ => self.sit(server, false, now),
        }
    }

    /// Writes the seat with a new placement that names `server`, of the pool in which a slot is looked for.
    fn sit(&mut self, server: ServerId, from_frontier: bool, now: Time) -> Step<Joined> {
        self.sit_in(self.search.pool.clone(), server, from_frontier, now)
    }

    fn sit_in(&mut self, pool: PoolName, server: ServerId, from_frontier: bool, now: Time) -> Step<Joined> {
        let placement = Placement::next(now, self.last);
        self.last = Some(placement);
        let write = SeatWrite::Assign { from: self.seat.clone(), server: server.clone(), pool, placement };
        self.effect(Stage::Seating { server, from_frontier }, Effect::WriteSeat(self.player.clone(), write))
    }

    /// The seat carries this claim for this server; nothing else does yet.
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

    /// Claims the slot that a frontier has given. If the player has an older claim there, that slot is one too many,
    /// which only the claim itself can tell.
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

    /// Another call was faster; starts over at `next`, a bounded number of times.
    fn raced(&mut self, next: impl FnOnce(&mut Self) -> Step<Joined>) -> Step<Joined> {
        if self.search.tries.race() { next(self) } else { Self::no(NoSlot::Busy) }
    }

    /// The server takes nobody: what lists it is mended on the way.
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

    fn look(&mut self, place: Assignment) -> Step<Joined> {
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

    /// Nothing more is to be done for the player, but a slot may be left over.
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
                self.sit(server, false, now)
            }
            _ if self.search.used_up => self.take_slot(now),
            _ if self.mine => self.take_slot(now),
            Hint::Frontier(server) => self.sit(server, true, now),
            // There is no name to write. A seat that stands is moved to where it is, to win the turn; if there is none,
            // a look tells whether this is a poll.
            Hint::Unknown => match &self.seat {
                ExpectedSeat::Exactly { server, .. } => {
                    let server = server.clone();
                    self.sit(server, true, now)
                }
                ExpectedSeat::Vacant => {
                    self.effect(Stage::ReadingSeat { no_name: true }, Effect::ReadSeat(self.player.clone()))
                }
            },
        }
    }

    /// The seat is not as believed, or was not known before.
    fn on_seat(&mut self, seat: Option<Seat>, otherwise: impl FnOnce(&mut Self) -> Step<Joined>) -> Step<Joined> {
        self.last = seat.as_ref().map(Seat::placement).max(self.last);
        match seat {
            Some(Seat::Assigned(place)) => self.look(place),
            Some(Seat::Vacant(_)) | None => {
                (self.seat, self.mine) = (ExpectedSeat::Vacant, false);
                otherwise(self)
            }
        }
    }

    /// A player who has a seat goes there first.
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
                // Before there is another, as the answer may be that there is none: nothing is held then.
                Some(claim) => {
                    let (player, ready) = (self.player.clone(), ledger.state == ServerState::Ready);
                    let release = LedgerWrite::Free { by: None, player, claim, ready };
                    let void = SeatWrite::Vacate { server: place.server.clone(), claim };
                    self.effect(Stage::Leaving(place.server, release), Effect::WriteSeat(self.player.clone(), void))
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
            // The reservation ran out and nobody took the slot: the same server, under a new placement.
            Some(_) if !is_live(place.claim) => self.sit_in(ledger.pool, place.server, false, now),
            // The seat was written and the claim never came: finish what was begun.
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
            // An earlier try of this write took, or another call about the player has finished what this one began. If
            // that was so long ago that its time is up, the seat says what to do next.
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
            // Renewing that one takes no room, and a frontier's slot is one too many.
            Some(_) if ledger.takes_claims(now) => return self.raced(|join| join.claim(server, placement, now)),
            Some(_) => {}
            // The slot will do for a claim that does not look so exactly.
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
            // It has beaten since it refused the claim.
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
            // Another claim has just changed the fill level again, and its write came first.
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
            (Stage::Leaving(server, release), Reply::SeatWritten(Answer::Written(_))) => {
                (self.seat, self.mine) = (ExpectedSeat::Vacant, false);
                self.effect(Stage::Freed, Effect::WriteLedger(server, release))
            }
            (Stage::Leaving(..), Reply::SeatWritten(Answer::Refused(seat))) => {
                self.raced(|join| join.on_seat(seat, Self::find))
            }
            (Stage::Freed, Reply::LedgerWritten(Answer::Written(left))) if left.state == ServerState::Starting => {
                self.effect(Stage::MovingOn, Effect::GiveBack(Box::new(left)))
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

    /// A join of `a` into the pool `p`, whose servers have two slots.
    fn join(asked: Option<&str>) -> Join {
        Join::new(player("a"), asked.map(pool), pool(asked.unwrap_or("p")), 2, HEARTBEAT)
    }

    fn is_find(next: &Step<Joined>) -> bool {
        matches!(next, Step::Effect(Effect::Find { .. }))
    }

    /// A join that knows of no server at all, up to a slot that the frontier has given on `s`: its claim is under way.
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
    fn a_slot_on_a_server_that_is_gone_is_not_given_back() {
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
    fn an_older_claim_of_the_player_is_renewed_and_the_frontiers_slot_goes_back() {
        let (mut join, placement) = claiming();
        let full = starting(&[("a", reserved(1_000)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(full))));
        let Step::Effect(Effect::WriteLedger(_, LedgerWrite::Claim { placement: of, .. })) = next else {
            panic!("{next:?}")
        };
        assert_eq!(of, placement, "renewing takes no room");
        let renewed = starting(&[("a", Claim::Reserved(placement)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Written(renewed.clone())));
        assert_eq!(next, Step::Effect(Effect::GiveBack(Box::new(renewed))));
        assert!(matches!(join.next(NOW, Reply::Done), Step::Done(Joined::Placed(_))));
    }

    #[test]
    fn a_claim_that_took_before_is_the_players_unless_its_time_is_up() {
        let (mut join, placement) = claiming();
        let took = starting(&[("a", Claim::Reserved(placement)), ("b", reserved(1_000))]);
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(took))));
        assert!(matches!(next, Step::Done(Joined::Placed(_))), "{next:?}");
        // The same of a claim on a server of the index, whose answer came so late that it is over.
        let late = NOW + ready(&[]).reservation;
        for (case, now, over) in [("a moment before its end", late - TICK, false), ("at its end", late, true)] {
            let mut join = self::join(None);
            join.next(NOW, Reply::Start);
            join.next(NOW, Reply::Found(Hint::Listed(server("s"))));
            join.next(NOW, Reply::SeatWritten(Answer::Written(seat("s", Claim::Reserved(placement)))));
            let took = Ledger { capacity: 1, ..ready(&[("a", Claim::Reserved(placement))]) };
            let next = join.next(now, Reply::LedgerWritten(Answer::Refused(Some(took))));
            assert_eq!(next == Step::Effect(Effect::ReadSeat(player("a"))), over, "{case}: {next:?}");
            assert_eq!(matches!(next, Step::Done(Joined::Placed(_))), !over, "{case}: {next:?}");
        }
    }

    #[test]
    fn an_older_claim_on_a_server_that_takes_nobody_is_left_behind() {
        let (mut join, _) = claiming();
        let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(draining(&[("a", reserved(1_000))])))));
        assert_eq!(next, Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }));
    }

    #[test]
    fn a_server_that_has_beaten_since_it_turned_a_claim_away_is_not_called_used_up() {
        let lapsed = Ledger { lease_until: Some(NOW - TICK), listed: Some(Fill::TOP), ..ready(&[]) };
        for (case, image, beaten) in [
            ("it has not beaten", lapsed.clone(), false),
            ("it has beaten since", Ledger { lease_until: Some(NOW + TICK), ..lapsed.clone() }, true),
        ] {
            let (mut join, _) = claiming();
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(lapsed.clone()))));
            assert!(
                matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))),
                "{case}: {next:?}"
            );
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(image))));
            assert_eq!(next == Step::Effect(Effect::ReadSeat(player("a"))), beaten, "{case}: {next:?}");
            assert_eq!(
                next == Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }),
                !beaten,
                "{case}: {next:?}"
            );
        }
    }

    /// A join into the pool `q` of a player who has a place in `p`: what it does about that.
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
    fn a_reservation_in_another_pool_is_given_up_first() {
        for (case, ledger, is_ready) in [
            ("starting", starting(&[("a", reserved(1_000))]), false),
            ("ready", ready(&[("a", reserved(1_000))]), true),
        ] {
            let (mut join, next) = from_another_pool(ledger.clone(), reserved(1_000));
            let void = SeatWrite::Vacate { server: server("s"), claim: reserved(1_000) };
            assert_eq!(next, Step::Effect(Effect::WriteSeat(player("a"), void)), "{case}");
            let (player, claim) = (player("a"), reserved(1_000));
            let release = LedgerWrite::Free { by: None, player, claim, ready: is_ready };
            let next = join.next(NOW, Reply::SeatWritten(Answer::Written(Seat::Vacant(placement(1_000)))));
            assert_eq!(next, Step::Effect(Effect::WriteLedger(server("s"), release)), "{case}");
            let next = join.next(NOW, Reply::LedgerWritten(Answer::Written(ledger.clone())));
            assert_eq!(is_find(&next), is_ready, "{case}: a frontier's slot goes back first: {next:?}");
            assert_eq!(next == Step::Effect(Effect::GiveBack(Box::new(ledger))), !is_ready, "{case}");
        }
    }

    #[test]
    fn whoever_moves_the_seat_meanwhile_is_believed() {
        let (mut join, _) = from_another_pool(ready(&[("a", reserved(1_000))]), reserved(1_000));
        let next = join.next(NOW, Reply::SeatWritten(Answer::Refused(Some(seat("t", reserved(1_001))))));
        assert_eq!(next, Step::Effect(Effect::ReadLedger(server("t"))));
    }

    #[test]
    fn who_is_inside_in_another_pool_stays_there() {
        let (_, next) = from_another_pool(ready(&[("a", connected(1_000))]), connected(1_000));
        assert_eq!(next, Step::Done(Joined::Elsewhere(pool("p"))));
    }
}
