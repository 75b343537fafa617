//! Looking after the fleet, each minute: whatever a call that died, an event that was lost or a server that fell silent
//! has left behind is put right.
//!
//! 1. ECS is asked which tasks of ours run. That comes first: a server is in the table before its task is, so what ECS
//!    lists and the table does not have is an orphan. What it does not list says nothing about a server that is read later:
//!    whether that is missing, it is asked again.
//! 2. Pool by pool, each server on the roster gets what it needs ([`Ledger::next_repair`]), a few pages side by side. Of the roster
//!    only the ids are kept, and of the servers only what step 3 needs.
//! 3. Servers believed dead for their lapsed leases are stopped, unless so many have lapsed at once that it is more likely
//!    the table or the network. Free slots below the pool's headroom: servers are started ahead. Above it: idle servers
//!    drain, in one condition with their claims. Servers of an old build drain as the pool's roll-out says.
//! 4. Tasks that no server's current attempt stands for are stopped.
//!
//! Every step is a conditional write or a call that may be repeated, so two of these may run at once, and each may die at
//! any line: the next one goes on. Each begins at a pool and a server chosen at random, so where all of them die early
//! nobody is always last.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, stream};

use crate::{
    Failure, Owmm,
    domain::{
        Answer, Ledger, LedgerWrite, PoolStatus, PoolStatusWrite, Repair, ServerId, ServerState, Span, StopReason,
        TaskStatus, is_mass_lapse, servers_wanted,
    },
    launching::OurTask,
    metrics::{self, Outcome, Record},
    pool::Pool,
};

/// Servers that one look at a pool starts ahead at the most; the next look starts more.
const STARTS_AT_MOST: u32 = 20;
/// Servers whose ledgers are read at once.
const A_PAGE: usize = 100;
/// Pages that are looked after side by side.
const PAGES_AT_ONCE: usize = 4;
/// Calls about single servers that are made side by side, for each page.
const CALLS_AT_ONCE: usize = 8;

/// What one look at the fleet came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciled {
    /// Servers on the rosters.
    pub servers: usize,
    /// Players inside servers.
    pub players: usize,
    /// Slots that can be had, now or once their server is ready.
    pub free_slots: u64,
    /// Leases that had lapsed.
    pub lapsed: usize,
    /// Pools in which so many leases had lapsed at once that nobody was believed dead for it. An alarm.
    pub mass_lapses: usize,
    /// Pools that could not be looked after to the end.
    pub failed: usize,
    /// Launches that have failed in a row.
    pub launches_failed: u64,
    /// Pools in which launching is paused because launches have failed.
    pub launch_paused: usize,
    /// What was put right, by reason.
    pub repaired: BTreeMap<&'static str, u32>,
}

impl Reconciled {
    fn note(&mut self, what: &'static str) {
        *self.repaired.entry(what).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.servers += other.servers;
        self.players += other.players;
        self.free_slots += other.free_slots;
        self.lapsed += other.lapsed;
        self.mass_lapses += other.mass_lapses;
        self.failed += other.failed;
        self.launches_failed += other.launches_failed;
        self.launch_paused += other.launch_paused;
        for (what, often) in other.repaired {
            *self.repaired.entry(what).or_default() += often;
        }
    }

    /// In numbers.
    pub(crate) fn record(&self) -> Record {
        let repaired = self.repaired.values().sum::<u32>();
        let reasons = self.repaired.iter().map(|(what, often)| ((*what).to_owned(), (*often).into()));
        Record::new(Outcome::Ok)
            .with(metrics::SERVERS, self.servers as f64)
            .with(metrics::PLAYERS, self.players as f64)
            .with(metrics::FREE_SLOTS, self.free_slots as f64)
            .with(metrics::REPAIRED, repaired.into())
            .with(metrics::LAPSED_LEASES, self.lapsed as f64)
            .with(metrics::MASS_LAPSES, self.mass_lapses as f64)
            .with(metrics::FAILED_POOLS, self.failed as f64)
            .with(metrics::LAUNCHES_FAILED, self.launches_failed as f64)
            .with(metrics::LAUNCH_PAUSED, self.launch_paused as f64)
            .about(metrics::REASONS, reasons.collect::<serde_json::Map<_, _>>())
    }
}

