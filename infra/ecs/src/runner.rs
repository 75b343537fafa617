//! Runs one task through its lifecycle: waits for the start delay, starts the process, waits for its end or for a stop.
//!
//! A runner has a weak reference to the cluster. When the cluster is dropped, the runner kills the process at once.

use std::sync::{Arc, Weak};

use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use crate::{
    cluster::Shared,
    process::Process,
    registry::KillAt,
    simulation::Simulated,
    task::{EpochMs, Status, StopCode, Task},
    wire::Spec,
};

/// Starts the runner of the task `id` on the current tokio runtime.
pub(crate) fn start(ecs: &Arc<Shared>, id: String, spec: Arc<Spec>, kill_at: watch::Receiver<KillAt>) {
    let runner = Runner { ecs: Arc::downgrade(ecs), id };
    let options = Arc::clone(&ecs.options);
    tokio::spawn(async move {
        runner.advance(Status::Pending);
        let mut stop = Stop(kill_at);
        tokio::select! {
            biased;
            () = stop.requested() => {}
            () = sleep(options.start_delay) => {
                runner.advance(Status::Activating);
                let configured = options.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let environment = configured.chain(spec.request.overrides.environment());
                let started = match &options.simulation {
                    Some(simulation) => Ok(Work::Simulated(simulation.start(environment))),
                    None => Process::start(&options.command, environment, runner.short_id()).map(|process| Work::Process(Box::new(process))),
                };
                match started {
                    Ok(work) => runner.run(work, &mut stop).await,
                    Err(error) => {
                        let program = options.command.first().cloned().unwrap_or_default();
                        runner.fail(&format!("CannotStartContainerError: {}: {error}", program.display()));
                    }
                }
            }
        }
        runner.advance(Status::Deprovisioning);
        runner.advance(Status::Stopped);
    });
}

/// The workload of a task: a process, or its simulation.
enum Work {
    Process(Box<Process>),
    Simulated(Simulated),
}

impl Work {
    fn id(&self) -> i32 {
        match self {
            Self::Process(process) => process.id(),
            Self::Simulated(_) => 0,
        }
    }

    async fn wait(&mut self) -> Option<i32> {
        match self {
            Self::Process(process) => process.wait().await,
            Self::Simulated(simulated) => simulated.wait().await,
        }
    }

    async fn stop(&mut self, kill_due: impl Future<Output = ()>) -> Option<i32> {
        match self {
            Self::Process(process) => process.stop(kill_due).await,
            Self::Simulated(simulated) => simulated.stop(kill_due).await,
        }
    }

    async fn clear_up(&mut self) {
        if let Self::Process(process) = self {
            process.clear_up().await;
        }
    }
}

struct Runner {
    ecs: Weak<Shared>,
    id: String,
}

impl Runner {
    async fn run(&self, mut process: Work, stop: &mut Stop) {
        let (task, pid) = (self.short_id(), process.id());
        if let Some(ecs) = self.ecs.upgrade() {
            if let Some(reaper) = &ecs.reaper {
                reaper.begun(pid);
            }
            ecs.registry().counts.processes_started += 1;
        }
        tracing::info!(task, pid, "process started");
        self.advance(Status::Running);

        let ended_by_itself = tokio::select! {
            biased;
            exit_code = process.wait() => Some(exit_code),
            () = stop.requested() => None,
        };
        let exit_code = match ended_by_itself {
            Some(exit_code) => {
                self.change(|task, now| {
                    task.exited(exit_code, now);
                    task.end(StopCode::EssentialContainerExited, "Essential container in task exited", now);
                    task.advance(Status::Deactivating, now);
                });
                self.advance(Status::Stopping);
                exit_code
            }
            None => {
                self.advance(Status::Deactivating);
                self.advance(Status::Stopping);
                let exit_code = process.stop(stop.due()).await;
                self.change(|task, now| task.exited(exit_code, now));
                exit_code
            }
        };
        process.clear_up().await;
        if let Some(reaper) = self.ecs.upgrade().as_ref().and_then(|ecs| ecs.reaper.as_ref()) {
            reaper.ended(pid);
        }
        match &process {
            Work::Process(process) if ended_by_itself.is_some() && exit_code != Some(0) => {
                let last_output = match process.last_output() {
                    none if none.is_empty() => "none".to_owned(),
                    lines => lines,
                };
                tracing::warn!(task, pid, %last_output, "process crashed with {}", process.ending());
            }
            _ => tracing::info!(task, pid, exit_code, "process ended"),
        }
    }

    fn fail(&self, reason: &str) {
        tracing::warn!(task = self.short_id(), reason, "process not started");
        self.change(|task, now| {
            task.end(StopCode::TaskFailedToStart, reason, now);
            task.advance(Status::Deactivating, now);
        });
    }

    fn advance(&self, status: Status) {
        self.change(|task, now| task.advance(status, now));
    }

    fn change(&self, change: impl FnOnce(&mut Task, EpochMs)) {
        if let Some(ecs) = self.ecs.upgrade() {
            ecs.registry().change(&self.id, change);
        }
    }

    /// Returns the last 8 characters of the id. The first characters are a time, which tasks of the same minute share.
    fn short_id(&self) -> &str {
        self.id.get(24..).unwrap_or(&self.id)
    }
}

/// Signal to stop the task, with a deadline for killing it that may become earlier.
struct Stop(watch::Receiver<KillAt>);

impl Stop {
    /// Waits until the task is to stop.
    async fn requested(&mut self) {
        let _dropped_means_stop = self.0.wait_for(Option::is_some).await;
    }

    /// Waits until the deadline for killing the task. Returns at once if the cluster was dropped.
    async fn due(&mut self) {
        loop {
            let Some(at) = *self.0.borrow_and_update() else { return };
            tokio::select! {
                biased;
                () = sleep_until(at) => return,
                moved = self.0.changed() => if moved.is_err() { return },
            }
        }
    }
}
