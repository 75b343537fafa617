//! The join of a party: one write places all of its players on one server, or none.
//!
//! 1. Read the seats of all players, and the ledgers that the seats name. A player with a live claim is placed: the
//!    other players are placed on the same server, or the call fails. If two players are placed on different servers,
//!    the call fails and names them. So a repeated call, and the poll while a server starts, find all players placed
//!    and return the same outcome.
//! 2. Find a server with room for all players who are not placed, and write their seats. If a seat has changed since it
//!    was read, start again. Then claim for all of them in one write that is refused if any of their claims has changed
//!    ([`LedgerWrite::ClaimExactly`]).
//! 3. If the claim is refused, its reply has the reason, as in a join. A frontier with fewer slots left than the party
//!    needs counts as used up; its slots are found through the index once that server is ready.
//!
//! Simultaneous calls about the same party result in one placement: a call uses seats that another call has written,
//! and changes them only once the claim under them has been refused.
//!
//! If the function is killed between the seats and the claim, the seats name a server without a claim, as after a join
//! that is killed there. The next call about these players uses or changes these seats.

use std::collections::BTreeMap;

use super::{Answer, Effect, Hint, NoSlot, Protocol, Reply, Step, TakenSlots, search::Search};
use crate::{
    Claim, ExpectedSeat, Ledger, LedgerWrite, Placement, PlayerId, PoolName, Seat, SeatWrite, ServerId, Span, Time,
};

/// The slots that a party's join has placed its players on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Together {
    /// The server's ledger with the players' claims in it.
    pub ledger: Ledger,
    /// The players with their claims, in the order of the call.
    pub players: Vec<(PlayerId, Claim)>,
}

/// The outcome of a party's join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PartyJoined {
    /// Each player has a slot, all on one server.
    Placed(Box<Together>),
    /// These players are placed already: on different servers, in another pool, or on a server without room for the
    /// others.
    Elsewhere(Vec<PlayerId>),
    /// The party has more players than a server of the pool has slots.
    TooLarge,
    /// No player has got a slot, for this reason.
    No(NoSlot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    player: PlayerId,
    seat: Option<Seat>,
    /// The server on which the player has a live claim.
    placed_on: Option<ServerId>,
}

