//! OWMM's operations: the protocols of the domain, run against the table and ECS.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::{
    clock::{Clock, Rng},
    domain::{
        Answer, CancelReservation, Claim, Connect, Connected, Disconnect, Disconnected, Effect, Frontier,
        FrontierWrite, Hint, Join, Joined, Ledger, LedgerWrite, MAX_FREED, NoLaunch, NoSlot, Party, PartyJoined,
        Placement, PlayerId, Pool, PoolLimits, PoolName, PoolStatus, PoolStatusWrite, PresentedTicket, Protocol,
        Registration, Release, Released, Reply, Seat, ServerId, ServerState, Span, Step, StopBy, TakenSlots, Time,
        Together, TokenHash, UNTIL_RESUMED,
    },
    hints::{Hints, InFlight, Permit},
    launching::Launcher,
    metrics::Outcome,
    table::{Table, TableError, keys},
    ticket,
};

/// Times that a join is begun anew because the launch it met was over.
const LAUNCHES_OUTLIVED: u32 = 2;
/// Turns that one question to a frontier takes at the most before the request starts over.
const FRONTIER_TURNS: u32 = 4;
/// Callers of other processes that moved the frontier first are kept apart by up to this.
const RACE_JITTER: Span = Span(100);

/// Servers that one call by hand starts at the most, and for how long it goes on starting them: each is a transaction and
/// a call to ECS, and the function that does it has 30 seconds.
const LAUNCHES_AT_MOST: usize = 20;
const LAUNCHING_AT_MOST: Span = Span::seconds(10);
/// Times that a call by hand begins anew because somebody else was faster.
const BY_HAND_TURNS: u32 = 5;

/// Times that a configuration is read again because somebody else has changed it since.
const CONFIGURE_TURNS: u32 = 4;

/// Servers of one page of a pool's servers.
const SERVERS_A_PAGE: usize = 100;

/// Why an operation has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The table gave no answer.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nobody has configured this pool.
    #[error("there is no pool {0}")]
    UnknownPool(PoolName),
    /// A ticket could not be signed.
    #[error("a ticket could not be signed: {0}")]
    Ticket(#[from] jsonwebtoken::errors::Error),
}

impl Failure {
    /// What it is in the metrics.
    pub(crate) const fn outcome(&self) -> Outcome {
        match self {
            Self::Table(TableError::Busy(_)) => Outcome::Busy,
            Self::UnknownPool(_) => Outcome::Refused,
            Self::Table(TableError::Broken(_)) | Self::Ticket(_) => Outcome::Failed,
        }
    }
}

/// What a player gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A slot on a server that is up.
    Ready {
        /// The server.
        server: ServerId,
        /// Where it listens.
        address: String,
        /// Where it listens.
        port: u16,
        /// What to show there.
        ticket: String,
        /// Until when the slot is held, or, for a player who is connected, the ticket is good.
        expires: Time,
    },
    /// A slot on a server that is being started.
    Starting {
        /// The server.
        server: ServerId,
        /// Until when the slot is held at least.
        expires: Time,
    },
}

/// How a join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// With a slot.
    Slot(Slot),
    /// Connected in another pool.
    Elsewhere(PoolName),
    /// Without a slot.
    No(NoSlot),
}

/// How a party's join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartyOutcome {
    /// With a slot for each, all on the same server, in the order of the call.
    Slots(Vec<(PlayerId, Slot)>),
    /// These hold a slot elsewhere, or where there is no room for the others.
    Elsewhere(Vec<PlayerId>),
    /// No server of the pool has more slots than this.
    TooLarge(u32),
    /// Without a slot for any.
    No(NoSlot),
}

/// How a call of a server about itself can end badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOutcome {
    /// There is no such server.
    Unknown,
    /// The token is not this server's.
    WrongToken,
    /// It is stopped.
    Stopped,
    /// It has not registered.
    NotRegistered,
    /// It has registered with another address.
    AlreadyRegistered,
    /// More slots are held than the capacity that it names.
    CapacityTooSmall,
}

/// A server has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The state that OWMM wants.
    pub state: ServerState,
    /// Its slots.
    pub capacity: u32,
    /// Until when it is believed alive.
    pub lease_until: Time,
    /// How often it should beat.
    pub heartbeat: Span,
}

/// What starting servers by hand came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchOutcome {
    /// The pool has as many servers as were asked for, or is closer to it.
    Started {
        /// The servers that this call has started.
        started: Vec<ServerId>,
        /// Servers that live now.
        live: u32,
    },
    /// None was started, and none may be now.
    No(NoLaunch),
    /// Others start and stop servers of the pool all the time; ask again.
    Busy,
}

/// What is known of a player.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayerView {
    /// Where the player is placed.
    pub seat: Seat,
    /// The ledger of the server that the seat names, if it is still there.
    pub ledger: Option<Ledger>,
}

