//! Options of the local ECS: the command of a task, and the limits.

use std::{ffi::OsString, time::Duration};

use crate::simulation::Simulation;

/// Options of the local ECS. Create them with [`Options::new`], then change single fields.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program, with its arguments, that every task runs.
    pub command: Vec<OsString>,
    /// Environment of the task definition. It overrides this process's environment, and the overrides of `RunTask`
    /// override it.
    pub environment: Vec<(String, String)>,
    /// Name of the cluster. A request without a cluster means `default`, as at ECS.
    pub cluster: String,
    /// How long a task stays `PENDING` before its process starts. Stands for the image pull of ECS.
    pub start_delay: Duration,
    /// Time between SIGTERM and SIGKILL for the process of a stopped task.
    pub stop_timeout: Duration,
    /// Time between SIGTERM and SIGKILL at `LocalEcs::shutdown`. Shorter, because a user waits at a terminal.
    pub shutdown_timeout: Duration,
    /// Most tasks that are not stopped. `RunTask` returns `failures` for tasks above this limit.
    pub max_tasks: usize,
    /// Simulation that replaces processes, and provides time and ids. `None` runs real processes.
    pub simulation: Option<Simulation>,
}

impl Options {
    /// Returns the default options for `command`: cluster `default`, no start delay, stop timeout 30 s (as at ECS),
    /// shutdown timeout 3 s, 2,000 tasks.
    pub fn new(command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            cluster: "default".to_owned(),
            start_delay: Duration::ZERO,
            stop_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(3),
            max_tasks: 2_000,
            simulation: None,
        }
    }
}
