//! Starting servers: calls ECS's RunTask so that it takes effect at most once per server and attempt.
//!
//! 1. One transaction moves the frontier to the new server, creates the server's ledger (`starting`, with the
//!    parameters of RunTask) and counts the server in the pool's status. See [`Table::advance`].
//! 2. RunTask is called with the `clientToken` `<server>-<attempt>`. ECS starts nothing twice for the same token
//!    ("Ensuring idempotency" in the ECS API reference: 64 characters, 24 hours, same parameters or a conflict).
//! 3. The ARN of the task is recorded in the ledger. If that fails (the function died, ECS throttled the call, the
//!    response was lost), the next call or reconcile run that reads the ledger repeats RunTask, after it has won a
//!    compare-and-swap on the time at which RunTask is due.
//! 4. If ECS refuses, or the server has not registered by the deadline, the next attempt begins. It has a new server
//!    token, so a late server of the old attempt is refused. After the last attempt the launch is abandoned: its claims
//!    are void, the next call of each player places the player anew, and the pool counts the failure. Repeated failures
//!    pause launching.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use aws_sdk_ecs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::describe_tasks::DescribeTasksOutput,
    types::{
        AssignPublicIp, AwsVpcConfiguration, ContainerOverride, KeyValuePair, LaunchType, NetworkConfiguration,
        TaskOverride,
    },
};

use crate::{
    clock::{Clock, Rng},
    domain::{
        Answer, Due, Frontier, Launch, Ledger, LedgerWrite, NoLaunch, PoolName, PoolStatus, PoolStatusWrite,
        REPEAT_CALL_AFTER, ServerId, Span, TaskStatus, Time, TokenHash, pause_after,
    },
    pool::{Pool, TaskSettings},
    sdk_error::causes,
    table::{Advanced, Table, TableError},
};

/// Wait before the next attempt after a failed one, multiplied by the number of the failed attempt.
const BACK_OFF: Span = Span::seconds(2);
/// Retries of a transaction that lost a race against another write.
const CONFLICT_RETRIES: u32 = 5;

/// Most tasks of one DescribeTasks call ("DescribeTasks" in the ECS API reference).
const DESCRIBE_AT_MOST: usize = 100;

/// The server and attempt for which a task of this table runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurTask {
    /// The server.
    pub server: ServerId,
    /// Number of the attempt.
    pub attempt: u32,
}

/// The outcome of a RunTask call.
enum Called {
    /// ECS runs the task with this ARN.
    Task(String),
    /// ECS refused the call for this reason, and nothing was started.
    Refused(String),
    /// ECS throttled the call, or its outcome is unknown, for this reason: the same call is due again later.
    Unknown(String),
}

/// Starts and stops servers through ECS, and records both in the table.
#[derive(Clone, Debug)]
pub struct Launcher {
    ecs: Client,
    table: Table,
    clock: Clock,
    rng: Rng,
}

impl Launcher {
    /// Creates a launcher on an ECS client.
    pub const fn new(ecs: Client, table: Table, clock: Clock, rng: Rng) -> Self {
        Self { ecs, table, clock, rng }
    }

    /// Group of this table's tasks in ECS. Tasks in other groups belong to other tables or programs.
    fn group(&self) -> String {
        format!("owmm:{}", self.table.name())
    }

    /// Creates an attempt that begins at `begins`, with a new token and its hash. `call_at` is when RunTask is next
    /// due.
    fn launch(&self, begins: Time, call_at: Time, time_to_start: Span, spec: String) -> (Launch, TokenHash) {
        let token = self.rng.token();
        let hash = TokenHash::of(&token);
        (Launch { token, call_at, deadline: begins + time_to_start, time_to_start, spec }, hash)
    }

    /// Moves a frontier to a new server, of which the caller takes the first `slots` slots.
    ///
    /// `Err` has the reason why no server may be started, or `None` if the caller lost a race. Does not call ECS:
    /// [`Launcher::call`] does, because the call takes longer than other joins should wait for the new server's id.
    ///
    /// # Errors
    /// The call to the table failed; whether the server was created is unknown.
    pub async fn advance(
        &self,
        pool: &Pool,
        k: u32,
        from: Option<Frontier>,
        slots: u32,
    ) -> Result<Result<Ledger, Option<NoLaunch>>, TableError> {
        let ledger = self.new_server(pool, k)?;
        let now = self.clock.now();
        Ok(match self.table.advance(k, from, &ledger, slots, pool.limits.max_servers, now).await? {
            Advanced::Yes => Ok(ledger),
            Advanced::Raced => Err(None),
            Advanced::No(reason) => Err(Some(reason)),
        })
    }

