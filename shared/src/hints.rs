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
    domain::{Frontier, Ledger, Pool, PoolName, Rank, ServerId, ServerState, Span, Time},
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