/// ECS's view of one cluster; `None` if it did not answer.
type Tasks = Option<BTreeMap<String, OurTask>>;

/// ECS's view of the clusters where a pool's servers may run.
struct Running<'a>(Vec<&'a Tasks>);

impl Running<'_> {
    fn has(&self, arn: &str) -> bool {
        self.0.iter().copied().flatten().any(|tasks| tasks.contains_key(arn))
    }

    fn is_unknown(&self) -> bool {
        self.0.iter().all(|tasks| tasks.is_none())
    }
}

/// A server that is over.
struct Ending {
    server: ServerId,
    task: Option<String>,
    task_status: TaskStatus,
    reason: StopReason,
    write: LedgerWrite,
}

/// What is left of servers that have been looked after.
#[derive(Default)]
struct Seen {
    report: Reconciled,
    /// Which attempt is the current one of each.
    attempts: Vec<(ServerId, u32)>,
    /// Those that a lapsed lease alone calls dead.
    suspected: Vec<Ending>,
    /// Those that the pool may do without, with their slots.
    idle: Vec<(ServerId, u32, LedgerWrite)>,
    /// Those of an old build that nobody uses.
    outdated: Vec<(ServerId, LedgerWrite)>,
    /// What went wrong first. One server keeps the others from nothing.
    failure: Option<Failure>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.report.add(other.report);
        self.attempts.extend(other.attempts);
        self.suspected.extend(other.suspected);
        self.idle.extend(other.idle);
        self.outdated.extend(other.outdated);
        self.failure = self.failure.take().or(other.failure);
    }

    /// Whether something was put right, which came to this.
    fn done(&mut self, done: Result<Option<&'static str>, Failure>) {
        match done {
            Ok(what) => what.into_iter().for_each(|what| self.report.note(what)),
            Err(error) => {
                tracing::error!(%error, "a server was not looked after");
                self.failure.get_or_insert(error);
            }
        }
    }
}

impl Owmm {
    /// Looks after every pool once.
    ///
    /// # Errors
    /// The pools could not be read. A pool that fails is logged and counted, and the others go on.
    pub async fn reconcile(&self) -> Result<Reconciled, Failure> {
        let mut report = Reconciled::default();
        let mut pools = Vec::new();
        for pool in self.table().pools_that_read().await? {
            match pool {
                Ok(pool) => pools.push(pool),
                Err(error) => {
                    tracing::error!(%error, "a pool's configuration cannot be read");
                    report.failed += 1;
                }
            }
        }
        let first = self.rng().below(pools.len());
        pools.rotate_left(first);
        let mut clusters = BTreeMap::<&str, Tasks>::new();
        for cluster in pools.iter().flat_map(Pool::clusters) {
            if !clusters.contains_key(cluster) {
                clusters.insert(cluster, self.launcher().tasks(cluster).await);
            }
        }
        let mut attempts = HashMap::new();
        for pool in &pools {
            let running = Running(pool.clusters().filter_map(|cluster| clusters.get(cluster)).collect());
            let mut seen = Seen::default();
            let looked = self.reconcile_pool(pool, &running, &mut seen).await;
            if let Some(error) = looked.err().or(seen.failure) {
                tracing::error!(pool = %pool.name, %error, "a pool was not looked after to the end");
                seen.report.failed += 1;
            }
            let Reconciled { servers, players, free_slots, lapsed, repaired, .. } = &seen.report;
            tracing::info!(pool = %pool.name, servers, players, free_slots, lapsed, ?repaired, "looked after");
            attempts.extend(seen.attempts);
            report.add(seen.report);
        }
        let tasks =
            clusters.iter().flat_map(|(cluster, tasks)| tasks.iter().flatten().map(move |task| (*cluster, task)));
        let stops =
            tasks.map(|(cluster, (arn, task))| self.stop_orphan(cluster, arn, task, &attempts)).collect::<Vec<_>>();
        let mut stops = stream::iter(stops).buffer_unordered(CALLS_AT_ONCE);
        while let Some(stopped) = stops.next().await {
            match stopped {
                Ok(true) => report.note("orphan_task"),
                Ok(false) => {}
                // The next look asks again.
                Err(error) => tracing::error!(%error, "nobody knows whether a task is an orphan"),
            }
        }
        drop(stops);
        let Reconciled { servers, lapsed, mass_lapses, failed, repaired, .. } = &report;
        tracing::info!(servers, lapsed, mass_lapses, failed, ?repaired, "reconciled");
        Ok(report)
    }