    /// Creates the ledger of a server that is about to be started.
    fn new_server(&self, pool: &Pool, shard: u32) -> Result<Ledger, TableError> {
        let now = self.clock.now();
        let spec = serde_json::to_string(&pool.task).map_err(|error| TableError::Broken(error.to_string()))?;
        let (launch, token_hash) = self.launch(now, now + REPEAT_CALL_AFTER, pool.limits.launch, spec);
        let (name, build) = (pool.name.clone(), pool.build);
        let ledger = Ledger::new(self.rng.server_id(now), name, &pool.limits, token_hash);
        Ok(Ledger { shard, build, launch: Some(launch), ..ledger })
    }

    /// Calls RunTask for a launch and records the outcome.
    ///
    /// # Errors
    /// The call to the table failed. The launch stays in the table, and a later call or reconcile run continues it.
    pub async fn call(&self, ledger: &Ledger) -> Result<(), TableError> {
        let Some(launch) = &ledger.launch else { return Ok(()) };
        let (server, attempt) = (&ledger.id, ledger.attempt);
        match self.run_task(ledger, launch).await {
            Called::Task(task) => {
                tracing::info!(%server, attempt, task, "launching: task started");
                self.table.write_ledger(server, &LedgerWrite::TaskStarted { attempt, task }).await?;
            }
            Called::Unknown(why) => {
                tracing::warn!(%server, attempt, why, "launching: RunTask is due again, because its outcome is unknown");
            }
            Called::Refused(why) => {
                tracing::warn!(%server, attempt, why, "launching: ECS refused RunTask");
                self.failed(ledger).await?;
            }
        }
        Ok(())
    }

    /// Ends a failed attempt: the next attempt is due after a wait; after the last attempt the launch is abandoned.
    ///
    /// # Errors
    /// The call to the table failed.
    pub async fn failed(&self, ledger: &Ledger) -> Result<(), TableError> {
        let begins = self.clock.now() + BACK_OFF.times(i64::from(ledger.attempt));
        self.next_attempt(ledger, begins, begins).await.map(|_| ())
    }

    /// Performs the step of a starting server's launch that is due, if any. True if the launch was abandoned.
    ///
    /// # Errors
    /// The call to the table failed.
    pub async fn advance_launch(&self, ledger: &Ledger) -> Result<bool, TableError> {
        let now = self.clock.now();
        let Some(due) = ledger.due(now) else { return Ok(false) };
        match due {
            Due::Call => {
                let Some(launch) = &ledger.launch else { return Ok(false) };
                let call_at = now + REPEAT_CALL_AFTER;
                let recall = LedgerWrite::Recall { attempt: ledger.attempt, was: launch.call_at, call_at };
                if let Answer::Written(ledger) = self.table.write_ledger(&ledger.id, &recall).await? {
                    self.call(&ledger).await?;
                }
                Ok(false)
            }
            Due::NextAttempt => {
                if let Some(ledger) = self.next_attempt(ledger, now, now + REPEAT_CALL_AFTER).await? {
                    self.call(&ledger).await?;
                }
                Ok(false)
            }
            Due::AbandonLaunch => {
                self.abandon_launch(ledger).await?;
                Ok(true)
            }
        }
    }

    /// Begins the next attempt; `None` if another caller has begun it, or if the failed attempt was the last one.
    async fn next_attempt(&self, ledger: &Ledger, begins: Time, call_at: Time) -> Result<Option<Ledger>, TableError> {
        let Some(old) = &ledger.launch else { return Ok(None) };
        if ledger.attempt >= crate::domain::MAX_LAUNCH_ATTEMPTS {
            self.abandon_launch(ledger).await?;
            return Ok(None);
        }
        let (launch, token_hash) = self.launch(begins, call_at, old.time_to_start, old.spec.clone());
        let write = LedgerWrite::NextAttempt { failed: ledger.attempt, token_hash, launch };
        Ok(match self.table.write_ledger(&ledger.id, &write).await? {
            Answer::Written(ledger) => {
                tracing::warn!(server = %ledger.id, attempt = ledger.attempt, "launching: next attempt to start server");
                Some(ledger)
            }
            Answer::Refused(_) => None,
        })
    }

