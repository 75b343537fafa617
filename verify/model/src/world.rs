//! The world as the model sees it: the items of the table, the calls that are on their way, the servers that run, and
//! what each side believes. Every step that it can take is taken here, by the domain's own code.

use std::collections::BTreeMap;

use domain::{
    Answer, CancelReservation, Claim, Effect, Frontier, FrontierWrite, Hint, Join, Ledger, LedgerWrite, NoSlot, Party,
    PlayerId, PoolBuild, PoolLimits, PoolStatus, PoolStatusWrite, PresentedTicket, Registration, Release, Repair,
    Reply, Rollout, Seat, SeatWrite, ServerId, ServerState, Span, TakenSlots, TaskStatus, Time,
};

use super::{
    call::{Call, Inside, Late, Promise, To, token},
    injected::repair,
    kept::Kept,
    scope::{BEGIN, Left, PLAYERS, SERVERS, Scope, TICK, player_of, server_of, small},
};

/// Turns that one question to the frontier takes at the most, as in the functions.
const FRONTIER_TURNS: u8 = 4;

/// The tick at which everything that ends by itself has ended.
const FAR: u8 = 200;

/// Looks after which reconcile finds nothing more to do on one server.
const LOOKS_ALONE: usize = 8;

/// Steps of calls without company after which they do not end.
const CALLS_ALONE: usize = 200;

/// How long a slot is held for a player who has dropped.
const GRACE: Span = Span(1_500);

/// Where a server's process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Starting,
    Up,
    Dead,
}

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    Asked(Effect),
    /// Seats that are read one after the other.
    Reading(Vec<PlayerId>, Vec<Option<Seat>>),
    /// Seats that are written in any order.
    Writing(Vec<(PlayerId, SeatWrite)>, Vec<Option<Answer<Seat>>>),
    /// The frontier was seen used up, and a server is about to be started.
    Rolling {
        slots: u32,
        seen: Option<Frontier>,
        turn: u8,
    },
}

/// A call on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    pub call: Call,
    pub at: At,
}

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub tick: u8,
    pub build: u32,
    pub ledgers: Vec<Kept<Ledger>>,
    pub processes: [Process; SERVERS],
    /// Ready servers with room that the index does not list because of an eviction: their next heartbeat mends it.
    pub hidden: [bool; SERVERS],
    pub seats: [Option<Kept<Seat>>; PLAYERS],
    pub frontier: Option<Frontier>,
    pub status: PoolStatus,
    /// Slots that the frontier has handed out, or lost with a server that took nobody.
    pub handed: u32,
    pub inside: Vec<Inside>,
    pub promises: [Option<Promise>; PLAYERS],
    pub flights: Vec<Kept<Flight>>,
    pub late: Vec<Kept<Late>>,
    pub left: Left,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Tick,
    JoinBegins { player: u8 },
    PartyBegins,
    PlayerArrives { player: u8 },
    PlayerLeaves { player: u8, server: u8 },
    PlayerDrops { player: u8, server: u8 },
    GiveUpBegins { player: u8 },
    DismissalBegins { player: u8 },
    ReconcileLooks { server: u8 },
    ScaleInLooks { server: u8 },
    ServerRegisters { server: u8 },
    ServerBeats { server: u8 },
    ServerDies { server: u8 },
    NewBuild,
    Goes { flight: u8 },
    GoesAndAnswerIsLost { flight: u8 },
    IsSentTwice { flight: u8 },
    IsKilled { flight: u8 },
    IsRepeatedWhileItRuns { flight: u8 },
    LateWriteLands { late: u8 },
}

/// What happens, and what the world is then.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub what: What,
    pub to: World,
}

/// The one more of something that is counted; `None` if it may not happen any more.
fn spend(left: &World, of: fn(&mut Left) -> &mut u8) -> Option<World> {
    let mut world = left.clone();
    let count = of(&mut world.left);
    *count = count.checked_sub(1)?;
    Some(world)
}