    /// Stops a task in which no server's current attempt runs.
    async fn stop_orphan(
        &self,
        cluster: &str,
        arn: &str,
        task: &OurTask,
        attempts: &HashMap<ServerId, u32>,
    ) -> Result<bool, Failure> {
        let orphan = match attempts.get(&task.server) {
            Some(attempt) => task.attempt < *attempt,
            // On no roster: stopped, or gone, unless it has come since.
            None => {
                let ledger = self.table().ledger(&task.server).await?;
                ledger.is_none_or(|ledger| ledger.state == ServerState::Stopped || task.attempt < ledger.attempt)
            }
        };
        if orphan {
            self.launcher().stop_task(cluster, arn, "no server's current attempt runs in it").await;
        }
        Ok(orphan)
    }

    async fn reconcile_pool(&self, pool: &Pool, running: &Running<'_>, seen: &mut Seen) -> Result<(), Failure> {
        let status = self.table().pool_status(&pool.name).await?;
        seen.report.launches_failed = status.failures.into();
        seen.report.launch_paused = status.backoff_until.is_some_and(|until| until > self.time()).into();
        let mut roster = Vec::new();
        let mut from = None;
        loop {
            let (page, next) = self.table().roster(&pool.name, from).await?;
            roster.extend(page);
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        seen.report.servers = roster.len();
        let first = self.rng().below(roster.len());
        roster.rotate_left(first);
        let pages = roster.chunks(A_PAGE).map(|page| self.repair_page(pool, running, page)).collect::<Vec<_>>();
        let mut pages = stream::iter(pages).buffer_unordered(PAGES_AT_ONCE);
        while let Some(page) = pages.next().await {
            seen.add(page?);
        }
        drop(pages);

        let lapsed = seen.report.lapsed;
        if is_mass_lapse(lapsed, roster.len()) {
            tracing::error!(pool = %pool.name, lapsed, servers = roster.len(), "mass lapse: nobody is believed dead for it");
            seen.report.mass_lapses = 1;
        } else {
            let ends = std::mem::take(&mut seen.suspected);
            let ends = ends.into_iter().map(|ending| self.end(pool, ending)).collect::<Vec<_>>();
            let mut ends = stream::iter(ends).buffer_unordered(CALLS_AT_ONCE);
            while let Some(ended) = ends.next().await {
                seen.done(ended);
            }
        }
        let quiet = seen.report.repaired.is_empty() && seen.failure.is_none();
        let free = u32::try_from(seen.report.free_slots).unwrap_or(u32::MAX);
        let grown = self.grow(pool, status.clone(), free, &mut seen.report).await;
        let shrunk = self.shrink(pool, free, seen).await;
        let retired = self.retire_frontiers(pool).await;
        grown.and(shrunk).and(retired)?;
        if status.live as usize != roster.len() && quiet && seen.report.repaired.is_empty() {
            // Only if no server has come or gone since before the roster was read.
            let live = u32::try_from(roster.len()).unwrap_or(u32::MAX);
            let recount = PoolStatusWrite::Recount { changes: status.changes, live };
            if let Answer::Written(_) = self.table().write_pool_status(&pool.name, &recount).await? {
                seen.report.note("recounted");
            }
        }
        Ok(())
    }

    /// Looks after some servers of a pool.
    async fn repair_page(&self, pool: &Pool, running: &Running<'_>, page: &[ServerId]) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        // Before anything is read: a lease that is over by then was over when it was read.
        let now = self.time();
        let mut ledgers = self.table().ledgers(page).await?;
        let found = ledgers.iter().map(|ledger| ledger.id.clone()).collect::<HashSet<_>>();
        for unread in page.iter().filter(|id| !found.contains(*id)) {
            // Too new for that read, or deleted by its time to live before anybody counted it out.
            match self.table().ledger(unread).await {
                Ok(Some(new)) => ledgers.push(new),
                Ok(None) => {
                    let counted_out = self.launcher().count_out(&pool.name, unread, false).await;
                    seen.done(counted_out.map(|()| Some("gone")).map_err(Failure::from));
                }
                Err(error) => seen.done(Err(error.into())),
            }
        }
        let task_statuses = self.task_statuses(pool, running, &ledgers).await;
        let mut repairs = Vec::new();
        for ledger in &ledgers {
            let task_status = match &ledger.task {
                Some(task) => task_statuses.get(task).copied().unwrap_or(TaskStatus::Unknown),
                // What ECS listed is older than the ledger: this server may have started since.
                None if ledger.has_lapsed(now) => self.status_of_unrecorded(ledger).await.unwrap_or_else(|error| {
                    seen.done(Err(error));
                    TaskStatus::Unknown
                }),
                None => TaskStatus::Unknown,
            };
            let repair = ledger.next_repair(pool.current(), task_status, now);
            seen.attempts.push((ledger.id.clone(), ledger.attempt));
            let lapsed = ledger.has_lapsed(now);
            seen.report.lapsed += usize::from(lapsed);
            seen.report.players += ledger.connected();
            let stays = !matches!(repair, Repair::CountOut | Repair::Stop(_));
            if stays && ledger.build < pool.build {
                // The headroom is for the new build to give, and an old one goes as soon as it is empty.
                seen.outdated.extend(ledger.scale_in(Span(0), now).map(|write| (ledger.id.clone(), write)));
            } else if stays {
                seen.report.free_slots += u64::from(ledger.free_slots(now));
                // One that has lapsed is nobody's room, so doing without it costs none.
                let idle = ledger.scale_in(pool.limits.idle, now).filter(|_| !lapsed);
                seen.idle.extend(idle.map(|write| (ledger.id.clone(), ledger.capacity, write)));
            }
            match repair {
                Repair::None => {}
                Repair::Stop(reason) if ledger.is_only_suspected(reason, now) => {
                    seen.suspected.push(ending(ledger, task_status, reason, now));
                }
                repair => repairs.push(self.take_care(pool, ledger, repair, task_status)),
            }
        }
        let mut repairs = stream::iter(repairs).buffer_unordered(CALLS_AT_ONCE);
        while let Some(done) = repairs.next().await {
            seen.done(done);
        }
        Ok(seen)
    }

    /// What ECS says of the task of a server that has registered, where whoever started it died before it was on record. The
    /// pool is read anew: it may have moved since, and this server may have started where it is now.
    async fn status_of_unrecorded(&self, ledger: &Ledger) -> Result<TaskStatus, Failure> {
        let Some(pool) = self.table().pool(&ledger.pool).await? else { return Ok(TaskStatus::Unknown) };
        Ok(self.launcher().status_of_unrecorded(ledger, pool.clusters()).await)
    }

    /// What ECS says of each ledger's task.
    async fn task_statuses(
        &self,
        pool: &Pool,
        running: &Running<'_>,
        ledgers: &[Ledger],
    ) -> HashMap<String, TaskStatus> {
        if running.is_unknown() {
            return HashMap::new();
        }
        let (alive, unsure) = ledgers
            .iter()
            .filter(|ledger| ledger.state != ServerState::Stopped)
            .filter_map(|ledger| ledger.task.clone())
            .partition::<Vec<_>, _>(|task| running.has(task));
        let mut task_statuses = self.launcher().task_statuses(&pool.task.cluster, &unsure).await;
        task_statuses.extend(alive.into_iter().map(|task| (task, TaskStatus::Alive)));
        task_statuses
    }

    /// Does what a server needs; what was put right, if it was.
    async fn take_care(
        &self,
        pool: &Pool,
        ledger: &Ledger,
        repair: Repair,
        task_status: TaskStatus,
    ) -> Result<Option<&'static str>, Failure> {
        Ok(match repair {
            Repair::None => None,
            Repair::CountOut => {
                self.launcher().count_out(&pool.name, &ledger.id, ledger.never_registered()).await?;
                Some("counted_out")
            }
            Repair::Launch => {
                self.launcher().advance_launch(ledger).await?;
                Some("launch")
            }
            Repair::NextAttempt => {
                self.launcher().failed(ledger).await?;
                Some("next_attempt")
            }
            Repair::Stop(reason) => self.end(pool, ending(ledger, task_status, reason, self.time())).await?,
            Repair::Write(write) => match self.table().write_ledger(&ledger.id, &write).await? {
                Answer::Refused(_) => None,
                Answer::Written(_) => match write {
                    LedgerWrite::Sweep { .. } => Some("expired_claims"),
                    LedgerWrite::List { .. } | LedgerWrite::Unlist { .. } => Some("listing"),
                    LedgerWrite::Retire => Some("outdated"),
                    // A note for the next look, not a repair.
                    _ => None,
                },
            },
        })
    }

