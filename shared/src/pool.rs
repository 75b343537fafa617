//! A pool as operators configured it: its rules, and what ECS starts for it.

use crate::domain::{PoolBuild, PoolLimits, PoolName, Rollout};

/// What operators say of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its limits.
    pub limits: PoolLimits,
    /// What is started for it.
    pub task: TaskSettings,
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

    /// The current build, and what becomes of servers of older ones.
    pub const fn current(&self) -> PoolBuild {
        PoolBuild { number: self.build, rollout: self.rollout }
    }

    /// Whether a server of that build takes new players.
    pub const fn takes(&self, build: u32) -> bool {
        self.current().takes(build)
    }
}

/// What is there must be of its type: `null` is not the same as nothing.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// What RunTask is called with, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskSettings {
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

impl TaskSettings {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
pub(crate) mod tests {
    use super::*;

    /// A pool as operators have configured it.
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

    fn placed(change: impl FnOnce(&mut TaskSettings)) -> Result<(), String> {
        let mut task = configured().task;
        change(&mut task);
        task.check()
    }

    /// What is wrong must be named.
    fn refused(what: &str, change: impl FnOnce(&mut TaskSettings)) {
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
        let fargate = |task: &mut TaskSettings| {
            task.launch_type = Some("FARGATE".to_owned());
            (task.subnets, task.security_groups, task.assign_public_ip) = (ids(16), ids(5), true);
        };
        assert_eq!(placed(fargate), Ok(()));
    }

    #[test]
    fn a_launch_type_is_read_as_it_was_written_and_null_is_none() {
        let task = TaskSettings { launch_type: Some("EC2".to_owned()), ..configured().task };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<TaskSettings>(&text).unwrap(), task);
        assert!(serde_json::from_str::<TaskSettings>(&text.replace("\"EC2\"", "null")).is_err());
        let without = serde_json::to_string(&configured().task).unwrap();
        assert_eq!(serde_json::from_str::<TaskSettings>(&without).unwrap().launch_type, None);
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
