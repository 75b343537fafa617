//! Tasks of a simulation: the simulation starts a future for a task's environment instead of a process.
//!
//! This module does not depend on what is simulated. The simulation also provides time and random numbers, so that the
//! same seed produces the same task ids.

use std::{fmt, sync::Arc};

use tokio::sync::{oneshot, watch};
use ulid::Ulid;

/// Functions that a simulation provides.
#[derive(Clone)]
pub struct Simulation {
    /// Returns the time, in milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Returns random bits for ids.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Starts the simulated process of a task.
    pub start: Arc<dyn Fn(SimulatedTask) + Send + Sync>,
}

/// Handle of a simulated process.
#[derive(Debug)]
pub struct SimulatedTask {
    /// Environment of the task: the configured one, then that of the overrides.
    pub environment: Vec<(String, String)>,
    /// Latest signal to the process. The channel closes when the task's runner is dropped.
    pub orders: watch::Receiver<Order>,
    /// Takes the exit code. If it is dropped without one, the process was killed.
    pub ended: oneshot::Sender<i32>,
}

/// Signal to a simulated process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No signal yet.
    Run,
    /// SIGTERM.
    Terminate,
    /// SIGKILL: the simulated process must stop at once.
    Kill,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulation")
    }
}

impl Simulation {
    pub(crate) fn now(&self) -> u64 {
        (self.now_ms)()
    }

    pub(crate) fn ulid(&self) -> Ulid {
        Ulid::from_parts(self.now(), (self.random)())
    }

    pub(crate) fn start<'a>(&self, environment: impl Iterator<Item = (&'a str, &'a str)>) -> Simulated {
        let (orders, received) = watch::channel(Order::Run);
        let (ended, end) = oneshot::channel();
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (self.start)(SimulatedTask { environment, orders: received, ended });
        Simulated { orders, end: Some(end) }
    }
}

/// The runner's side of a [`SimulatedTask`].
pub(crate) struct Simulated {
    orders: watch::Sender<Order>,
    end: Option<oneshot::Receiver<i32>>,
}

impl Simulated {
    /// Waits for the exit code. The future may be dropped and `wait` called again.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let code = self.end.as_mut()?.await.unwrap_or(137);
        self.end = None;
        Some(code)
    }

    pub(crate) async fn stop(&mut self, kill_due: impl Future<Output = ()>) -> Option<i32> {
        self.orders.send_replace(Order::Terminate);
        tokio::select! {
            biased;
            code = self.wait() => code,
            () = kill_due => {
                self.orders.send_replace(Order::Kill);
                self.wait().await
            }
        }
    }
}