impl World {
    /// How a scope begins.
    pub fn new(scope: &Scope) -> Self {
        let ready = usize::from(scope.ready);
        Self {
            tick: 0,
            build: 0,
            ledgers: (0..scope.ready).map(|n| Kept::new(scope.registered(n))).collect(),
            processes: std::array::from_fn(|n| if n < ready { Process::Up } else { Process::Dead }),
            hidden: [false; SERVERS],
            seats: [const { None }; PLAYERS],
            frontier: None,
            status: PoolStatus { live: scope.ready.into(), ..PoolStatus::default() },
            handed: 0,
            inside: Vec::new(),
            promises: [None; PLAYERS],
            flights: Vec::new(),
            late: Vec::new(),
            left: scope.left,
        }
    }

    /// The time.
    pub fn now(&self) -> Time {
        BEGIN + TICK.times(self.tick.into())
    }

    /// A server's ledger.
    pub fn ledger(&self, server: u8) -> Option<&Ledger> {
        self.ledgers.get(usize::from(server)).map(|ledger| &**ledger)
    }

    /// Where its process is.
    pub fn process(&self, server: u8) -> Process {
        self.processes.get(usize::from(server)).copied().unwrap_or(Process::Dead)
    }

    /// The pool's current build, whose servers alone take players.
    const fn current(&self) -> PoolBuild {
        PoolBuild { number: self.build, rollout: Rollout::Drain }
    }

    fn seat(&self, player: &PlayerId) -> Option<Seat> {
        self.seats.get(player_of(player))?.as_deref().cloned()
    }

    fn write_seat(&mut self, player: &PlayerId, write: &SeatWrite) -> Answer<Seat> {
        let Some(seat) = self.seats.get_mut(player_of(player)) else { return Answer::Refused(None) };
        match write.apply(seat.as_deref()) {
            Some(new) => {
                *seat = Some(Kept::new(new.clone()));
                Answer::Written(new)
            }
            None => Answer::Refused(seat.as_deref().cloned()),
        }
    }

    fn write_ledger(&mut self, server: &ServerId, write: &LedgerWrite) -> Answer<Ledger> {
        let n = server_of(server);
        let Some(old) = self.ledgers.get_mut(n) else { return Answer::Refused(None) };
        let Some(new) = write.apply(Some(old)) else { return Answer::Refused(Some(Ledger::clone(old))) };
        if new.state == ServerState::Stopped && old.state != ServerState::Stopped {
            // In a transaction of its own, which whoever meets a stopped server repeats until it has taken once.
            self.status = PoolStatusWrite::Ended.apply(Some(&self.status)).unwrap_or_default();
        }
        let evicts = matches!(write, LedgerWrite::ClaimExactly { evict, .. } if !evict.is_empty());
        let unlisted = new.state == ServerState::Ready && new.listed.is_none() && !new.is_full();
        if let Some(hidden) = self.hidden.get_mut(n) {
            *hidden = unlisted && (evicts || *hidden);
        }
        *old = Kept::new(new.clone());
        Answer::Written(new)
    }

    fn write_frontier(&mut self, write: &FrontierWrite) -> Result<Frontier, Option<Frontier>> {
        let Some(new) = write.apply(self.frontier.as_ref()) else { return Err(self.frontier.clone()) };
        let before = self.frontier.as_ref().map_or(0, |old| old.remaining);
        match write {
            FrontierWrite::Take { .. } | FrontierWrite::UsedUp { .. } => {
                self.handed += before.saturating_sub(new.remaining);
            }
            FrontierWrite::GiveBack { slots, .. } => self.handed = self.handed.saturating_sub(*slots),
            // Its free slots had been handed out; what is left of the server before is left behind.
            FrontierWrite::Return { remaining, .. } => {
                self.handed = (self.handed + before).saturating_sub(*remaining);
            }
            FrontierWrite::Advance { .. } | FrontierWrite::AddFreed { .. } | FrontierWrite::RemoveFreed { .. } => {}
        }
        self.frontier = Some(new.clone());
        Ok(new)
    }

    fn used_up(&mut self, server: &ServerId) {
        let _ = self.write_frontier(&FrontierWrite::UsedUp { server: server.clone() });
    }

