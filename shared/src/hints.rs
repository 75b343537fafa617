//! What a warm function remembers between calls: pools, servers with room, and the frontiers' last seen state.
//!
//! All of it is a hint. A wrong one costs a refused write or a launch, never correctness. It also keeps the calls of one
//! process out of each other's way: places that are spoken for here are not offered to the next caller, so a herd in one
//! process costs little more than the same calls one by one.

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

/// How long a pool's configuration is believed.
const POOL_FRESH_FOR: Span = Span::seconds(10);
/// How long the index's answer is believed.
const LISTING_FRESH_FOR: Span = Span::seconds(1);
/// How long an observed number of free slots is believed over the index.
const ROOM_FRESH_FOR: Span = Span::seconds(2);
/// Callers that may ask a used-up frontier at once; the others wait for what these find.
const PROBERS: usize = 2;
/// Servers among which a herd is spread at the most.
const WIDEST_SPREAD: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything remembered.
#[derive(Debug, Default)]
pub struct Hints {
    pools: Mutex<HashMap<PoolName, (Time, Arc<Pool>)>>,
    /// One caller asks for a pool; the others wait for the answer.
    asking_for_pool: tokio::sync::Mutex<()>,
    listings: Mutex<HashMap<PoolName, Arc<Listing>>>,
    limiters: Mutex<HashMap<(PoolName, u32), Arc<Limiter>>>,
}

impl Hints {
    /// A pool's configuration; `None` if nobody has configured it.
    ///
    /// # Errors
    /// The table gave no answer.
    pub async fn pool(&self, table: &Table, name: &PoolName, now: Time) -> Result<Option<Arc<Pool>>, TableError> {
        let known = || match lock(&self.pools).get(name) {
            Some((at, pool)) if now < *at + POOL_FRESH_FOR => Some(Arc::clone(pool)),
            _ => None,
        };
        if let Some(pool) = known() {
            return Ok(Some(pool));
        }
        let _asking = self.asking_for_pool.lock().await;
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

    /// A pool has been configured here: what is remembered of it is old.
    pub fn forget(&self, pool: &PoolName) {
        lock(&self.pools).remove(pool);
    }

    /// The servers of a pool with room.
    pub fn listing(&self, pool: &PoolName) -> Arc<Listing> {
        Arc::clone(lock(&self.listings).entry(pool.clone()).or_default())
    }

    /// A pool's `k`-th frontier.
    pub fn limiter(&self, pool: &PoolName, k: u32) -> Arc<Limiter> {
        Arc::clone(lock(&self.limiters).entry((pool.clone(), k)).or_default())
    }
}

#[derive(Debug)]
struct Candidate {
    id: ServerId,
    rank: Rank,
    /// Free slots, and when they were seen; the index alone does not tell.
    room: Option<(u32, Time)>,
    /// Calls of this process that are on their way there.
    on_their_way: u32,
}

#[derive(Debug, Default)]
struct Listed {
    at: Option<Time>,
    servers: Vec<Candidate>,
    spread: usize,
}

/// Servers of one pool with room, fullest first.
#[derive(Debug, Default)]
pub struct Listing {
    listed: Mutex<Listed>,
    /// One caller asks the index; the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

impl Listing {
    /// Asks the index, unless its last answer is from after `not_before` or still fresh.
    ///
    /// # Errors
    /// The table gave no answer.
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
        let _asking = self.asking.lock().await;
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

    /// A server to try for so many slots, and a note that somebody is on the way there. Newest build first, then fullest
    /// first; at random among those of the same rank, and among more of the same build when many collide.
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
            |candidate: &Candidate| candidate.on_their_way + in_flight.get(&candidate.id).copied().unwrap_or(0) + slots;
        let free = |candidate: &Candidate| {
            let room = candidate.room.map_or_else(|| candidate.rank.fill.least_room(capacity), |(room, _)| room);
            room >= wanted(candidate)
        };
        let open = |candidate: &&mut Candidate| !tried.contains(&candidate.id) && pool.takes(candidate.rank.build);
        let spread = listed.spread;
        let mut best: Vec<&mut Candidate> = listed.servers.iter_mut().filter(open).filter(|one| free(one)).collect();
        if best.is_empty() {
            // Each is spoken for as far as the index tells; where nobody has counted, there may be more room.
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
        candidate.on_their_way += slots;
        Some(InFlight { listing: Arc::clone(self), server: candidate.id.clone(), build: first.build, slots })
    }

