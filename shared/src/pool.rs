//! A pool as an operator configures it: its limits, and the ECS task that runs its servers.

use crate::domain::{PoolBuild, PoolLimits, PoolName, Rollout};

/// The configuration of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Name of the pool.
    pub name: PoolName,
    /// Limits: slots, servers and times.
    pub limits: PoolLimits,
    /// The ECS task that runs a server of the pool.
    pub task: TaskSettings,
    /// Number of configurations since the first, from 0. A late write of an older version is refused.
    pub version: u32,
    /// Number of the build, from 0: one more with each change of the task definition.
    pub build: u32,
    /// Rule for servers of an older build.
    pub rollout: Rollout,
    /// Number of shards of the pool's index: the highest number of frontiers that the pool has ever had, because a
    /// server stays in the shard for which it was started.
    pub shards: u32,
    /// ECS clusters that the pool used before, the latest first. Servers may still run there.
    pub previous_clusters: Vec<String>,
}

/// Number of previous clusters that a pool keeps.
const MAX_PREVIOUS_CLUSTERS: usize = 4;

impl Pool {
    /// Returns this configuration as the successor of `old`. A changed task definition is a new build.
    pub fn succeeding(self, old: Option<&Self>) -> Self {
        let build = old.map_or(0, |old| {
            let changed = old.task.task_definition != self.task.task_definition;
            old.build.saturating_add(changed.into())
        });
        let version = old.map_or(0, |old| old.version.saturating_add(1));
        let shards = self.limits.concurrent_launches.max(old.map_or(0, |old| old.shards));
        let mut previous_clusters = old.map_or_else(Vec::new, |old| old.clusters().map(str::to_owned).collect());
        previous_clusters.retain(|cluster| *cluster != self.task.cluster);
        previous_clusters.truncate(MAX_PREVIOUS_CLUSTERS);
        Self { version, build, shards, previous_clusters, ..self }
    }

    /// Returns the clusters in which the pool's servers may run: the current one first, then the previous ones.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.task.cluster).chain(&self.previous_clusters).map(String::as_str)
    }

    /// The current build, with the rule for servers of older builds.
    pub const fn current(&self) -> PoolBuild {
        PoolBuild { number: self.build, rollout: self.rollout }
    }

    /// Whether servers of this build take new players.
    pub const fn takes(&self, build: u32) -> bool {
        self.current().takes(build)
    }
}

/// Deserializes an optional field that may be absent but not `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// The parameters of ECS's RunTask for a server, and its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskSettings {
    /// Name or ARN of the ECS cluster.
    pub cluster: String,
    /// Task definition with its revision, so that a repeated call starts the same software.
    pub task_definition: String,
    /// Name of the container that gets the server's environment variables.
    pub container: String,
    /// Subnets of the task's network interface; none on EC2 with host networking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Security groups of the task's network interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// Whether the task gets a public IP address, which players need unless they reach it in another way.
    #[serde(default)]
    pub assign_public_ip: bool,
    /// `FARGATE` or `EC2`. If absent, the cluster's default capacity provider strategy decides.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub launch_type: Option<String>,
    /// URL at which the server calls OWMM.
    pub url: String,
}