    fn give_back(&mut self, ledger: &Ledger) {
        let Some(seen) = self.frontier.clone() else { return };
        let write = if seen.server != ledger.id {
            FrontierWrite::AddFreed { server: ledger.id.clone() }
        } else if seen.remaining < ledger.capacity {
            FrontierWrite::GiveBack { server: seen.server, seen: seen.remaining, slots: 1 }
        } else {
            return;
        };
        let _ = self.write_frontier(&write);
    }

    /// The frontier goes back to a server that it has left, if there is room and nobody else has moved it.
    fn go_back(&mut self, seen: Option<&Frontier>, slots: u32) -> Option<TakenSlots> {
        let seen = seen?;
        for server in &seen.freed {
            let ledger = self.ledgers.get(server_of(server))?;
            let room = ledger.room_to_start(self.build);
            let write = match room.checked_sub(slots) {
                Some(remaining) => FrontierWrite::Return { from: seen.clone(), to: server.clone(), remaining },
                None if room == 0 => FrontierWrite::RemoveFreed { server: server.clone() },
                None => continue,
            };
            let returns = matches!(write, FrontierWrite::Return { .. });
            if self.write_frontier(&write).is_ok() && returns {
                return Some(TakenSlots::On(server.clone()));
            }
        }
        None
    }

    /// The transaction that starts a server; `None` if somebody else moved the frontier.
    fn advance(&mut self, scope: &Scope, seen: Option<&Frontier>, slots: u32) -> Option<TakenSlots> {
        let n = self.ledgers.len();
        let ledger = scope.starting(small(n), self.build);
        let remaining = ledger.capacity.saturating_sub(slots);
        let advance = FrontierWrite::Advance { from: seen.cloned(), to: ledger.id.clone(), remaining };
        advance.apply(self.frontier.as_ref())?;
        let started = PoolStatusWrite::Started { max_servers: scope.pool.limits.max_servers, now: self.now() };
        let Some(status) = started.apply(Some(&self.status)) else { return Some(TakenSlots::No(NoSlot::PoolFull)) };
        // A party may leave slots behind that are too few for it.
        let left_behind = seen.map_or(0, |seen| if seen.remaining < slots { seen.remaining } else { 0 });
        self.handed += slots.min(ledger.capacity) + left_behind;
        self.status = status;
        self.frontier = advance.apply(self.frontier.as_ref());
        let slot = TakenSlots::On(ledger.id.clone());
        self.ledgers.push(Kept::new(ledger));
        if let Some(process) = self.processes.get_mut(n) {
            *process = Process::Starting;
        }
        Some(slot)
    }

    /// Where there may be room: every answer that the index and a warm function could give.
    fn hints(&self, tried: &[ServerId], listed: bool, fresh: bool) -> Vec<(Hint, bool)> {
        let mut hints = Vec::new();
        let stale = self.left.stales > 0;
        let mut seen_some = false;
        if listed {
            let current = self.current();
            for ledger in self.ledgers.iter().filter(|ledger| !tried.contains(&ledger.id)) {
                if ledger.listed.is_some() && current.takes(ledger.build) {
                    seen_some = true;
                    hints.push((Hint::Listed(ledger.id.clone()), false));
                } else if stale && ledger.ready_at.is_some() {
                    hints.push((Hint::Listed(ledger.id.clone()), true));
                }
            }
        }
        if !seen_some || stale {
            let hint = match &self.frontier {
                Some(frontier) if !fresh => Hint::Frontier(frontier.server.clone()),
                _ => Hint::Unknown,
            };
            hints.push((hint, seen_some));
        }
        hints
    }

    /// Everything that can happen next.
    pub fn steps(&self, scope: &Scope, steps: &mut Vec<Step>) {
        self.beginnings(scope, steps);
        self.servers(scope, steps);
        for n in 0..self.flights.len() {
            self.flight(scope, n, steps);
        }
        for (n, late) in self.late.iter().enumerate() {
            let mut world = self.clone();
            world.late.remove(n);
            world.apply(late);
            steps.push(Step { what: What::LateWriteLands { late: small(n) }, to: world });
        }
        if let Some(mut world) = spend(self, |left| &mut left.ticks) {
            world.tick += 1;
            steps.push(Step { what: What::Tick, to: world });
        }
    }

