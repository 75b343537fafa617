//! Random images and writes. Each kind of value has few variants, and most writes name values of the image, so that
//! every condition holds about as often as it fails.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::domain::{
    Assignment, Claim, Endpoint, ExpectedSeat, Fill, Frontier, FrontierWrite, Launch, Ledger, LedgerWrite, MAX_FREED,
    Placement, PlayerId, PoolName, PoolStatus, PoolStatusWrite, Registration, Seat, SeatWrite, ServerId, ServerState,
    Span, StopBy, Time, TokenHash,
};

const PLAYERS: [&str; 5] = ["a", "b|c", "d.e@f", "g=h+i-j", "k"];
const SERVERS: [&str; 3] = ["s1", "s:2", "s_3"];
const TOKENS: [&str; 2] = ["token", "another"];

/// A generator of random values, from a seed.
pub(super) struct Any(StdRng);

/// Unwraps a name or number that is a constant of this file and therefore in range.
#[allow(clippy::expect_used, reason = "constants of this file, not input")]
fn known<T>(value: Option<T>) -> T {
    value.expect("a constant in range")
}

impl Any {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn number(&mut self, from: i64, to: i64) -> i64 {
        self.0.random_range(from..=to)
    }

    fn count(&mut self, to: u32) -> u32 {
        self.0.random_range(0..=to)
    }

