//! The reconcile run, once a minute: repairs what failed calls, lost events and silent servers have left behind.
//!
//! 1. Lists the tasks of this table that ECS runs. This step comes first: a server is in the table before its task
//!    starts, so a task that ECS lists and that no ledger names is an orphan. The reverse proves nothing, because a
//!    server may start after the list: before a task counts as missing, ECS is asked about that task again.
//! 2. For each pool, performs the next repair of each server on the roster ([`Ledger::next_repair`]), several pages in
//!    parallel. Of the roster only the ids are kept in memory, and of the servers only what step 3 needs.
//! 3. Stops servers that are suspected dead because their leases have lapsed. If so many leases have lapsed at once
//!    that the table or the network is the likelier cause, none is stopped. If a pool has fewer free slots than its
//!    headroom, starts servers ahead of demand. If it has more, drains idle servers; one condition covers the idle time
//!    and the claims. Drains servers of an old build as the pool's rollout demands.
//! 4. Stops orphans: tasks that do not belong to the current attempt of any server.
//!
//! Every step is a conditional write or a repeatable call. So two runs may overlap, and a run may die at any line: the
//! next one continues. Each run begins at a random pool and a random server, so that runs which all die early still
//! reach every server in time.

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

/// Most servers that one run starts ahead of demand per pool; the next run starts more.
const STARTS_AT_MOST: u32 = 20;
/// Servers of a roster whose ledgers are read together.
const PAGE_SIZE: usize = 100;
/// Pages that are repaired in parallel.
const PAGES_AT_ONCE: usize = 4;
/// Calls about single servers that run in parallel, per page.
const CALLS_AT_ONCE: usize = 8;

/// The result of one reconcile run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciled {
    /// Servers on the rosters.
    pub servers: usize,
    /// Connected players.
    pub players: usize,
    /// Free slots, on ready servers and on starting ones.
    pub free_slots: u64,
    /// Servers whose leases had lapsed.
    pub lapsed: usize,
    /// Pools in which so many leases had lapsed at once that no server was stopped for it. More than 0 is an alarm.
    pub mass_lapses: usize,
    /// Pools that could not be reconciled completely.
    pub failed: usize,
    /// Launches that have failed in a row.
    pub launches_failed: u64,
    /// Pools in which launching is paused because launches have failed.
    pub launch_paused: usize,
    /// Number of repairs, by reason.
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

    /// Converts the result to metrics.
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

/// Tasks that ECS runs in one cluster, by ARN; `None` if ECS did not answer.
type Tasks = Option<BTreeMap<String, OurTask>>;

/// Tasks that ECS runs in the clusters of one pool.
struct Running<'a>(Vec<&'a Tasks>);

impl Running<'_> {
    fn has(&self, arn: &str) -> bool {
        self.0.iter().copied().flatten().any(|tasks| tasks.contains_key(arn))
    }

    fn is_unknown(&self) -> bool {
        self.0.iter().all(|tasks| tasks.is_none())
    }
}

/// A server that is to be stopped, and the write that stops it.
struct Ending {
    server: ServerId,
    task: Option<String>,
    task_status: TaskStatus,
    reason: StopReason,
    write: LedgerWrite,
}

/// What repairing a page, or a whole pool, has found.
#[derive(Default)]
struct Seen {
    report: Reconciled,
    /// The current attempt of each server.
    attempts: Vec<(ServerId, u32)>,
    /// Servers that are suspected dead only because their leases have lapsed.
    suspected: Vec<Ending>,
    /// Idle servers that the pool may drain, with their slots.
    idle: Vec<(ServerId, u32, LedgerWrite)>,
    /// Servers of an old build without a claim.
    outdated: Vec<(ServerId, LedgerWrite)>,
    /// The first failure. A failure at one server does not keep the run from repairing the others.
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

    /// Records the outcome of one repair: its reason, if something was repaired, or its failure.
    fn done(&mut self, done: Result<Option<&'static str>, Failure>) {
        match done {
            Ok(what) => what.into_iter().for_each(|what| self.report.note(what)),
            Err(error) => {
                tracing::error!(%error, "reconcile: repair of a server failed");
                self.failure.get_or_insert(error);
            }
        }
    }
}

