//! Memory of a warm process between calls: pools, servers with room, and the last known state of each frontier.
//!
//! Everything here is a hint. A wrong hint costs a refused write or an extra launch, never correctness. Hints also keep
//! concurrent calls of one process from colliding: a slot that one call is about to claim is not offered to the next
//! call, so many calls at once cost little more than the same calls one by one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    clock::Rng,
    domain::{Frontier, Ledger, PoolName, Rank, ServerId, ServerState, Span, Time},
    pool::Pool,
    table::{Table, TableError},
};

/// Time for which a pool's configuration is used without reading it again.
const POOL_FRESH_FOR: Span = Span::seconds(10);
/// Time for which an answer of the index is used without querying it again.
const LISTING_FRESH_FOR: Span = Span::seconds(1);
/// Time for which the free slots seen in a ledger take precedence over the index.
const ROOM_FRESH_FOR: Span = Span::seconds(2);
/// Calls that may probe a used-up frontier at once; the others wait for the result.
const PROBERS: usize = 2;
/// Most servers among which colliding calls are spread.
const WIDEST_SPREAD: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All hints of one process.
#[derive(Debug, Default)]
pub struct Hints {
    pools: Mutex<HashMap<PoolName, (Time, Arc<Pool>)>>,
    /// Held while one call reads a pool from the table; the others wait for the result.
    reading_pool: tokio::sync::Mutex<()>,
    listings: Mutex<HashMap<PoolName, Arc<Listing>>>,
    limiters: Mutex<HashMap<(PoolName, u32), Arc<Limiter>>>,
}

impl Hints {
    /// Returns a pool's configuration, at most 10 s old; `None` if no operator has configured the pool.
    ///
    /// # Errors
    /// The call to the table failed.
    pub async fn pool(&self, table: &Table, name: &PoolName, now: Time) -> Result<Option<Arc<Pool>>, TableError> {
        let known = || match lock(&self.pools).get(name) {
            Some((at, pool)) if now < *at + POOL_FRESH_FOR => Some(Arc::clone(pool)),
            _ => None,
        };
        if let Some(pool) = known() {
            return Ok(Some(pool));
        }
        let _reading = self.reading_pool.lock().await;
        if let Some(pool) = known() {
            return Ok(Some(pool));
        }
        let pool = table.pool(name).await?.map(Arc::new);
        match &pool {
            Some(pool) => lock(&self.pools).insert(name.clone(), (now, Arc::clone(pool))),
            None => lock(&self.pools).remove(name),
        };
        Ok(pool)
    }

    /// Drops the remembered configuration of a pool, because this process has just changed it.
    pub fn forget(&self, pool: &PoolName) {
        lock(&self.pools).remove(pool);
    }

    /// Returns the listing of a pool: its servers with room.
    pub fn listing(&self, pool: &PoolName) -> Arc<Listing> {
        Arc::clone(lock(&self.listings).entry(pool.clone()).or_default())
    }

    /// Returns the limiter of a pool's `k`-th frontier, from 0.
    pub fn limiter(&self, pool: &PoolName, k: u32) -> Arc<Limiter> {
        Arc::clone(lock(&self.limiters).entry((pool.clone(), k)).or_default())
    }
}

/// A server of a listing.
#[derive(Debug)]
struct Candidate {
    id: ServerId,
    rank: Rank,
    /// Free slots and when they were seen; `None` if only the index, which has no count, knows the server.
    room: Option<(u32, Time)>,
    /// Slots that calls of this process are about to claim on the server.
    in_flight: u32,
}

/// The last answer of the index, with what has been seen since.
#[derive(Debug, Default)]
struct Listed {
    /// Time of the answer; `None` before the first one.
    at: Option<Time>,
    /// Newest build first, then fullest first.
    servers: Vec<Candidate>,
    /// Number of servers among which calls are spread, because calls have collided.
    spread: usize,
}

/// Servers of one pool with room, from the index and from ledgers seen since.
#[derive(Debug, Default)]
pub struct Listing {
    listed: Mutex<Listed>,
    /// Held while one call queries the index; the others wait for the result.
    querying: tokio::sync::Mutex<()>,
}

