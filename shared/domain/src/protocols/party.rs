//! Placing a party: all of its players on one server in one write, or none.
//!
//! 1. Read everybody's seat, and the ledgers that the seats name. Who holds a live claim already sits there: the others
//!    come to that server or nobody does, and two who sit apart refuse the call by name. So a repeated call, and the
//!    poll while a server starts, find everybody placed and answer the same.
//! 2. Find a server with room for all who do not sit, write their seats (a seat that has changed since: begin anew),
//!    and claim for all of them in one write that pins what was seen of each ([`LedgerWrite::ClaimExactly`]).
//! 3. A refusal says why, as in a join. A frontier with slots left, but fewer than the party needs, counts as used up
//!    for it; what is left there is found once that server is up.
//!
//! Calls about the same party at once come to one placement: seats that another call has written are taken as they are,
//! and moved only once the claim under them has been refused.
//!
//! Being killed between the seats and the claim leaves seats that name a server without a claim, which is what a join
//! leaves when it is killed there: the next call of anybody moves them on.

use std::collections::BTreeMap;

use super::{Answer, Effect, Hint, NoSlot, Protocol, Reply, Step, TakenSlots, search::Search};
use crate::{
    Claim, ExpectedSeat, Ledger, LedgerWrite, Placement, PlayerId, PoolName, Seat, SeatWrite, ServerId, Span, Time,
};

/// Everybody's slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Together {
    /// The server's ledger with the claims in it.
    pub ledger: Ledger,
    /// The players with their claims, in the order of the call.
    pub players: Vec<(PlayerId, Claim)>,
}

/// How a party's join ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PartyJoined {
    /// With a slot for each.
    Placed(Box<Together>),
    /// These hold a slot elsewhere, or where there is no room for the others.
    Elsewhere(Vec<PlayerId>),
    /// No server of the pool that starts now has slots for all.
    TooLarge,
    /// Without a slot for any.
    No(NoSlot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    player: PlayerId,
    seat: Option<Seat>,
    /// Where the player holds a live claim.
    sits: Option<ServerId>,
}

impl Member {
    /// Whether the seat is the reservation of this placement on this server.
    fn is_at(&self, server: &ServerId, placement: Placement) -> bool {
        matches!(&self.seat, Some(Seat::Assigned(place)) if place.server == *server && place.claim == Claim::Reserved(placement))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    ReadingSeats,
    /// The ledgers that are still to be looked at, the last one now.
    Looking(Vec<ServerId>),
    Finding,
    TakingSlots,
    /// So many seats are being written.
    Seating {
        server: ServerId,
        from_frontier: bool,
        seats: usize,
    },
    Claiming(ServerId),
    Unlisting(ServerId),
    MovingOn,
    Finishing(Box<Together>),
    Over,
}

/// The protocol of a party's join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    members: Vec<Member>,
    /// The search for a server with room.
    search: Search,
    /// The ledgers that the seats name, as they were seen.
    seen: BTreeMap<ServerId, Ledger>,
    /// This placement, once the seats carry it.
    placement: Option<Placement>,
    /// The server that the seats name.
    seated: Option<ServerId>,
    /// A frontier has given slots on this server, and the seats name another.
    slots_on: Option<ServerId>,
    /// Seats that put them apart, as they were last seen.
    apart: Vec<Option<Seat>>,
    stage: Stage,
}

impl Party {
    /// A join of `players`, who are distinct and at least one, into a pool whose servers have `capacity` slots.
    pub fn new(players: Vec<PlayerId>, pool: PoolName, capacity: u32, heartbeat: Span) -> Self {
        Self {
            members: players.into_iter().map(|player| Member { player, seat: None, sits: None }).collect(),
            search: Search::new(pool, capacity, heartbeat),
            seen: BTreeMap::new(),
            placement: None,
            seated: None,
            slots_on: None,
            apart: Vec::new(),
            stage: Stage::Start,
        }
    }

    fn effect(&mut self, stage: Stage, effect: Effect) -> Step<PartyJoined> {
        self.stage = stage;
        Step::Effect(effect)
    }

    const fn no(reason: NoSlot) -> Step<PartyJoined> {
        Step::Done(PartyJoined::No(reason))
    }