    /// Returns true once in `n` times on average.
    fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy, const N: usize>(&mut self, values: [T; N]) -> T {
        known(values.get(self.below(N)).copied())
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| value(self))
    }

    /// Returns `there` four times in five, else another value.
    fn mostly<T>(&mut self, there: T, other: impl FnOnce(&mut Self) -> T) -> T {
        if self.rarely(5) { other(self) } else { there }
    }

    pub(super) fn server(&mut self) -> ServerId {
        let name = self.of(SERVERS);
        known(ServerId::parse(name).ok())
    }

    pub(super) fn player(&mut self) -> PlayerId {
        let name = self.of(PLAYERS);
        known(PlayerId::parse(name).ok())
    }

    pub(super) fn pool(&mut self) -> PoolName {
        let name = self.of(["p", "q:1"]);
        known(PoolName::parse(name).ok())
    }

    /// Returns a time out of few, so that two times are often equal.
    fn time(&mut self) -> Time {
        Time(1_000_000 + self.number(-2, 2))
    }

    fn placement(&mut self) -> Placement {
        let n = self.number(1, 5);
        known(Placement::new(n))
    }

    fn claim(&mut self) -> Claim {
        let placement = self.placement();
        if self.below(2) == 0 { Claim::Reserved(placement) } else { Claim::Connected(placement) }
    }

    fn fill(&mut self) -> Fill {
        let n = self.number(0, 2);
        known(Fill::from_number(n))
    }

    fn hash(&mut self) -> TokenHash {
        TokenHash::of(self.of(TOKENS))
    }

    fn launch(&mut self) -> Launch {
        Launch {
            token: self.of(TOKENS).to_owned(),
            call_at: self.time(),
            deadline: self.time(),
            time_to_start: Span(5),
            spec: "{}".to_owned(),
        }
    }

    fn endpoint(&mut self) -> Endpoint {
        Endpoint { address: self.of(["127.0.0.1", "game.example"]).to_owned(), port: self.of([1, 7_777, u16::MAX]) }
    }

    fn metadata(&mut self) -> BTreeMap<String, String> {
        self.maybe(|any| BTreeMap::from([("build".to_owned(), any.of(["7", "ä #:"]).to_owned())])).unwrap_or_default()
    }

    fn claims(&mut self) -> BTreeMap<PlayerId, Claim> {
        let n = if self.rarely(2) { 0 } else { self.below(PLAYERS.len()) };
        (0..n).map(|_| (self.player(), self.claim())).collect()
    }

    pub(super) fn ledger(&mut self, id: &ServerId) -> Option<Ledger> {
        if self.rarely(30) {
            return None;
        }
        let claims = self.claims();
        let state = if self.rarely(2) { ServerState::Ready } else { self.of(ServerState::ALL) };
        let (seen, lease) = (self.time(), self.time());
        // Most empty servers have an idle time, and most others have none.
        let idle = if claims.is_empty() { !self.rarely(3) } else { self.rarely(10) };
        let starting = state == ServerState::Starting;
        Some(Ledger {
            id: id.clone(),
            pool: self.pool(),
            shard: self.count(2),
            build: self.count(2),
            state,
            capacity: u32::try_from(claims.len()).unwrap_or(0).max(1) + self.count(1),
            claims,
            reservation: Span(60_000),
            lease_for: Span(30_000),
            lease_until: (!starting || self.rarely(5)).then_some(lease),
            seen: (!starting || self.rarely(5)).then_some(seen),
            idle_since: idle.then(|| self.time()),
            drain_by: self.maybe(Self::time),
            requested_at: self.maybe(Self::time),
            ready_at: (!starting).then(|| self.time()),
            endpoint: (!starting).then(|| self.endpoint()),
            metadata: self.metadata(),
            token_hash: self.hash(),
            attempt: 1 + self.count(1),
            task: self.maybe(|_| "arn".to_owned()),
            launch: starting.then(|| self.launch()),
            listed: self.maybe(Self::fill),
        })
    }

    /// Returns a player and a claim: mostly those of the ledger.
    fn held(&mut self, ledger: &Ledger) -> (PlayerId, Claim) {
        let claims = ledger.claims.iter().map(|(player, claim)| (player.clone(), *claim)).collect::<Vec<_>>();
        let (player, claim) = match claims.get(self.below(claims.len().max(1))) {
            Some(claim) => claim.clone(),
            None => (self.player(), self.claim()),
        };
        let claim = self.mostly(claim, Self::claim);
        (self.mostly(player, Self::player), claim)
    }

    /// Returns claims to remove, mostly with the value that the ledger has.
    fn evict(&mut self, ledger: &Ledger, but: &[PlayerId]) -> Vec<(PlayerId, Claim)> {
        let mut evict = BTreeMap::new();
        for _ in 0..self.below(3) {
            let (player, claim) = self.held(ledger);
            if !but.contains(&player) {
                evict.insert(player, claim);
            }
        }
        evict.into_iter().collect()
    }

    pub(super) fn ledger_write(&mut self, ledger: Option<&Ledger>) -> LedgerWrite {
        let made = self.ledger(&known(ServerId::parse("s1").ok()));
        let Some(ledger) = ledger.or(made.as_ref()) else {
            return LedgerWrite::Idle { now: self.time() };
        };
        let (player, claim) = self.held(ledger);
        let (now, placement) = (self.time(), claim.placement());
        let by = self.mostly(ledger.token_hash, Self::hash);
        let attempt = self.mostly(ledger.attempt, |any| 1 + any.count(1));
        let ready = self.mostly(ledger.state == ServerState::Ready, |any| any.below(2) == 0);
        let listed = self.mostly(ledger.listed, |any| any.maybe(Self::fill));
        match self.below(20) {
            0 => LedgerWrite::Claim { player, placement: self.placement(), now, seen_by: self.time() },
            1 => {
                let mut players = BTreeMap::new();
                for _ in 0..=self.below(2) {
                    let player = self.player();
                    let held = ledger.claims.get(&player).copied();
                    let held = self.mostly(held, |any| any.maybe(Self::claim));
                    players.insert(player, held);
                }
                let names = players.keys().cloned().collect::<Vec<_>>();
                let evict = self.evict(ledger, &names);
                LedgerWrite::ClaimExactly {
                    players: players.into_iter().collect(),
                    placement: self.placement(),
                    now,
                    seen_by: self.time(),
                    evict,
                    capacity: self.mostly(ledger.capacity, |any| 1 + any.count(3)),
                }
            }
            2 => LedgerWrite::Connect { by, player, placement, reserved: self.below(2) == 0 },
            3 => LedgerWrite::Free { by: self.maybe(|_| by), player, claim, ready },
            4 => LedgerWrite::KeepForReconnect { by, player, from: placement, to: self.placement() },
            5 => {
                let registration = Registration {
                    endpoint: self.endpoint(),
                    capacity: self.maybe(|any| 1 + any.count(4)),
                    metadata: self.metadata(),
                };
                LedgerWrite::Register { by, registration, now }
            }
            6 => LedgerWrite::Heartbeat { by, now },
            7 => {
                let drain_by = ledger.drain_by;
                let by = match self.below(3) {
                    0 => StopBy::Server(by),
                    1 => StopBy::Attempt(attempt),
                    _ => StopBy::Drained { attempt, drain_by: self.mostly(drain_by, |any| any.maybe(Self::time)) },
                };
                LedgerWrite::Stop { by, now }
            }
            8 => {
                let claims = self.mostly(ledger.claims.clone(), Self::claims);
                LedgerWrite::StopSilent { attempt, silent_since: self.time(), claims: self.maybe(|_| claims), now }
            }
            9 => LedgerWrite::Sweep { evict: self.evict(ledger, &[]), ready },
            10 => LedgerWrite::Idle { now },
            11 => LedgerWrite::Drain { at: now, drain_by: self.maybe(Self::time) },
            12 => LedgerWrite::DrainIdle { idle_by: now },
            13 => LedgerWrite::List { build: ledger.build, was: listed, fill: self.fill() },
            14 => {
                let was = listed.unwrap_or_else(|| self.fill());
                let build = self.mostly(ledger.build, |any| any.count(2));
                LedgerWrite::Unlist { build, was, now }
            }
            15 => {
                let was = ledger.launch.as_ref().map_or(now, |launch| launch.call_at);
                LedgerWrite::Recall { attempt, was: self.mostly(was, Self::time), call_at: now }
            }
            16 => LedgerWrite::TaskStarted { attempt, task: "another".to_owned() },
            17 => LedgerWrite::NextAttempt { failed: attempt, token_hash: self.hash(), launch: self.launch() },
            18 => LedgerWrite::Retire,
            _ => LedgerWrite::AbandonLaunch { failed: attempt, now },
        }
    }

    fn assignment(&mut self) -> Assignment {
        Assignment { server: self.server(), pool: self.pool(), claim: self.claim() }
    }

    pub(super) fn seat(&mut self) -> Option<Seat> {
        match self.below(5) {
            0 => None,
            1 => Some(Seat::Vacant(self.placement())),
            _ => Some(Seat::Assigned(self.assignment())),
        }
    }

    pub(super) fn seat_write(&mut self, seat: Option<&Seat>) -> SeatWrite {
        let there = match seat {
            Some(Seat::Assigned(assignment)) => assignment.clone(),
            _ => self.assignment(),
        };
        let server = self.mostly(there.server, Self::server);
        let claim = self.mostly(there.claim, Self::claim);
        match self.below(4) {
            0 => {
                let from =
                    if self.below(2) == 0 { ExpectedSeat::Vacant } else { ExpectedSeat::Exactly { server, claim } };
                SeatWrite::Assign { from, server: self.server(), pool: self.pool(), placement: self.placement() }
            }
            1 => SeatWrite::Connect { server, placement: claim.placement() },
            2 => SeatWrite::Vacate { server, claim },
            _ => SeatWrite::KeepForReconnect { server, from: claim.placement(), to: self.placement() },
        }
    }

    pub(super) fn frontier(&mut self) -> Option<Frontier> {
        (!self.rarely(5)).then(|| {
            let full = (0..MAX_FREED).map(|n| known(ServerId::parse(&format!("freed{n}")).ok()));
            let freed =
                if self.rarely(5) { full.collect() } else { (0..self.below(3)).map(|_| self.server()).collect() };
            Frontier { server: self.server(), remaining: self.count(3), freed }
        })
    }

    pub(super) fn frontier_write(&mut self, frontier: Option<&Frontier>) -> FrontierWrite {
        let there = frontier.cloned().unwrap_or_else(|| Frontier::new(self.server(), self.count(3)));
        let server = self.mostly(there.server, Self::server);
        let remaining = self.mostly(there.remaining, |any| any.count(3));
        let freed = frontier.and_then(|it| it.freed.first().cloned());
        match self.below(7) {
            0 => FrontierWrite::Take { slots: 1 + self.count(2) },
            1 => FrontierWrite::GiveBack { server, seen: remaining, slots: 1 + self.count(1) },
            2 => {
                let from = self.mostly(frontier.map(|_| Frontier::new(server, remaining)), |_| None);
                FrontierWrite::Advance { from, to: self.server(), remaining: self.count(3) }
            }
            3 => FrontierWrite::UsedUp { server },
            4 => {
                let another = self.server();
                FrontierWrite::AddFreed { server: self.mostly(another, |_| server) }
            }
            5 => FrontierWrite::RemoveFreed { server: freed.unwrap_or(server) },
            _ => {
                let to = freed.unwrap_or_else(|| self.server());
                FrontierWrite::Return { from: Frontier::new(server, remaining), to, remaining: self.count(3) }
            }
        }
    }

    pub(super) fn pool_status(&mut self) -> Option<PoolStatus> {
        (!self.rarely(5)).then(|| PoolStatus {
            live: self.count(2),
            changes: self.count(2),
            failures: self.count(2),
            backoff_until: self.maybe(Self::time),
            paused_until: self.maybe(Self::time),
            requested_at: self.maybe(Self::time),
        })
    }

    pub(super) fn pool_status_write(&mut self, status: Option<&PoolStatus>) -> PoolStatusWrite {
        let there = status.cloned().unwrap_or_default();
        let changes = self.mostly(there.changes, |any| any.count(2));
        let (max_servers, now) = (1 + self.count(2), self.time());
        match self.below(8) {
            0 => PoolStatusWrite::Started { max_servers, now },
            1 => PoolStatusWrite::StartedAhead { changes, max_servers, now },
            2 => PoolStatusWrite::Recount { changes, live: self.count(3) },
            3 => PoolStatusWrite::Ended,
            4 => {
                let was = self.mostly(there.failures, |any| any.count(2));
                PoolStatusWrite::Failed { was, backoff_until: self.maybe(Self::time) }
            }
            5 => PoolStatusWrite::Recovered,
            6 => PoolStatusWrite::Pause { at: now, until: self.time() },
            _ => PoolStatusWrite::Resume { at: now },
        }
    }
}