    /// Stops a server whose last attempt has failed, and counts the failure in its pool's status.
    async fn abandon_launch(&self, ledger: &Ledger) -> Result<(), TableError> {
        let write = LedgerWrite::AbandonLaunch { failed: ledger.attempt, now: self.clock.now() };
        if let Answer::Written(ledger) = self.table.write_ledger(&ledger.id, &write).await? {
            let (server, pool) = (&ledger.id, &ledger.pool);
            tracing::error!(%server, %pool, "launching: abandoned after the last attempt, claims are void");
            self.count_out(&ledger.pool, &ledger.id, true).await?;
        }
        Ok(())
    }

    /// Removes a stopped server from its pool's count of live servers and from its roster.
    ///
    /// `failed` also adds a failed launch to the pool's status.
    ///
    /// # Errors
    /// The call to the table failed, or lost too many races. The server is then still counted, which costs the pool
    /// room for one server until a later call or reconcile run counts it out.
    pub async fn count_out(&self, pool: &PoolName, server: &ServerId, failed: bool) -> Result<(), TableError> {
        for attempt in 0..=CONFLICT_RETRIES {
            let write = if failed {
                let status = self.table.pool_status(pool).await?;
                let failures = status.failures.saturating_add(1);
                let backoff_until = pause_after(failures).map(|pause| self.clock.now() + pause);
                if let Some(Time(until_ms)) = backoff_until {
                    tracing::error!(%pool, failures, until_ms, "launching: pool paused after repeated failures");
                }
                PoolStatusWrite::Failed { was: status.failures, backoff_until }
            } else {
                PoolStatusWrite::Ended
            };
            if self.table.count_out(pool, server, &write).await? {
                return Ok(());
            }
            let wait = self.rng.jitter(Span(20 << attempt));
            tokio::time::sleep(wait + Duration::from_millis(5)).await;
        }
        Err(TableError::Busy(format!("server {server} could not be removed from its pool's count")))
    }

    /// Starts a server ahead of demand. No frontier hands out its slots: joins find them in the index once it is ready.
    ///
    /// `None` if the pool's status has changed since `seen`, or if no server may be started.
    ///
    /// # Errors
    /// The call to the table failed.
    pub async fn start_ahead(&self, pool: &Pool, seen: &PoolStatus) -> Result<Option<ServerId>, TableError> {
        let shard = u32::try_from(self.rng.below(pool.limits.concurrent_launches as usize)).unwrap_or(0);
        let ledger = self.new_server(pool, shard)?;
        if !self.table.start_ahead(&ledger, seen, pool.limits.max_servers, self.clock.now()).await? {
            return Ok(None);
        }
        tracing::info!(server = %ledger.id, pool = %pool.name, "launching: server created ahead of demand");
        self.call(&ledger).await?;
        Ok(Some(ledger.id))
    }

    /// Lists this table's tasks in a cluster that are running or being started, by ARN; `None` if ECS does not answer.
    pub async fn tasks(&self, cluster: &str) -> Option<BTreeMap<String, OurTask>> {
        let mut arns = Vec::new();
        let mut pages = self.ecs.list_tasks().cluster(cluster).into_paginator().send();
        while let Some(page) = pages.next().await {
            match page {
                Ok(page) => arns.extend(page.task_arns.unwrap_or_default()),
                // A deleted cluster runs no task.
                Err(error) if error.code() == Some("ClusterNotFoundException") => break,
                Err(error) => return no_answer(&error),
            }
        }
        let mut ours = BTreeMap::new();
        for some in arns.chunks(DESCRIBE_AT_MOST) {
            let describe = self.ecs.describe_tasks().cluster(cluster).set_tasks(Some(some.to_vec()));
            let tasks = match describe.send().await {
                Ok(output) => output.tasks.unwrap_or_default(),
                Err(error) => return no_answer(&error),
            };
            for task in tasks.into_iter().filter(|task| task.group() == Some(self.group().as_str())) {
                let Some(arn) = task.task_arn else { continue };
                let Some((server, attempt)) = task.started_by.as_deref().and_then(parse_started_by) else { continue };
                ours.insert(arn, OurTask { server, attempt });
            }
        }
        Some(ours)
    }