impl TaskSettings {
    /// Checks everything about the settings that can be checked without a call to ECS.
    ///
    /// # Errors
    /// A value is invalid; the error names the setting and its range.
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
        // A repeated RunTask must start the same software, but a family without a revision means the newest revision.
        if self.task_definition.rsplit_once(':').is_none_or(|(_, revision)| revision.parse::<u32>().is_err()) {
            return Err("`task.taskDefinition` must name a revision, as in `game-server:7`.".to_owned());
        }
        // Limits of "AwsVpcConfiguration" in the ECS API reference.
        if self.subnets.len() > 16 || self.security_groups.len() > 5 {
            return Err("`task.subnets` must have at most 16 entries, `task.securityGroups` at most 5.".to_owned());
        }
        let entries = [("subnets", &self.subnets), ("securityGroups", &self.security_groups)];
        for (name, ids) in entries {
            if !ids.iter().all(|id| (1..=512).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())) {
                return Err(format!(
                    "Each entry of `task.{name}` must be 1 to 512 printable ASCII characters without blanks."
                ));
            }
        }
        // These three settings need a network interface of the task's own, which needs subnets. On Fargate a task has
        // one.
        let fargate = self.launch_type.as_deref() == Some("FARGATE");
        if self.subnets.is_empty() && (fargate || self.assign_public_ip || !self.security_groups.is_empty()) {
            let settings = "`task.launchType` FARGATE, `task.securityGroups` and `task.assignPublicIp`";
            return Err(format!("`task.subnets` must name at least one subnet for {settings}."));
        }
        if self.launch_type.as_deref().is_some_and(|launch_type| !matches!(launch_type, "FARGATE" | "EC2")) {
            return Err("`task.launchType` must be FARGATE or EC2.".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
pub(crate) mod tests {
    use super::*;

    /// A pool with default limits and valid task settings.
    pub(crate) fn configured() -> Pool {
        Pool {
            name: PoolName::parse("p").unwrap(),
            limits: PoolLimits::DEFAULT,
            task: TaskSettings {
                cluster: "games".to_owned(),
                task_definition: "game-server:7".to_owned(),
                container: "game".to_owned(),
                subnets: Vec::new(),
                security_groups: Vec::new(),
                assign_public_ip: false,
                launch_type: None,
                url: "https://owmm.example".to_owned(),
            },
            version: 0,
            build: 0,
            rollout: Rollout::Lazy,
            shards: 1,
            previous_clusters: Vec::new(),
        }
    }

    #[test]
    fn a_changed_task_definition_is_a_new_build_and_the_number_of_shards_never_falls() {
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
    fn a_pool_keeps_the_last_four_clusters_that_it_has_left() {
        let moved = |old: &Pool, cluster: &str| {
            let mut pool = configured();
            pool.task.cluster = cluster.to_owned();
            pool.succeeding(Some(old))
        };
        let clusters = |pool: &Pool| pool.clusters().map(str::to_owned).collect::<Vec<_>>();
        let first = configured();
        assert_eq!(clusters(&first), ["games"]);
        assert_eq!(
            clusters(&first.clone().succeeding(Some(&first))),
            ["games"],
            "an unchanged cluster is no previous cluster"
        );
        let second = moved(&first, "b");
        assert_eq!(clusters(&second), ["b", "games"]);
        assert_eq!(clusters(&moved(&second, "games")), ["games", "b"], "a pool that returns to its first cluster");
        let sixth = ["c", "d", "e", "f"].iter().fold(second, |pool, cluster| moved(&pool, cluster));
        assert_eq!(clusters(&sixth), ["f", "e", "d", "c", "b"]);
    }

    fn checked(change: impl FnOnce(&mut TaskSettings)) -> Result<(), String> {
        let mut task = configured().task;
        change(&mut task);
        task.check()
    }

    /// Asserts that the settings are refused with an error that contains `what`.
    fn refused(what: &str, change: impl FnOnce(&mut TaskSettings)) {
        let reply = checked(change);
        assert!(reply.as_ref().is_err_and(|reply| reply.contains(what)), "{what}: {reply:?}");
    }

    fn ids(n: usize) -> Vec<String> {
        vec!["id-1".to_owned(); n]
    }

    #[test]
    fn valid_task_settings_pass_the_check() {
        assert_eq!(checked(|_| {}), Ok(()));
        assert_eq!(checked(|task| task.cluster = "c".repeat(512)), Ok(()));
        assert_eq!(checked(|task| "http://127.0.0.1:1".clone_into(&mut task.url)), Ok(()));
        assert_eq!(checked(|task| task.launch_type = Some("EC2".to_owned())), Ok(()));
        let fargate = |task: &mut TaskSettings| {
            task.launch_type = Some("FARGATE".to_owned());
            (task.subnets, task.security_groups, task.assign_public_ip) = (ids(16), ids(5), true);
        };
        assert_eq!(checked(fargate), Ok(()));
    }

    #[test]
    fn a_launch_type_is_read_back_as_written_may_be_absent_and_must_not_be_null() {
        let task = TaskSettings { launch_type: Some("EC2".to_owned()), ..configured().task };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<TaskSettings>(&text).unwrap(), task);
        assert!(serde_json::from_str::<TaskSettings>(&text.replace("\"EC2\"", "null")).is_err());
        let without = serde_json::to_string(&configured().task).unwrap();
        assert_eq!(serde_json::from_str::<TaskSettings>(&without).unwrap().launch_type, None);
    }

    #[test]
    fn an_error_about_invalid_task_settings_names_the_setting() {
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
