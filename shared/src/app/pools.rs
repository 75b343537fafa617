//! Operations about pools: configure, show, pause, resume, and start servers.

use super::{Failure, OPERATOR_RETRIES, Owmm, RACE_JITTER};
use crate::{
    domain::{
        Answer, FrontierWrite, NoLaunch, PoolName, PoolStatus, PoolStatusWrite, ServerId, Span, Time, UNTIL_RESUMED,
    },
    pool::Pool,
    table::TableError,
};

/// Servers that one operator call starts at most: each takes a transaction and a call to ECS, and the function that starts
/// them has 30 seconds.
const LAUNCHES_AT_MOST: usize = 20;
/// How long one operator call goes on starting servers.
const LAUNCHING_AT_MOST: Span = Span::seconds(10);
/// Retries of a configuration after another one was written in between.
const CONFIGURE_RETRIES: u32 = 4;

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

impl Owmm {
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
        for _ in 0..CONFIGURE_RETRIES {
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
        for _ in 0..OPERATOR_RETRIES {
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