impl Listing {
    /// Queries the index, unless its last answer is fresh: later than `not_before`, or under 1 s old if that is `None`.
    ///
    /// # Errors
    /// The call to the table failed.
    pub async fn refresh(
        &self,
        table: &Table,
        pool: &Pool,
        not_before: Option<Time>,
        now: Time,
    ) -> Result<(), TableError> {
        let oldest = not_before.unwrap_or(now - LISTING_FRESH_FOR);
        let is_fresh = || lock(&self.listed).at.is_some_and(|at| at > oldest);
        if is_fresh() {
            return Ok(());
        }
        let _querying = self.querying.lock().await;
        if is_fresh() {
            return Ok(());
        }
        let mut servers = Vec::new();
        for shard in 0..pool.shards {
            servers.extend(table.listed(&pool.name, shard).await?);
        }
        let believed_from = not_before.unwrap_or(now - ROOM_FRESH_FOR);
        lock(&self.listed).replace(servers, believed_from, now);
        Ok(())
    }

    /// Chooses a server for `slots` slots, and counts those slots as in flight until the returned guard is dropped.
    ///
    /// Newest build first, then fullest first. At random among servers of the same rank; if calls have collided, among
    /// more servers of the same build.
    pub fn pick(
        self: &Arc<Self>,
        pool: &Pool,
        slots: u32,
        tried: &[ServerId],
        in_flight: &HashMap<ServerId, u32>,
        rng: &Rng,
    ) -> Option<InFlight> {
        let capacity = pool.limits.capacity;
        let mut listed = lock(&self.listed);
        let wanted =
            |candidate: &Candidate| candidate.in_flight + in_flight.get(&candidate.id).copied().unwrap_or(0) + slots;
        let free = |candidate: &Candidate| {
            let room = candidate.room.map_or_else(|| candidate.rank.fill.least_room(capacity), |(room, _)| room);
            room >= wanted(candidate)
        };
        let open = |candidate: &&mut Candidate| !tried.contains(&candidate.id) && pool.takes(candidate.rank.build);
        let spread = listed.spread;
        let mut best: Vec<&mut Candidate> = listed.servers.iter_mut().filter(open).filter(|one| free(one)).collect();
        if best.is_empty() {
            // By the least room that the index allows, every server is taken. One whose ledger was not seen may have
            // more room.
            let uncounted = |candidate: &&mut Candidate| {
                let most = candidate.rank.fill.most_room(capacity);
                open(candidate) && candidate.room.is_none() && wanted(candidate) <= most
            };
            best = listed.servers.iter_mut().filter(uncounted).collect();
        }
        let first = best.first()?.rank;
        let of_that_rank = best.iter().take_while(|candidate| candidate.rank == first).count();
        let of_that_build = best.iter().take_while(|candidate| candidate.rank.build == first.build).count();
        let among = of_that_rank.max(spread).min(of_that_build);
        let candidate = best.into_iter().nth(rng.below(among))?;
        candidate.in_flight += slots;
        Some(InFlight { listing: Arc::clone(self), server: candidate.id.clone(), build: first.build, slots })
    }

    /// Records the free slots of a server from its ledger.
    pub fn observe(&self, ledger: &Ledger, now: Time) {
        let claims = u32::try_from(ledger.live_claims(now)).unwrap_or(u32::MAX);
        let room = if ledger.state == ServerState::Ready { ledger.capacity.saturating_sub(claims) } else { 0 };
        let mut listed = lock(&self.listed);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == ledger.id) {
            // Responses may arrive out of order. Of two fresh ones the one with less room is taken as the later one.
            let before = candidate.room.filter(|(_, at)| now < *at + ROOM_FRESH_FOR);
            candidate.room = match before {
                Some((less, at)) if less < room => Some((less, at)),
                _ => Some((room, now)),
            };
        }
    }

    /// Records that a server refused a claim for want of room, and spreads further calls among more servers.
    pub fn used_up(&self, server: &ServerId, now: Time) {
        let mut listed = lock(&self.listed);
        listed.spread = (listed.spread * 2).clamp(2, WIDEST_SPREAD);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == *server) {
            candidate.room = Some((0, now));
        }
    }
}

