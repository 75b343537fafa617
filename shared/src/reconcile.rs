//! Looking after the fleet, each minute: whatever a call that died, an event that was lost or a server that fell silent
//! has left behind is put right.
//!
//! 1. ECS is asked which tasks of ours run. That comes first: a server is in the table before its task is, so what ECS
//!    lists and the table does not have is an orphan.
//! 2. Pool by pool, page by page, each server on the roster gets what it needs ([`Ledger::care`]).
//! 3. Free slots below the pool's headroom: servers are started ahead. Above it: idle servers drain, in one condition with
//!    their claims. Servers of an old build drain as the pool's roll-out says.
//! 4. Tasks that no server's current attempt stands for are stopped.
//!
//! Every step is a conditional write or a call that may be repeated, so two of these may run at once, and each may die at
//! any line: the next one goes on. If too many leases have lapsed at once, lapses are not believed at all.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Failure, Owmm,
    domain::{
        Answer, Care, Fleet, FleetWrite, Ledger, LedgerWrite, Pool, Reason, ServerId, ServerState, Span, StopBy,
        TaskSight, is_mass_lapse, servers_wanted,
    },
    launching::OurTask,
};

/// Servers that one look at a pool starts ahead at the most; the next look starts more.
const STARTS_AT_MOST: u32 = 20;

/// What one look at the fleet came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciled {
    /// Servers on the rosters.
    pub servers: usize,
    /// Leases that had lapsed.
    pub lapsed: usize,
    /// Pools in which so many leases had lapsed at once that nobody was believed dead for it. An alarm.
    pub mass_lapses: usize,
    /// Pools that could not be looked after to the end.
    pub failed: usize,
    /// What was put right, by reason.
    pub repaired: BTreeMap<&'static str, u32>,
}

impl Reconciled {
    fn note(&mut self, what: &'static str) {
        *self.repaired.entry(what).or_default() += 1;
    }
}

/// ECS's view of one cluster; `None` if it did not answer.
type Tasks = Option<HashMap<String, OurTask>>;

impl Owmm {
    /// Looks after every pool once.
    ///
    /// # Errors
    /// The pools could not be read. A pool that fails is logged and counted, and the others go on.
    pub async fn reconcile(&self) -> Result<Reconciled, Failure> {
        let mut report = Reconciled::default();
        let pools = self.table().pools().await?;
        let mut clusters = HashMap::<&str, Tasks>::new();
        for pool in &pools {
            let cluster = pool.task.cluster.as_str();
            if !clusters.contains_key(cluster) {
                clusters.insert(cluster, self.launcher().tasks(cluster).await);
            }
        }
        let mut current = HashMap::new();
        for pool in &pools {
            let tasks = clusters.get(pool.task.cluster.as_str()).unwrap_or(&None);
            if let Err(error) = self.reconcile_pool(pool, tasks, &mut current, &mut report).await {
                tracing::error!(pool = %pool.name, %error, "a pool was not looked after to the end");
                report.failed += 1;
            }
        }
        for (cluster, tasks) in clusters {
            for (arn, task) in tasks.into_iter().flatten() {
                if self.is_orphan(&task, &current).await? {
                    self.launcher().stop_task(cluster, &arn, "no server's current attempt runs in it").await;
                    report.note("orphan_task");
                }
            }
        }
        let Reconciled { servers, lapsed, mass_lapses, failed, repaired } = &report;
        tracing::info!(servers, lapsed, mass_lapses, failed, ?repaired, "reconciled");
        Ok(report)
    }

    async fn is_orphan(&self, task: &OurTask, current: &HashMap<ServerId, u32>) -> Result<bool, Failure> {
        if let Some(attempt) = current.get(&task.server) {
            return Ok(task.attempt < *attempt);
        }
        // On no roster: stopped, or gone, unless it has come since.
        let ledger = self.table().ledger(&task.server).await?;
        Ok(ledger.is_none_or(|ledger| ledger.state == ServerState::Stopped || task.attempt < ledger.attempt))
    }

