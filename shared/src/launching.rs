//! Starting servers: RunTask so that it takes effect at most once per server and attempt.
//!
//! 1. One transaction names the new server at the frontier, creates its ledger (`starting`, with all that RunTask will be
//!    called with) and counts it. See [`Table::advance`].
//! 2. RunTask is called with a `clientToken` of our own, `<server>-<attempt>`; ECS starts nothing twice for the same
//!    token ("Ensuring idempotency" in the ECS API reference: 64 characters, 24 hours, same parameters or a conflict).
//! 3. Its answer goes onto the ledger. If that never happens (the function died, ECS was throttled, the answer was lost),
//!    whoever meets the launch next repeats the call, after winning a compare-and-swap on the time when it is due.
//! 4. ECS says no, or the server has not registered by the deadline: the next attempt, which has a token of its own, so
//!    that a late server of the old one is refused. After the last attempt the launch is abandoned: its claims are void, its
//!    players are placed anew by their next call, and the pool remembers the failure. Repeated failures pause launching.

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

/// Before an attempt that follows a refusal by ECS.
const BACK_OFF: Span = Span::seconds(2);
/// How often a transaction is repeated that met another one.
const CONFLICT_RETRIES: u32 = 5;

/// Tasks of one DescribeTasks at the most ("DescribeTasks" in the ECS API reference).
const DESCRIBE_AT_MOST: usize = 100;

/// A task that runs for some server of this table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurTask {
    /// The server.
    pub server: ServerId,
    /// The attempt.
    pub attempt: u32,
}

/// What ECS said.
enum Called {
    /// It runs the task.
    Task(String),
    /// It will not, and nothing was started.
    Refused(String),
    /// Throttled, or the outcome is unknown: the same call is due again later.
    Unknown(String),
}

/// Starts servers.
#[derive(Clone, Debug)]
pub struct Launcher {
    ecs: Client,
    table: Table,
    clock: Clock,
    rng: Rng,
}

impl Launcher {
    /// A launcher behind that client.
    pub const fn new(ecs: Client, table: Table, clock: Clock, rng: Rng) -> Self {
        Self { ecs, table, clock, rng }
    }

    /// The group of the tasks of this table: what is in another group is another's.
    fn group(&self) -> String {
        format!("owmm:{}", self.table.name())
    }

    /// An attempt that begins then. `call_at` is when RunTask is due (again), for whoever meets the launch then.
    fn launch(&self, begins: Time, call_at: Time, time_to_start: Span, spec: String) -> (Launch, TokenHash) {
        let token = self.rng.token();
        let hash = TokenHash::of(&token);
        (Launch { token, call_at, deadline: begins + time_to_start, time_to_start, spec }, hash)
    }

    /// Moves a frontier on to a new server, of whose slots the caller takes some. Does not call ECS yet: that is [`Launcher::call`], and takes longer than
    /// others should wait for the new server's name.
    ///
    /// # Errors
    /// The table gave no answer; whether the server is there is unknown.
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

    /// The ledger of a server that is about to be started.
    fn new_server(&self, pool: &Pool, shard: u32) -> Result<Ledger, TableError> {
        let now = self.clock.now();
        let spec = serde_json::to_string(&pool.task).map_err(|error| TableError::Broken(error.to_string()))?;
        let (launch, token_hash) = self.launch(now, now + REPEAT_CALL_AFTER, pool.limits.launch, spec);
        let (name, build) = (pool.name.clone(), pool.build);
        let ledger = Ledger::new(self.rng.server_id(now), name, &pool.limits, token_hash);
        Ok(Ledger { shard, build, launch: Some(launch), ..ledger })
    }

    /// Calls RunTask for a launch and writes down what ECS said.
    ///
    /// # Errors
    /// The table gave no answer. The launch is in the table and is taken up by whoever meets it next.
    pub async fn call(&self, ledger: &Ledger) -> Result<(), TableError> {
        let Some(launch) = &ledger.launch else { return Ok(()) };
        let (server, attempt) = (&ledger.id, ledger.attempt);
        match self.run_task(ledger, launch).await {
            Called::Task(task) => {
                tracing::info!(%server, attempt, task, "task started");
                self.table.write_ledger(server, &LedgerWrite::TaskStarted { attempt, task }).await?;
            }
            Called::Unknown(why) => {
                tracing::warn!(%server, attempt, why, "RunTask is due again: its outcome is unknown");
            }
            Called::Refused(why) => {
                tracing::warn!(%server, attempt, why, "RunTask was refused");
                self.failed(ledger).await?;
            }
        }
        Ok(())
    }