impl Member {
    /// Whether the seat is a reservation on `server` under `placement`.
    fn is_at(&self, server: &ServerId, placement: Placement) -> bool {
        let claim = Claim::Reserved(placement);
        matches!(&self.seat, Some(Seat::Assigned(place)) if place.server == *server && place.claim == claim)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Start,
    ReadingSeats,
    /// The ledgers of these servers are still to be read; the last one is being read.
    Looking(Vec<ServerId>),
    Finding,
    TakingSlots,
    /// This number of seats is being written.
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
    /// The ledgers of the servers that the seats name, as they were read.
    seen: BTreeMap<ServerId, Ledger>,
    /// The placement under which this call writes the seats and claims.
    placement: Option<Placement>,
    /// The server that the seats name.
    seated: Option<ServerId>,
    /// The server on which the frontier has handed out slots, if the seats name another server.
    slots_on: Option<ServerId>,
    /// The seats when the players were last found placed on different servers.
    apart: Vec<Option<Seat>>,
    stage: Stage,
}

impl Party {
    /// The join of `players`, at least one and all distinct, into a pool whose servers have `capacity` slots and send a
    /// heartbeat every `heartbeat`.
    pub fn new(players: Vec<PlayerId>, pool: PoolName, capacity: u32, heartbeat: Span) -> Self {
        Self {
            members: players.into_iter().map(|player| Member { player, seat: None, placed_on: None }).collect(),
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

    /// The players who are not placed.
    fn unplaced(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.placed_on.is_none())
    }

    /// Slots that the players who are not placed need.
    fn slots(&self) -> u32 {
        u32::try_from(self.unplaced().count()).unwrap_or(u32::MAX)
    }

    /// The server on which one of the players is placed already.
    fn placed_server(&self) -> Option<&ServerId> {
        self.members.iter().find_map(|member| member.placed_on.as_ref())
    }

    /// The outcome that names the players for whom `is` holds.
    fn elsewhere(&self, is: impl Fn(&Member) -> bool) -> Step<PartyJoined> {
        let players = self.members.iter().filter(|member| is(member)).map(|member| member.player.clone());
        Step::Done(PartyJoined::Elsewhere(players.collect()))
    }

    fn read_seats(&mut self) -> Step<PartyJoined> {
        (self.seated, self.placement, self.slots_on) = (None, None, None);
        self.seen.clear();
        let players = self.members.iter().map(|member| member.player.clone()).collect();
        self.effect(Stage::ReadingSeats, Effect::ReadSeats(players))
    }

    /// Starts again with the seats, because another call has changed a seat or a claim; a bounded number of times.
    fn raced(&mut self) -> Step<PartyJoined> {
        if self.search.tries.race() { self.read_seats() } else { Self::no(NoSlot::Busy) }
    }

    fn on_seats(&mut self, seats: Vec<Option<Seat>>, now: Time) -> Step<PartyJoined> {
        let mut named = Vec::new();
        for (member, seat) in self.members.iter_mut().zip(seats) {
            (member.seat, member.placed_on) = (seat, None);
            if let Some(Seat::Assigned(place)) = &member.seat
                && !named.contains(&place.server)
            {
                named.push(place.server.clone());
            }
        }
        self.read_ledgers(named, now)
    }

    fn read_ledgers(&mut self, named: Vec<ServerId>, now: Time) -> Step<PartyJoined> {
        match named.last() {
            Some(server) => {
                let server = server.clone();
                self.effect(Stage::Looking(named), Effect::ReadLedger(server))
            }
            None => self.on_ledgers_read(now),
        }
    }

    /// Continues once all seats and the ledgers that they name have been read.
    fn on_ledgers_read(&mut self, now: Time) -> Step<PartyJoined> {
        for member in &mut self.members {
            let Some(Seat::Assigned(place)) = &member.seat else { continue };
            let ledger = self.seen.get(&place.server);
            let kept = ledger.and_then(|ledger| ledger.kept(&member.player, place.claim, now));
            member.placed_on = kept.map(|_| place.server.clone());
        }
        let Some(placed_server) = self.placed_server().cloned() else {
            return match self.unfinished(now) {
                Some((placement, server)) => self.write_seats_under(placement, server, false, now),
                None => self.find(),
            };
        };
        if self.members.iter().any(|member| member.placed_on.as_ref().is_some_and(|server| *server != placed_server)) {
            // Seats are read one by one, and another call about this party may be changing them. So the call fails only
            // if a second read returns the same seats.
            let seats = self.members.iter().map(|member| member.seat.clone()).collect::<Vec<_>>();
            if seats == std::mem::replace(&mut self.apart, seats.clone()) {
                return self.elsewhere(|member| member.placed_on.is_some());
            }
            return self.raced();
        }
        let Some(ledger) = self.seen.get(&placed_server).filter(|ledger| ledger.pool == self.search.pool).cloned()
        else {
            return self.elsewhere(|member| member.placed_on.is_some());
        };
        if self.slots() == 0 {
            return self.placed(ledger, now);
        }
        if self.members.len() > self.search.capacity.max(ledger.capacity) as usize {
            return Step::Done(PartyJoined::TooLarge);
        }
        if self.room_on(&ledger, now) {
            self.write_seats(placed_server, false, now)
        } else {
            self.elsewhere(|member| member.placed_on.is_some())
        }
    }

    /// The placement that another call has begun: the seat of one of the players reserves a server of the pool with
    /// room for all, and has no claim yet. This call finishes that placement, so that two calls about the same party
    /// result in one. Of several, the newest is used, which every call finds. `None` if a player's seat has a newer
    /// placement, because a seat's placement must never become older.
    fn unfinished(&self, now: Time) -> Option<(Placement, ServerId)> {
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

    /// The newest placement of all players' seats.
    fn last_placement(&self) -> Option<Placement> {
        self.members.iter().filter_map(|member| member.seat.as_ref().map(Seat::placement)).max()
    }

    /// Whether the server, as its ledger was read, has room for all players who are not placed.
    fn room_on(&self, ledger: &Ledger, now: Time) -> bool {
        let added = self.unplaced().filter(|member| !ledger.claims.contains_key(&member.player)).count();
        let kept = ledger.claims.len().saturating_sub(self.evictable(ledger, now).len());
        ledger.takes_claims(now) && kept + added <= ledger.capacity as usize
    }

    /// Expired claims of players outside the party.
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

    /// Writes the seats of all players who are not placed, under one new placement.
    fn write_seats(&mut self, server: ServerId, from_frontier: bool, now: Time) -> Step<PartyJoined> {
        self.write_seats_under(Placement::next(now, self.last_placement()), server, from_frontier, now)
    }

    /// Writes those seats of players who are not placed that do not reserve `server` under `placement` yet.
    fn write_seats_under(
        &mut self,
        placement: Placement,
        server: ServerId,
        from_frontier: bool,
        now: Time,
    ) -> Step<PartyJoined> {
        self.placement = Some(placement);
        let writes = self.unplaced().filter(|member| !member.is_at(&server, placement)).map(|member| {
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
            member.placed_on.is_none() && placement.is_some_and(|placement| !member.is_at(&server, placement))
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
        // Another call has placed a player under this or a newer placement since the seats were read.
        if self.unplaced().any(|member| held(&member.player).is_some_and(|claim| claim.placement() >= placement)) {
            return self.raced();
        }
        let write = LedgerWrite::ClaimExactly {
            players: self.unplaced().map(|member| (member.player.clone(), held(&member.player))).collect(),
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
                Some(other) => self.write_seats(other, false, now),
                None => self.move_on(server),
            };
        };
        let placement = self.placement;
        let held = |member: &Member| ledger.claims.get(&member.player).map(|claim| claim.placement());
        if self.unplaced().all(|member| held(member) == placement) {
            // An earlier try of the same write was applied, and its answer was lost.
            return self.placed(ledger, now);
        }
        if self.unplaced().any(|member| held(member) >= placement) {
            return self.raced();
        }
        if self.room_on(&ledger, now) {
            self.seen.insert(server.clone(), ledger);
            return if self.search.tries.race() { self.claim(server, now) } else { Self::no(NoSlot::Busy) };
        }
        if self.placed_server().is_some() {
            return self.elsewhere(|member| member.placed_on.is_some());
        }
        if let Some(other) = self.slots_on.take() {
            return self.write_seats(other, false, now);
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
        // The server has room for some of the players. It stays in the hints, because smaller parties may use that
        // room.
        self.search.tried.push(server);
        self.find()
    }

    fn move_on(&mut self, server: ServerId) -> Step<PartyJoined> {
        let used_up = self.search.without_room(server);
        self.effect(Stage::MovingOn, used_up)
    }

    fn placed(&mut self, ledger: Ledger, now: Time) -> Step<PartyJoined> {
        let fix = ledger.listing_fix_after_claim(self.unplaced().count(), now);
        let claims = self.members.iter().map(|member| {
            let claim = ledger.claims.get(&member.player).copied();
            claim.map(|claim| (member.player.clone(), claim))
        });
        // A placed player without a claim on this ledger has just left it, so the party is not placed as a whole.
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
                self.write_seats(server, false, now)
            }
            // The seats are written first, so that of two calls about the same party only one takes slots.
            Hint::Frontier(server) if !self.search.used_up && self.seated.is_none() => {
                self.write_seats(server, true, now)
            }
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
                self.read_ledgers(named, now)
            }
            (Stage::Finding, Reply::Found(hint)) => self.on_hint(hint, now),
            (Stage::TakingSlots, Reply::SlotsTaken(TakenSlots::On(server))) => {
                match self.seated.clone() {
                    // Another call may have read these seats and may claim under them. So this call claims under them
                    // too, and changes them only once that claim is refused.
                    Some(seated) => {
                        self.slots_on = (seated != server).then_some(server);
                        self.claim(seated, now)
                    }
                    None => self.write_seats(server, false, now),
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
            // A heartbeat has arrived since the server refused the claim.
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

    /// A party with these seats, once it has read them and the ledgers that they name, and its next step.
    fn after_reads(names: &[&str], seats: &[Option<Seat>], ledgers: &[Ledger]) -> (Party, Step<PartyJoined>) {
        let mut party = party(names);
        assert!(matches!(party.next(NOW, Reply::Start), Step::Effect(Effect::ReadSeats(_))));
        let next = read_all(&mut party, seats, ledgers);
        (party, next)
    }

    fn read_all(party: &mut Party, seats: &[Option<Seat>], ledgers: &[Ledger]) -> Step<PartyJoined> {
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

    /// The players whose seats are written, with the placement of each.
    fn seat_writes(next: &Step<PartyJoined>) -> Vec<(PlayerId, Placement)> {
        let Step::Effect(Effect::WriteSeats(writes)) = next else { return Vec::new() };
        let of = |(player, write): &(PlayerId, SeatWrite)| match write {
            SeatWrite::Assign { placement, .. } => Some((player.clone(), *placement)),
            _ => None,
        };
        writes.iter().filter_map(of).collect()
    }

    #[test]
    fn a_party_with_more_players_than_a_server_has_slots_is_too_large() {
        let (_, next) = after_reads(&["a", "b"], &[None, None], &[]);
        assert!(matches!(next, Step::Effect(Effect::Find { slots: 2, .. })), "{next:?}");
        assert_eq!(after_reads(&["a", "b", "c"], &[None, None, None], &[]).1, Step::Done(PartyJoined::TooLarge));
        let here = Some(seat("s", reserved(1_000)));
        let ledger = ready(&[("a", reserved(1_000))]);
        let (_, next) = after_reads(&["a", "b", "c"], &[here, None, None], &[ledger]);
        assert_eq!(next, Step::Done(PartyJoined::TooLarge));
    }

    #[test]
    fn a_party_joins_the_server_of_a_placed_player_if_it_has_room_and_otherwise_names_that_player() {
        let seats = [Some(seat("s", reserved(1_000))), None];
        let with = |ledger: Ledger| after_reads(&["a", "b"], &seats, &[ledger]);
        let (_, next) = with(ready(&[("a", reserved(1_000))]));
        assert_eq!(seat_writes(&next).len(), 1, "{next:?}");
        assert_eq!(with(ready(&[("a", reserved(1_000)), ("c", connected(1))])).1, elsewhere(&["a"]));
        let lapsed = Ledger { lease_until: None, ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(with(lapsed).1, elsewhere(&["a"]));
        let of_another_pool = Ledger { pool: pool("q"), ..ready(&[("a", reserved(1_000))]) };
        assert_eq!(with(of_another_pool).1, elsewhere(&["a"]));
        let both = [Some(seat("s", reserved(1_000))), Some(seat("s", reserved(1_000)))];
        let (_, next) = after_reads(&["a", "b"], &both, &[ready(&[("a", reserved(1_000)), ("b", reserved(1_000))])]);
        assert!(matches!(next, Step::Done(PartyJoined::Placed(_)) | Step::Effect(Effect::WriteLedger(..))), "{next:?}");
    }

    #[test]
    fn players_placed_on_different_servers_are_named_after_a_second_read() {
        let seats = [Some(seat("s", reserved(1_000))), Some(seat("t", reserved(1_000)))];
        let ledgers =
            [ready(&[("a", reserved(1_000))]), Ledger { id: server("t"), ..ready(&[("b", reserved(1_000))]) }];
        let (mut party, next) = after_reads(&["a", "b"], &seats, &ledgers);
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
        assert_eq!(read_all(&mut party, &seats, &ledgers), elsewhere(&["a", "b"]));
    }

    #[test]
    fn an_expired_claim_of_a_player_outside_the_party_is_evicted() {
        let ledger = Ledger { ready_at: Some(Time(1)), ..ready(&[("a", connected(1_000)), ("c", reserved(1_000))]) };
        let (mut party, next) = after_reads(&["a", "b"], &[Some(seat("s", connected(1_000))), None], &[ledger]);
        let [(_, of)] = &*seat_writes(&next) else { panic!("{next:?}") };
        let next = party.next(NOW, Reply::SeatsWritten(vec![Answer::Written(seat("s", Claim::Reserved(*of)))]));
        let Step::Effect(Effect::WriteLedger(_, LedgerWrite::ClaimExactly { evict, players, seen_by, .. })) = next
        else {
            panic!("{next:?}")
        };
        assert_eq!((evict, players), (vec![(player("c"), reserved(1_000))], vec![(player("b"), None)]));
        assert_eq!(seen_by, NOW + Span(20_000), "two heartbeats");
    }

    #[test]
    fn the_next_step_after_a_refused_claim_depends_on_the_ledger() {
        let refused = |image: &dyn Fn(Claim) -> Option<Ledger>| {
            let (mut party, _) = after_reads(&["a", "b"], &[None, None], &[]);
            let next = party.next(NOW, Reply::Found(Hint::Listed(server("s"))));
            let [(_, of), _] = &*seat_writes(&next) else { panic!("{next:?}") };
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
        let applied = refused(&|claim| Some(ready(&[("a", claim), ("b", claim)])));
        assert!(matches!(applied, Step::Done(PartyJoined::Placed(_))), "{applied:?}");
        let half = refused(&|claim| Some(ready(&[("a", claim)])));
        assert!(matches!(half, Step::Effect(Effect::ReadSeats(_))), "another call has placed one player: {half:?}");
        let newer = refused(&|_| Some(ready(&[("a", reserved(NOW.0 + 1))])));
        assert!(matches!(newer, Step::Effect(Effect::ReadSeats(_))), "{newer:?}");
        for (case, claims) in [("no claim", &[][..]), ("an older claim", &[("a", reserved(1))])] {
            let again = refused(&|_| Some(ready(claims)));
            assert!(
                matches!(again, Step::Effect(Effect::WriteLedger(..))),
                "{case}: the server has room by now: {again:?}"
            );
        }
        let some = refused(&|_| Some(ready(&[("c", connected(1))])));
        assert!(matches!(&some, Step::Effect(Effect::Find { tried, .. }) if *tried == [server("s")]), "{some:?}");
    }

    /// A party whose seats name `s` and that has taken slots on `slots_on`, up to its claim on `s`.
    fn claiming(slots_on: &str) -> (Party, Claim) {
        let (mut party, _) = after_reads(&["a", "b"], &[None, None], &[]);
        let next = party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let [(_, of), _] = &*seat_writes(&next) else { panic!("{next:?}") };
        let claim = Claim::Reserved(*of);
        let written = Answer::Written(seat("s", claim));
        party.next(NOW, Reply::SeatsWritten(vec![written.clone(), written]));
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::On(server(slots_on))));
        assert!(matches!(&next, Step::Effect(Effect::WriteLedger(on, _)) if *on == server("s")), "{next:?}");
        (party, claim)
    }

    #[test]
    fn slots_on_another_server_than_the_seats_name_are_used_once_the_seats_server_has_refused() {
        let refused = Reply::LedgerWritten(Answer::Refused(None));
        assert_eq!(seat_writes(&claiming("t").0.next(NOW, refused.clone())).len(), 2, "both seats change to `t`");
        let (mut party, _) = claiming("s");
        assert_eq!(party.next(NOW, refused), Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") }));
        assert!(matches!(party.next(NOW, Reply::Done), Step::Effect(Effect::Find { .. })));
    }

    #[test]
    fn a_party_unlists_a_server_that_it_has_filled_or_that_drains() {
        let (mut party, claim) = claiming("s");
        let claimed = Ledger { listed: fill(0, 2), ..ready(&[("a", claim), ("b", claim)]) };
        let next = party.next(NOW, Reply::LedgerWritten(Answer::Written(claimed)));
        assert!(
            matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))),
            "the server is full: {next:?}"
        );
        assert!(matches!(
            party.next(NOW, Reply::LedgerWritten(Answer::Refused(None))),
            Step::Done(PartyJoined::Placed(_))
        ));
        let (mut party, _) = claiming("s");
        let draining = Ledger { listed: fill(0, 2), ..draining(&[]) };
        let next = party.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(draining))));
        assert!(matches!(next, Step::Effect(Effect::WriteLedger(_, LedgerWrite::Unlist { .. }))), "{next:?}");
        let mut other = party.clone();
        let next = other.next(NOW, Reply::LedgerWritten(Answer::Refused(Some(ready(&[])))));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "the server accepts claims by now: {next:?}");
        assert_eq!(
            party.next(NOW, Reply::LedgerWritten(Answer::Refused(None))),
            Step::Effect(Effect::UsedUp { pool: pool("p"), server: server("s") })
        );
    }

