//! What the local ECS starts, and its limits.

use std::{ffi::OsString, time::Duration};

use crate::simulation::Simulation;

/// What the local ECS starts, and its limits. Build one with [`Options::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program and its arguments that every task runs.
    pub command: Vec<OsString>,
    /// What a task definition would add to the environment of its container. It comes on top of this process's own; the
    /// overrides of a `RunTask` come on top of it.
    pub environment: Vec<(String, String)>,
    /// The name of the one cluster. ECS assumes `default` where a request names none.
    pub cluster: String,
    /// How long a task stays `PENDING` before its process starts: the image pull of the real thing.
    pub start_delay: Duration,
    /// How long a stopped task's process has between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
    /// The same for [`LocalEcs::shutdown`], where somebody waits at a terminal.
    pub shutdown_timeout: Duration,
    /// How many tasks may live at once. `RunTask` answers `failures` for those beyond.
    pub max_tasks: usize,
    /// Runs no process: tasks, time and ids are a simulation's.
    pub simulation: Option<Simulation>,
}

impl Options {
    /// The defaults of ECS for `command`: cluster `default`, no start delay, 30 s to stop; 3 s at shutdown, 2,000 tasks.
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