    /// The attempt has failed: the next one is due after a pause, unless this was the last.
    ///
    /// # Errors
    /// The table gave no answer.
    pub async fn failed(&self, ledger: &Ledger) -> Result<(), TableError> {
        let begins = self.clock.now() + BACK_OFF.times(i64::from(ledger.attempt));
        self.next_attempt(ledger, begins, begins).await.map(|_| ())
    }

    /// Does what the launch of a starting server needs now, if anything. True if the launch is over.
    ///
    /// # Errors
    /// The table gave no answer.
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

    /// The next attempt; `None` if somebody else was faster, or this was the last.
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
                tracing::warn!(server = %ledger.id, attempt = ledger.attempt, "another attempt to start the server");
                Some(ledger)
            }
            Answer::Refused(_) => None,
        })
    }

    async fn abandon_launch(&self, ledger: &Ledger) -> Result<(), TableError> {
        let write = LedgerWrite::AbandonLaunch { failed: ledger.attempt, now: self.clock.now() };
        if let Answer::Written(ledger) = self.table.write_ledger(&ledger.id, &write).await? {
            tracing::error!(server = %ledger.id, pool = %ledger.pool, "the server did not start; its players are placed anew");
            self.count_out(&ledger.pool, &ledger.id, true).await?;
        }
        Ok(())
    }

    /// Counts a stopped server out of its pool's fleet; a failed launch counts as a failure there.
    ///
    /// # Errors
    /// The table gave no answer, or too many others were at it. The server is still counted then, which costs the pool
    /// room for one server until somebody counts it out.
    pub async fn count_out(&self, pool: &PoolName, server: &ServerId, failed: bool) -> Result<(), TableError> {
        for attempt in 0..=CONFLICT_RETRIES {
            let write = if failed {
                let status = self.table.pool_status(pool).await?;
                let failures = status.failures.saturating_add(1);
                let backoff_until = pause_after(failures).map(|pause| self.clock.now() + pause);
                if let Some(Time(until)) = backoff_until {
                    tracing::error!(%pool, failures, until, "launching is paused");
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
        Err(TableError::Busy(format!("server {server} could not be counted out")))
    }

    /// Starts a server ahead of demand. It is in no frontier: its slots are found once it is ready. `None` if the fleet is
    /// not as it was seen, or may not grow.
    ///
    /// # Errors
    /// The table gave no answer.
    pub async fn start_ahead(&self, pool: &Pool, seen: &PoolStatus) -> Result<Option<ServerId>, TableError> {
        let shard = u32::try_from(self.rng.below(pool.limits.concurrent_launches as usize)).unwrap_or(0);
        let ledger = self.new_server(pool, shard)?;
        if !self.table.start_ahead(&ledger, seen, pool.limits.max_servers, self.clock.now()).await? {
            return Ok(None);
        }
        tracing::info!(server = %ledger.id, pool = %pool.name, "a server is started ahead of demand");
        self.call(&ledger).await?;
        Ok(Some(ledger.id))
    }

    /// The tasks of this table in a cluster that run, or are on their way to, by ARN; `None` if ECS does not say.
    pub async fn tasks(&self, cluster: &str) -> Option<BTreeMap<String, OurTask>> {
        let mut arns = Vec::new();
        let mut pages = self.ecs.list_tasks().cluster(cluster).into_paginator().send();
        while let Some(page) = pages.next().await {
            match page {
                Ok(page) => arns.extend(page.task_arns.unwrap_or_default()),
                // One that is gone runs nothing.
                Err(error) if error.code() == Some("ClusterNotFoundException") => break,
                Err(error) => return self.silent(&error),
            }
        }
        let mut ours = BTreeMap::new();
        for some in arns.chunks(DESCRIBE_AT_MOST) {
            let describe = self.ecs.describe_tasks().cluster(cluster).set_tasks(Some(some.to_vec()));
            let tasks = match describe.send().await {
                Ok(output) => output.tasks.unwrap_or_default(),
                Err(error) => return self.silent(&error),
            };
            for task in tasks.into_iter().filter(|task| task.group() == Some(self.group().as_str())) {
                let Some(arn) = task.task_arn else { continue };
                let Some((server, attempt)) = task.started_by.as_deref().and_then(parse_started_by) else { continue };
                ours.insert(arn, OurTask { server, attempt });
            }
        }
        Some(ours)
    }

    fn silent<T, E: std::error::Error + ProvideErrorMetadata>(&self, error: &E) -> Option<T> {
        tracing::warn!(error = causes(error), "ECS does not say which tasks there are");
        None
    }

    /// What ECS says of tasks that it does not list as running. Those it does not speak of are unknown. `cluster` is where
    /// the pool's next server starts; each task is asked about in its own, which the pool may have left since.
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
                    Ok(output) => task_statuses.extend(seen(&output)),
                    Err(error) => {
                        let _: Option<()> = self.silent(&error);
                    }
                }
            }
        }
        task_statuses
    }

    /// Whether any of these clusters runs a server's current attempt, for one whose task is not on record, as whoever started
    /// it died before. Of a server that had registered when its ledger was read, "missing" is final.
    pub async fn status_of_unrecorded(&self, ledger: &Ledger, clusters: impl Iterator<Item = &str>) -> TaskStatus {
        for cluster in clusters {
            match self.ecs.list_tasks().cluster(cluster).started_by(started_by(ledger)).send().await {
                Ok(list) if list.task_arns().is_empty() && list.next_token().is_none() => {}
                Ok(_) => return TaskStatus::Alive,
                // One that is gone runs nothing.
                Err(error) if error.code() == Some("ClusterNotFoundException") => {}
                Err(error) => {
                    let _: Option<()> = self.silent(&error);
                    return TaskStatus::Unknown;
                }
            }
        }
        TaskStatus::Missing
    }

    /// Stops a task. That it is gone already is as good.
    pub async fn stop_task(&self, cluster: &str, task: &str, reason: &str) {
        let cluster = cluster_of(task).unwrap_or(cluster);
        let stopped = self.ecs.stop_task().cluster(cluster).task(task).reason(format!("owmm: {reason}")).send().await;
        match stopped {
            Ok(_) => tracing::info!(task, reason, "task told to stop"),
            Err(error) => tracing::warn!(task, reason, error = causes(&error), "task not stopped"),
        }
    }

    async fn run_task(&self, ledger: &Ledger, launch: &Launch) -> Called {
        let task: TaskSettings = match serde_json::from_str(&launch.spec) {
            Ok(task) => task,
            Err(error) => return Called::Refused(format!("the task's parameters cannot be read: {error}")),
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
                    Called::Refused(reason.unwrap_or("no task and no reason").to_owned())
                }
            },
            Err(error) => {
                let says_no = is_refusal(&error);
                let text = causes(&error);
                if says_no { Called::Refused(text) } else { Called::Unknown(text) }
            }
        }
    }
}