    #[test]
    fn a_party_finishes_only_a_begun_placement_that_can_still_be_claimed() {
        let finishes = |claim, ledger: Ledger| {
            let (_, next) = after_reads(&["a", "b"], &[Some(seat("s", claim)), None], &[ledger]);
            let finishes = seat_writes(&next) == [(player("b"), placement(1_000))];
            assert_eq!(matches!(next, Step::Effect(Effect::Find { .. })), !finishes, "{next:?}");
            finishes
        };
        assert!(finishes(reserved(1_000), ready(&[])));
        assert!(finishes(reserved(1_000), ready(&[("a", reserved(999))])), "an older claim is renewed");
        assert!(!finishes(reserved(1_000), ready(&[("a", reserved(1_001))])), "a newer claim");
        assert!(!finishes(connected(1_000), ready(&[])), "an unfinished disconnect");
        assert!(
            !finishes(reserved(1_000), Ledger { ready_at: Some(Time(1)), ..ready(&[]) }),
            "the reservation has expired"
        );
        assert!(!finishes(reserved(1_000), ready(&[("c", connected(1))])), "no room for both");
        assert!(!finishes(reserved(1_000), Ledger { pool: pool("q"), ..ready(&[]) }));
    }

    #[test]
    fn seats_are_written_before_slots_are_taken_and_a_used_up_frontier_precedes_a_new_server() {
        let take = |may_start| Step::Effect(Effect::TakeSlots { pool: pool("p"), slots: 2, may_start });
        let (mut party, _) = after_reads(&["a", "b"], &[None, None], &[]);
        assert_eq!(party.next(NOW, Reply::Found(Hint::Unknown)), take(false));
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::UsedUp));
        assert!(matches!(next, Step::Effect(Effect::Find { fresh: true, .. })), "{next:?}");
        assert_eq!(party.next(NOW, Reply::Found(Hint::Frontier(server("s")))), take(true));
        assert_eq!(seat_writes(&party.next(NOW, Reply::SlotsTaken(TakenSlots::On(server("s"))))).len(), 2);
        // If the frontier's server is known, the seats are written first, and then the slots are taken.
        let (mut party, _) = after_reads(&["a", "b"], &[None, None], &[]);
        let next = party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let [(_, of), _] = &*seat_writes(&next) else { panic!("{next:?}") };
        let written = Answer::Written(seat("s", Claim::Reserved(*of)));
        assert_eq!(party.next(NOW, Reply::SeatsWritten(vec![written.clone(), written.clone()])), take(false));
        let next = party.clone().next(NOW, Reply::SlotsTaken(TakenSlots::On(server("s"))));
        assert!(matches!(next, Step::Effect(Effect::WriteLedger(..))), "{next:?}");
        let next = party.next(NOW, Reply::SlotsTaken(TakenSlots::No(NoSlot::PoolFull)));
        assert_eq!(next, Step::Done(PartyJoined::No(NoSlot::PoolFull)));
        // The party starts again if another call has changed a seat.
        let (mut party, _) = after_reads(&["a", "b"], &[None, None], &[]);
        party.next(NOW, Reply::Found(Hint::Frontier(server("s"))));
        let next = party.next(NOW, Reply::SeatsWritten(vec![written, Answer::Refused(None)]));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
    }

    #[test]
    fn a_placement_that_another_call_has_begun_is_finished_unless_a_seat_has_a_newer_one() {
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
            ("an older vacant seat", Some(Seat::Vacant(placement(999)))),
            ("an older reservation", Some(seat("gone", reserved(999)))),
        ] {
            let next = begun(others);
            let Step::Effect(Effect::WriteSeats(writes)) = next else { panic!("{case}: {next:?}") };
            let at_that_placement =
                matches!(&*writes, [(_, SeatWrite::Assign { placement: of, .. })] if *of == placement(1_000));
            assert!(at_that_placement, "{case}: {writes:?}");
        }
        for (case, others) in [
            ("a newer vacant seat", Some(Seat::Vacant(placement(1_001)))),
            ("a newer reservation", Some(seat("gone", reserved(1_001)))),
        ] {
            let next = begun(others);
            assert!(matches!(next, Step::Effect(Effect::Find { .. })), "{case}: {next:?}");
        }
    }

    #[test]
    fn a_player_who_was_placed_by_another_call_since_the_seats_were_read_keeps_that_slot() {
        let mut party = Party::new(vec![player("a"), player("b")], pool("p"), 2, Span(10_000));
        let mut reply = |reply| party.next(NOW, reply);
        assert!(matches!(reply(Reply::Start), Step::Effect(Effect::ReadSeats(_))));
        // Another call about this party has written both seats. Then `a` has cancelled and joined alone.
        let seat = Some(seat("s", reserved(1_000)));
        assert_eq!(reply(Reply::SeatsRead(vec![seat.clone(), seat])), Step::Effect(Effect::ReadLedger(server("s"))));
        let next = reply(Reply::LedgerRead(Some(ready(&[("a", reserved(1_001))]))));
        assert!(matches!(next, Step::Effect(Effect::ReadSeats(_))), "{next:?}");
    }
}