/// A player whom the ledger holds as connected and the server did not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlayer {
    /// The player.
    pub player: PlayerId,
    /// The placement to name in the disconnect.
    pub placement: Placement,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The state that OWMM wants.
    pub state: ServerState,
    /// Until when the server is believed alive.
    pub lease_until: Time,
    /// Reservations: players who are on their way.
    pub reserved: usize,
    /// Players to disconnect, unless they have just come in.
    pub unknown: Vec<UnknownPlayer>,
}

/// OWMM: what all functions share in one process.
#[derive(Clone, Debug)]
pub struct Owmm {
    table: Table,
    launcher: Launcher,
    clock: Clock,
    rng: Rng,
    hints: Arc<Hints>,
    default_pool: PoolName,
}

/// What one run of a protocol carries with it.
#[derive(Default)]
struct Run {
    player: Option<PlayerId>,
    pool: Option<Arc<Pool>>,
    chosen: Option<InFlight>,
    permit: Option<Permit>,
    started: Time,
}

impl Owmm {
    /// OWMM over a table and a launcher.
    pub fn new(table: Table, launcher: Launcher, clock: Clock, rng: Rng, default_pool: PoolName) -> Self {
        Self { table, launcher, clock, rng, hints: Arc::default(), default_pool }
    }

    /// The same functions in another process: shares nothing that this one remembers.
    pub fn another_copy(&self) -> Self {
        Self { hints: Arc::default(), ..self.clone() }
    }

    /// The table.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// What starts servers.
    pub(crate) const fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Chance.
    pub(crate) const fn rng(&self) -> &Rng {
        &self.rng
    }

    /// The time now, by the clock of the functions.
    pub fn time(&self) -> Time {
        self.clock.now()
    }

    async fn pool(&self, name: &PoolName) -> Result<Arc<Pool>, Failure> {
        let pool = self.hints.pool(&self.table, name, self.clock.now()).await?;
        pool.ok_or_else(|| Failure::UnknownPool(name.clone()))
    }

    /// Runs a protocol to its end.
    async fn run<P: Protocol>(&self, mut protocol: P, mut run: Run) -> Result<P::Outcome, Failure> {
        let mut reply = Reply::Start;
        loop {
            match protocol.next(self.clock.now(), reply) {
                Step::Effect(effect) => reply = self.perform(&mut run, effect).await?,
                Step::Done(outcome) => return Ok(outcome),
            }
        }
    }

    async fn perform(&self, run: &mut Run, effect: Effect) -> Result<Reply, Failure> {
        Ok(match effect {
            Effect::Find { slots, tried, listed, fresh } => {
                Reply::Found(self.find(run, slots, &tried, listed, fresh).await?)
            }
            Effect::TakeSlots { slots, may_start } => Reply::SlotsTaken(self.take_slots(run, slots, may_start).await?),
            Effect::UsedUp(server) => {
                self.used_up(run, &server).await?;
                Reply::Done
            }
            Effect::GiveBack(ledger) => {
                self.give_back(&ledger).await?;
                Reply::Done
            }
            Effect::ReadSeats(players) => {
                let seats = players.iter().map(|player| self.table.seat(player));
                Reply::SeatsRead(join_all(seats).await.into_iter().collect::<Result<_, _>>()?)
            }
            Effect::WriteSeats(writes) => {
                let seats = writes.iter().map(|(player, write)| self.table.write_seat(player, write));
                Reply::SeatsWritten(join_all(seats).await.into_iter().collect::<Result<_, _>>()?)
            }
            Effect::ReadSeat => Reply::SeatRead(match &run.player {
                Some(player) => self.table.seat(player).await?,
                None => None,
            }),
            Effect::ReadLedger(server) => {
                // Whoever looks at a ledger is not on the way to another server.
                run.chosen = None;
                run.permit = None;
                Reply::LedgerRead(self.table.ledger(&server).await?)
            }
            Effect::WriteSeat(write) => {
                let Some(player) = &run.player else { return Ok(Reply::SeatRead(None)) };
                Reply::SeatWritten(self.table.write_seat(player, &write).await?)
            }
            Effect::WriteLedger(server, write) => {
                let answer = self.table.write_ledger(&server, &write).await?;
                if let (Some(pool), Answer::Written(ledger) | Answer::Refused(Some(ledger))) = (&run.pool, &answer) {
                    self.hints.listing(&pool.name).observe(ledger, self.clock.now());
                }
                Reply::LedgerWritten(answer)
            }
        })
    }