impl Listed {
    /// Replaces the servers by a new answer of the index, and keeps the free slots that were seen since
    /// `believed_from`.
    ///
    /// A call that must know whether there is any room at all passes the time of its own start: earlier counts are
    /// dropped, because a slot may have been freed since.
    fn replace(&mut self, servers: Vec<(ServerId, Rank)>, believed_from: Time, now: Time) {
        let mut old: HashMap<ServerId, Candidate> =
            std::mem::take(&mut self.servers).into_iter().map(|old| (old.id.clone(), old)).collect();
        let known = servers.into_iter().map(|(id, rank)| {
            let old = old.remove(&id);
            let room = old.as_ref().and_then(|old| old.room);
            let room = room.filter(|(_, at)| believed_from <= *at);
            Candidate { in_flight: old.map_or(0, |old| old.in_flight), room, rank, id }
        });
        self.servers = known.collect();
        self.servers.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank));
        self.at = Some(now);
        self.spread /= 2;
    }
}

/// Guard of a call that is about to claim slots on a listed server; counts the slots as in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    listing: Arc<Listing>,
    /// The server.
    pub server: ServerId,
    /// The server's build.
    pub build: u32,
    slots: u32,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut listed = lock(&self.listing.listed);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == self.server) {
            candidate.in_flight = candidate.in_flight.saturating_sub(self.slots);
        }
    }
}

/// The last known state of a frontier.
#[derive(Debug, Default)]
struct LastSeen {
    /// The server that the frontier fills.
    server: Option<ServerId>,
    /// Remaining slots that no call of this process has reserved.
    left: u32,
    /// Remaining slots when the frontier was last seen; the upper bound of `left`.
    most: u32,
    /// The server before `server`. A response that still names it is late, or the frontier has returned to it: the
    /// first such response is taken as late, and the second as a return.
    previous: Option<ServerId>,
    /// Slots that calls of this process have reserved or taken and not claimed yet, by server.
    in_flight: HashMap<ServerId, u32>,
}

impl LastSeen {
    fn add_in_flight(&mut self, server: Option<&ServerId>, slots: u32) {
        if let Some(server) = server {
            *self.in_flight.entry(server.clone()).or_default() += slots;
        }
    }

    fn remove_in_flight(&mut self, server: Option<&ServerId>, slots: u32) {
        let Some(server) = server else { return };
        if let Some(in_flight) = self.in_flight.get_mut(server) {
            *in_flight = in_flight.saturating_sub(slots);
            if *in_flight == 0 {
                self.in_flight.remove(server);
            }
        }
    }
}

/// Limits how many calls of this process use one frontier at once.
///
/// While the frontier has slots left as far as this process knows, calls pass in parallel. Otherwise two calls probe
/// it, and the others wait for the id of the next server.
#[derive(Debug)]
pub struct Limiter {
    seen: Mutex<LastSeen>,
    /// Permits to probe the frontier when it has no slots left.
    probers: Arc<Semaphore>,
    /// Held while a call advances the frontier.
    advancing: tokio::sync::Mutex<()>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            probers: Arc::new(Semaphore::new(PROBERS)),
            advancing: tokio::sync::Mutex::default(),
        }
    }
}

/// A call's permit to take slots from a frontier.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    /// Number of the frontier in its pool, from 0.
    pub k: u32,
    /// The server that the frontier was last seen filling.
    pub server: Option<ServerId>,
    /// Number of slots that the call needs.
    slots: u32,
    /// Whether the slots are deducted from this process's count of remaining slots.
    reserved: bool,
    /// Whether the slots count as in flight on the server.
    counted: bool,
    _probing: Option<OwnedSemaphorePermit>,
}

