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
    /// How often it has been configured since it was made: late settings do not undo later ones.
    pub version: u32,
    /// The build: one more each time that the task definition changes.
    pub build: u32,
    /// What becomes of servers of an older build.
    pub rollout: Rollout,
    /// Parts of its index that may list servers: the most frontiers that it has ever had. A server stays in the part that
    /// it was started for.
    pub shards: u32,
    /// ECS clusters that it has left, the last one first: servers may still run there.
    pub previous_clusters: Vec<String>,
}

/// How many clusters that it has left a pool remembers.
const MAX_PREVIOUS_CLUSTERS: usize = 4;

impl Pool {
    /// This configuration in the place of `old`: a new build if it starts another build.
    pub fn succeeding(self, old: Option<&Self>) -> Self {
        let build = old.map_or(0, |old| {
            let another = old.task.task_definition != self.task.task_definition;
            old.build.saturating_add(another.into())
        });
        let version = old.map_or(0, |old| old.version.saturating_add(1));
        let shards = self.limits.concurrent_launches.max(old.map_or(0, |old| old.shards));
        let mut previous_clusters = old.map_or_else(Vec::new, |old| old.clusters().map(str::to_owned).collect());
        previous_clusters.retain(|cluster| *cluster != self.task.cluster);
        previous_clusters.truncate(MAX_PREVIOUS_CLUSTERS);
        Self { version, build, shards, previous_clusters, ..self }
    }

    /// Where its servers may run: the cluster of the next one first.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.task.cluster).chain(&self.previous_clusters).map(String::as_str)
    }

    /// Whether a server of that build takes new players.
    pub const fn takes(&self, build: u32) -> bool {
        matches!(self.rollout, Rollout::Lazy) || build >= self.build
    }
}

/// What becomes of the servers that run an older build than the pool's. Servers of the newest build with room come
/// first either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Rollout {
    /// They go on as long as somebody is there, take players where no newer one has room, and drain once they are
    /// empty.
    #[default]
    Lazy,
    /// They take nobody new from now on, and end when the last has left.
    Drain,
}

impl Rollout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lazy, Self::Drain];

    /// Its name, in the table and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Drain => "drain",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rollout| rollout.as_str() == name)
    }
}

/// Only its name stands for it: what serde derives for an enum takes `{"lazy": null}` too.
impl TryFrom<String> for Rollout {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name).ok_or("expected `lazy` or `drain`")
    }
}

/// The numbers of a pool; [`Bound`] has the range and default of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolLimits {
    /// Slots of one server.
    pub capacity: u32,
    /// Servers that may live at once.
    pub max_servers: u32,
    /// Servers that may be filling at once while they start.
    pub concurrent_launches: u32,
    /// Free slots to keep ready ahead of demand.
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

/// The range of a number that operators set, and what it is if they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The name of the setting; its unit is its last word, if it has one.
    pub name: &'static str,
    /// The least value.
    pub least: i64,
    /// The greatest value.
    pub most: i64,
    /// The value where nothing is said.
    pub default: i64,
}

impl Bound {
    /// Slots of one server. See ARCHITECTURE.md for what one item bears.
    pub const CAPACITY: Self = Self { name: "capacity", least: 1, most: 1_000, default: 50 };
    /// Servers that may live at once.
    pub const MAX_SERVERS: Self = Self { name: "maxServers", least: 1, most: 10_000, default: 100 };
    /// Servers that may be filling at once while they start. One bears about 1,000 joins a second.
    pub const CONCURRENT_LAUNCHES: Self = Self { name: "concurrentLaunches", least: 1, most: 16, default: 1 };
    /// Free slots to keep ready ahead of demand. With 0 the pool scales to zero.
    pub const HEADROOM: Self = Self { name: "headroom", least: 0, most: 100_000, default: 0 };
    /// How long a server may be empty before it is stopped.
    pub const IDLE_SECONDS: Self = Self { name: "idleSeconds", least: 1, most: 86_400, default: 300 };
    /// How long a reservation holds once its server is ready.
    pub const RESERVATION_SECONDS: Self = Self { name: "reservationSeconds", least: 1, most: 3_600, default: 60 };
    /// How long a server may take to register.
    pub const LAUNCH_SECONDS: Self = Self { name: "launchSeconds", least: 1, most: 3_600, default: 120 };
    /// How long a heartbeat keeps a server's lease.
    pub const LEASE_SECONDS: Self = Self { name: "leaseSeconds", least: 1, most: 600, default: 30 };

    /// The value as a count.
    ///
    /// # Errors
    /// It is out of range; the error names the setting.
    pub fn count(self, value: i64) -> Result<u32, String> {
        let Self { name, least, most, .. } = self;
        let in_range = u32::try_from(value).ok().filter(|_| (least..=most).contains(&value));
        in_range.ok_or_else(|| format!("`{name}` must be {least} to {most}."))
    }
}