    /// A ledger was seen: that is what is free there.
    pub fn observe(&self, ledger: &Ledger, now: Time) {
        let claims = u32::try_from(ledger.live_claims(now)).unwrap_or(u32::MAX);
        let room = if ledger.state == ServerState::Ready { ledger.capacity.saturating_sub(claims) } else { 0 };
        let mut listed = lock(&self.listed);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == ledger.id) {
            // Answers overtake each other, so of two that are fresh the one with less room is the later one.
            let before = candidate.room.filter(|(_, at)| now < *at + ROOM_FRESH_FOR);
            candidate.room = match before {
                Some((less, at)) if less < room => Some((less, at)),
                _ => Some((room, now)),
            };
        }
    }

    /// A server was refused: nothing is free there, and many are looking.
    pub fn used_up(&self, server: &ServerId, now: Time) {
        let mut listed = lock(&self.listed);
        listed.spread = (listed.spread * 2).clamp(2, WIDEST_SPREAD);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == *server) {
            candidate.room = Some((0, now));
        }
    }
}

impl Listed {
    /// What was seen on a ledger from `believed_from` on is believed over the index. When the question is whether there is
    /// any room at all, that is the time of the question: a slot may have been freed since an earlier look.
    fn replace(&mut self, servers: Vec<(ServerId, Rank)>, believed_from: Time, now: Time) {
        let mut old: HashMap<ServerId, Candidate> =
            std::mem::take(&mut self.servers).into_iter().map(|old| (old.id.clone(), old)).collect();
        let known = servers.into_iter().map(|(id, rank)| {
            let old = old.remove(&id);
            let room = old.as_ref().and_then(|old| old.room);
            let room = room.filter(|(_, at)| believed_from <= *at);
            Candidate { on_their_way: old.map_or(0, |old| old.on_their_way), room, rank, id }
        });
        self.servers = known.collect();
        self.servers.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank));
        self.at = Some(now);
        self.spread /= 2;
    }
}

/// Somebody is on the way to a server of the index.
#[derive(Debug)]
pub struct InFlight {
    listing: Arc<Listing>,
    /// The server.
    pub server: ServerId,
    /// The build.
    pub build: u32,
    slots: u32,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut listed = lock(&self.listing.listed);
        if let Some(candidate) = listed.servers.iter_mut().find(|candidate| candidate.id == self.server) {
            candidate.on_their_way = candidate.on_their_way.saturating_sub(self.slots);
        }
    }
}

#[derive(Debug, Default)]
struct LastSeen {
    server: Option<ServerId>,
    /// Slots that nobody in this process has spoken for.
    left: u32,
    /// Slots that the frontier had when it was last seen: no more than that can be given back.
    most: u32,
    /// The server before that one: an answer that still names it is late, or the frontier has gone back to it. The first is
    /// taken for late, and the next is believed.
    gone: Option<ServerId>,
    /// Slots of a server that calls of this process have spoken for and have not claimed yet.
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

/// The way to one frontier. While its server has slots left by what this process has seen, callers go through side by
/// side; when it has none, a few probe and the others wait for the new server's name.
#[derive(Debug)]
pub struct Limiter {
    seen: Mutex<LastSeen>,
    probers: Arc<Semaphore>,
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

/// A permit to ask a frontier.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    /// Which frontier of the pool.
    pub k: u32,
    /// The server that it was last seen filling.
    pub server: Option<ServerId>,
    /// Slots that the call wants.
    slots: u32,
    /// They are spoken for on that server, as far as this process goes.
    reserved: bool,
    /// This call is among those that are on their way to that server.
    counted: bool,
    _probing: Option<OwnedSemaphorePermit>,
}

impl Limiter {
    /// A permit for slots that are left by what this process has seen; `None` if there are not as many.
    pub fn reserve(self: &Arc<Self>, k: u32, slots: u32) -> Option<Permit> {
        let mut seen = lock(&self.seen);
        seen.left = seen.left.checked_sub(slots)?;
        let server = seen.server.clone();
        seen.add_in_flight(server.as_ref(), slots);
        Some(Permit { limiter: Arc::clone(self), k, server, slots, reserved: true, counted: true, _probing: None })
    }

    /// Waits for leave to ask the frontier.
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