    /// Whether the server waits for an answer about this player.
    fn awaits(&self, of: u8, about: u8) -> bool {
        self.flights.iter().any(|flight| match flight.call {
            Call::Connect { server, player, awaited, .. } | Call::Disconnect { server, player, awaited, .. } => {
                awaited && server == of && player == about
            }
            _ => false,
        })
    }

    /// Whether a call is on its way that ends what this player has.
    fn ends(&self, about: u8) -> bool {
        self.flights.iter().any(|flight| match flight.call {
            Call::Disconnect { player, .. } | Call::CancelReservation { player, .. } | Call::Release { player, .. } => {
                player == about
            }
            _ => false,
        })
    }

    fn is_inside(&self, server: u8, player: u8) -> bool {
        self.inside.iter().any(|inside| inside.server == server && inside.player == player)
    }

    fn join(scope: &Scope, player: u8) -> Call {
        let heartbeat = PoolLimits::heartbeat(scope.pool.limits.lease);
        let join =
            Join::new(Scope::player(player), None, scope.pool.name.clone(), scope.pool.limits.capacity, heartbeat);
        Call::Join { player, join: Box::new(join) }
    }

    fn disconnect(&mut self, inside: Inside, grace: Option<Span>, what: What, steps: &mut Vec<Step>) {
        let Inside { server, player, placement } = inside;
        self.inside.retain(|other| *other != inside);
        self.forget_promise(player);
        let call = Call::disconnect(server, player, placement, grace);
        self.clone().begin(call, what, steps);
    }

    fn forget_promise(&mut self, player: u8) {
        // Who has left has no slot that was promised; the ticket is still in their hands.
        if let Some(Some(promise)) = self.promises.get_mut(usize::from(player)) {
            promise.until = Time(0);
        }
    }

    fn beginnings(&self, scope: &Scope, steps: &mut Vec<Step>) {
        // The players are alike, so the first to do anything is the first.
        let untouched = self.seats.iter().all(Option::is_none) && self.flights.is_empty();
        for player in 0..if untouched { 1 } else { scope.players } {
            if let Some(world) = spend(self, |left| &mut left.joins) {
                world.begin(Self::join(scope, player), What::JoinBegins { player }, steps);
            }
            if let Some(mut world) = spend(self, |left| &mut left.cancels) {
                world.forget_promise(player);
                let call = Call::CancelReservation { player, cancel: CancelReservation::new(Scope::player(player)) };
                world.begin(call, What::GiveUpBegins { player }, steps);
            }
            if let Some(mut world) = spend(self, |left| &mut left.releases) {
                world.forget_promise(player);
                let call = Call::Release { player, release: Release::new(Scope::player(player)) };
                world.begin(call, What::DismissalBegins { player }, steps);
            }
            if let Some(Some(promise)) = self.promises.get(usize::from(player)) {
                let Promise { server, placement, ready, .. } = *promise;
                let free = ready && !self.awaits(server, player) && !self.is_inside(server, player);
                let expires = self.ledger(server).and_then(|it| it.expires(Claim::Reserved(placement)));
                if free
                    && self.process(server) == Process::Up
                    && let (Some(world), Some(expires)) = (spend(self, |left| &mut left.arrivals), expires)
                {
                    let call = Call::connect(server, player, PresentedTicket { placement, expires });
                    world.begin(call, What::PlayerArrives { player }, steps);
                }
            }
        }
        if let Some(world) = spend(self, |left| &mut left.parties) {
            let players = (0..scope.players).map(Scope::player).collect();
            let limits = &scope.pool.limits;
            let heartbeat = PoolLimits::heartbeat(limits.lease);
            let party = Party::new(players, scope.pool.name.clone(), limits.capacity, heartbeat);
            world.begin(Call::Party(party), What::PartyBegins, steps);
        }
        for inside in &self.inside {
            let Inside { server, player, .. } = *inside;
            if self.awaits(server, player) {
                continue;
            }
            if let Some(mut world) = spend(self, |left| &mut left.leaves) {
                world.disconnect(*inside, None, What::PlayerLeaves { player, server }, steps);
            }
            if let Some(mut world) = spend(self, |left| &mut left.drops) {
                world.disconnect(*inside, Some(GRACE), What::PlayerDrops { player, server }, steps);
            }
        }
    }

