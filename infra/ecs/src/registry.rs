//! The registry of all tasks, `clientToken`s and injected faults. Every change of a task is a version and an event.
//!
//! The registry starts no process and never waits, because callers hold its lock.
//!
//! Limits: a stopped task is removed after an hour, or earlier if there are more than [`MAX_STOPPED`]. A token is valid
//! as long as one of its tasks is known, and for at most 24 hours, as at ECS.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::Value;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use ulid::Ulid;

use crate::{
    simulation::Simulation,
    task::{EpochMs, Status, StopCode, Task, now},
    wire::{Refusal, Spec},
};

/// How long a stopped task is visible, in milliseconds: one hour.
const STOPPED_VISIBLE_MS: u64 = 60 * 60 * 1000;
/// How long a `clientToken` is valid, in milliseconds: 24 hours.
const TOKEN_MS: u64 = 24 * 60 * 60 * 1000;
/// Most stopped tasks, so that a command that crashes at every start cannot fill the memory within an hour.
const MAX_STOPPED: usize = 4_096;
/// Most events that a receiver may fall behind before it loses the oldest.
const EVENTS_KEPT: usize = 1_024;

/// Deadline for killing a task's process; `None` while the task may run.
pub(crate) type KillAt = Option<Instant>;

/// A fault that can be injected into calls of `RunTask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Returns 200 with `failures` only, as for a lack of capacity. No task is started. A `clientToken` that has
    /// started tasks before still returns these tasks.
    NoCapacity,
    /// Returns `ThrottlingException`. No task is started.
    Throttled,
    /// Starts the tasks and returns 500, as if the response had been lost.
    AnswerLost,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that were started.
    pub processes_started: u64,
    /// Calls of `RunTask`, including repeated, refused and failed ones.
    pub run_task_calls: u64,
}

pub(crate) struct Registry {
    /// Set once no new task may start.
    pub(crate) closing: bool,
    pub(crate) counts: Counts,
    cluster: String,
    simulation: Option<Simulation>,
    last_id: u128,
    tasks: BTreeMap<String, Entry>,
    /// Ids of the stopped tasks, in the order in which they stopped.
    stopped: VecDeque<String>,
    launches: HashMap<String, Launch>,
    faults: VecDeque<(Fault, u32)>,
    events: broadcast::Sender<Value>,
}

struct Entry {
    task: Task,
    kill_at: watch::Sender<KillAt>,
}

/// The `RunTask` call of a `clientToken`: its parameters and the tasks that it started.
struct Launch {
    parameters: Value,
    tasks: Vec<String>,
    at: EpochMs,
}

impl Registry {
    pub(crate) fn new(cluster: &str, simulation: Option<Simulation>) -> Self {
        Self {
            closing: false,
            counts: Counts::default(),
            cluster: cluster.to_owned(),
            simulation,
            last_id: 0,
            tasks: BTreeMap::new(),
            stopped: VecDeque::new(),
            launches: HashMap::new(),
            faults: VecDeque::new(),
            events: broadcast::Sender::new(EVENTS_KEPT),
        }
    }