/// One per server and attempt.
fn client_token(ledger: &Ledger) -> String {
    format!("{}-{}", ledger.id, ledger.attempt)
}

/// Which server and attempt a task is for: ECS's events and lists name it.
fn started_by(ledger: &Ledger) -> String {
    format!("{}/{}", ledger.id, ledger.attempt)
}

/// Server and attempt of a task, as the `startedBy` that RunTask was called with names them.
pub fn parse_started_by(started_by: &str) -> Option<(ServerId, u32)> {
    let (server, attempt) = started_by.rsplit_once('/')?;
    Some((ServerId::parse(server).ok()?, attempt.parse().ok()?))
}

/// What an answer of DescribeTasks says of each task.
fn seen(output: &DescribeTasksOutput) -> Vec<(String, TaskStatus)> {
    let told = output.tasks().iter().map(|task| {
        let stopped = task.last_status() == Some("STOPPED");
        (task.task_arn(), if stopped { TaskStatus::Stopped } else { TaskStatus::Alive })
    });
    let missing = output.failures().iter().filter(|failure| failure.reason() == Some("MISSING"));
    let missing = missing.map(|failure| (failure.arn(), TaskStatus::Missing));
    told.chain(missing).filter_map(|(arn, task_status)| Some((arn?.to_owned(), task_status))).collect()
}

/// The cluster that a task's ARN names: `arn:aws:ecs:region:account:task/cluster/id`.
fn cluster_of(task: &str) -> Option<&str> {
    let (_, path) = task.split_once(":task/")?;
    Some(path.split_once('/')?.0)
}

/// What a server finds in its environment.
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

/// Whether ECS has said that it will not start this task. Throttling and everything without an answer is not that.
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
    fn the_arn_of_a_task_names_its_cluster() {
        assert_eq!(cluster_of("arn:aws:ecs:eu-central-1:123456789012:task/games/0123"), Some("games"));
        assert_eq!(cluster_of("arn:aws:ecs:eu-central-1:123456789012:task/0123"), None, "an old one");
        assert_eq!(cluster_of("0123"), None);
    }
}