impl Limiter {
    /// Reserves slots that are left as far as this process knows; `None` if fewer are left.
    pub fn reserve(self: &Arc<Self>, k: u32, slots: u32) -> Option<Permit> {
        let mut seen = lock(&self.seen);
        seen.left = seen.left.checked_sub(slots)?;
        let server = seen.server.clone();
        seen.add_in_flight(server.as_ref(), slots);
        Some(Permit { limiter: Arc::clone(self), k, server, slots, reserved: true, counted: true, _probing: None })
    }

    /// Returns a permit as soon as slots are left, or as soon as this call may probe the frontier.
    pub async fn enter(self: &Arc<Self>, k: u32, slots: u32) -> Permit {
        if let Some(permit) = self.reserve(k, slots) {
            return permit;
        }
        let probing = Arc::clone(&self.probers).acquire_owned().await.ok();
        if let Some(permit) = self.reserve(k, slots) {
            return permit;
        }
        self.uncounted(k, slots, probing)
    }

    /// Returns a permit without waiting, for a call that has given up another frontier's permit.
    pub fn at_once(self: &Arc<Self>, k: u32, slots: u32) -> Permit {
        self.reserve(k, slots).unwrap_or_else(|| self.uncounted(k, slots, None))
    }

    /// Creates a permit without reserved slots.
    fn uncounted(self: &Arc<Self>, k: u32, slots: u32, probing: Option<OwnedSemaphorePermit>) -> Permit {
        let (limiter, server) = (Arc::clone(self), self.server());
        Permit { limiter, k, server, slots, reserved: false, counted: false, _probing: probing }
    }

    /// Records the state of the frontier from a response of the table.
    pub fn observe(&self, frontier: &Frontier) {
        let mut seen = lock(&self.seen);
        if seen.previous.as_ref() == Some(&frontier.server) {
            seen.previous = None;
            return;
        }
        if seen.server.as_ref() == Some(&frontier.server) {
            seen.most = seen.most.min(frontier.remaining);
            seen.left = seen.left.min(seen.most);
        } else {
            seen.previous = seen.server.replace(frontier.server.clone());
            (seen.most, seen.left) = (frontier.remaining, frontier.remaining);
        }
    }

    /// Records that this process has moved the frontier back to an earlier server.
    pub fn goes_back(&self, frontier: &Frontier) {
        lock(&self.seen).previous = None;
        self.observe(frontier);
    }

    /// Returns the slots that calls of this process have taken from this frontier and not claimed yet, by server.
    pub fn in_flight(&self) -> HashMap<ServerId, u32> {
        lock(&self.seen).in_flight.clone()
    }

    /// Returns the server that the frontier was last seen filling.
    pub fn server(&self) -> Option<ServerId> {
        lock(&self.seen).server.clone()
    }

    /// Waits until no other call of this process advances the frontier.
    pub async fn advance(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.advancing.lock().await
    }
}

impl Permit {
    /// The limiter of the permit's frontier.
    pub const fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Marks the reserved slots as used: from now on, only a response of the table changes the count of remaining
    /// slots.
    pub fn spend(&mut self) {
        self.reserved = false;
    }