    fn servers(&self, scope: &Scope, steps: &mut Vec<Step>) {
        let now = self.now();
        for (n, ledger) in self.ledgers.iter().enumerate() {
            let (server, process) = (small(n), self.process(small(n)));
            if process == Process::Starting {
                let mut world = self.clone();
                world.register(ledger, n);
                steps.push(Step { what: What::ServerRegisters { server }, to: world });
            }
            if process == Process::Up
                && let Some(mut world) = spend(self, |left| &mut left.deaths)
            {
                world.die(n);
                steps.push(Step { what: What::ServerDies { server }, to: world });
            }
            if process == Process::Up
                && let Some(mut world) = spend(self, |left| &mut left.beats)
                && let Answer::Written(beaten) =
                    world.write_ledger(&ledger.id, &LedgerWrite::Heartbeat { by: token(), now })
            {
                world.mend(&beaten);
                steps.push(Step { what: What::ServerBeats { server }, to: world });
            }
            if let Some(world) = spend(self, |left| &mut left.looks) {
                let current = self.current();
                let task_status = if process == Process::Dead { TaskStatus::Stopped } else { TaskStatus::Alive };
                let write = match repair(ledger, current, task_status, now) {
                    Repair::Write(write) => Some(write),
                    Repair::Stop(reason) => Some(ledger.stop_for(reason, now)),
                    Repair::None | Repair::CountOut | Repair::Launch | Repair::NextAttempt => None,
                };
                let write = write.map(|write| (write, What::ReconcileLooks { server }));
                let idle =
                    ledger.scale_in(scope.pool.limits.idle, now).map(|write| (write, What::ScaleInLooks { server }));
                for (write, what) in write.into_iter().chain(idle) {
                    let mut world = world.clone();
                    world.send(ledger.id.clone(), write);
                    steps.push(Step { what, to: world });
                }
            }
        }
        if let Some(mut world) = spend(self, |left| &mut left.builds) {
            world.build += 1;
            if let Some(frontier) = world.frontier.clone() {
                world.used_up(&frontier.server);
            }
            steps.push(Step { what: What::NewBuild, to: world });
        }
    }

    /// A server's process registers its server.
    fn register(&mut self, ledger: &Ledger, n: usize) {
        let registration = Registration { endpoint: Scope::endpoint(), capacity: None, metadata: BTreeMap::new() };
        let write = LedgerWrite::Register { by: token(), registration, now: self.now() };
        let registered = matches!(self.write_ledger(&ledger.id, &write), Answer::Written(_));
        if let Some(process) = self.processes.get_mut(n) {
            *process = if registered { Process::Up } else { Process::Dead };
        }
    }

    fn die(&mut self, n: usize) {
        if let Some(process) = self.processes.get_mut(n) {
            *process = Process::Dead;
        }
        self.inside.retain(|inside| usize::from(inside.server) != n);
    }

    /// What follows a heartbeat: the index is put right, and the server disconnect those it does not have.
    fn mend(&mut self, beaten: &Ledger) {
        let server = small(server_of(&beaten.id));
        if let Some(write) = beaten.listing_fix(self.now()) {
            self.send(beaten.id.clone(), write);
        }
        for (id, placement) in beaten.connected_but_not(&[]) {
            let player = small(player_of(id));
            if !self.is_inside(server, player) && !self.awaits(server, player) {
                self.forget_promise(player);
                let mut begun = Vec::new();
                self.clone().begin(Call::disconnect(server, player, placement, None), What::Tick, &mut begun);
                if let Some(step) = begun.pop() {
                    *self = step.to;
                }
            }
        }
    }