    /// Ends a server: first its ledger, so that nobody else is sent to it, then the count, then its task.
    async fn end(&self, pool: &Pool, ending: Ending) -> Result<Option<&'static str>, Failure> {
        let Ending { server, task, task_status, reason, write } = ending;
        let ended = match self.table().write_ledger(&server, &write).await? {
            Answer::Written(_) => {
                tracing::warn!(%server, reason = reason.as_str(), "server stopped");
                Some(reason.as_str())
            }
            // It has beaten, or somebody has come: it lives.
            Answer::Refused(Some(ledger)) if ledger.state != ServerState::Stopped => return Ok(None),
            Answer::Refused(_) => None,
        };
        self.launcher().count_out(&pool.name, &server, false).await?;
        if let (TaskStatus::Alive | TaskStatus::Unknown, Some(arn)) = (task_status, &task) {
            self.launcher().stop_task(&pool.task.cluster, arn, reason.as_str()).await;
        }
        Ok(ended)
    }

    /// Starts servers until the headroom is there, or will be. `fleet` is as it was before the servers were looked at: if
    /// somebody else has started one since, the next look counts again.
    async fn grow(
        &self,
        pool: &Pool,
        mut status: PoolStatus,
        free: u32,
        report: &mut Reconciled,
    ) -> Result<(), Failure> {
        for _ in 0..servers_wanted(&pool.limits, free).min(STARTS_AT_MOST) {
            let allowed = status.no_launch(pool.limits.max_servers, self.time()).is_none();
            if !allowed || self.launcher().start_ahead(pool, &status).await?.is_none() {
                break;
            }
            status.live = status.live.saturating_add(1);
            status.changes = status.changes.saturating_add(1);
            report.note("started_ahead");
        }
        Ok(())
    }

    /// Drains servers of an old build that nobody uses, and idle ones as long as the headroom is there without them.
    async fn shrink(&self, pool: &Pool, mut free: u32, seen: &mut Seen) -> Result<(), Failure> {
        let mut drains = std::mem::take(&mut seen.outdated)
            .into_iter()
            .map(|(server, write)| (server, write, "outdated"))
            .collect::<Vec<_>>();
        // In one order for all who look at the same moment, so that two of them do not do without different ones.
        let mut idle = std::mem::take(&mut seen.idle);
        idle.sort_by(|(one, ..), (another, ..)| one.cmp(another));
        for (server, capacity, write) in idle {
            if let Some(left) = free.checked_sub(capacity).filter(|left| *left >= pool.limits.headroom) {
                // Should the drain be refused, somebody has taken the room.
                free = left;
                drains.push((server, write, "idle"));
            }
        }
        let drains = drains.into_iter().map(async |(server, write, why)| {
            let answer = self.table().write_ledger(&server, &write).await?;
            Ok(matches!(answer, Answer::Written(_)).then(|| {
                tracing::info!(%server, pool = %pool.name, why, "a server without players drains");
                why
            }))
        });
        let mut drains = stream::iter(drains.collect::<Vec<_>>()).buffer_unordered(CALLS_AT_ONCE);
        while let Some(drained) = drains.next().await {
            seen.done(drained);
        }
        Ok(())
    }
}

fn ending(ledger: &Ledger, task_status: TaskStatus, reason: StopReason, now: crate::domain::Time) -> Ending {
    let write = ledger.stop_for(reason, now);
    Ending { server: ledger.id.clone(), task: ledger.task.clone(), task_status, reason, write }
}
