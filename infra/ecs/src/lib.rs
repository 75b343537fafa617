//! The local ECS: an HTTP endpoint that speaks the Amazon ECS JSON protocol and runs every task as a real process.
//!
//! It stands where ECS stands, so the code under test keeps the real SDK client and only its endpoint differs. It
//! owns the tasks of one cluster, in memory, and the processes behind them. It must not know what the processes are:
//! game servers are one use of it.
//!
//! | module | owns |
//! |---|---|
//! | `options` | what is started, and the limits |
//! | `cluster` | what all operations and runners share |
//! | `wire` | requests, refusals and the rules that a request alone can break |
//! | `task` | one task: its lifecycle, and how it is described |
//! | `registry` | all tasks, the `clientToken`s and what is forgotten when; every change is a version and an event |
//! | `process` | one process group: start, log, signal, reap |
//! | `reaper` | that no process outlives this one, however it ends |
//! | `simulation` | tasks of a simulation, in the place of processes |
//! | `runner` | takes one task through its life |
//! | `server` | the operations |
//!
//! Where it differs from ECS: there is one cluster, and any task definition is taken to exist, with one container. A
//! task runs the configured command, whatever an override of `command` says, in the environment of this process plus
//! the configured one plus the overrides'. Requests are not authenticated: serve it on loopback only.

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

/// The local ECS. Clones share everything. Once the last of them and of its routers is dropped, the processes are
/// killed by the runtime it ran on; only [`LocalEcs::shutdown`] waits until they are gone.
#[derive(Clone)]
pub struct LocalEcs(Arc<Shared>);

impl LocalEcs {
    /// An empty cluster.
    pub fn new(options: Options) -> Self {
        let registry = Mutex::new(Registry::new(&options.cluster, options.simulation.clone()));
        let reaper = options.simulation.is_none().then(Reaper::start).transpose();
        let reaper = reaper.unwrap_or_else(|error| {
            tracing::warn!(%error, "no shell: should this process be killed, the tasks' processes stay behind");
            None
        });
        Self(Arc::new(Shared { options: Arc::new(options), registry, reaper }))
    }

    /// The endpoint, to be served at the root of a listener on loopback, within a tokio runtime.
    pub fn router(&self) -> axum::Router {
        server::router(Arc::clone(&self.0))
    }

    /// One request without HTTP around it: what the endpoint answers to this `X-Amz-Target` and body. Within a tokio
    /// runtime, as the endpoint is.
    pub fn call(&self, target: &str, body: &[u8]) -> (StatusCode, Value) {
        server::call(&self.0, target, body)
    }

    /// Every later change of a task, in order, as EventBridge hands out an `ECS Task State Change`. As on AWS, times
    /// are RFC 3339 and tags are missing. A receiver more than 1,024 events behind loses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<Value> {
        self.0.registry().events()
    }

    /// Makes the next `calls` calls of `RunTask` go wrong, after those that were injected before.
    pub fn inject(&self, fault: Fault, calls: u32) {
        self.0.registry().inject(fault, calls);
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.0.registry().counts
    }

    /// Stops every task and refuses new ones: SIGTERM, then SIGKILL to the process group after the shutdown timeout.
    /// Returns once all processes are gone, also when called again meanwhile.
    pub async fn shutdown(&self) {
        let kill_at = Instant::now() + self.0.options.shutdown_timeout;
        let ending = {
            let mut registry = self.0.registry();
            registry.closing = true;
            let live = registry.live();
            live.iter()
                .filter_map(|id| registry.stop(id, StopCode::UserInitiated, "The local ECS shuts down", kill_at))
                .collect::<Vec<_>>()
        };
        for runner in ending {
            runner.closed().await;
        }
    }
}