    fn fly(&mut self, call: Call, at: At) {
        self.flights.push(Kept::new(Flight { call, at }));
        self.flights.sort_by_key(Kept::order);
    }

    /// A write on its way that nothing follows.
    fn send(&mut self, server: ServerId, write: LedgerWrite) {
        self.fly(Call::Write, At::Asked(Effect::WriteLedger(server, write)));
    }

    fn begin(self, call: Call, what: What, steps: &mut Vec<Step>) {
        self.proceed(call, Reply::Start, what, steps);
    }

    /// Recorded a call its answer. One step for each thing that it may be told about the index on the way.
    fn proceed(mut self, mut call: Call, reply: Reply, what: What, steps: &mut Vec<Step>) {
        match call.next(self.now(), reply) {
            To::Effect(Effect::Find { tried, listed, fresh, .. }) => {
                for (hint, stale) in self.hints(&tried, listed, fresh) {
                    let mut world = self.clone();
                    world.left.stales -= u8::from(stale);
                    world.proceed(call.clone(), Reply::Found(hint), what, steps);
                }
                return;
            }
            To::Effect(Effect::ReadSeats(players)) => self.fly(call, At::Reading(players, Vec::new())),
            To::Effect(Effect::WriteSeats(writes)) => {
                let answers = vec![None; writes.len()];
                self.fly(call, At::Writing(writes, answers));
            }
            To::Effect(effect) => self.fly(call, At::Asked(effect)),
            To::Slots(placed) => {
                // Whoever leaves while another of their calls is on its way is told of what they have just ended.
                for (player, promise) in placed {
                    if !self.ends(player)
                        && let Some(reply) = self.promises.get_mut(usize::from(player))
                    {
                        *reply = Some(promise);
                    }
                }
            }
            To::Inside(inside) if self.process(inside.server) == Process::Up => {
                if !self.is_inside(inside.server, inside.player) {
                    self.inside.push(inside);
                    self.inside.sort_unstable();
                }
            }
            To::Inside(_) | To::Nothing => {}
        }
        steps.push(Step { what, to: self });
    }