    /// A permit without waiting, for a caller who is done with another gate.
    pub fn at_once(self: &Arc<Self>, k: u32, slots: u32) -> Permit {
        self.reserve(k, slots).unwrap_or_else(|| self.uncounted(k, slots, None))
    }

    fn uncounted(self: &Arc<Self>, k: u32, slots: u32, probing: Option<OwnedSemaphorePermit>) -> Permit {
        let (limiter, server) = (Arc::clone(self), self.server());
        Permit { limiter, k, server, slots, reserved: false, counted: false, _probing: probing }
    }

    /// The frontier was seen.
    pub fn observe(&self, frontier: &Frontier) {
        let mut seen = lock(&self.seen);
        if seen.gone.as_ref() == Some(&frontier.server) {
            seen.gone = None;
            return;
        }
        if seen.server.as_ref() == Some(&frontier.server) {
            seen.most = seen.most.min(frontier.remaining);
            seen.left = seen.left.min(seen.most);
        } else {
            seen.gone = seen.server.replace(frontier.server.clone());
            (seen.most, seen.left) = (frontier.remaining, frontier.remaining);
        }
    }

    /// This process has moved the frontier back to a server that it had left.
    pub fn goes_back(&self, frontier: &Frontier) {
        lock(&self.seen).gone = None;
        self.observe(frontier);
    }

    /// Slots that calls of this process are on their way to, on servers of this frontier.
    pub fn in_flight(&self) -> HashMap<ServerId, u32> {
        lock(&self.seen).in_flight.clone()
    }

    /// The name of the server that the frontier was last seen filling.
    pub fn server(&self) -> Option<ServerId> {
        lock(&self.seen).server.clone()
    }

    /// Waits until nobody else in this process is moving the frontier on.
    pub async fn advance(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.advancing.lock().await
    }
}

impl Permit {
    /// The frontier that it is for.
    pub const fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// The pass has been used: what is left at the frontier is now for the frontier to say.
    pub fn spend(&mut self) {
        self.reserved = false;
    }

    /// A slot of that server was taken: its claim is on its way, and it is the next one's turn.
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
    use crate::pool::TaskSettings;

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
        let task = TaskSettings {
            cluster: "games".to_owned(),
            task_definition: "game:1".to_owned(),
            container: "game".to_owned(),
            subnets: Vec::new(),
            security_groups: Vec::new(),
            assign_public_ip: false,
            launch_type: None,
            url: "https://owmm.example".to_owned(),
        };
        Pool {
            name: PoolName::parse("p").unwrap(),
            limits: PoolLimits { capacity, ..PoolLimits::DEFAULT },
            task,
            version: 0,
            build: 1,
            rollout,
            shards: 1,
            previous_clusters: Vec::new(),
        }
    }

    /// What the index has said just now.
    fn listing(servers: &[(&str, Rank)]) -> Arc<Listing> {
        let listing = Arc::new(Listing::default());
        listed_again(&listing, servers, NOW);
        listing
    }

    /// The index is asked again; rooms that were seen from then on are believed over it.
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
    fn the_newest_build_is_picked_first_and_of_it_the_fullest_and_only_builds_that_the_pool_takes() {
        let old_and_full = ("old", rank(0, Fill::TOP));
        let listing = listing(&[old_and_full, ("empty", rank(1, Fill::EMPTY)), ("full", rank(1, Fill::TOP))]);
        let (lazy, drain) = (pool(9, Rollout::Lazy), pool(9, Rollout::Drain));
        let all = &["full", "empty", "old"][..];
        for (case, pool, tried, server, build) in [
            ("the fullest of the newest build", &lazy, 0, Some("full"), Some(1)),
            ("the next one of that build", &lazy, 1, Some("empty"), Some(1)),
            ("the older build last", &lazy, 2, Some("old"), Some(0)),
            ("each has been tried", &lazy, 3, None, None),
            ("a pool that drains older builds", &drain, 2, None, None),
        ] {
            let chosen = pick(&listing, pool, 1, &all[..tried]);
            let chosen = chosen.as_ref();
            assert_eq!((picked(chosen), chosen.map(|it| it.build)), (server, build), "{case}");
        }
    }