    /// Where there may be room.
    async fn find(
        &self,
        run: &mut Run,
        slots: u32,
        tried: &[ServerId],
        listed: bool,
        fresh: bool,
    ) -> Result<Hint, Failure> {
        run.chosen = None;
        if !fresh {
            run.permit = None;
        }
        let Some(pool) = run.pool.clone() else { return Ok(Hint::Unknown) };
        if listed {
            let listing = self.hints.listing(&pool.name);
            let limiters = (0..pool.limits.concurrent_launches).map(|k| self.hints.limiter(&pool.name, k).in_flight());
            let in_flight = limiters.flatten().collect();
            let mut not_before = fresh.then_some(run.started);
            let chosen = loop {
                listing.refresh(&self.table, &pool, not_before, self.clock.now()).await?;
                let chosen = listing.pick(&pool, slots, tried, &in_flight, &self.rng);
                // Nobody is sent to an old build on an old answer of the index: a newer one may be up by now.
                match &chosen {
                    Some(chosen) if chosen.build < pool.build && not_before.is_none() => {
                        not_before = Some(run.started);
                    }
                    _ => break chosen,
                }
            };
            if let Some(chosen) = chosen {
                let server = chosen.server.clone();
                run.chosen = Some(chosen);
                run.permit = None;
                return Ok(Hint::Listed(server));
            }
        }
        if fresh {
            return Ok(Hint::Unknown);
        }
        let mut permit = self.enter(&pool, slots).await;
        if permit.server.is_none()
            && let Some(frontier) = self.table.frontier(&pool.name, permit.k).await?
        {
            permit.limiter().observe(&frontier);
            permit.server = Some(frontier.server);
        }
        let hint = permit.server.clone().map_or(Hint::Unknown, Hint::Frontier);
        run.permit = Some(permit);
        Ok(hint)
    }

    async fn enter(&self, pool: &Pool, slots: u32) -> Permit {
        let k = u32::try_from(self.rng.below(pool.limits.concurrent_launches as usize)).unwrap_or(0);
        self.hints.limiter(&pool.name, k).enter(k, slots).await
    }

    /// Takes slots from a frontier; if it is seen used up and `may_start`, starts a server and takes the first ones.
    async fn take_slots(&self, run: &mut Run, slots: u32, may_start: bool) -> Result<TakenSlots, Failure> {
        let Some(pool) = run.pool.clone() else { return Ok(TakenSlots::No(NoSlot::Busy)) };
        let mut permit = match run.permit.take() {
            Some(permit) => permit,
            None => self.enter(&pool, slots).await,
        };
        let (limiter, k) = (Arc::clone(permit.limiter()), permit.k);
        if !may_start {
            let taken = self.take(&pool, slots, &mut permit).await?;
            return Ok(match taken {
                Ok(frontier) => {
                    run.permit = Some(permit);
                    TakenSlots::On(frontier.server)
                }
                Err(_) => {
                    // Whoever is about to start a server keeps its leave; the others wait for that server's name.
                    run.permit = Some(permit);
                    TakenSlots::UsedUp
                }
            });
        }
        for turn in 1..=FRONTIER_TURNS {
            let advancing = limiter.advance().await;
            // Somebody in this process may have been faster, and its server may have slots left.
            if let Some(another) = limiter.reserve(k, slots) {
                permit = another;
            }
            let taken = self.take(&pool, slots, &mut permit).await?;
            let seen = match taken {
                Ok(frontier) => {
                    run.permit = Some(permit);
                    return Ok(TakenSlots::On(frontier.server));
                }
                Err(seen) => seen,
            };
            if let Some(frontier) = self.go_back(&pool, k, seen.as_ref(), slots).await? {
                limiter.goes_back(&frontier);
                permit.took(&frontier.server);
                run.permit = Some(permit);
                return Ok(TakenSlots::On(frontier.server));
            }
            match self.launcher.advance(&pool, k, seen, slots).await? {
                Ok(ledger) => {
                    limiter.observe(&Frontier::new(ledger.id.clone(), ledger.capacity.saturating_sub(slots)));
                    permit.took(&ledger.id);
                    drop(advancing);
                    run.permit = Some(permit);
                    self.launcher.call(&ledger).await?;
                    return Ok(TakenSlots::On(ledger.id));
                }
                Err(None) => {
                    drop(advancing);
                    tokio::time::sleep(self.rng.jitter(RACE_JITTER.times(i64::from(turn)))).await;
                }
                Err(Some(NoLaunch::Paused(until))) => return Ok(TakenSlots::No(NoSlot::LaunchPaused(until))),
                Err(Some(NoLaunch::AtMaximum)) => {
                    // Nobody may wait for this gate while this call asks at the others.
                    drop(advancing);
                    drop(permit);
                    return self.other_frontiers(&pool, k, slots).await;
                }
            }
        }
        Ok(TakenSlots::No(NoSlot::Busy))
    }