    /// Records that the call has taken its slots on `server` and will claim them, and lets the next call probe.
    pub fn took(&mut self, server: &ServerId) {
        let mut seen = lock(&self.limiter.seen);
        if self.counted {
            seen.remove_in_flight(self.server.as_ref(), self.slots);
        }
        seen.add_in_flight(Some(server), self.slots);
        drop(seen);
        (self.counted, self.server, self._probing) = (true, Some(server.clone()), None);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut seen = lock(&self.limiter.seen);
        if self.counted {
            seen.remove_in_flight(self.server.as_ref(), self.slots);
        }
        if self.reserved && seen.server == self.server {
            seen.left = seen.left.saturating_add(self.slots).min(seen.most);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;

    use super::*;
    use crate::domain::{Claim, Fill, Placement, PlayerId, PoolLimits, Rollout, TokenHash};
    use crate::pool::tests::configured;

    const NOW: Time = Time(2_000_000);
    const TICK: Span = Span(1);

    fn id(name: &str) -> ServerId {
        ServerId::parse(name).unwrap()
    }

    fn rank(build: u32, fill: Fill) -> Rank {
        Rank { build, fill }
    }

    /// A pool of build 1.
    fn pool(capacity: u32, rollout: Rollout) -> Pool {
        Pool { limits: PoolLimits { capacity, ..PoolLimits::DEFAULT }, build: 1, rollout, ..configured() }
    }

    /// A listing with these servers, as of `NOW`.
    fn listing(servers: &[(&str, Rank)]) -> Arc<Listing> {
        let listing = Arc::new(Listing::default());
        listed_again(&listing, servers, NOW);
        listing
    }

    /// Applies a new answer of the index at `NOW`, and keeps free slots that were seen since `believed_from`.
    fn listed_again(listing: &Listing, servers: &[(&str, Rank)], believed_from: Time) {
        let servers = servers.iter().map(|(name, rank)| (id(name), *rank)).collect();
        lock(&listing.listed).replace(servers, believed_from, NOW);
    }

    fn pick(listing: &Arc<Listing>, pool: &Pool, slots: u32, tried: &[&str]) -> Option<InFlight> {
        let tried = tried.iter().map(|name| id(name)).collect::<Vec<_>>();
        listing.pick(pool, slots, &tried, &HashMap::new(), &Rng::seeded(1))
    }

    fn picked(chosen: Option<&InFlight>) -> Option<&str> {
        chosen.map(|chosen| chosen.server.as_str())
    }

    /// The server `s` of three slots with that many connected players.
    fn ledger(state: ServerState, players: u32) -> Ledger {
        let claim = Claim::Connected(Placement::new(1).unwrap());
        let player = |n| PlayerId::parse(&format!("player-{n}")).unwrap();
        let limits = PoolLimits { capacity: 3, ..PoolLimits::DEFAULT };
        let new = Ledger::new(id("s"), PoolName::parse("p").unwrap(), &limits, TokenHash::of("token"));
        Ledger { state, ready_at: Some(NOW), claims: (0..players).map(|n| (player(n), claim)).collect(), ..new }
    }

    fn room(listing: &Listing) -> Option<(u32, Time)> {
        lock(&listing.listed).servers.iter().find(|it| it.id == id("s")).unwrap().room
    }

    #[test]
    fn the_fullest_server_of_the_newest_build_is_picked_first_and_only_builds_that_the_pool_takes() {
        let old_and_full = ("old", rank(0, Fill::TOP));
        let listing = listing(&[old_and_full, ("empty", rank(1, Fill::EMPTY)), ("full", rank(1, Fill::TOP))]);
        let (lazy, drain) = (pool(9, Rollout::Lazy), pool(9, Rollout::Drain));
        let all = &["full", "empty", "old"][..];
        for (case, pool, tried, server, build) in [
            ("the fullest of the newest build", &lazy, 0, Some("full"), Some(1)),
            ("the next one of that build", &lazy, 1, Some("empty"), Some(1)),
            ("the older build last", &lazy, 2, Some("old"), Some(0)),
            ("every server was tried", &lazy, 3, None, None),
            ("a pool that drains older builds", &drain, 2, None, None),
        ] {
            let chosen = pick(&listing, pool, 1, &all[..tried]);
            let chosen = chosen.as_ref();
            assert_eq!((picked(chosen), chosen.map(|it| it.build)), (server, build), "{case}");
        }
    }

    #[test]
    fn slots_in_flight_on_a_listed_server_are_offered_again_only_after_their_call_has_ended() {
        let (listing, pool) = (listing(&[("s", rank(1, Fill::EMPTY))]), pool(3, Rollout::Lazy));
        listing.observe(&ledger(ServerState::Ready, 1), NOW);
        assert!(pick(&listing, &pool, 3, &[]).is_none(), "three slots where two are free");
        let first = pick(&listing, &pool, 1, &[]);
        let second = pick(&listing, &pool, 1, &[]);
        assert_eq!((picked(first.as_ref()), picked(second.as_ref())), (Some("s"), Some("s")), "two slots are free");
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "both are in flight");
        listed_again(&listing, &[("s", rank(1, Fill::EMPTY))], NOW);
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "both stay in flight after a new answer of the index");
        drop(first);
        assert!(pick(&listing, &pool, 2, &[]).is_none(), "one is still in flight");
        assert!(pick(&listing, &pool, 1, &[]).is_some(), "one is free again");
    }