impl TaskPlacement {
    /// Whether RunTask could be called with it at all, as far as can be told without asking ECS.
    ///
    /// # Errors
    /// A value is out of range; the error names it.
    pub fn check(&self) -> Result<(), String> {
        let texts = [
            ("cluster", &self.cluster),
            ("taskDefinition", &self.task_definition),
            ("container", &self.container),
            ("url", &self.url),
        ];
        for (name, text) in texts {
            if !(1..=512).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("`task.{name}` must be 1 to 512 printable ASCII characters without blanks."));
            }
        }
        if !self.url.starts_with("https://") && !self.url.starts_with("http://") {
            return Err("`task.url` must begin with https:// (or http:// on a laptop).".to_owned());
        }
        // A repeated RunTask must start the same thing, and a family alone means whatever is newest by then.
        if self.task_definition.rsplit_once(':').is_none_or(|(_, revision)| revision.parse::<u32>().is_err()) {
            return Err("`task.taskDefinition` must name a revision, as in `game-server:7`.".to_owned());
        }
        // "AwsVpcConfiguration" in the ECS API reference.
        if self.subnets.len() > 16 || self.security_groups.len() > 5 {
            return Err("`task.subnets` has at most 16 entries, `task.securityGroups` at most 5.".to_owned());
        }
        let entries = [("subnets", &self.subnets), ("securityGroups", &self.security_groups)];
        for (name, ids) in entries {
            if !ids.iter().all(|id| (1..=512).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())) {
                return Err(format!(
                    "`task.{name}` has entries of 1 to 512 printable ASCII characters without blanks."
                ));
            }
        }
        // All three are about the task's own network interface, which Fargate always has.
        let fargate = self.launch_type.as_deref() == Some("FARGATE");
        if self.subnets.is_empty() && (fargate || self.assign_public_ip || !self.security_groups.is_empty()) {
            let who = "`task.launchType` FARGATE, `task.securityGroups` and `task.assignPublicIp`";
            return Err(format!("`task.subnets` must be there for {who}."));
        }
        if self.launch_type.as_deref().is_some_and(|launch_type| !matches!(launch_type, "FARGATE" | "EC2")) {
            return Err("`task.launchType` must be FARGATE or EC2.".to_owned());
        }
        Ok(())
    }
}

impl PoolLimits {
    /// The limits of a pool of which nothing is said.
    pub const DEFAULT: Self = Self {
        capacity: Bound::CAPACITY.default as u32,
        max_servers: Bound::MAX_SERVERS.default as u32,
        concurrent_launches: Bound::CONCURRENT_LAUNCHES.default as u32,
        headroom: Bound::HEADROOM.default as u32,
        idle: Span(Bound::IDLE_SECONDS.default * 1_000),
        reservation: Span(Bound::RESERVATION_SECONDS.default * 1_000),
        launch: Span(Bound::LAUNCH_SECONDS.default * 1_000),
        lease: Span(Bound::LEASE_SECONDS.default * 1_000),
    };

    /// How often servers are told to beat.
    pub const fn heartbeat(lease: Span) -> Span {
        Span(lease.0 / 3)
    }
}