    /// Asks ECS for the status of tasks that it did not list as running. A task without an answer is not in the result.
    ///
    /// Each task is looked up in the cluster that its ARN names, which the pool may have left since; `cluster`, the
    /// pool's current one, is used for ARNs that name none.
    pub async fn task_statuses(&self, cluster: &str, arns: &[String]) -> HashMap<String, TaskStatus> {
        let mut task_statuses = HashMap::new();
        let mut clusters = BTreeMap::<&str, Vec<String>>::new();
        for arn in arns {
            clusters.entry(cluster_of(arn).unwrap_or(cluster)).or_default().push(arn.clone());
        }
        for (cluster, arns) in clusters {
            for some in arns.chunks(DESCRIBE_AT_MOST) {
                let describe = self.ecs.describe_tasks().cluster(cluster).set_tasks(Some(some.to_vec()));
                match describe.send().await {
                    Ok(output) => task_statuses.extend(statuses(&output)),
                    Err(error) => {
                        let _: Option<()> = no_answer(&error);
                    }
                }
            }
        }
        task_statuses
    }

    /// Asks ECS whether any of these clusters runs the current attempt of a server whose ledger names no task.
    ///
    /// A ledger names no task if the caller that started the task died before recording it. For a server that had
    /// registered when its ledger was read, [`TaskStatus::Missing`] is final.
    pub async fn status_of_unrecorded(&self, ledger: &Ledger, clusters: impl Iterator<Item = &str>) -> TaskStatus {
        for cluster in clusters {
            match self.ecs.list_tasks().cluster(cluster).started_by(started_by(ledger)).send().await {
                Ok(list) if list.task_arns().is_empty() && list.next_token().is_none() => {}
                Ok(_) => return TaskStatus::Alive,
                // A deleted cluster runs no task.
                Err(error) if error.code() == Some("ClusterNotFoundException") => {}
                Err(error) => {
                    let _: Option<()> = no_answer(&error);
                    return TaskStatus::Unknown;
                }
            }
        }
        TaskStatus::Missing
    }

    /// Asks ECS to stop a task. A failure is only logged, because the task may have ended already.
    pub async fn stop_task(&self, cluster: &str, task: &str, reason: &str) {
        let cluster = cluster_of(task).unwrap_or(cluster);
        let stopped = self.ecs.stop_task().cluster(cluster).task(task).reason(format!("owmm: {reason}")).send().await;
        match stopped {
            Ok(_) => tracing::info!(task, reason, "launching: task stop requested"),
            Err(error) => tracing::warn!(task, reason, error = causes(&error), "launching: task stop failed"),
        }
    }

    /// Calls RunTask with the parameters of a launch.
    async fn run_task(&self, ledger: &Ledger, launch: &Launch) -> Called {
        let task: TaskSettings = match serde_json::from_str(&launch.spec) {
            Ok(task) => task,
            Err(error) => return Called::Refused(format!("the task settings in the ledger cannot be read: {error}")),
        };
        let environment = environment(ledger, launch, &task);
        let container = ContainerOverride::builder().name(&task.container).set_environment(Some(environment)).build();
        let mut run = self
            .ecs
            .run_task()
            .cluster(&task.cluster)
            .task_definition(&task.task_definition)
            .client_token(client_token(ledger))
            .started_by(started_by(ledger))
            .group(self.group())
            .count(1)
            .overrides(TaskOverride::builder().container_overrides(container).build());
        if let Some(launch_type) = &task.launch_type {
            run = run.launch_type(LaunchType::from(launch_type.as_str()));
        }
        if !task.subnets.is_empty() {
            let public = if task.assign_public_ip { AssignPublicIp::Enabled } else { AssignPublicIp::Disabled };
            let network = AwsVpcConfiguration::builder()
                .set_subnets(Some(task.subnets.clone()))
                .set_security_groups(Some(task.security_groups.clone()))
                .assign_public_ip(public)
                .build();
            match network {
                Ok(network) => {
                    let network = NetworkConfiguration::builder().awsvpc_configuration(network).build();
                    run = run.network_configuration(network);
                }
                Err(error) => return Called::Refused(error.to_string()),
            }
        }
        match run.send().await {
            Ok(output) => match output.tasks().first().and_then(|task| task.task_arn()) {
                Some(task) => Called::Task(task.to_owned()),
                None => {
                    let reason = output.failures().first().and_then(|failure| failure.reason());
                    Called::Refused(reason.unwrap_or("ECS returned no task and no reason").to_owned())
                }
            },
            Err(error) => {
                let refused = is_refusal(&error);
                let text = causes(&error);
                if refused { Called::Refused(text) } else { Called::Unknown(text) }
            }
        }
    }
}