    async fn take(
        &self,
        pool: &Pool,
        slots: u32,
        permit: &mut Permit,
    ) -> Result<Result<Frontier, Option<Frontier>>, Failure> {
        let answer = self.table.write_frontier(&pool.name, permit.k, &FrontierWrite::Take { slots }).await?;
        permit.spend();
        if let Answer::Written(frontier) | Answer::Refused(Some(frontier)) = &answer {
            permit.limiter().observe(frontier);
        }
        if let Answer::Written(frontier) = &answer {
            permit.took(&frontier.server);
        }
        Ok(match answer {
            Answer::Written(frontier) => Ok(frontier),
            Answer::Refused(frontier) => Err(frontier),
        })
    }

    /// No server may be started for this frontier; another one may still have slots.
    async fn other_frontiers(&self, pool: &Pool, but: u32, slots: u32) -> Result<TakenSlots, Failure> {
        for k in (0..pool.shards).filter(|k| *k != but) {
            let mut permit = self.hints.limiter(&pool.name, k).at_once(k, slots);
            let frontier = match self.take(pool, slots, &mut permit).await? {
                Ok(frontier) => Some(frontier),
                Err(seen) => self.go_back(pool, k, seen.as_ref(), slots).await?,
            };
            if let Some(frontier) = frontier {
                return Ok(TakenSlots::On(frontier.server));
            }
        }
        Ok(TakenSlots::No(NoSlot::PoolFull))
    }

    /// Before a new server is started: a frontier that is used up goes back to a server that it has left, if that is still
    /// starting and slots were freed there. `None` if there is none, or somebody else has moved the frontier.
    async fn go_back(
        &self,
        pool: &Pool,
        k: u32,
        seen: Option<&Frontier>,
        slots: u32,
    ) -> Result<Option<Frontier>, Failure> {
        let Some(seen) = seen else { return Ok(None) };
        for server in &seen.freed {
            let ledger = self.table.ledger(server).await?;
            let room = ledger.map_or(0, |ledger| ledger.room_to_start(pool.build));
            let write = match room.checked_sub(slots) {
                Some(remaining) => FrontierWrite::Return { from: seen.clone(), to: server.clone(), remaining },
                None if room == 0 => FrontierWrite::RemoveFreed { server: server.clone() },
                // Too little for a party.
                None => continue,
            };
            let answer = self.table.write_frontier(&pool.name, k, &write).await?;
            if let (FrontierWrite::Return { .. }, Answer::Written(frontier)) = (write, answer) {
                return Ok(Some(frontier));
            }
        }
        Ok(None)
    }

    /// A slot was freed on a server that is starting. If its frontier still hands out that server's slots, it has one more;
    /// if it has moved on, it will come back before another server is started.
    async fn give_back(&self, ledger: &Ledger) -> Result<(), Failure> {
        for turn in 1..=FRONTIER_TURNS {
            let Some(seen) = self.table.frontier(&ledger.pool, ledger.shard).await? else { return Ok(()) };
            let write = if seen.server != ledger.id {
                if seen.freed.len() >= MAX_FREED {
                    return Ok(());
                }
                FrontierWrite::AddFreed { server: ledger.id.clone() }
            } else if seen.remaining < ledger.capacity {
                FrontierWrite::GiveBack { server: seen.server, seen: seen.remaining, slots: 1 }
            } else {
                return Ok(());
            };
            if let Answer::Written(_) = self.table.write_frontier(&ledger.pool, ledger.shard, &write).await? {
                return Ok(());
            }
            tokio::time::sleep(self.rng.jitter(RACE_JITTER.times(i64::from(turn)))).await;
        }
        // Many are taking and giving back. It need not be counted: the frontier looks before another server is started.
        let write = FrontierWrite::AddFreed { server: ledger.id.clone() };
        self.table.write_frontier(&ledger.pool, ledger.shard, &write).await?;
        Ok(())
    }

    /// A server had no room: no hint may name it any more.
    async fn used_up(&self, run: &mut Run, server: &ServerId) -> Result<(), Failure> {
        run.chosen = None;
        run.permit = None;
        let Some(pool) = run.pool.clone() else { return Ok(()) };
        self.hints.listing(&pool.name).used_up(server, self.clock.now());
        for k in 0..pool.shards {
            let limiter = self.hints.limiter(&pool.name, k);
            if limiter.server().as_ref() == Some(server) {
                let write = FrontierWrite::UsedUp { server: server.clone() };
                let answer = self.table.write_frontier(&pool.name, k, &write).await?;
                if let Answer::Written(frontier) | Answer::Refused(Some(frontier)) = answer {
                    limiter.observe(&frontier);
                }
            }
        }
        Ok(())
    }

