//! A pool: a class of interchangeable servers, and the limits that it sets.

use super::{PoolName, Span};

/// What operators say of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its limits.
    pub limits: PoolLimits,
    /// What is started for it.
    pub task: TaskPlacement,
}

/// The numbers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolLimits {
    /// Slots of one server, 1-1,000.
    pub capacity: u32,
    /// Servers that may live at once, 1-10,000.
    pub max_servers: u32,
    /// Frontiers, 1-16: servers that may be filling at once while they start. One bears about 1,000 joins a second.
    pub frontiers: u32,
    /// Free slots to keep ready ahead of demand, 0-100,000. With 0 the pool scales to zero.
    pub headroom: u32,
    /// How long a server may be empty before it is stopped, if the headroom is there without it.
    pub idle: Span,
    /// How long a reservation holds once its server is ready.
    pub reservation: Span,
    /// How long a server may take from RunTask to its registration.
    pub launch: Span,
    /// How long a heartbeat keeps a server's lease. Servers are told to beat three times as often.
    pub lease: Span,
}

impl PoolLimits {
    /// How often servers are told to beat.
    pub const fn heartbeat(lease: Span) -> Span {
        Span(lease.0 / 3)
    }
}

/// What RunTask is called with, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskPlacement {
    /// The ECS cluster's name or ARN.
    pub cluster: String,
    /// The task definition with its revision, so that a repeated call starts the same thing.
    pub task_definition: String,
    /// The container that gets the server's environment.
    pub container: String,
    /// Subnets of the task's network interface; none on EC2 with host networking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Security groups of the task's network interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// Whether the task gets a public address, which players need unless there is another way in.
    #[serde(default)]
    pub assign_public_ip: bool,
    /// `FARGATE` or `EC2`; without it the cluster's default capacity provider strategy decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<String>,
    /// The URL at which the server reaches OWMM.
    pub url: String,
}