    /// What can become of a call that is on its way.
    fn flight(&self, scope: &Scope, n: usize, steps: &mut Vec<Step>) {
        let Some(flight) = self.flights.get(n) else { return };
        let n8 = small(n);
        let up = |server| self.process(server) == Process::Up;
        let landed = |world: &Self| {
            let mut world = world.clone();
            world.flights.remove(n);
            world
        };
        // Killed: a server repeats its call until it has an answer; nobody repeats the others.
        if let Some(world) = spend(self, |left| &mut left.crashes) {
            let what = What::IsKilled { flight: n8 };
            let world = landed(&world);
            match flight.call.again(up) {
                Some(again) => world.begin(again, what, steps),
                None => steps.push(Step { what, to: world }),
            }
        }
        if let Some(again) = flight.call.again(up)
            && let Some(world) = spend(self, |left| &mut left.repeats)
        {
            let mut world = landed(&world);
            let mut zombie = flight.call.clone();
            zombie.forget();
            world.fly(zombie, flight.at.clone());
            world.begin(again, What::IsRepeatedWhileItRuns { flight: n8 }, steps);
        }
        let goes = What::Goes { flight: n8 };
        match &flight.at {
            At::Asked(effect) => {
                if let Some(late) = Late::of(effect) {
                    if let Some(mut world) = spend(self, |left| &mut left.faults) {
                        world.apply(&late);
                        steps.push(Step { what: What::GoesAndAnswerIsLost { flight: n8 }, to: world });
                    }
                    if let Some(mut world) = spend(self, |left| &mut left.faults) {
                        world.late.push(Kept::new(late));
                        world.late.sort_by_key(Kept::order);
                        steps.push(Step { what: What::IsSentTwice { flight: n8 }, to: world });
                    }
                }
                landed(self).asked(flight.call.clone(), effect, goes, steps);
            }
            At::Reading(players, seats) => {
                let mut seats = seats.clone();
                seats.extend(players.get(seats.len()).map(|player| self.seat(player)));
                let mut world = landed(self);
                if seats.len() < players.len() {
                    world.fly(flight.call.clone(), At::Reading(players.clone(), seats));
                    steps.push(Step { what: goes, to: world });
                } else {
                    world.proceed(flight.call.clone(), Reply::SeatsRead(seats), goes, steps);
                }
            }
            At::Writing(writes, answers) => {
                for (i, (player, write)) in writes.iter().enumerate() {
                    let mut answers = answers.clone();
                    let Some(answer) = answers.get_mut(i).filter(|answer| answer.is_none()) else { continue };
                    let mut world = landed(self);
                    *answer = Some(world.write_seat(player, write));
                    match answers.iter().cloned().collect::<Option<Vec<_>>>() {
                        Some(all) => world.proceed(flight.call.clone(), Reply::SeatsWritten(all), goes, steps),
                        None => {
                            world.fly(flight.call.clone(), At::Writing(writes.clone(), answers));
                            steps.push(Step { what: goes, to: world });
                        }
                    }
                }
            }
            At::Rolling { slots, seen, turn } => {
                let mut world = landed(self);
                let back = world.go_back(seen.as_ref(), *slots);
                match back.or_else(|| world.advance(scope, seen.as_ref(), *slots)) {
                    Some(slot) => world.proceed(flight.call.clone(), Reply::SlotsTaken(slot), goes, steps),
                    None if *turn < FRONTIER_TURNS => {
                        world.take(flight.call.clone(), *slots, turn + 1, goes, steps);
                    }
                    None => {
                        let reply = Reply::SlotsTaken(TakenSlots::No(NoSlot::Busy));
                        world.proceed(flight.call.clone(), reply, goes, steps);
                    }
                }
            }
        }
    }

    /// Takes slots of the frontier, or goes on to start a server.
    fn take(mut self, call: Call, slots: u32, turn: u8, what: What, steps: &mut Vec<Step>) {
        match self.write_frontier(&FrontierWrite::Take { slots }) {
            Ok(frontier) => self.proceed(call, Reply::SlotsTaken(TakenSlots::On(frontier.server)), what, steps),
            Err(seen) => {
                self.fly(call, At::Rolling { slots, seen, turn });
                steps.push(Step { what, to: self });
            }
        }
    }

    /// The question is answered.
    fn asked(mut self, call: Call, effect: &Effect, what: What, steps: &mut Vec<Step>) {
        let reply = match effect {
            Effect::WriteLedger(server, write) => Reply::LedgerWritten(self.write_ledger(server, write)),
            Effect::WriteSeat(player, write) => Reply::SeatWritten(self.write_seat(player, write)),
            Effect::ReadSeat(player) => Reply::SeatRead(self.seat(player)),
            Effect::ReadLedger(server) => {
                Reply::LedgerRead(self.ledgers.get(server_of(server)).map(|ledger| Ledger::clone(ledger)))
            }
            Effect::UsedUp { server, .. } => {
                self.used_up(server);
                Reply::Done
            }
            Effect::GiveBack(ledger) => {
                self.give_back(ledger);
                Reply::Done
            }
            Effect::TakeSlots { slots, may_start: true, .. } => return self.take(call, *slots, 1, what, steps),
            Effect::TakeSlots { slots, may_start: false, .. } => {
                match self.write_frontier(&FrontierWrite::Take { slots: *slots }) {
                    Ok(frontier) => Reply::SlotsTaken(TakenSlots::On(frontier.server)),
                    Err(_) => Reply::SlotsTaken(TakenSlots::UsedUp),
                }
            }
            // These have a place of their own.
            Effect::Find { .. } | Effect::ReadSeats(_) | Effect::WriteSeats(_) => return,
        };
        self.proceed(call, reply, what, steps);
    }

    fn apply(&mut self, late: &Late) {
        match late {
            Late::Ledger(server, write) => drop(self.write_ledger(server, write)),
            Late::Seat(player, write) => drop(self.write_seat(player, write)),
        }
    }