    /// Places a player. The same call is the poll while a server starts, and the reconnect after a drop.
    ///
    /// # Errors
    /// See [`Failure`]. Nothing is lost: the same call goes on from where this one ended.
    pub async fn join(&self, player: &PlayerId, asked: Option<PoolName>) -> Result<JoinOutcome, Failure> {
        let name = asked.as_ref().unwrap_or(&self.default_pool);
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCHES_OUTLIVED {
            let heartbeat = PoolLimits::heartbeat(pool.limits.lease);
            let join = Join::new(player.clone(), asked.clone(), pool.name.clone(), pool.limits.capacity, heartbeat);
            let run = self.begin(Some(player), Some(&pool));
            let begun = run.started;
            match self.run(join, run).await? {
                Joined::Elsewhere(pool) => return Ok(JoinOutcome::Elsewhere(pool)),
                Joined::No(reason) => return Ok(JoinOutcome::No(reason)),
                Joined::Placed(placed) => {
                    if placed.ledger.due(self.clock.now()).is_none() {
                        return Ok(JoinOutcome::Slot(self.slot(player, &placed.ledger, placed.claim, begun)?));
                    }
                    // Whatever comes of it, the promise is made from the ledger as it is then.
                    self.launcher.advance_launch(&placed.ledger).await?;
                }
            }
        }
        Ok(JoinOutcome::No(NoSlot::Busy))
    }

    /// Places a party of distinct players on one server of a pool, all or none. The same call is the poll.
    ///
    /// # Errors
    /// See [`Failure`]. Nothing is lost: the same call goes on from where this one ended.
    pub async fn party(&self, players: &[PlayerId], name: &PoolName) -> Result<PartyOutcome, Failure> {
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCHES_OUTLIVED {
            let heartbeat = PoolLimits::heartbeat(pool.limits.lease);
            let party = Party::new(players.to_vec(), pool.name.clone(), pool.limits.capacity, heartbeat);
            let run = self.begin(None, Some(&pool));
            let begun = run.started;
            match self.run(party, run).await? {
                PartyJoined::Elsewhere(players) => return Ok(PartyOutcome::Elsewhere(players)),
                PartyJoined::TooLarge => return Ok(PartyOutcome::TooLarge(pool.limits.capacity)),
                PartyJoined::No(reason) => return Ok(PartyOutcome::No(reason)),
                PartyJoined::Placed(together) => {
                    let Together { ledger, players } = *together;
                    if ledger.due(self.clock.now()).is_none() {
                        let slots = players.into_iter().map(|(player, claim)| {
                            let slot = self.slot(&player, &ledger, claim, begun)?;
                            Ok::<_, Failure>((player, slot))
                        });
                        return Ok(PartyOutcome::Slots(slots.collect::<Result<_, _>>()?));
                    }
                    self.launcher.advance_launch(&ledger).await?;
                }
            }
        }
        Ok(PartyOutcome::No(NoSlot::Busy))
    }

    fn begin(&self, player: Option<&PlayerId>, pool: Option<&Arc<Pool>>) -> Run {
        Run { player: player.cloned(), pool: pool.cloned(), started: self.clock.now(), ..Run::default() }
    }

    /// The slot that a claim on `ledger`, as it was seen some time after `begun`, stands for.
    fn slot(&self, player: &PlayerId, ledger: &Ledger, claim: Claim, begun: Time) -> Result<Slot, Failure> {
        let server = ledger.id.clone();
        let Some(endpoint) = &ledger.endpoint else {
            // If the server has registered since it was seen, the reservation runs from then on, which a function that was
            // frozen on the way does not know; if the server never does, it runs to the deadline.
            let reservation = begun + ledger.reservation;
            let expires = ledger.launch.as_ref().map_or(reservation, |launch| launch.deadline.min(reservation));
            return Ok(Slot::Starting { server, expires });
        };
        let expires = ledger.expires(claim).unwrap_or_else(|| self.clock.now() + ledger.reservation);
        let ticket = ticket::issue(&ledger.token_hash, &server, player, claim.placement(), expires)?;
        Ok(Slot::Ready { server, address: endpoint.address.clone(), port: endpoint.port, ticket, expires })
    }