    async fn reconcile_pool(
        &self,
        pool: &Pool,
        tasks: &Tasks,
        current: &mut HashMap<ServerId, u32>,
        report: &mut Reconciled,
    ) -> Result<(), Failure> {
        let before = report.repaired.clone();
        let fleet = self.table().fleet(&pool.name).await?;
        let mut ledgers = Vec::new();
        let (mut roster, mut from) = (0, None);
        loop {
            let (page, next) = self.table().roster(&pool.name, from).await?;
            let found = self.table().ledgers(&page).await?;
            roster += page.len();
            for gone in page.iter().filter(|id| !found.iter().any(|ledger| ledger.id == **id)) {
                // Deleted by its time to live before anybody counted it out, or too new for this read.
                if self.table().ledger(gone).await?.is_none() {
                    self.launcher().count_out(&pool.name, gone, false).await?;
                    report.note("gone");
                }
            }
            ledgers.extend(found);
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        report.servers += roster;
        current.extend(ledgers.iter().map(|ledger| (ledger.id.clone(), ledger.attempt)));

        let now = self.time();
        let lapsed = ledgers.iter().filter(|ledger| ledger.has_lapsed(now)).count();
        report.lapsed += lapsed;
        let believe_lapses = !is_mass_lapse(lapsed, ledgers.len());
        if !believe_lapses {
            tracing::error!(pool = %pool.name, lapsed, servers = ledgers.len(), "mass lapse: nobody is believed dead for it");
            report.mass_lapses += 1;
        }
        let sights = self.sights(pool, tasks, &ledgers).await;
        let mut free = 0_u32;
        let (mut idle, mut outdated) = (Vec::new(), Vec::new());
        for ledger in &ledgers {
            let task = ledger.task.as_ref().and_then(|task| sights.get(task)).copied().unwrap_or(TaskSight::Unknown);
            let care = ledger.care(pool, task, believe_lapses, self.time());
            let stays = !matches!(care, Care::CountOut | Care::Stop(_));
            if stays && ledger.generation < pool.generation {
                // The headroom is for the new build to give, and an old one goes as soon as it is empty.
                outdated.extend(ledger.scale_in(Span(0), now).map(|write| (ledger, write)));
            } else if stays {
                free = free.saturating_add(ledger.free_slots(now));
                idle.extend(ledger.scale_in(pool.limits.idle, now).map(|write| (ledger, write)));
            }
            self.take_care(pool, ledger, care, task, report).await?;
        }
        self.grow(pool, fleet.clone(), free, report).await?;
        self.shrink(pool, free, idle, report).await?;
        for (ledger, write) in outdated {
            if let Answer::Written(_) = self.table().write_ledger(&ledger.id, &write).await? {
                tracing::info!(server = %ledger.id, pool = %pool.name, "an empty server of an old build drains");
                report.note("outdated");
            }
        }
        self.retire_frontiers(pool).await?;
        if fleet.live as usize != roster && report.repaired == before {
            // Only if the count is still as it was before the roster was read, and nothing was changed here since.
            let live = u32::try_from(roster).unwrap_or(u32::MAX);
            let recount = FleetWrite::Recount { was: fleet.live, live };
            if let Answer::Written(_) = self.table().write_fleet(&pool.name, &recount).await? {
                report.note("recounted");
            }
        }
        Ok(())
    }

    /// What ECS says of each ledger's task.
    async fn sights(&self, pool: &Pool, tasks: &Tasks, ledgers: &[Ledger]) -> HashMap<String, TaskSight> {
        let Some(tasks) = tasks else { return HashMap::new() };
        let (alive, unsure) = ledgers
            .iter()
            .filter(|ledger| ledger.state != ServerState::Stopped)
            .filter_map(|ledger| ledger.task.clone())
            .partition::<Vec<_>, _>(|task| tasks.contains_key(task));
        let mut sights = self.launcher().sights(&pool.task.cluster, &unsure).await;
        sights.extend(alive.into_iter().map(|task| (task, TaskSight::Alive)));
        sights
    }

    async fn take_care(
        &self,
        pool: &Pool,
        ledger: &Ledger,
        care: Care,
        task: TaskSight,
        report: &mut Reconciled,
    ) -> Result<(), Failure> {
        match care {
            Care::None => {}
            Care::CountOut => {
                self.launcher().count_out(&pool.name, &ledger.id, false).await?;
                report.note("counted_out");
            }
            Care::Launch => {
                self.launcher().tend(ledger).await?;
                report.note("launch");
            }
            Care::NextAttempt => {
                self.launcher().failed(ledger).await?;
                report.note("next_attempt");
            }
            Care::Stop(reason) => self.stop_server(pool, ledger, reason, task, report).await?,
            Care::Write(write) => {
                if let Answer::Written(_) = self.table().write_ledger(&ledger.id, &write).await? {
                    match write {
                        LedgerWrite::Sweep { .. } => report.note("expired_claims"),
                        LedgerWrite::List { .. } | LedgerWrite::Unlist { .. } => report.note("listing"),
                        LedgerWrite::Drain { .. } => report.note("outdated"),
                        // A note for the next look, not a repair.
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn stop_server(
        &self,
        pool: &Pool,
        ledger: &Ledger,
        reason: Reason,
        task: TaskSight,
        report: &mut Reconciled,
    ) -> Result<(), Failure> {
        let stop = LedgerWrite::Stop { by: StopBy::Attempt(ledger.attempt), now: self.time() };
        if let Answer::Written(_) = self.table().write_ledger(&ledger.id, &stop).await? {
            tracing::warn!(server = %ledger.id, reason = reason.as_str(), "server stopped");
            report.note(reason.as_str());
        }
        self.launcher().count_out(&pool.name, &ledger.id, false).await?;
        if let (TaskSight::Alive | TaskSight::Unknown, Some(arn)) = (task, &ledger.task) {
            self.launcher().stop_task(&pool.task.cluster, arn, reason.as_str()).await;
        }
        Ok(())
    }

    /// Starts servers until the headroom is there, or will be. `fleet` is as it was before the servers were looked at: if
    /// somebody else has started one since, the next look counts again.
    async fn grow(&self, pool: &Pool, mut fleet: Fleet, free: u32, report: &mut Reconciled) -> Result<(), Failure> {
        for _ in 0..servers_wanted(&pool.limits, free).min(STARTS_AT_MOST) {
            let allowed = fleet.no_launch(pool.limits.max_servers, self.time()).is_none();
            if !allowed || self.launcher().start_ahead(pool, &fleet).await?.is_none() {
                break;
            }
            fleet.live = fleet.live.saturating_add(1);
            report.note("started_ahead");
        }
        Ok(())
    }

    /// Drains servers that are idle, as long as the headroom is there without them.
    async fn shrink(
        &self,
        pool: &Pool,
        mut free: u32,
        idle: Vec<(&Ledger, LedgerWrite)>,
        report: &mut Reconciled,
    ) -> Result<(), Failure> {
        for (ledger, write) in idle {
            let Some(left) = free.checked_sub(ledger.capacity).filter(|left| *left >= pool.limits.headroom) else {
                continue;
            };
            if let Answer::Written(_) = self.table().write_ledger(&ledger.id, &write).await? {
                tracing::info!(server = %ledger.id, pool = %pool.name, "an idle server drains");
                report.note("idle");
                free = left;
            }
        }
        Ok(())
    }
}