/// What is there must be of its type: `null` is not the same as nothing.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
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
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub launch_type: Option<String>,
    /// The URL at which the server reaches OWMM.
    pub url: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;
    use crate::fixtures::{configured, which};

    #[test]
    fn another_task_definition_is_a_new_build_and_parts_of_the_index_stay() {
        let old = Pool { version: 6, build: 3, shards: 4, ..configured() };
        let same = configured().succeeding(Some(&old));
        assert_eq!((same.version, same.build, same.shards), (7, 3, 4));
        let mut another = configured();
        another.task.task_definition = "game-server:8".to_owned();
        another.limits.concurrent_launches = 5;
        let another = another.succeeding(Some(&old));
        assert_eq!((another.build, another.shards), (4, 5));
        let first = Pool { build: 7, shards: 7, ..configured() }.succeeding(None);
        assert_eq!((first.version, first.build, first.shards), (0, 0, 1));
    }

    #[test]
    fn clusters_that_were_left_are_remembered_for_a_while() {
        let moved = |old: &Pool, cluster: &str| {
            let mut pool = configured();
            pool.task.cluster = cluster.to_owned();
            pool.succeeding(Some(old))
        };
        let clusters = |pool: &Pool| pool.clusters().map(str::to_owned).collect::<Vec<_>>();
        let first = configured();
        assert_eq!(clusters(&first), ["games"]);
        assert_eq!(clusters(&first.clone().succeeding(Some(&first))), ["games"], "it has not moved");
        let second = moved(&first, "b");
        assert_eq!(clusters(&second), ["b", "games"]);
        assert_eq!(clusters(&moved(&second, "games")), ["games", "b"], "back again");
        let sixth = ["c", "d", "e", "f"].iter().fold(second, |pool, cluster| moved(&pool, cluster));
        assert_eq!(clusters(&sixth), ["f", "e", "d", "c", "b"]);
    }

    #[test]
    fn a_rollout_decides_whether_an_old_build_takes_players() {
        let taken = |rollout| {
            let pool = Pool { build: 1, rollout, ..configured() };
            which([("older", 0), ("the pool's", 1), ("newer", 2)], |build| pool.takes(build))
        };
        assert_eq!(taken(Rollout::Lazy), ["older", "the pool's", "newer"], "lazy");
        assert_eq!(taken(Rollout::Drain), ["the pool's", "newer"], "drain");
        assert_eq!(Rollout::ALL.map(Rollout::as_str), ["lazy", "drain"]);
        assert_eq!(["lazy", "drain", "Lazy"].map(Rollout::parse), [Some(Rollout::Lazy), Some(Rollout::Drain), None]);
        let read = |name: &str| Rollout::try_from(name.to_owned());
        assert_eq!((read("drain"), read("soon")), (Ok(Rollout::Drain), Err("expected `lazy` or `drain`")));
    }

    #[test]
    fn a_number_is_taken_at_both_ends_of_its_range_and_refused_beyond() {
        let bound = Bound { name: "capacity", least: 1, most: 1_000, default: 50 };
        assert_eq!([1, 1_000].map(|value| bound.count(value)), [Ok(1), Ok(1_000)]);
        for value in [0, 1_001, -1, i64::MAX] {
            assert_eq!(bound.count(value), Err("`capacity` must be 1 to 1000.".to_owned()), "{value}");
        }
        assert_eq!(PoolLimits::DEFAULT.idle, Span::seconds(300), "seconds in the bound, milliseconds in the limits");
        assert_eq!(PoolLimits::DEFAULT.reservation, Span::seconds(60));
        assert_eq!((PoolLimits::DEFAULT.launch, PoolLimits::DEFAULT.lease), (Span::seconds(120), Span::seconds(30)));
        assert_eq!(PoolLimits::heartbeat(Span::seconds(30)), Span::seconds(10));
    }

    fn placed(change: impl FnOnce(&mut TaskPlacement)) -> Result<(), String> {
        let mut task = configured().task;
        change(&mut task);
        task.check()
    }

    /// What is wrong must be named.
    fn refused(what: &str, change: impl FnOnce(&mut TaskPlacement)) {
        let reply = placed(change);
        assert!(reply.as_ref().is_err_and(|reply| reply.contains(what)), "{what}: {reply:?}");
    }

    fn ids(n: usize) -> Vec<String> {
        vec!["id-1".to_owned(); n]
    }

    #[test]
    fn a_task_that_could_be_started_is_taken() {
        assert_eq!(placed(|_| {}), Ok(()));
        assert_eq!(placed(|task| task.cluster = "c".repeat(512)), Ok(()));
        assert_eq!(placed(|task| "http://127.0.0.1:1".clone_into(&mut task.url)), Ok(()));
        assert_eq!(placed(|task| task.launch_type = Some("EC2".to_owned())), Ok(()));
        let fargate = |task: &mut TaskPlacement| {
            task.launch_type = Some("FARGATE".to_owned());
            (task.subnets, task.security_groups, task.assign_public_ip) = (ids(16), ids(5), true);
        };
        assert_eq!(placed(fargate), Ok(()));
    }

    #[test]
    fn a_launch_type_is_read_as_it_was_written_and_null_is_none() {
        let task = TaskPlacement { launch_type: Some("EC2".to_owned()), ..configured().task };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<TaskPlacement>(&text).unwrap(), task);
        assert!(serde_json::from_str::<TaskPlacement>(&text.replace("\"EC2\"", "null")).is_err());
        let without = serde_json::to_string(&configured().task).unwrap();
        assert_eq!(serde_json::from_str::<TaskPlacement>(&without).unwrap().launch_type, None);
    }

    #[test]
    fn a_task_that_could_not_is_refused_by_the_name_of_what_is_wrong() {
        refused("task.cluster", |task| task.cluster = "c".repeat(513));
        refused("task.cluster", |task| task.cluster.clear());
        refused("task.container", |task| "a b".clone_into(&mut task.container));
        refused("task.url", |task| "ftp://owmm.example".clone_into(&mut task.url));
        for definition in ["game-server", "game-server:", "game-server:x"] {
            refused("task.taskDefinition", |task| definition.clone_into(&mut task.task_definition));
        }
        refused("at most 16", |task| task.subnets = ids(17));
        refused("at most 16", |task| (task.subnets, task.security_groups) = (ids(1), ids(6)));
        refused("task.subnets", |task| task.subnets = vec![String::new()]);
        refused("task.securityGroups", |task| (task.subnets, task.security_groups) = (ids(1), vec!["a b".to_owned()]));
        refused("task.securityGroups", |task| (task.subnets, task.security_groups) = (ids(1), vec!["a".repeat(513)]));
        refused("task.subnets", |task| task.launch_type = Some("FARGATE".to_owned()));
        refused("task.subnets", |task| task.assign_public_ip = true);
        refused("task.subnets", |task| task.security_groups = ids(1));
        refused("task.launchType", |task| task.launch_type = Some("EXTERNAL".to_owned()));
    }
}