    /// A player cancels a reservation. Without one, or once connected, nothing happens.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn cancel_reservation(&self, player: &PlayerId) -> Result<(), Failure> {
        self.run(CancelReservation::new(player.clone()), self.begin(Some(player), None)).await
    }

    /// A server has started: starting → ready.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn register_server(
        &self,
        by: TokenHash,
        server: &ServerId,
        registration: Registration,
    ) -> Result<Result<Registered, ServerOutcome>, Failure> {
        let endpoint = registration.endpoint.clone();
        let capacity = registration.capacity;
        let now = self.clock.now();
        let answer = self.table.write_ledger(server, &LedgerWrite::Register { by, registration, now }).await?;
        let ledger = match answer {
            Answer::Written(ledger) => {
                self.put_listing_right(&ledger).await?;
                self.table.write_pool_status(&ledger.pool, &PoolStatusWrite::Recovered).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => {
                    let small = capacity.is_some_and(|capacity| ledger.claims.len() > capacity as usize);
                    debug_assert!(small, "the only other reason to refuse");
                    return Ok(Err(ServerOutcome::CapacityTooSmall));
                }
                // The answer to an earlier call was lost, or this is a late repeat of it.
                Ok(ledger) if ledger.endpoint.as_ref() == Some(&endpoint) => ledger,
                Ok(_) => return Ok(Err(ServerOutcome::AlreadyRegistered)),
            },
        };
        Ok(Ok(Registered {
            state: ledger.state,
            capacity: ledger.capacity,
            lease_until: ledger.lease_until.unwrap_or(now),
            heartbeat: PoolLimits::heartbeat(ledger.lease_for),
        }))
    }

    /// The ledger, if it is this server's and not stopped.
    fn known(&self, by: TokenHash, image: Option<Ledger>) -> Result<Ledger, ServerOutcome> {
        let ledger = image.ok_or(ServerOutcome::Unknown)?;
        if ledger.token_hash != by {
            return Err(ServerOutcome::WrongToken);
        }
        if ledger.state == ServerState::Stopped {
            return Err(ServerOutcome::Stopped);
        }
        Ok(ledger)
    }

    async fn put_listing_right(&self, ledger: &Ledger) -> Result<(), Failure> {
        if let Some(write) = ledger.listing_fix(self.clock.now()) {
            self.table.write_ledger(&ledger.id, &write).await?;
        }
        Ok(())
    }

    /// A heartbeat. `inside` are the players that the server has, if it says so.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn heartbeat(
        &self,
        by: TokenHash,
        server: &ServerId,
        inside: Option<&[PlayerId]>,
    ) -> Result<Result<Heartbeat, ServerOutcome>, Failure> {
        let now = self.clock.now();
        let ledger = match self.table.write_ledger(server, &LedgerWrite::Heartbeat { by, now }).await? {
            Answer::Written(ledger) => {
                self.put_listing_right(&ledger).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // A later one has been heard: this one is late, or its clock is behind.
                Ok(ledger) => ledger,
            },
        };
        let unknown = inside.into_iter().flat_map(|inside| ledger.connected_but_not(inside));
        let unknown = unknown.map(|(player, placement)| UnknownPlayer { player: player.clone(), placement });
        Ok(Ok(Heartbeat {
            state: ledger.state,
            lease_until: ledger.lease_until.unwrap_or(now),
            reserved: ledger.reserved(now),
            unknown: unknown.collect(),
        }))
    }

    /// A server registers a player, with the ticket that the player has shown if it passes that on.
    ///
    /// # Errors
    /// See [`Failure`]. The outcome is unknown then: the server repeats the call before it makes another one about this
    /// player.
    pub async fn register_player(
        &self,
        by: TokenHash,
        server: &ServerId,
        player: &PlayerId,
        ticket: Option<PresentedTicket>,
    ) -> Result<Connected, Failure> {
        let connect = Connect::new(by, server.clone(), player.clone(), ticket);
        self.run(connect, self.begin(Some(player), None)).await
    }

    /// A server disconnects a player: to exactly `placement`, or to whichever the ledger holds.
    ///
    /// # Errors
    /// See [`Failure`]; as for [`Owmm::register_player`].
    pub async fn deregister_player(
        &self,
        by: TokenHash,
        server: &ServerId,
        player: &PlayerId,
        placement: Option<Placement>,
        grace: Option<Span>,
    ) -> Result<Disconnected, Failure> {
        let disconnect = Disconnect::new(by, server.clone(), player.clone(), placement, grace);
        self.run(disconnect, self.begin(Some(player), None)).await
    }

    /// An operator lets a server run empty: no new claims, and who is inside stays, at most for `within`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn drain(
        &self,
        server: &ServerId,
        within: Option<Span>,
    ) -> Result<Result<Ledger, ServerOutcome>, Failure> {
        let mut at = self.clock.now();
        let drain_by = within.map(|span| at + span);
        for _ in 0..BY_HAND_TURNS {
            let drain = LedgerWrite::Drain { at, drain_by };
            let ledger = match self.table.write_ledger(server, &drain).await? {
                Answer::Written(ledger) => {
                    tracing::info!(%server, claims = ledger.claims.len(), "an operator drains the server");
                    return Ok(Ok(ledger));
                }
                Answer::Refused(None) => return Ok(Err(ServerOutcome::Unknown)),
                Answer::Refused(Some(ledger)) => ledger,
            };
            match ledger.state {
                ServerState::Stopped => return Ok(Err(ServerOutcome::Stopped)),
                ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // It has been heard, and the answer was lost.
                _ if ledger.requested_at == Some(at) && ledger.drain_by == drain_by => return Ok(Ok(ledger)),
                ServerState::Ready | ServerState::Draining => {
                    at = self.clock.now().operator_timestamp(ledger.requested_at)
                }
            }
        }
        Err(TableError::Busy("others drain the server".to_owned()).into())
    }

    /// Every pool with its status.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn pools(&self) -> Result<Vec<(Pool, PoolStatus)>, Failure> {
        let mut pools = Vec::new();
        for pool in self.table.pools().await? {
            let status = self.table.pool_status(&pool.name).await?;
            pools.push((pool, status));
        }
        Ok(pools)
    }

    /// A pool with its status, as the table has them now.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn pool_and_status(&self, name: &PoolName) -> Result<(Pool, PoolStatus), Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        Ok((pool, self.table.pool_status(name).await?))
    }

    /// Configures a pool. In force wherever its old configuration is remembered no longer: within ten seconds. Another task
    /// definition is a new build of the pool; what becomes of the servers of older ones is the roll-out's to
    /// say, at once for new joins, and with the next look at the fleet for the rest.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn configure(&self, settings: Pool) -> Result<(), Failure> {
        for _ in 0..CONFIGURE_TURNS {
            let old = self.table.pool(&settings.name).await?;
            let pool = settings.clone().succeeding(old.as_ref());
            if self.table.put_pool(&pool, old.as_ref()).await? {
                self.hints.forget(&pool.name);
                self.retire_frontiers(&pool).await?;
                return Ok(());
            }
        }
        Err(TableError::Busy("others configure the pool".to_owned()).into())
    }

    /// Frontiers hand out no more slots of servers of an older build: what room those have, the index tells, after that of
    /// newer ones.
    pub(crate) async fn retire_frontiers(&self, pool: &Pool) -> Result<(), Failure> {
        for k in 0..pool.shards {
            let Some(frontier) = self.table.frontier(&pool.name, k).await?.filter(|it| it.remaining > 0) else {
                continue;
            };
            let ledger = self.table.ledger(&frontier.server).await?;
            if ledger.is_some_and(|ledger| ledger.build < pool.build) {
                let used_up = FrontierWrite::UsedUp { server: frontier.server };
                self.table.write_frontier(&pool.name, k, &used_up).await?;
            }
        }
        Ok(())
    }

    /// An operator pauses launching, for a time or until it is resumed. A server that registers does not end this pause.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn pause(&self, name: &PoolName, within: Option<Span>) -> Result<(Pool, PoolStatus), Failure> {
        let until = within.map_or(UNTIL_RESUMED, |span| self.clock.now() + span);
        self.operator_command(name, |at| PoolStatusWrite::Pause { at, until }).await
    }

    /// An operator resumes launching, whatever had paused it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn resume(&self, name: &PoolName) -> Result<(Pool, PoolStatus), Failure> {
        self.operator_command(name, |at| PoolStatusWrite::Resume { at }).await
    }

    /// Applies an operator command with a timestamp later than the last one's.
    async fn operator_command(
        &self,
        name: &PoolName,
        command: impl Fn(Time) -> PoolStatusWrite,
    ) -> Result<(Pool, PoolStatus), Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        let mut at = self.clock.now();
        for _ in 0..BY_HAND_TURNS {
            let command = command(at);
            match self.table.write_pool_status(name, &command).await? {
                Answer::Written(status) => {
                    tracing::info!(pool = %name, ?command, "operator command applied");
                    return Ok((pool, status));
                }
                Answer::Refused(Some(status)) if command.stands(&status) => return Ok((pool, status)),
                Answer::Refused(status) => at = status.unwrap_or_default().operator_timestamp(self.clock.now()),
            }
        }
        Err(TableError::Busy("others pause and resume the pool".to_owned()).into())
    }

    /// Starts servers until at least so many live: a repeat starts no more, because it says how many there shall be and
    /// not how many to add. At most twenty a call.
    ///
    /// # Errors
    /// See [`Failure`]. Servers may have been started then; the same call goes on from there.
    pub async fn launch(&self, name: &PoolName, at_least: u32) -> Result<LaunchOutcome, Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        if at_least > pool.limits.max_servers {
            return Ok(LaunchOutcome::No(NoLaunch::AtMaximum));
        }
        let (begun, mut turns) = (self.clock.now(), BY_HAND_TURNS);
        let mut started = Vec::new();
        loop {
            let (status, now) = (self.table.pool_status(name).await?, self.clock.now());
            let enough = status.live >= at_least || started.len() >= LAUNCHES_AT_MOST;
            let refused = status.no_launch(pool.limits.max_servers, now);
            if enough || now - begun > LAUNCHING_AT_MOST || (refused.is_some() && !started.is_empty()) {
                return Ok(LaunchOutcome::Started { started, live: status.live });
            }
            if let Some(reason) = refused {
                return Ok(LaunchOutcome::No(reason));
            }
            match (self.launcher.start_ahead(&pool, &status).await?, turns.checked_sub(1)) {
                (Some(server), _) => started.push(server),
                (None, Some(left)) => {
                    turns = left;
                    tokio::time::sleep(self.rng.jitter(RACE_JITTER)).await;
                }
                (None, None) if started.is_empty() => return Ok(LaunchOutcome::Busy),
                (None, None) => return Ok(LaunchOutcome::Started { started, live: status.live }),
            }
        }
    }

    /// A server, as its ledger has it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn server(&self, server: &ServerId) -> Result<Option<Ledger>, Failure> {
        Ok(self.table.ledger(server).await?)
    }

    /// What is known of a player; `None` if nobody has placed them for long.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn player(&self, player: &PlayerId) -> Result<Option<PlayerView>, Failure> {
        let Some(seat) = self.table.seat(player).await? else { return Ok(None) };
        let ledger = match &seat {
            Seat::Assigned(place) => self.table.ledger(&place.server).await?,
            Seat::Vacant(_) => None,
        };
        Ok(Some(PlayerView { seat, ledger }))
    }

    /// An operator releases a player. One who is inside a server that lives stays there.
    ///
    /// # Errors
    /// See [`Failure`]. The same call goes on from where this one ended.
    pub async fn release_player(&self, player: &PlayerId) -> Result<Released, Failure> {
        let released = self.run(Release::new(player.clone()), self.begin(Some(player), None)).await?;
        tracing::info!(%player, ?released, "an operator releases a player");
        Ok(released)
    }

    /// A page of a pool's servers, oldest first, and where the next one begins.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn servers(
        &self,
        pool: &PoolName,
        after: Option<&ServerId>,
    ) -> Result<(Vec<Ledger>, Option<ServerId>), Failure> {
        let known = self.table.pool(pool).await?;
        known.ok_or_else(|| Failure::UnknownPool(pool.clone()))?;
        let (mut page, _) = self.table.roster(pool, after.map(|server| keys::roster(pool, server))).await?;
        let next = page.get(SERVERS_A_PAGE - 1).filter(|_| page.len() > SERVERS_A_PAGE).cloned();
        page.truncate(SERVERS_A_PAGE);
        let mut ledgers = self.table.ledgers(&page).await?;
        ledgers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((ledgers, next))
    }

    /// The task of a server's attempt has stopped. A server that was starting gets its next attempt, one that was up is
    /// over: its claims are void, and its players' next join places them anew. Whether it is over.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn task_stopped(&self, server: &ServerId, attempt: u32) -> Result<bool, Failure> {
        let Some(ledger) = self.table.ledger(server).await? else { return Ok(true) };
        let current = ledger.attempt == attempt;
        match ledger.state {
            ServerState::Starting if current => {
                self.launcher.failed(&ledger).await?;
                Ok(false)
            }
            ServerState::Ready | ServerState::Draining if current => {
                let stop = LedgerWrite::Stop { by: StopBy::Attempt(attempt), now: self.clock.now() };
                if let Answer::Written(ledger) = self.table.write_ledger(server, &stop).await? {
                    tracing::warn!(%server, attempt, "the server's task has stopped without a disconnect");
                    self.launcher.count_out(&ledger.pool, server, false).await?;
                }
                Ok(true)
            }
            // Repeated: whoever stopped it may have died before it was counted out.
            ServerState::Stopped => {
                self.launcher.count_out(&ledger.pool, server, ledger.never_registered()).await?;
                Ok(true)
            }
            ServerState::Starting | ServerState::Ready | ServerState::Draining => Ok(false),
        }
    }

    /// A server deregisters itself: every claim on it is void.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn deregister_server(
        &self,
        by: TokenHash,
        server: &ServerId,
    ) -> Result<Result<(), ServerOutcome>, Failure> {
        let stop = LedgerWrite::Stop { by: StopBy::Server(by), now: self.clock.now() };
        let ledger = match self.table.write_ledger(server, &stop).await? {
            Answer::Written(ledger) => ledger,
            Answer::Refused(image) => match image.ok_or(ServerOutcome::Unknown) {
                Ok(ledger) if ledger.token_hash == by => ledger,
                Ok(_) => return Ok(Err(ServerOutcome::WrongToken)),
                Err(unknown) => return Ok(Err(unknown)),
            },
        };
        // A server that gives up before it has registered has failed to start.
        self.launcher.count_out(&ledger.pool, &ledger.id, ledger.never_registered()).await?;
        Ok(Ok(()))
    }
}