impl Owmm {
    /// Reconciles every pool once.
    ///
    /// # Errors
    /// The list of pools could not be read. If a single pool fails, the failure is logged and counted, and the run
    /// continues.
    pub async fn reconcile(&self) -> Result<Reconciled, Failure> {
        let mut report = Reconciled::default();
        let mut pools = Vec::new();
        for pool in self.table().pools_that_read().await? {
            match pool {
                Ok(pool) => pools.push(pool),
                Err(error) => {
                    tracing::error!(%error, "reconcile: configuration of a pool cannot be read");
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
            let done = self.reconcile_pool(pool, &running, &mut seen).await;
            if let Some(error) = done.err().or(seen.failure) {
                tracing::error!(pool = %pool.name, %error, "reconcile: pool not finished");
                seen.report.failed += 1;
            }
            let Reconciled { servers, players, free_slots, lapsed, repaired, .. } = &seen.report;
            let name = &pool.name;
            tracing::info!(pool = %name, servers, players, free_slots, lapsed, ?repaired, "reconcile: pool counted");
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
                // The next run checks the task again.
                Err(error) => tracing::error!(%error, "reconcile: cannot tell whether a task is an orphan"),
            }
        }
        drop(stops);
        let Reconciled { servers, lapsed, mass_lapses, failed, repaired, .. } = &report;
        tracing::info!(servers, lapsed, mass_lapses, failed, ?repaired, "reconcile: finished");
        Ok(report)
    }

    /// Stops a task that does not belong to its server's current attempt. True if the task was such an orphan.
    async fn stop_orphan(
        &self,
        cluster: &str,
        arn: &str,
        task: &OurTask,
        attempts: &HashMap<ServerId, u32>,
    ) -> Result<bool, Failure> {
        let orphan = match attempts.get(&task.server) {
            Some(attempt) => task.attempt < *attempt,
            // The server is on no roster: it is stopped or deleted, unless it was started after the roster was read.
            None => {
                let ledger = self.table().ledger(&task.server).await?;
                ledger.is_none_or(|ledger| ledger.state == ServerState::Stopped || task.attempt < ledger.attempt)
            }
        };
        if orphan {
            self.launcher().stop_task(cluster, arn, "it does not belong to the current attempt of any server").await;
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
        let pages = roster.chunks(PAGE_SIZE).map(|page| self.repair_page(pool, running, page)).collect::<Vec<_>>();
        let mut pages = stream::iter(pages).buffer_unordered(PAGES_AT_ONCE);
        while let Some(page) = pages.next().await {
            seen.add(page?);
        }
        drop(pages);

        let lapsed = seen.report.lapsed;
        if is_mass_lapse(lapsed, roster.len()) {
            let servers = roster.len();
            tracing::error!(pool = %pool.name, lapsed, servers, "reconcile: mass lapse: too many leases lapsed at once, so none of them stops a server");
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
            // The condition fails if a server was counted in or out since before the roster was read.
            let live = u32::try_from(roster.len()).unwrap_or(u32::MAX);
            let recount = PoolStatusWrite::Recount { changes: status.changes, live };
            if let Answer::Written(_) = self.table().write_pool_status(&pool.name, &recount).await? {
                seen.report.note("recounted");
            }
        }
        Ok(())
    }

    /// Repairs one page of a pool's servers.
    async fn repair_page(&self, pool: &Pool, running: &Running<'_>, page: &[ServerId]) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        // Taken before the ledgers are read: a lease that has lapsed by this time had lapsed when it was read.
        let now = self.time();
        let mut ledgers = self.table().ledgers(page).await?;
        let found = ledgers.iter().map(|ledger| ledger.id.clone()).collect::<HashSet<_>>();
        for unread in page.iter().filter(|id| !found.contains(*id)) {
            // The ledger is too new for that read, or DynamoDB deleted it before the server was counted out.
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
                // The list of tasks is older than this ledger, and the server may have started in between: ask ECS
                // again.
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
                // Only servers of the new build count as headroom, and an old one drains as soon as it is empty.
                seen.outdated.extend(ledger.scale_in(Span(0), now).map(|write| (ledger.id.clone(), write)));
            } else if stays {
                seen.report.free_slots += u64::from(ledger.free_slots(now));
                // A server whose lease has lapsed offers no room, so draining it would not reduce the free slots.
                let idle = ledger.scale_in(pool.limits.idle, now).filter(|_| !lapsed);
                seen.idle.extend(idle.map(|write| (ledger.id.clone(), ledger.capacity, write)));
            }
            match repair {
                Repair::None => {}
                Repair::Stop(reason) if ledger.is_only_suspected(reason, now) => {
                    seen.suspected.push(ending(ledger, task_status, reason, now));
                }
                repair => repairs.push(self.repair(pool, ledger, repair, task_status)),
            }
        }
        let mut repairs = stream::iter(repairs).buffer_unordered(CALLS_AT_ONCE);
        while let Some(done) = repairs.next().await {
            seen.done(done);
        }
        Ok(seen)
    }

    /// Asks ECS about the task of a registered server whose ledger names no task, because its starter died before
    /// recording it.
    ///
    /// The pool is read again: it may have moved to another cluster since, and this server may run there.
    async fn status_of_unrecorded(&self, ledger: &Ledger) -> Result<TaskStatus, Failure> {
        let Some(pool) = self.table().pool(&ledger.pool).await? else { return Ok(TaskStatus::Unknown) };
        Ok(self.launcher().status_of_unrecorded(ledger, pool.clusters()).await)
    }

    /// Returns the status of each ledger's task, as ECS reports it.
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

    /// Performs one repair of a server. Returns the reason under which it is counted, or `None` if nothing was
    /// repaired.
    async fn repair(
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
                    // A note for the next run, such as the start of the idle time: not a repair.
                    _ => None,
                },
            },
        })
    }

    /// Stops a server: first its ledger, so that it takes no more players, then the pool's count, then its task.
    async fn end(&self, pool: &Pool, ending: Ending) -> Result<Option<&'static str>, Failure> {
        let Ending { server, task, task_status, reason, write } = ending;
        let ended = match self.table().write_ledger(&server, &write).await? {
            Answer::Written(_) => {
                tracing::warn!(%server, reason = reason.as_str(), "reconcile: stopped server");
                Some(reason.as_str())
            }
            // Refused because a heartbeat or a claim came in between: the server is alive.
            Answer::Refused(Some(ledger)) if ledger.state != ServerState::Stopped => return Ok(None),
            Answer::Refused(_) => None,
        };
        self.launcher().count_out(&pool.name, &server, false).await?;
        if let (TaskStatus::Alive | TaskStatus::Unknown, Some(arn)) = (task_status, &task) {
            self.launcher().stop_task(&pool.task.cluster, arn, reason.as_str()).await;
        }
        Ok(ended)
    }

    /// Starts servers until free and starting slots make up the headroom.
    ///
    /// `status` was read before the roster. If another call has started a server since, the write is refused, and the
    /// next run counts again.
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

    /// Drains unused servers of an old build, and idle servers as long as the remaining ones make up the headroom.
    async fn shrink(&self, pool: &Pool, mut free: u32, seen: &mut Seen) -> Result<(), Failure> {
        let mut drains = std::mem::take(&mut seen.outdated)
            .into_iter()
            .map(|(server, write)| (server, write, "outdated"))
            .collect::<Vec<_>>();
        // Sorted, so that two runs at the same time drain the same servers and not different ones.
        let mut idle = std::mem::take(&mut seen.idle);
        idle.sort_by(|(one, ..), (another, ..)| one.cmp(another));
        for (server, capacity, write) in idle {
            if let Some(left) = free.checked_sub(capacity).filter(|left| *left >= pool.limits.headroom) {
                // If the drain is refused, a player has claimed a slot there, so those slots are not free either way.
                free = left;
                drains.push((server, write, "idle"));
            }
        }
        let drains = drains.into_iter().map(async |(server, write, why)| {
            let answer = self.table().write_ledger(&server, &write).await?;
            Ok(matches!(answer, Answer::Written(_)).then(|| {
                tracing::info!(%server, pool = %pool.name, why, "reconcile: draining server without players");
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

/// Prepares the stop of a server.
fn ending(ledger: &Ledger, task_status: TaskStatus, reason: StopReason, now: crate::domain::Time) -> Ending {
    let write = ledger.stop_for(reason, now);
    Ending { server: ledger.id.clone(), task: ledger.task.clone(), task_status, reason, write }
}