    /// What becomes of the world once faults stop and time passes: every server beats or is seen dead, and reconcile looks
    /// until there is nothing to do. Then every player who is inside nowhere joins.
    pub fn settle(&self, scope: &Scope) -> Self {
        let mut world = self.clone();
        world.left = Left::default();
        for (n, ledger) in self.ledgers.iter().enumerate() {
            if world.process(small(n)) == Process::Starting {
                world.register(ledger, n);
            }
        }
        world.tick = FAR;
        let (now, current) = (world.now(), world.current());
        for (n, ledger) in (0..).zip(&self.ledgers) {
            if world.process(n) == Process::Up
                && let Answer::Written(beaten) =
                    world.write_ledger(&ledger.id, &LedgerWrite::Heartbeat { by: token(), now })
            {
                world.mend(&beaten);
            }
            world = world.alone(scope);
            for _ in 0..LOOKS_ALONE {
                let dead = world.process(n) == Process::Dead;
                let task_status = if dead { TaskStatus::Stopped } else { TaskStatus::Alive };
                let Some(image) = world.ledger(n) else { break };
                let write = match repair(image, current, task_status, now) {
                    Repair::Write(write) => write,
                    Repair::Stop(reason) => image.stop_for(reason, now),
                    _ => break,
                };
                drop(world.write_ledger(&ledger.id, &write));
            }
        }
        for player in 0..scope.players {
            if world.inside.iter().any(|inside| inside.player == player) {
                continue;
            }
            let mut begun = Vec::new();
            world.clone().begin(Self::join(scope, player), What::JoinBegins { player }, &mut begun);
            if let Some(first) = begun.into_iter().next() {
                world = first.to.alone(scope);
            }
        }
        world
    }

    /// Lets every call end that is on its way, one after the other, without faults.
    fn alone(mut self, scope: &Scope) -> Self {
        for _ in 0..CALLS_ALONE {
            let mut steps = Vec::new();
            self.flight(scope, 0, &mut steps);
            match steps.into_iter().next() {
                Some(step) => self = step.to,
                None => break,
            }
        }
        self
    }

    /// Whether the player has been told of a slot that is held now.
    pub fn was_told(&self, player: u8) -> bool {
        let promise = self.promises.get(usize::from(player)).copied().flatten();
        promise.is_some_and(|promise| self.now() < promise.until)
    }

    /// What happens, in words, with what the call was about to do.
    pub fn tell(&self, step: &Step) -> String {
        let flight = |n: u8| match self.flights.get(usize::from(n)).map(|flight| &**flight) {
            Some(Flight { call, at }) => format!("{}: {at:?}", call.name()),
            None => String::new(),
        };
        match step.what {
            What::Goes { flight: n } => flight(n),
            What::GoesAndAnswerIsLost { flight: n } => format!("(answer lost) {}", flight(n)),
            What::IsSentTwice { flight: n } => format!("(a second copy is on its way) {}", flight(n)),
            What::IsKilled { flight: n } => format!("(killed) {}", flight(n)),
            What::IsRepeatedWhileItRuns { flight: n } => format!("(repeated while it runs) {}", flight(n)),
            What::LateWriteLands { late } => format!("(late) {:?}", self.late.get(usize::from(late))),
            what => format!("{what:?}"),
        }
    }

    /// The table, and what each side believes.
    pub fn summary(&self) -> String {
        let ledgers = self.ledgers.iter().zip(&self.processes).map(|(ledger, process)| {
            format!(
                "{} {process:?} {:?} claims {:?} listed {:?}",
                ledger.id, ledger.state, ledger.claims, ledger.listed
            )
        });
        let ledgers = ledgers.collect::<Vec<_>>().join("; ");
        format!(
            "{ledgers}; seats {:?}; frontier {:?}; inside {:?}; told {:?}; now {:?}",
            self.seats,
            self.frontier,
            self.inside,
            self.promises,
            self.now()
        )
    }
}