    #[test]
    fn slots_that_calls_are_on_their_way_to_are_not_offered_again_until_those_calls_are_over() {
        let (listing, pool) = (listing(&[("s", rank(1, Fill::EMPTY))]), pool(3, Rollout::Lazy));
        listing.observe(&ledger(ServerState::Ready, 1), NOW);
        assert!(pick(&listing, &pool, 3, &[]).is_none(), "three slots where two are free");
        let first = pick(&listing, &pool, 1, &[]);
        let second = pick(&listing, &pool, 1, &[]);
        assert_eq!((picked(first.as_ref()), picked(second.as_ref())), (Some("s"), Some("s")), "two slots are free");
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "both are spoken for");
        listed_again(&listing, &[("s", rank(1, Fill::EMPTY))], NOW);
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "and stay so when the index is asked again");
        drop(first);
        assert!(pick(&listing, &pool, 2, &[]).is_none(), "one is still spoken for");
        assert!(pick(&listing, &pool, 1, &[]).is_some(), "one is free again");
    }

    #[test]
    fn slots_of_a_frontier_that_are_on_their_way_to_a_server_count_there() {
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
    fn a_server_that_nobody_has_counted_is_offered_up_to_the_most_that_its_fill_allows() {
        let (listing, pool) = (listing(&[("s", rank(1, Fill::EMPTY))]), pool(9, Rollout::Lazy));
        let seven = pick(&listing, &pool, 7, &[]);
        assert!(seven.is_some(), "an empty one of nine has seven free at least");
        let (eighth, ninth) = (pick(&listing, &pool, 1, &[]), pick(&listing, &pool, 1, &[]));
        assert!(eighth.is_some() && ninth.is_some(), "and nine at most");
        assert!(pick(&listing, &pool, 1, &[]).is_none(), "a tenth call has no slot");
    }

    #[test]
    fn of_two_fresh_looks_at_a_ledger_the_one_that_saw_less_room_counts() {
        use ServerState::{Draining, Ready};
        let ago = |ms| NOW - Span(ms);
        for (case, before, state, players, expected) in [
            ("the first look", None, Ready, 1, (2, NOW)),
            ("a fresh look saw less", Some((1, ago(1_999))), Ready, 1, (1, ago(1_999))),
            ("a look that saw less is two seconds old", Some((1, ago(2_000))), Ready, 1, (2, NOW)),
            ("a fresh look saw more", Some((3, ago(1))), Ready, 1, (2, NOW)),
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
    fn a_reservation_that_has_run_out_leaves_room() {
        let listing = listing(&[("s", rank(1, Fill::EMPTY))]);
        let claim = Claim::Reserved(Placement::new(1).unwrap());
        let claims = BTreeMap::from([(PlayerId::parse("late").unwrap(), claim)]);
        let seen = Ledger { claims, ..ledger(ServerState::Ready, 0) };
        let over = NOW + seen.reservation;
        listing.observe(&seen, over - TICK);
        assert_eq!(room(&listing), Some((2, over - TICK)), "it still holds");
        listing.observe(&seen, over + ROOM_FRESH_FOR);
        assert_eq!(room(&listing), Some((3, over + ROOM_FRESH_FOR)), "it is over");
    }

    #[test]
    fn a_room_that_was_seen_is_believed_over_the_index_only_if_it_is_recent_enough() {
        for (case, seen, kept) in
            [("before", NOW - TICK, false), ("at that time", NOW, true), ("later", NOW + TICK, true)]
        {
            let listing = listing(&[("s", rank(1, Fill::EMPTY))]);
            listing.observe(&ledger(ServerState::Ready, 3), seen);
            listed_again(&listing, &[("s", rank(1, Fill::EMPTY))], NOW);
            assert_eq!(room(&listing), kept.then_some((0, seen)), "{case}");
        }
    }

    #[test]
    fn a_server_that_refused_is_not_offered_and_callers_spread_wider_with_each_refusal() {
        let servers = [("s", rank(1, Fill::TOP)), ("t", rank(1, Fill::EMPTY)), ("old", rank(0, Fill::TOP))];
        let (listing, pool) = (listing(&servers), pool(9, Rollout::Lazy));
        let offered = |listing: &Arc<Listing>| {
            let pick = |seed| listing.pick(&pool, 1, &[], &HashMap::new(), &Rng::seeded(seed));
            (0..40)
                .filter_map(|seed| pick(seed).map(|it| it.server.to_string()))
                .collect::<std::collections::BTreeSet<_>>()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(offered(&listing), names(&["s"]), "no refusal: the first alone");
        listing.used_up(&id("elsewhere"), NOW);
        assert_eq!(offered(&listing), names(&["s", "t"]), "one refusal: two servers, and no older build");
        listing.used_up(&id("s"), NOW);
        assert_eq!(room(&listing), Some((0, NOW)));
        assert_eq!(offered(&listing), names(&["t"]), "the one that refused is not offered");
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

    fn on_their_way(limiter: &Limiter) -> Vec<(String, u32)> {
        let mut in_flight =
            limiter.in_flight().into_iter().map(|(server, n)| (server.to_string(), n)).collect::<Vec<_>>();
        in_flight.sort();
        in_flight
    }

    #[test]
    fn slots_of_a_frontier_are_reserved_once_and_given_back_unless_they_were_spent() {
        let limiter = limiter("s", 3);
        assert!(limiter.reserve(0, 4).is_none(), "four of three");
        let first = limiter.reserve(0, 1).unwrap();
        let mut second = limiter.reserve(0, 2).unwrap();
        assert_eq!(first.server, Some(id("s")));
        assert!(limiter.reserve(0, 1).is_none(), "all are spoken for");
        drop(first);
        second.spend();
        drop(second);
        assert!(limiter.reserve(0, 2).is_none(), "what was spent does not come back");
        assert!(limiter.reserve(0, 1).is_some(), "what was not spent does");
    }

    #[test]
    fn what_is_given_back_never_exceeds_what_the_frontier_had_and_belongs_to_its_server() {
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
        assert!(moved_since.reserve(0, 2).is_none(), "slots of the server before are none of this one's");
    }

    #[test]
    fn of_one_server_a_frontier_never_has_more_slots_than_were_seen_and_another_server_counts_anew() {
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
    fn an_answer_that_names_the_server_before_is_taken_for_late_once_and_for_a_return_the_second_time() {
        let limiter = limiter("s", 1);
        limiter.observe(&Frontier::new(id("t"), 5));
        limiter.observe(&Frontier::new(id("s"), 0));
        assert_eq!(limiter.server(), Some(id("t")), "a late answer");
        limiter.observe(&Frontier::new(id("s"), 2));
        assert_eq!(limiter.server(), Some(id("s")), "the frontier has gone back");
        limiter.observe(&Frontier::new(id("u"), 5));
        limiter.goes_back(&Frontier::new(id("s"), 1));
        assert_eq!(limiter.server(), Some(id("s")), "this process has moved it back");
        assert!(limiter.reserve(0, 2).is_none() && limiter.reserve(0, 1).is_some());
    }

    #[test]
    fn calls_on_their_way_are_counted_on_the_server_whose_slot_they_have() {
        let limiter = limiter("s", 1);
        let mut reserved = limiter.reserve(0, 1).unwrap();
        assert_eq!(on_their_way(&limiter), [("s".to_owned(), 1)]);
        let mut probing = limiter.at_once(0, 2);
        assert_eq!(on_their_way(&limiter), [("s".to_owned(), 1)], "a call without a slot is not counted");
        reserved.took(&id("t"));
        assert_eq!(on_their_way(&limiter), [("t".to_owned(), 1)], "it got a slot of another server");
        probing.took(&id("t"));
        assert_eq!(on_their_way(&limiter), [("t".to_owned(), 3)]);
        drop(reserved);
        assert_eq!(on_their_way(&limiter), [("t".to_owned(), 2)]);
        drop(probing);
        assert_eq!(on_their_way(&limiter), []);
    }

    #[test]
    fn two_calls_probe_a_used_up_frontier_and_the_others_wait_for_the_name_of_its_next_server() {
        let limiter = limiter("s", 0);
        let mut first = limiter.enter(0, 1).now_or_never().unwrap();
        let _second = limiter.enter(0, 1).now_or_never().unwrap();
        let (mut third, mut fourth) = (Box::pin(limiter.enter(0, 1)), Box::pin(limiter.enter(0, 1)));
        assert!((&mut third).now_or_never().is_none(), "two are probing");
        limiter.observe(&Frontier::new(id("t"), 1));
        first.took(&id("t"));
        let third = third.now_or_never().unwrap();
        assert_eq!((third.server.as_ref(), third.reserved), (Some(&id("t")), true), "a slot of the next server");
        // It holds no leave to probe, so the next one may.
        let fourth = (&mut fourth).now_or_never().unwrap();
        assert!(!fourth.reserved);
    }

    #[test]
    fn a_pools_listing_and_each_of_its_frontiers_are_one_for_the_whole_process() {
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