    fn standing(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.sits.is_none())
    }

    fn slots(&self) -> u32 {
        u32::try_from(self.standing().count()).unwrap_or(u32::MAX)
    }

    /// The server where somebody sits already.
    fn home(&self) -> Option<&ServerId> {
        self.members.iter().find_map(|member| member.sits.as_ref())
    }

    fn who(&self, is: impl Fn(&Member) -> bool) -> Step<PartyJoined> {
        let players = self.members.iter().filter(|member| is(member)).map(|member| member.player.clone());
        Step::Done(PartyJoined::Elsewhere(players.collect()))
    }

    fn read_seats(&mut self) -> Step<PartyJoined> {
        (self.seated, self.placement, self.slots_on) = (None, None, None);
        self.seen.clear();
        let players = self.members.iter().map(|member| member.player.clone()).collect();
        self.effect(Stage::ReadingSeats, Effect::ReadSeats(players))
    }

    /// Another call was faster; begins anew, a bounded number of times.
    fn raced(&mut self) -> Step<PartyJoined> {
        if self.search.tries.race() { self.read_seats() } else { Self::no(NoSlot::Busy) }
    }

    fn on_seats(&mut self, seats: Vec<Option<Seat>>, now: Time) -> Step<PartyJoined> {
        let mut named = Vec::new();
        for (member, seat) in self.members.iter_mut().zip(seats) {
            (member.seat, member.sits) = (seat, None);
            if let Some(Seat::Assigned(place)) = &member.seat
                && !named.contains(&place.server)
            {
                named.push(place.server.clone());
            }
        }
        self.look(named, now)
    }

    fn look(&mut self, named: Vec<ServerId>, now: Time) -> Step<PartyJoined> {
        match named.last() {
            Some(server) => {
                let server = server.clone();
                self.effect(Stage::Looking(named), Effect::ReadLedger(server))
            }
            None => self.on_looked(now),
        }
    }

    /// Everything is known about where they are.
    fn on_looked(&mut self, now: Time) -> Step<PartyJoined> {
        for member in &mut self.members {
            let Some(Seat::Assigned(place)) = &member.seat else { continue };
            let ledger = self.seen.get(&place.server);
            let kept = ledger.and_then(|ledger| ledger.kept(&member.player, place.claim, now));
            member.sits = kept.map(|_| place.server.clone());
        }
        let Some(home) = self.home().cloned() else {
            return match self.begun(now) {
                Some((placement, server)) => self.sit_under(placement, server, false, now),
                None => self.find(),
            };
        };
        if self.members.iter().any(|member| member.sits.as_ref().is_some_and(|server| *server != home)) {
            // Seats are read one by one, and another call about this party may be moving them: seen twice is believed.
            let seats = self.members.iter().map(|member| member.seat.clone()).collect::<Vec<_>>();
            if seats == std::mem::replace(&mut self.apart, seats.clone()) {
                return self.who(|member| member.sits.is_some());
            }
            return self.raced();
        }
        let Some(ledger) = self.seen.get(&home).filter(|ledger| ledger.pool == self.search.pool).cloned() else {
            return self.who(|member| member.sits.is_some());
        };
        if self.slots() == 0 {
            return self.placed(ledger, now);
        }
        if self.members.len() > self.search.capacity.max(ledger.capacity) as usize {
            return Step::Done(PartyJoined::TooLarge);
        }
        if self.room_on(&ledger, now) { self.sit(home, false, now) } else { self.who(|member| member.sits.is_some()) }
    }

    /// What another call has begun for some of them: seats that name a server of the pool with room for all, and no
    /// claim yet. It is finished, not undone, so that two calls about the same party come to one placement; of several
    /// the newest, which is the same one for everybody who looks. A seat that has moved on past it ends it: no seat's
    /// placement may go back.
    fn begun(&self, now: Time) -> Option<(Placement, ServerId)> {
        let seats = self.members.iter().filter_map(|member| match &member.seat {
            Some(Seat::Assigned(place)) if !place.claim.is_connected() => {
                let ledger = self.seen.get(&place.server).filter(|ledger| ledger.pool == self.search.pool)?;
                let unclaimed =
                    ledger.claims.get(&member.player).is_none_or(|held| held.placement() < place.claim.placement());
                let open = unclaimed && !ledger.is_over(place.claim, now) && self.room_on(ledger, now);
                open.then(|| (place.claim.placement(), place.server.clone()))
            }
            _ => None,
        });
        seats.max().filter(|(placement, _)| Some(*placement) >= self.last_placement())
    }

    /// The newest placement that any of them has had.
    fn last_placement(&self) -> Option<Placement> {
        self.members.iter().filter_map(|member| member.seat.as_ref().map(Seat::placement)).max()
    }

    /// Whether all who stand fit on this server, as it was seen.
    fn room_on(&self, ledger: &Ledger, now: Time) -> bool {
        let added = self.standing().filter(|member| !ledger.claims.contains_key(&member.player)).count();
        let kept = ledger.claims.len().saturating_sub(self.evictable(ledger, now).len());
        ledger.takes_claims(now) && kept + added <= ledger.capacity as usize
    }

    /// Claims of others whose time is up.
    fn evictable(&self, ledger: &Ledger, now: Time) -> Vec<(PlayerId, Claim)> {
        let others = |player: &PlayerId| self.members.iter().all(|member| member.player != *player);
        ledger.evictable(now).into_iter().filter(|(player, _)| others(player)).collect()
    }

    fn find(&mut self) -> Step<PartyJoined> {
        if self.slots() > self.search.capacity {
            return Step::Done(PartyJoined::TooLarge);
        }
        let find = self.search.find(self.slots());
        self.effect(Stage::Finding, find)
    }

    fn take_slots(&mut self) -> Step<PartyJoined> {
        let Some(may_start) = self.search.turn() else { return Self::no(NoSlot::Busy) };
        let take = self.search.take_slots(self.slots(), may_start);
        self.effect(Stage::TakingSlots, take)
    }

    /// Writes the seats of all who stand, with one new placement.
    fn sit(&mut self, server: ServerId, from_frontier: bool, now: Time) -> Step<PartyJoined> {
        self.sit_under(Placement::next(now, self.last_placement()), server, from_frontier, now)
    }

    /// Writes the seats that do not carry this placement for this server yet.
    fn sit_under(
        &mut self,
        placement: Placement,
        server: ServerId,
        from_frontier: bool,
        now: Time,
    ) -> Step<PartyJoined> {
        self.placement = Some(placement);
        let writes = self.standing().filter(|member| !member.is_at(&server, placement)).map(|member| {
            let from = match &member.seat {
                Some(Seat::Assigned(place)) => {
                    ExpectedSeat::Exactly { server: place.server.clone(), claim: place.claim }
                }
                Some(Seat::Vacant(_)) | None => ExpectedSeat::Vacant,
            };
            let write = SeatWrite::Assign { from, server: server.clone(), pool: self.search.pool.clone(), placement };
            (member.player.clone(), write)
        });
        let writes = writes.collect::<Vec<_>>();
        if writes.is_empty() {
            return self.on_seated(server, from_frontier, Vec::new(), now);
        }
        self.effect(Stage::Seating { server, from_frontier, seats: writes.len() }, Effect::WriteSeats(writes))
    }

    fn on_seated(
        &mut self,
        server: ServerId,
        from_frontier: bool,
        answers: Vec<Answer<Seat>>,
        now: Time,
    ) -> Step<PartyJoined> {
        let (mut all, placement) = (true, self.placement);
        let asked = |member: &&mut Member| {
            member.sits.is_none() && placement.is_some_and(|placement| !member.is_at(&server, placement))
        };
        for (member, answer) in self.members.iter_mut().filter(asked).zip(answers) {
            match answer {
                Answer::Written(seat) => member.seat = Some(seat),
                Answer::Refused(_) => all = false,
            }
        }
        if !all {
            return self.raced();
        }
        self.seated = Some(server.clone());
        if from_frontier { self.take_slots() } else { self.claim(server, now) }
    }

    fn claim(&mut self, server: ServerId, now: Time) -> Step<PartyJoined> {
        let Some(placement) = self.placement else { return Self::no(NoSlot::Busy) };
        let seen = self.seen.get(&server);
        let held = |player: &PlayerId| seen.and_then(|ledger| ledger.claims.get(player).copied());
        // A player has been placed anew since the seats were read: late loses.
        if self.standing().any(|member| held(&member.player).is_some_and(|claim| claim.placement() >= placement)) {
            return self.raced();
        }
        let write = LedgerWrite::ClaimExactly {
            players: self.standing().map(|member| (member.player.clone(), held(&member.player))).collect(),
            placement,
            now,
            seen_by: self.search.seen_by(now),
            evict: seen.map(|ledger| self.evictable(ledger, now)).unwrap_or_default(),
            capacity: seen.map_or(self.search.capacity, |ledger| ledger.capacity),
        };
        self.effect(Stage::Claiming(server.clone()), Effect::WriteLedger(server, write))
    }

    fn on_refused_claim(&mut self, server: ServerId, image: Option<Ledger>, now: Time) -> Step<PartyJoined> {
        let Some(ledger) = image else {
            return match self.slots_on.take() {
                Some(other) => self.sit(other, false, now),
                None => self.move_on(server),
            };
        };
        let placement = self.placement;
        let held = |member: &Member| ledger.claims.get(&member.player).map(|claim| claim.placement());
        if self.standing().all(|member| held(member) == placement) {
            // An earlier try of the same write took, and its answer was lost.
            return self.placed(ledger, now);
        }
        if self.standing().any(|member| held(member) >= placement) {
            return self.raced();
        }
        if self.room_on(&ledger, now) {
            self.seen.insert(server.clone(), ledger);
            return if self.search.tries.race() { self.claim(server, now) } else { Self::no(NoSlot::Busy) };
        }
        if self.home().is_some() {
            return self.who(|member| member.sits.is_some());
        }
        if let Some(other) = self.slots_on.take() {
            return self.sit(other, false, now);
        }
        if !ledger.takes_claims(now) {
            self.search.tries.closed();
            if let Some(write) = ledger.listing_fix(now) {
                return self.effect(Stage::Unlisting(server.clone()), Effect::WriteLedger(server, write));
            }
            return self.move_on(server);
        }
        if ledger.is_full() {
            return self.move_on(server);
        }
        // Room for some, which others may have.
        self.search.tried.push(server);
        self.find()
    }

    fn move_on(&mut self, server: ServerId) -> Step<PartyJoined> {
        let used_up = self.search.without_room(server);
        self.effect(Stage::MovingOn, used_up)
    }

    fn placed(&mut self, ledger: Ledger, now: Time) -> Step<PartyJoined> {
        let fix = ledger.listing_fix_after_claim(self.standing().count(), now);
        let claims = self.members.iter().map(|member| {
            let claim = ledger.claims.get(&member.player).copied();
            claim.map(|claim| (member.player.clone(), claim))
        });
        // Who is placed and not in the ledger has just left: the answer would be a lie.
        let Some(players) = claims.collect::<Option<Vec<_>>>() else { return self.raced() };
        let server = ledger.id.clone();
        let together = Box::new(Together { ledger, players });
        match fix {
            Some(write) => self.effect(Stage::Finishing(together), Effect::WriteLedger(server, write)),
            None => Step::Done(PartyJoined::Placed(together)),
        }
    }

    fn on_hint(&mut self, hint: Hint, now: Time) -> Step<PartyJoined> {
        match hint {
            Hint::Listed(server) => {
                self.search.tries.listed();
                self.search.used_up = false;
                self.sit(server, false, now)
            }
            // The seats first, so that of two calls about the same party only one takes slots.
            Hint::Frontier(server) if !self.search.used_up && self.seated.is_none() => self.sit(server, true, now),
            Hint::Frontier(_) | Hint::Unknown => self.take_slots(),
        }
    }
}

