//! The local ECS: an HTTP endpoint that speaks the Amazon ECS JSON protocol and runs every task as a real process.
//!
//! It replaces ECS behind the real SDK client: only the client's endpoint differs. It owns the tasks of one cluster, in
//! memory, and their processes. It does not depend on what the processes do: game servers are one use.
//!
//! | module | owns |
//! |---|---|
//! | `options` | the command of a task, and the limits |
//! | `cluster` | the state that all operations and runners share |
//! | `wire` | requests, refusals, and the rules that need only the request |
//! | `task` | one task: its lifecycle and its JSON description |
//! | `registry` | all tasks and `clientToken`s, and their removal; each change of a task is a version and an event |
//! | `process` | one process group: starting, logging, signalling and reaping it |
//! | `reaper` | a shell that kills the tasks' processes if this process is killed |
//! | `simulation` | tasks of a simulation, which replace processes |
//! | `runner` | the lifecycle of one task, from start delay to `STOPPED` |
//! | `server` | the HTTP endpoint and the operations |
//!
//! Differences from ECS: there is one cluster, and every task definition exists, with one container. A task runs the
//! configured command and ignores an override of `command`. Its environment is that of this process, then the
//! configured one, then that of the overrides; later values win. Requests are not authenticated: serve the endpoint on
//! loopback only.

mod cluster;
mod options;
mod process;
mod reaper;
mod registry;
mod runner;
mod server;
mod simulation;
mod task;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use serde_json::Value;
use tokio::{sync::broadcast, time::Instant};

pub use options::Options;
pub use process::OUTPUT;
pub use registry::{Counts, Fault};
pub use simulation::{Order, SimulatedTask, Simulation};

use cluster::Shared;
use reaper::Reaper;
use registry::Registry;
use task::StopCode;

/// The local ECS. Clones share all state. When the last clone and the last router are dropped, the tokio runtime kills
/// the processes; only [`LocalEcs::shutdown`] waits until they have ended.
#[derive(Clone)]
pub struct LocalEcs(Arc<Shared>);

impl LocalEcs {
    /// Creates an empty cluster.
    pub fn new(options: Options) -> Self {
        let registry = Mutex::new(Registry::new(&options.cluster, options.simulation.clone()));
        let reaper = options.simulation.is_none().then(Reaper::start).transpose();
        let reaper = reaper.unwrap_or_else(|error| {
            tracing::warn!(%error, "no reaper could be started: SIGKILL to this process leaves task processes running");
            None
        });
        Self(Arc::new(Shared { options: Arc::new(options), registry, reaper }))
    }

    /// Returns the endpoint. Serve it at the root of a listener on loopback, within a tokio runtime.
    pub fn router(&self) -> axum::Router {
        server::router(Arc::clone(&self.0))
    }

    /// Handles one request without HTTP: returns the endpoint's response to this `X-Amz-Target` and body. Call it
    /// within a tokio runtime.
    pub fn call(&self, target: &str, body: &[u8]) -> (StatusCode, Value) {
        server::call(&self.0, target, body)
    }

    /// Subscribes to the later changes of all tasks, in order, in the format of EventBridge's `ECS Task State Change`.
    /// As on AWS, times are RFC 3339 and tags are missing. A receiver more than 1,024 events behind loses the oldest
    /// events and gets `RecvError::Lagged`.
    pub fn events(&self) -> broadcast::Receiver<Value> {
        self.0.registry().events()
    }

    /// Injects `fault` into the next `calls` calls of `RunTask`, after all faults that were injected earlier.
    pub fn inject(&self, fault: Fault, calls: u32) {
        self.0.registry().inject(fault, calls);
    }

    /// Returns the counters since the start.
    pub fn counts(&self) -> Counts {
        self.0.registry().counts
    }

    /// Stops every task and refuses new ones. Each process gets SIGTERM, and its group SIGKILL after the shutdown
    /// timeout. Returns when all processes have ended. Concurrent calls wait for the same end.
    pub async fn shutdown(&self) {
        let kill_at = Instant::now() + self.0.options.shutdown_timeout;
        let runners = {
            let mut registry = self.0.registry();
            registry.closing = true;
            let live = registry.live();
            live.iter()
                .filter_map(|id| registry.stop(id, StopCode::UserInitiated, "The local ECS shuts down", kill_at))
                .collect::<Vec<_>>()
        };
        for runner in runners {
            runner.closed().await;
        }
    }
}