    #[test]
    fn slots_taken_from_a_frontier_and_not_claimed_yet_reduce_the_room_of_their_server() {
        let (listing, pool) = (listing(&[("s", rank(1, Fill::EMPTY))]), pool(3, Rollout::Lazy));
        listing.observe(&ledger(ServerState::Ready, 1), NOW);
        for (case, server, slots, free) in
            [("one of two", "s", 1, true), ("both", "s", 2, false), ("both of another server", "t", 2, true)]
        {
            let in_flight = HashMap::from([(id(server), slots)]);
            let chosen = listing.pick(&pool, 1, &[], &in_flight, &Rng::seeded(1));
            assert_eq!(chosen.is_some(), free, "{case}");
        }
    }

    #[test]
    fn a_server_whose_ledger_was_not_seen_is_offered_up_to_the_most_room_that_its_fill_allows() {
        let (listing, pool) = (listing(&[("s", rank(1, Fill::EMPTY))]), pool(9, Rollout::Lazy));
        let seven = pick(&listing, &pool, 7, &[]);
        assert!(seven.is_some(), "an empty server of nine slots has at least seven free");
        let (eighth, ninth) = (pick(&listing, &pool, 1, &[]), pick(&listing, &pool, 1, &[]));
        assert!(eighth.is_some() && ninth.is_some(), "an empty server of nine slots has at most nine free");
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "a tenth slot does not exist");
    }

    #[test]
    fn of_two_fresh_observations_of_a_ledger_the_one_with_less_room_counts() {
        use ServerState::{Draining, Ready};
        let ago = |ms| NOW - Span(ms);
        for (case, before, state, players, expected) in [
            ("the first observation", None, Ready, 1, (2, NOW)),
            ("a fresh observation had less", Some((1, ago(1_999))), Ready, 1, (1, ago(1_999))),
            ("an observation with less is two seconds old", Some((1, ago(2_000))), Ready, 1, (2, NOW)),
            ("a fresh observation had more", Some((3, ago(1))), Ready, 1, (2, NOW)),
            ("a draining server has no room", None, Draining, 1, (0, NOW)),
            ("a full server", None, Ready, 3, (0, NOW)),
        ] {
            let listing = listing(&[("s", rank(1, Fill::EMPTY)), ("t", rank(1, Fill::EMPTY))]);
            lock(&listing.listed).servers.iter_mut().for_each(|it| it.room = before);
            listing.observe(&ledger(state, players), NOW);
            assert_eq!(room(&listing), Some(expected), "{case}");
            let other = lock(&listing.listed).servers.iter().find(|it| it.id == id("t")).unwrap().room;
            assert_eq!(other, before, "{case}: another server");
        }
    }

    #[test]
    fn an_expired_reservation_leaves_room() {
        let listing = listing(&[("s", rank(1, Fill::EMPTY))]);
        let claim = Claim::Reserved(Placement::new(1).unwrap());
        let claims = BTreeMap::from([(PlayerId::parse("late").unwrap(), claim)]);
        let seen = Ledger { claims, ..ledger(ServerState::Ready, 0) };
        let end = NOW + seen.reservation;
        listing.observe(&seen, end - TICK);
        assert_eq!(room(&listing), Some((2, end - TICK)), "the reservation is live");
        listing.observe(&seen, end + ROOM_FRESH_FOR);
        assert_eq!(room(&listing), Some((3, end + ROOM_FRESH_FOR)), "the reservation has expired");
    }

    #[test]
    fn free_slots_seen_in_a_ledger_survive_a_new_answer_of_the_index_only_if_they_are_recent() {
        for (case, seen, kept) in [
            ("seen before the limit", NOW - TICK, false),
            ("seen at the limit", NOW, true),
            ("seen later", NOW + TICK, true),
        ] {
            let listing = listing(&[("s", rank(1, Fill::EMPTY))]);
            listing.observe(&ledger(ServerState::Ready, 3), seen);
            listed_again(&listing, &[("s", rank(1, Fill::EMPTY))], NOW);
            assert_eq!(room(&listing), kept.then_some((0, seen)), "{case}");
        }
    }

    #[test]
    fn a_server_that_refused_a_claim_is_not_offered_and_each_refusal_spreads_calls_wider() {
        let servers = [("s", rank(1, Fill::TOP)), ("t", rank(1, Fill::EMPTY)), ("old", rank(0, Fill::TOP))];
        let (listing, pool) = (listing(&servers), pool(9, Rollout::Lazy));
        let offered = |listing: &Arc<Listing>| {
            let pick = |seed| listing.pick(&pool, 1, &[], &HashMap::new(), &Rng::seeded(seed));
            (0..40)
                .filter_map(|seed| pick(seed).map(|it| it.server.to_string()))
                .collect::<std::collections::BTreeSet<_>>()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(offered(&listing), names(&["s"]), "no refusal: only the first server");
        listing.used_up(&id("elsewhere"), NOW);
        assert_eq!(offered(&listing), names(&["s", "t"]), "one refusal: two servers, and no older build");
        listing.used_up(&id("s"), NOW);
        assert_eq!(room(&listing), Some((0, NOW)));
        assert_eq!(offered(&listing), names(&["t"]), "the server that refused is not offered");
        let spread = || lock(&listing.listed).spread;
        let mut wider = vec![spread()];
        wider.extend((0..3).map(|_| {
            listing.used_up(&id("s"), NOW);
            spread()
        }));
        assert_eq!(wider, [4, 8, 16, 16], "doubled by each refusal, up to a limit");
        listed_again(&listing, &servers, NOW);
        assert_eq!(spread(), 8, "halved by each answer of the index");
    }

    fn limiter(server: &str, remaining: u32) -> Arc<Limiter> {
        let limiter = Arc::new(Limiter::default());
        limiter.observe(&Frontier::new(id(server), remaining));
        limiter
    }

    fn in_flight(limiter: &Limiter) -> Vec<(String, u32)> {
        let mut in_flight =
            limiter.in_flight().into_iter().map(|(server, n)| (server.to_string(), n)).collect::<Vec<_>>();
        in_flight.sort();
        in_flight
    }

    #[test]
    fn a_dropped_permit_gives_its_slots_back_unless_they_were_spent() {
        let limiter = limiter("s", 3);
        assert!(limiter.reserve(0, 4).is_none(), "four slots of a frontier with three");
        let first = limiter.reserve(0, 1).unwrap();
        let mut second = limiter.reserve(0, 2).unwrap();
        assert_eq!(first.server, Some(id("s")));
        assert!(limiter.reserve(0, 1).is_none(), "all slots are reserved");
        drop(first);
        second.spend();
        drop(second);
        assert!(limiter.reserve(0, 2).is_none(), "spent slots are not given back");
        assert!(limiter.reserve(0, 1).is_some(), "unspent slots are given back");
    }

    #[test]
    fn a_dropped_permit_gives_back_no_more_slots_than_the_frontier_has_left_on_the_same_server() {
        let seen_since = limiter("s", 3);
        let permit = seen_since.reserve(0, 2).unwrap();
        seen_since.observe(&Frontier::new(id("s"), 1));
        drop(permit);
        assert!(seen_since.reserve(0, 2).is_none(), "the frontier had one left when it was last seen");
        let moved_since = limiter("s", 3);
        let permit = moved_since.reserve(0, 2).unwrap();
        moved_since.observe(&Frontier::new(id("t"), 2));
        let _one = moved_since.reserve(0, 1).unwrap();
        drop(permit);
        assert!(moved_since.reserve(0, 2).is_none(), "slots of the previous server are not added to the next one");
    }

    #[test]
    fn the_known_slots_of_a_frontier_only_fall_until_it_fills_another_server() {
        for (case, then, slots, free) in [
            ("fewer of the same server", ("s", 1), 2, false),
            ("more of the same server", ("s", 5), 3, false),
            ("as many of the same server", ("s", 2), 2, true),
            ("more of another server", ("t", 5), 5, true),
        ] {
            let limiter = limiter("s", 2);
            limiter.observe(&Frontier::new(id(then.0), then.1));
            assert_eq!(limiter.reserve(0, slots).is_some(), free, "{case}");
            assert_eq!(limiter.server(), Some(id(then.0)), "{case}");
        }
    }

    #[test]
    fn a_response_with_the_previous_server_counts_as_late_once_and_as_a_return_the_second_time() {
        let limiter = limiter("s", 1);
        limiter.observe(&Frontier::new(id("t"), 5));
        limiter.observe(&Frontier::new(id("s"), 0));
        assert_eq!(limiter.server(), Some(id("t")), "the first response is taken as late");
        limiter.observe(&Frontier::new(id("s"), 2));
        assert_eq!(limiter.server(), Some(id("s")), "the second response is taken as a return");
        limiter.observe(&Frontier::new(id("u"), 5));
        limiter.goes_back(&Frontier::new(id("s"), 1));
        assert_eq!(limiter.server(), Some(id("s")), "this process has moved the frontier back");
        assert!(limiter.reserve(0, 2).is_none() && limiter.reserve(0, 1).is_some());
    }

    #[test]
    fn slots_in_flight_are_counted_on_the_server_on_which_they_were_taken() {
        let limiter = limiter("s", 1);
        let mut reserved = limiter.reserve(0, 1).unwrap();
        assert_eq!(in_flight(&limiter), [("s".to_owned(), 1)]);
        let mut probing = limiter.at_once(0, 2);
        assert_eq!(in_flight(&limiter), [("s".to_owned(), 1)], "a call without a slot is not in flight");
        reserved.took(&id("t"));
        assert_eq!(in_flight(&limiter), [("t".to_owned(), 1)], "the call took a slot on another server");
        probing.took(&id("t"));
        assert_eq!(in_flight(&limiter), [("t".to_owned(), 3)]);
        drop(reserved);
        assert_eq!(in_flight(&limiter), [("t".to_owned(), 2)]);
        drop(probing);
        assert_eq!(in_flight(&limiter), []);
    }

    #[test]
    fn two_calls_probe_a_used_up_frontier_and_the_others_wait_for_its_next_server() {
        let limiter = limiter("s", 0);
        let mut first = limiter.enter(0, 1).now_or_never().unwrap();
        let _second = limiter.enter(0, 1).now_or_never().unwrap();
        let (mut third, mut fourth) = (Box::pin(limiter.enter(0, 1)), Box::pin(limiter.enter(0, 1)));
        assert!((&mut third).now_or_never().is_none(), "two calls are probing");
        limiter.observe(&Frontier::new(id("t"), 1));
        first.took(&id("t"));
        let third = third.now_or_never().unwrap();
        assert_eq!((third.server.as_ref(), third.reserved), (Some(&id("t")), true), "a slot of the next server");
        // The third call has a slot and does not probe, so the fourth call may probe.
        let fourth = (&mut fourth).now_or_never().unwrap();
        assert!(!fourth.reserved);
    }

    #[test]
    fn a_process_has_one_listing_per_pool_and_one_limiter_per_frontier() {
        let hints = Hints::default();
        let (p, q) = (PoolName::parse("p").unwrap(), PoolName::parse("q").unwrap());
        assert!(
            Arc::ptr_eq(&hints.listing(&p), &hints.listing(&p)) && !Arc::ptr_eq(&hints.listing(&p), &hints.listing(&q))
        );
        assert!(Arc::ptr_eq(&hints.limiter(&p, 0), &hints.limiter(&p, 0)));
        for (case, other) in [("another frontier", hints.limiter(&p, 1)), ("another pool", hints.limiter(&q, 0))] {
            assert!(!Arc::ptr_eq(&hints.limiter(&p, 0), &other), "{case}");
        }
    }
}