    /// Returns the time of the simulation, or else of the system clock.
    pub(crate) fn now(&self) -> EpochMs {
        self.simulation.as_ref().map_or_else(now, Simulation::now)
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    pub(crate) fn inject(&mut self, fault: Fault, calls: u32) {
        self.faults.push_back((fault, calls));
    }

    /// Counts a call of `RunTask` and returns the fault to inject into it.
    pub(crate) fn count_run_task(&mut self) -> Option<Fault> {
        self.counts.run_task_calls += 1;
        while let Some((fault, calls)) = self.faults.front_mut() {
            if let Some(left) = calls.checked_sub(1) {
                *calls = left;
                return Some(*fault);
            }
            self.faults.pop_front();
        }
        None
    }

    /// Adds a task and returns its id. The receiver signals the runner to stop the task; the runner drops it when done.
    pub(crate) fn create(&mut self, spec: Arc<Spec>) -> (String, watch::Receiver<KillAt>) {
        // 32 hex digits as at ECS. Ids ascend in the order of creation, also within a millisecond, because paging needs
        // it.
        let ulid = self.simulation.as_ref().map_or_else(Ulid::generate, Simulation::ulid);
        self.last_id = ulid.0.max(self.last_id.saturating_add(1));
        let id = format!("{:032x}", self.last_id);
        let task = Task::new(&id, &self.cluster, spec, self.now());
        send(&self.events, &task);
        let (kill_at, runner) = watch::channel(None);
        self.tasks.insert(id.clone(), Entry { task, kill_at });
        (id, runner)
    }

    /// Changes a task, which increments its version and sends one event.
    pub(crate) fn change(&mut self, id: &str, change: impl FnOnce(&mut Task, EpochMs)) {
        let now = self.now();
        let Some(Entry { task, .. }) = self.tasks.get_mut(id) else { return };
        change(task, now);
        task.changed(now);
        if task.status == Status::Stopped {
            self.stopped.push_back(id.to_owned());
        }
        send(&self.events, task);
    }

    /// Signals a task's runner to stop the task, and to kill it at `kill_at` at the latest. A repeated call can only
    /// move `kill_at` earlier. Returns a sender that closes when the runner is done, or `None` for an unknown task.
    pub(crate) fn stop(
        &mut self,
        id: &str,
        code: StopCode,
        reason: &str,
        kill_at: Instant,
    ) -> Option<watch::Sender<KillAt>> {
        let entry = self.tasks.get(id)?;
        let runner = entry.kill_at.clone();
        if !entry.task.is_ending() {
            self.change(id, |task, now| task.end(code, reason, now));
        }
        runner.send_if_modified(|current| {
            let sooner = current.is_none_or(|at| kill_at < at);
            if sooner {
                *current = Some(kill_at);
            }
            sooner
        });
        Some(runner)
    }

    /// Finds a task by its id or its ARN.
    pub(crate) fn find(&self, reference: &str) -> Option<(&str, &Task)> {
        let id = reference.rsplit('/').next()?;
        let (id, entry) = self.tasks.get_key_value(id)?;
        (reference == id || reference == entry.task.arn).then_some((id, &entry.task))
    }

    /// Returns the tasks with ids after `after`, in the order of their creation.
    pub(crate) fn tasks_after(&self, after: &str) -> impl Iterator<Item = (&str, &Task)> {
        let range = self.tasks.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        range.map(|(id, entry)| (id.as_str(), &entry.task))
    }

    /// Returns the ids of the tasks that are not stopped.
    pub(crate) fn live(&self) -> Vec<String> {
        let live = self.tasks.iter().filter(|(_, entry)| entry.task.status != Status::Stopped);
        live.map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn live_count(&self) -> usize {
        self.tasks.len().saturating_sub(self.stopped.len())
    }

    /// Returns the tasks that `token` has started, or `None` for a new token. Refuses other parameters with a conflict.
    pub(crate) fn launched(&self, token: &str, parameters: &Value) -> Result<Option<Vec<String>>, Refusal> {
        match self.launches.get(token).filter(|launch| self.now().saturating_sub(launch.at) < TOKEN_MS) {
            None => Ok(None),
            Some(launch) if launch.parameters == *parameters => Ok(Some(launch.tasks.clone())),
            Some(launch) => {
                let known = launch.tasks.iter().filter_map(|id| self.tasks.get(id));
                Err(Refusal::conflict(known.map(|entry| entry.task.arn.clone()).collect()))
            }
        }
    }

    /// Records the parameters and the tasks of a token.
    pub(crate) fn remember(&mut self, token: &str, parameters: Value, tasks: Vec<String>) {
        let at = self.now();
        self.launches.insert(token.to_owned(), Launch { parameters, tasks, at });
    }

    /// Removes the stopped tasks that are no longer visible at `now`, and the tokens without tasks.
    pub(crate) fn forget(&mut self, now: EpochMs) {
        let mut removed = false;
        while let Some(id) = self.stopped.front() {
            let stopped_at = self.tasks.get(id).and_then(|entry| entry.task.stopped_at());
            let visible = stopped_at.is_some_and(|at| now.saturating_sub(at) < STOPPED_VISIBLE_MS);
            if visible && self.stopped.len() <= MAX_STOPPED {
                break;
            }
            self.tasks.remove(id);
            self.stopped.pop_front();
            removed = true;
        }
        if removed {
            self.launches.retain(|_, launch| launch.tasks.iter().any(|id| self.tasks.contains_key(id)));
        }
    }
}

fn send(events: &broadcast::Sender<Value>, task: &Task) {
    if events.receiver_count() > 0 {
        let _no_receiver_left = events.send(task.event());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::{self, RunTask};

    /// Returns a registry with one stopped task, and the task's id.
    fn with_a_stopped_task() -> (Registry, String) {
        let mut registry = Registry::new("default", None);
        let id = stopped_task(&mut registry);
        (registry, id)
    }

    fn stopped_task(registry: &mut Registry) -> String {
        let request: RunTask = wire::request(json!({"taskDefinition": "game"})).unwrap();
        let (id, _) = registry.create(Arc::new(request.check().unwrap()));
        registry.change(&id, |task, now| task.advance(Status::Stopped, now));
        id
    }

    #[test]
    fn a_stopped_task_and_its_token_are_removed_after_an_hour() {
        let (mut registry, id) = with_a_stopped_task();
        registry.remember("t", json!({}), vec![id.clone()]);
        registry.forget(now() + STOPPED_VISIBLE_MS - 1_000);
        assert!(registry.find(&id).is_some());
        assert!(registry.launched("t", &json!({})).unwrap().is_some());
        registry.forget(now() + STOPPED_VISIBLE_MS);
        assert!(registry.find(&id).is_none());
        assert!(registry.launched("t", &json!({})).unwrap().is_none());
        assert!(registry.launches.is_empty());
    }

    #[test]
    fn a_token_can_be_used_again_after_a_day() {
        let (mut registry, id) = with_a_stopped_task();
        registry.remember("t", json!({}), vec![id]);
        assert!(registry.launched("t", &json!({"count": 2})).is_err());
        registry.launches.get_mut("t").unwrap().at -= TOKEN_MS;
        assert!(registry.launched("t", &json!({"count": 2})).unwrap().is_none());
    }

    #[test]
    fn stopped_tasks_above_the_limit_are_removed_oldest_first() {
        let (mut registry, first) = with_a_stopped_task();
        let second = stopped_task(&mut registry);
        for _ in 2..=MAX_STOPPED {
            stopped_task(&mut registry);
        }
        registry.forget(now());
        assert!(registry.find(&first).is_none() && registry.find(&second).is_some());
        assert_eq!((registry.tasks.len(), registry.live_count()), (MAX_STOPPED, 0));
    }
}