/// RunTask's `clientToken`: one per server and attempt.
fn client_token(ledger: &Ledger) -> String {
    format!("{}-{}", ledger.id, ledger.attempt)
}

/// RunTask's `startedBy`: the server and attempt of a task, which ECS's events and lists contain.
fn started_by(ledger: &Ledger) -> String {
    format!("{}/{}", ledger.id, ledger.attempt)
}

/// Parses a task's `startedBy` into its server and attempt; `None` for tasks that OWMM did not start.
pub fn parse_started_by(started_by: &str) -> Option<(ServerId, u32)> {
    let (server, attempt) = started_by.rsplit_once('/')?;
    Some((ServerId::parse(server).ok()?, attempt.parse().ok()?))
}

/// Reads the status of each task from a response of DescribeTasks.
fn statuses(output: &DescribeTasksOutput) -> Vec<(String, TaskStatus)> {
    let described = output.tasks().iter().map(|task| {
        let stopped = task.last_status() == Some("STOPPED");
        (task.task_arn(), if stopped { TaskStatus::Stopped } else { TaskStatus::Alive })
    });
    let missing = output.failures().iter().filter(|failure| failure.reason() == Some("MISSING"));
    let missing = missing.map(|failure| (failure.arn(), TaskStatus::Missing));
    described.chain(missing).filter_map(|(arn, task_status)| Some((arn?.to_owned(), task_status))).collect()
}

/// Reads the cluster from a task's ARN: `arn:aws:ecs:region:account:task/cluster/id`. `None` if the ARN names none.
fn cluster_of(task: &str) -> Option<&str> {
    let (_, path) = task.split_once(":task/")?;
    Some(path.split_once('/')?.0)
}

/// The environment variables of a server's container.
fn environment(ledger: &Ledger, launch: &Launch, task: &TaskSettings) -> Vec<KeyValuePair> {
    let pairs = [
        ("OWMM_URL", task.url.clone()),
        ("OWMM_SERVER_ID", ledger.id.to_string()),
        ("OWMM_SERVER_TOKEN", launch.token.clone()),
        ("OWMM_POOL", ledger.pool.to_string()),
        ("OWMM_CAPACITY", ledger.capacity.to_string()),
    ];
    pairs.into_iter().map(|(name, value)| KeyValuePair::builder().name(name).value(value).build()).collect()
}

/// Logs that ECS did not answer a question about tasks, and returns `None`.
fn no_answer<T, E: std::error::Error + ProvideErrorMetadata>(error: &E) -> Option<T> {
    tracing::warn!(error = causes(error), "launching: ECS did not answer a request about tasks");
    None
}

/// Whether an error means that ECS refuses to start the task. Throttling and a missing response are no refusals.
fn is_refusal<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::ServiceError(service) => {
            let throttled = matches!(service.err().code(), Some("ThrottlingException" | "LimitExceededException"));
            service.raw().status().is_client_error() && !throttled
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_of_a_task_is_read_from_its_arn() {
        assert_eq!(cluster_of("arn:aws:ecs:eu-central-1:123456789012:task/games/0123"), Some("games"));
        assert_eq!(
            cluster_of("arn:aws:ecs:eu-central-1:123456789012:task/0123"),
            None,
            "an ARN in the old format names no cluster"
        );
        assert_eq!(cluster_of("0123"), None);
    }
}
