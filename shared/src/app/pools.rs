//! Operations about pools: configure, show, pause, resume, and start servers.

use super::{Failure, OPERATOR_RETRIES, Owmm, RACE_JITTER};
use crate::{
    domain::{
        Answer, FrontierWrite, NoLaunch, PoolName, PoolStatus, PoolStatusWrite, ServerId, Span, Time, UNTIL_RESUMED,
    },
    pool::Pool,
    table::TableError,
};

/// Most servers that one operator call starts. Each takes a transaction and a call to ECS, and the function that starts
/// them has 30 seconds.
const LAUNCHES_AT_MOST: usize = 20;
/// Time after which one operator call starts no further server.
const LAUNCHING_AT_MOST: Span = Span::seconds(10);
/// Attempts to write a pool's configuration while other callers write it too.
const CONFIGURE_RETRIES: u32 = 4;

/// The result of an operator's request to start servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchOutcome {
    /// Servers were started, or enough were live already.
    Started {
        /// Servers that this call started.
        started: Vec<ServerId>,
        /// Live servers of the pool now.
        live: u32,
    },
    /// No server was started, and none may be started now, for this reason.
    No(NoLaunch),
    /// No server was started, because other calls kept changing the pool's status; the call may be repeated.
    Busy,
}

impl Owmm {
    /// Reads every pool with its status.
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

    /// Reads a pool with its status from the table, not from the hints.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn pool_and_status(&self, name: &PoolName) -> Result<(Pool, PoolStatus), Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        Ok((pool, self.table.pool_status(name).await?))
    }

    /// Configures a pool. The new configuration is in force in every process within ten seconds.
    ///
    /// A changed task definition is a new build of the pool. The pool's rollout decides about servers of older builds:
    /// for new joins at once, for the servers themselves with the next reconcile run.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn configure(&self, settings: Pool) -> Result<(), Failure> {
        for _ in 0..CONFIGURE_RETRIES {
            let old = self.table.pool(&settings.name).await?;
            let pool = settings.clone().succeeding(old.as_ref());
            if self.table.put_pool(&pool, old.as_ref()).await? {
                self.hints.forget(&pool.name);
                self.retire_frontiers(&pool).await?;
                return Ok(());
            }
        }
        Err(TableError::Busy("other callers kept configuring the pool".to_owned()).into())
    }

    /// Marks every frontier that fills a server of an older build as used up.
    ///
    /// Joins still find free slots of such servers in the index, which lists them after the servers of newer builds.
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

    /// Pauses launching at an operator's request, for a time or until resumed. A registering server does not end this
    /// pause.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn pause(&self, name: &PoolName, within: Option<Span>) -> Result<(Pool, PoolStatus), Failure> {
        let until = within.map_or(UNTIL_RESUMED, |span| self.clock.now() + span);
        self.operator_command(name, |at| PoolStatusWrite::Pause { at, until }).await
    }

    /// Resumes launching at an operator's request, whether an operator or failed launches had paused it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn resume(&self, name: &PoolName) -> Result<(Pool, PoolStatus), Failure> {
        self.operator_command(name, |at| PoolStatusWrite::Resume { at }).await
    }

    /// Applies an operator command, with a timestamp later than that of the last command.
    async fn operator_command(
        &self,
        name: &PoolName,
        command: impl Fn(Time) -> PoolStatusWrite,
    ) -> Result<(Pool, PoolStatus), Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        let mut at = self.clock.now();
        for _ in 0..OPERATOR_RETRIES {
            let command = command(at);
            match self.table.write_pool_status(name, &command).await? {
                Answer::Written(status) => {
                    tracing::info!(pool = %name, ?command, "pools: operator command applied");
                    return Ok((pool, status));
                }
                Answer::Refused(Some(status)) if command.stands(&status) => return Ok((pool, status)),
                Answer::Refused(status) => at = status.unwrap_or_default().operator_timestamp(self.clock.now()),
            }
        }
        Err(TableError::Busy("other callers kept pausing and resuming the pool".to_owned()).into())
    }

    /// Starts servers until at least `at_least` are live, at most twenty per call.
    ///
    /// The call names a total, not an increment, so a repeated call starts no extra servers.
    ///
    /// # Errors
    /// See [`Failure`]. Some servers may have been started; a repeated call continues from there.
    pub async fn launch(&self, name: &PoolName, at_least: u32) -> Result<LaunchOutcome, Failure> {
        let pool = self.table.pool(name).await?.ok_or_else(|| Failure::UnknownPool(name.clone()))?;
        if at_least > pool.limits.max_servers {
            return Ok(LaunchOutcome::No(NoLaunch::AtMaximum));
        }
        let (begun, mut turns) = (self.clock.now(), OPERATOR_RETRIES);
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
}
