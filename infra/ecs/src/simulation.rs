//! Tasks of a simulation: in the place of a process stands whoever the simulation makes of the task's environment.
//!
//! It must not know what the simulation is of. Time and chance come from it too, so that the same seed gives the same
//! task ids.

use std::{fmt, sync::Arc};

use tokio::sync::{oneshot, watch};
use ulid::Ulid;

/// What a simulation brings with it.
#[derive(Clone)]
pub struct Simulation {
    /// The time, in milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Random bits, for ids.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Starts what stands for the process of a task.
    pub start: Arc<dyn Fn(SimulatedTask) + Send + Sync>,
}

/// What stands for the process of a task.
#[derive(Debug)]
pub struct SimulatedTask {
    /// The environment that the task's overrides give it.
    pub environment: Vec<(String, String)>,
    /// What it is told; it is closed when nobody is left to tell.
    pub orders: watch::Receiver<Order>,
    /// Takes its exit code; dropped without one it was killed.
    pub ended: oneshot::Sender<i32>,
}

/// What a process is told by signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Run,
    /// SIGTERM.
    Terminate,
    /// SIGKILL: nothing of it runs any more.
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
        let (orders, told) = watch::channel(Order::Run);
        let (ended, end) = oneshot::channel();
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (self.start)(SimulatedTask { environment, orders: told, ended });
        Simulated { orders, end: Some(end) }
    }
}

/// The other side of a [`SimulatedTask`].
pub(crate) struct Simulated {
    orders: watch::Sender<Order>,
    end: Option<oneshot::Receiver<i32>>,
}

impl Simulated {
    /// Waits for the end. May be dropped and repeated.
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