impl Protocol for Party {
    type Outcome = PartyJoined;

    fn next(&mut self, now: Time, reply: Reply) -> Step<PartyJoined> {
        match (std::mem::replace(&mut self.stage, Stage::Over), reply) {
            (Stage::Start, Reply::Start) => self.read_seats(),
            (Stage::ReadingSeats, Reply::SeatsRead(seats)) if seats.len() == self.members.len() => {
                self.on_seats(seats, now)
            }
            (Stage::Looking(mut named), Reply::LedgerRead(ledger)) => {
                named.pop();
                self.seen.extend(ledger.map(|ledger| (ledger.id.clone(), ledger)));
                self.look(named, now)
            }
            (Stage::Finding, Reply::Found(hint)) => self.on_hint(hint, now),
            (Stage::TakingSlots, Reply::SlotsTaken(TakenSlots::On(server))) => {
                match self.seated.clone() {
                    // Another call may have seen these seats, and claim under them: they are moved only once that has
                    // been refused.
                    Some(seated) => {
                        self.slots_on = (seated != server).then_some(server);
                        self.claim(seated, now)
                    }
                    None => self.sit(server, false, now),
                }
            }
            (Stage::TakingSlots, Reply::SlotsTaken(TakenSlots::UsedUp)) => {
                self.search.used_up = true;
                self.find()
            }
            (Stage::TakingSlots, Reply::SlotsTaken(TakenSlots::No(reason))) => Self::no(reason),
            (Stage::Seating { server, from_frontier, seats }, Reply::SeatsWritten(answers))
                if answers.len() == seats =>
            {
                self.on_seated(server, from_frontier, answers, now)
            }
            (Stage::Claiming(_), Reply::LedgerWritten(Answer::Written(ledger))) => self.placed(ledger, now),
            (Stage::Claiming(server), Reply::LedgerWritten(Answer::Refused(image))) => {
                self.on_refused_claim(server, image, now)
            }
            // It has beaten since it refused the claim.
            (Stage::Unlisting(_), Reply::LedgerWritten(Answer::Refused(Some(ledger)))) if ledger.takes_claims(now) => {
                self.raced()
            }
            (Stage::Unlisting(server), Reply::LedgerWritten(_)) => self.move_on(server),
            (Stage::MovingOn, Reply::Done) => self.find(),
            (Stage::Finishing(together), Reply::LedgerWritten(_)) => Step::Done(PartyJoined::Placed(together)),
            _ => Step::ProtocolError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fill,
        fixtures::{NOW, connected, draining, placement, player, pool, ready, reserved, seat, server},
    };

    fn party(names: &[&str]) -> Party {
        Party::new(names.iter().map(|name| player(name)).collect(), pool("p"), 2, Span(10_000))
    }

    /// A party whose seats are these, once it has seen the ledgers that they name, in whichever order it asks for them.
    fn looked(names: &[&str], seats: &[Option<Seat>], ledgers: &[Ledger]) -> (Party, Step<PartyJoined>) {
        let mut party = party(names);
        assert!(matches!(party.next(NOW, Reply::Start), Step::Effect(Effect::ReadSeats(_))));
        let next = see(&mut party, seats, ledgers);
        (party, next)
    }

    fn see(party: &mut Party, seats: &[Option<Seat>], ledgers: &[Ledger]) -> Step<PartyJoined> {
        let mut next = party.next(NOW, Reply::SeatsRead(seats.to_vec()));
        while let Step::Effect(Effect::ReadLedger(id)) = &next {
            let ledger = ledgers.iter().find(|ledger| ledger.id == *id).cloned();
            next = party.next(NOW, Reply::LedgerRead(ledger));
        }
        next
    }

    fn elsewhere(names: &[&str]) -> Step<PartyJoined> {
        Step::Done(PartyJoined::Elsewhere(names.iter().map(|name| player(name)).collect()))
    }

    /// Whose seats are written, and for which placement.
    fn sits(next: &Step<PartyJoined>) -> Vec<(PlayerId, Placement)> {
        let Step::Effect(Effect::WriteSeats(writes)) = next else { return Vec::new() };
        let of = |(player, write): &(PlayerId, SeatWrite)| match write {
            SeatWrite::Assign { placement, .. } => Some((player.clone(), *placement)),
            _ => None,
        };
        writes.iter().filter_map(of).collect()
    }

    #[test]
    fn a_party_that_fits_on_no_server_is_refused() {
        let (_, next) = looked(&["a", "b"], &[None, None], &[]);
        assert!(matches!(next, Step::Effect(Effect::Find { slots: 2, .. })), "{next:?}");
        assert_eq!(looked(&["a", "b", "c"], &[None, None, None], &[]).1, Step::Done(PartyJoined::TooLarge));
        let here = Some(seat("s", reserved(1_000)));
        let ledger = ready(&[("a", reserved(1_000))]);
        let (_, next) = looked(&["a", "b", "c"], &[here, None, None], &[ledger]);
        assert_eq!(next, Step::Done(PartyJoined::TooLarge));
    }

    #[test]
    fn who_sits_already_is_joined_if_there_is_room_and_named_if_not() {
        let seats = [Some(seat("s", reserved(1_000))), None];
        let with = |ledger: Ledger| looked(&["a", "b"], &seats, &[ledger]);
        let (_, next) = with(ready(&[("a", reserved(1_000))]));
        assert_eq!(sits(&next).len(), 1, "{next:?}");
        assert_eq!(with(ready(&[("a", reserved(1_000)), ("c", connected(1))])).1, elsewhere(&["a"]));
        let closed = Ledger { lease_until: None, ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(with(closed).1, elsewhere(&["a"]));
        let of_another_pool = Ledger { pool: pool("q"), ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(with(of_another_pool).1, elsewhere(&["a"]));
        let both = [Some(seat("s", reserved(1_000))), Some(seat("s", reserved(1_000)))];
        let (_, next) = looked(&["a", "b"], &both, &[ready(&[("a", reserved(1_000)), ("b", reserved(1_000))])]);
        assert!(matches!(next, Step::Done(PartyJoined::Placed(_)) | Step::Effect(Effect::WriteLedger(..))), "{next:?}");
    }

    #[test]
    fn two_who_sit_apart_are_named_once_that_has_been_seen_twice() {
        let seats = [Some(seat("s", reserved(1_000))), Some(seat("t", reserved(1_000)))];
        let ledgers =
            [ready(&[("a", reserved(1_000))]), Ledger { id: server("t"), ..ready(&[("b", reserved(1_000))]) }];
        let (mut party, next) = looked(&["a", "b"], &seats, &ledgers);
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
        assert_eq!(see(&mut party, &seats, &ledgers), elsewhere(&["a", "b"]));
    }

    #[test]
    fn a_claim_of_another_whose_time_is_up_makes_room() {
        let over = Ledger { ready_at: Some(Time(1)), ..ready(&[("a", connected(1_000)), ("c", reserved(1_000))]) };
        let (mut party, next) = looked(&["a", "b"], &[Some(seat("s", connected(1_000))), None], &[over]);
        let [(_, of)] = &*sits(&next) else { panic!("{next:?}") };
        let next = party.next(NOW, Reply::SeatsWritten(vec![Answer::Written(seat("s", Claim::Reserved(*of)))]));
        let Step::Effect(Effect::WriteLedger(_, LedgerWrite::ClaimExactly { evict, players, seen_by, .. })) = next
        else {
            panic!("{next:?}")
        };
        assert_eq!((evict, players), (vec![(player("c"), reserved(1_000))], vec![(player("b"), None)]));
        assert_eq!(seen_by, NOW + Span(20_000), "two heartbeats");
    }

    #[test]
    fn a_refused_claim_says_what_to_do() {
        let refused = |image: &dyn Fn(Claim) -> Option<Ledger>| {
            let (mut party, _) = looked(&["a", "b"], &[None, None], &[]);
            let next = party.next(NOW, Reply::Found(Hint::Listed(server("s"))));
            let [(_, of), _] = &*sits(&next) else { panic!("{next:?}") };
            let claim = Claim::Reserved(*of);
            let written = Answer::Written(seat("s", claim));
            let next = party.next(NOW, Reply::SeatsWritten(vec![written.clone(), written]));
            assert!(matches!(next, Step::Effect(Effect::WriteLedger(..))), "{next:?}");
            party.next(NOW, Reply::LedgerWritten(Answer::Refused(image(claim))))
        };
        let used_up = Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") });
        assert_eq!(refused(&|_| None), used_up, "no ledger");
        assert_eq!(refused(&|_| Some(draining(&[]))), used_up, "draining");
        assert_eq!(refused(&|_| Some(ready(&[("c", connected(1)), ("d", connected(1))]))), used_up, "full");
        let took = refused(&|claim| Some(ready(&[("a", claim), ("b", claim)])));
        assert!(matches!(took, Step::Done(PartyJoined::Placed(_))), "{took:?}");
        let half = refused(&|claim| Some(ready(&[("a", claim)])));
        assert!(matches!(half, Step::Effect(Effect::ReadSeats(_))), "another call has placed one of them: {half:?}");
        let newer = refused(&|_| Some(ready(&[("a", reserved(NOW.0 + 1))])));
        assert!(matches!(newer, Step::Effect(Effect::ReadSeats(_))), "{newer:?}");
        for (case, claims) in [("no claim", &[][..]), ("an older claim", &[("a", reserved(1))])] {
            let again = refused(&|_| Some(ready(claims)));
            assert!(matches!(again, Step::Effect(Effect::WriteLedger(..))), "{case}: there is room by now: {again:?}");
        }
        let some = refused(&|_| Some(ready(&[("c", connected(1))])));
        assert!(matches!(&some, Step::Effect(Effect::Find { tried, .. }) if *tried == [server("s")]), "{some:?}");
    }

    /// A party that has taken slots on a server for seats that name `s`, up to its claim there.
    fn claiming(slots_on: &str) -> (Party, Claim) {
        let (mut party, _) = looked(&["a", "b"], &[None, None], &[]);
        let next = party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let [(_, of), _] = &*sits(&next) else { panic!("{next:?}") };
        let claim = Claim::Reserved(*of);
        let written = Answer::Written(seat("s", claim));
        party.next(NOW, Reply::SeatsWritten(vec![written.clone(), written]));
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::On(server(slots_on))));
        assert!(matches!(&next, Step::Effect(Effect::WriteLedger(on, _)) if *on == server("s")), "{next:?}");
        (party, claim)
    }

    #[test]
    fn slots_on_another_server_than_the_seats_name_are_used_once_that_one_has_refused() {
        let refused = Reply::LedgerWritten(Answer::Refused(None));
        assert_eq!(sits(&claiming("t").0.next(NOW, refused.clone())).len(), 2, "the seats move to it");
        let (mut party, _) = claiming("s");
        assert_eq!(party.next(NOW, refused), Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }));
        assert!(matches!(party.next(NOW, Reply::Done), Step::Effect(Effect::Find { .. })));
    }

    #[test]
    fn the_index_is_put_right_on_the_way() {
        let (mut party, claim) = claiming("s");
        let claimed = Ledger { listed: fill(0, 2), ..ready(&[("a", claim), ("b", claim)]) };
        let next = party.next(NOW, Reply::LedgerWritten(Answer::Written(claimed)));
        assert!(
            matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))),
            "it is full: {next:?}"
        );
        assert!(matches!(
            party.next(NOW, Reply::LedgerWritten(Answer::Refused(None))),
            Step::Done(PartyJoined::Placed(_))
        ));
        let (mut party, _) = claiming("s");
        let gone = Ledger { listed: fill(0, 2), ..draining(&[]) };
        let next = party.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(gone))));
        assert!(matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))), "{next:?}");
        let mut beaten = party.clone();
        let next = beaten.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(ready(&[])))));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "it takes players after all: {next:?}");
        assert_eq!(
            party.next(NOW, Reply::LedgerWritten(Answer::Refused(None))),
            Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") })
        );
    }

    #[test]
    fn only_a_reservation_that_can_still_be_claimed_is_a_beginning() {
        let begins = |claim, ledger: Ledger| {
            let (_, next) = looked(&["a", "b"], &[Some(seat("s", claim)), None], &[ledger]);
            let begun = sits(&next) == [(player("b"), placement(1_000))];
            assert_eq!(matches!(next, Step::Effect(Effect::Find { .. })), !begun, "{next:?}");
            begun
        };
        assert!(begins(reserved(1_000), ready(&[])));
        assert!(begins(reserved(1_000), ready(&[("a", reserved(999))])), "an older claim is renewed");
        assert!(!begins(reserved(1_000), ready(&[("a", reserved(1_001))])), "claimed anew since");
        assert!(!begins(connected(1_000), ready(&[])), "a disconnect that got half way");
        assert!(!begins(reserved(1_000), Ledger { ready_at: Some(Time(1)), ..ready(&[]) }), "its time is up");
        assert!(!begins(reserved(1_000), ready(&[("c", connected(1))])), "no room for both");
        assert!(!begins(reserved(1_000), Ledger { pool: pool("q"), ..ready(&[]) }));
    }

    #[test]
    fn seats_come_before_a_frontiers_slots_and_a_used_up_frontier_before_a_new_server() {
        let take = |may_start| Step::Effect(Effect::TakeSlots { pool: pool("p"), slots: 2, may_start });
        let (mut party, _) = looked(&["a", "b"], &[None, None], &[]);
        assert_eq!(party.next(NOW, Reply::Found(Hint::Unknown)), take(false));
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::UsedUp));
        assert!(matches!(next, Step::Effect(Effect::Find { fresh: true, .. })), "{next:?}");
        assert_eq!(party.next(NOW, Reply::Found(Hint::Frontier(server("s")))), take(true));
        assert_eq!(sits(&party.next(NOW, Reply::SlotsTaken(TakenSlots::On(server("s"))))).len(), 2);
        // With a name for it, the seats are written first, and the slots taken under them.
        let (mut party, _) = looked(&["a", "b"], &[None, None], &[]);
        let next = party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let [(_, of), _] = &*sits(&next) else { panic!("{next:?}") };
        let written = Answer::Written(seat("s", Claim::Reserved(*of)));
        assert_eq!(party.next(NOW, Reply::SeatsWritten(vec![written.clone(), written.clone()])), take(false));
        let next = party.clone().next(NOW, Reply::SlotsTaken(TakenSlots::On(server("s"))));
        assert!(matches!(next, Step::Effect(Effect::WriteLedger(..))), "{next:?}");
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::No(NoSlot::PoolFull)));
        assert_eq!(next, Step::Done(PartyJoined::No(NoSlot::PoolFull)));
        // A seat that another call has moved begins it anew.
        let (mut party, _) = looked(&["a", "b"], &[None, None], &[]);
        party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let next = party.next(NOW, Reply::SeatsWritten(vec![written, Answer::Refused(None)]));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
    }

    #[test]
    fn what_another_call_has_begun_is_finished_unless_a_seat_has_moved_on_past_it() {
        let begun = |others: Option<Seat>| {
            let mut party = Party::new(vec![player("a"), player("b")], pool("p"), 2, Span(10_000));
            party.next(NOW, Reply::Start);
            let next = party.next(NOW, Reply::SeatsRead(vec![Some(seat("s", reserved(1_000))), others]));
            let named_first = next == Step::Effect(Effect::ReadLedger(server("s")));
            let next = if named_first { next } else { party.next(NOW, Reply::LedgerRead(None)) };
            assert_eq!(next, Step::Effect(Effect::ReadLedger(server("s"))));
            party.next(NOW, Reply::LedgerRead(Some(ready(&[]))))
        };
        for (case, others) in [
            ("no seat", None),
            ("an older void seat", Some(Seat::Vacant(placement(999)))),
            ("an older reservation", Some(seat("gone", reserved(999)))),
        ] {
            let next = begun(others);
            let Step::Effect(Effect::WriteSeats(writes)) = next else { panic!("{case}: {next:?}") };
            let at_that_placement =
                matches!(&*writes, [(_, SeatWrite::Assign { placement: of, .. })] if *of == placement(1_000));
            assert!(at_that_placement, "{case}: {writes:?}");
        }
        for (case, others) in [
            ("a newer void seat", Some(Seat::Vacant(placement(1_001)))),
            ("a newer reservation", Some(seat("gone", reserved(1_001)))),
        ] {
            let next = begun(others);
            assert!(matches!(next, Step::Effect(Effect::Find { .. })), "{case}: {next:?}");
        }
    }

    #[test]
    fn a_member_who_has_been_placed_anew_since_the_seats_were_read_keeps_that_slot() {
        let mut party = Party::new(vec![player("a"), player("b")], pool("p"), 2, Span(10_000));
        let mut reply = |reply| party.next(NOW, reply);
        assert!(matches!(reply(Reply::Start), Step::Effect(Effect::ReadSeats(_))));
        // Another call of this party has written both seats, and then `a` has left it and joined alone.
        let seat = Some(seat("s", reserved(1_000)));
        assert_eq!(reply(Reply::SeatsRead(vec![seat.clone(), seat])), Step::Effect(Effect::ReadLedger(server("s"))));
        let next = reply(Reply::LedgerRead(Some(ready(&[("a", reserved(1_001))]))));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
    }
}
