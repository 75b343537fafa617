//! A pool's settings as openapi.yaml has them: their names and kinds, changes to them, and differences between them.
//!
//! Ranges are not checked here: the API refuses a value that is out of range.

use std::{fmt::Write, str::FromStr};

use serde_json::{Map, Value, json};

use crate::show::{NOTHING, text};

/// The type of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Flag,
    Text,
    List,
}

/// One setting, its type, its default and its help text.
#[derive(Debug)]
struct Setting {
    key: &'static str,
    kind: Kind,
    /// The API's default; empty if there is none.
    default: &'static str,
    about: &'static str,
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default, about }
}

/// All settings of the contract. A test compares them with openapi.yaml.
const SETTINGS: &[Setting] = &[
    setting("capacity", Kind::Number, "50", "slots of one server, 1-1000"),
    setting("maxServers", Kind::Number, "100", "live servers of the pool at most, 1-10000"),
    setting("concurrentLaunches", Kind::Number, "1", "starting servers that accept players at once, 1-16"),
    setting("headroom", Kind::Number, "0", "free slots to keep ready ahead of demand, 0-100000"),
    setting("idleSeconds", Kind::Number, "300", "how long a server may be empty before it is stopped, 1-86400"),
    setting("reservationSeconds", Kind::Number, "60", "how long a slot is reserved until the player connects, 1-3600"),
    setting("launchSeconds", Kind::Number, "120", "how long a server may take to register, 1-3600"),
    setting("leaseSeconds", Kind::Number, "30", "how long a server stays in use after a heartbeat, 1-600"),
    setting("rollout", Kind::Text, "lazy", "servers of an older build: lazy (run until empty) or drain"),
    setting("task.cluster", Kind::Text, "", "the ECS cluster"),
    setting("task.taskDefinition", Kind::Text, "", "the ECS task definition with its revision, as in game-server:7"),
    setting("task.container", Kind::Text, "", "the container that gets the server's environment"),
    setting("task.subnets", Kind::List, "", "subnets of the task, separated by commas"),
    setting("task.securityGroups", Kind::List, "", "security groups of the task, separated by commas"),
    setting("task.assignPublicIp", Kind::Flag, "false", "whether the task gets a public address: true or false"),
    setting("task.launchType", Kind::Text, "", "FARGATE or EC2; by default the cluster's capacity provider strategy"),
    setting("task.url", Kind::Text, "", "URL under which game servers reach OWMM"),
];

/// Returns the list of keys for `--help`.
pub(crate) fn help() -> String {
    let mut help =
        "Keys (a new pool needs all keys of `task` without a default, except subnets, securityGroups and launchType):\n"
            .to_owned();
    for Setting { key, default, about, .. } in SETTINGS {
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        let _ = writeln!(help, "  {key:20}  {about}{default}");
    }
    help
}

impl Setting {
    fn parse(&self, value: &str) -> Result<Value, String> {
        let key = self.key;
        match self.kind {
            Kind::Number => value.parse::<i64>().map(Value::from).map_err(|_| format!("`{key}` takes a whole number")),
            Kind::Flag => value.parse::<bool>().map(Value::from).map_err(|_| format!("`{key}` takes true or false")),
            Kind::Text => Ok(value.into()),
            Kind::List => Ok(value.split(',').map(str::trim).collect()),
        }
    }
}

/// `KEY=VALUE`: the new value of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    key: &'static str,
    /// The new value; none restores the default.
    value: Option<Value>,
}

impl FromStr for Patch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE, as in capacity=60")?;
        let setting = SETTINGS.iter().find(|setting| setting.key == key).ok_or_else(|| {
            let keys = SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>().join(", ");
            format!("there is no setting `{key}`; the settings are {keys}")
        })?;
        let value = if value.is_empty() { None } else { Some(setting.parse(value)?) };
        Ok(Self { key: setting.key, value })
    }
}

impl Patch {
    /// Applies the change to the settings.
    pub(crate) fn apply(&self, settings: &mut Map<String, Value>) {
        match self.key.split_once('.') {
            None => set(settings, self.key, self.value.clone()),
            Some((group, key)) => {
                let group = settings.entry(group).or_insert_with(|| json!({}));
                if !group.is_object() {
                    *group = json!({});
                }
                if let Some(group) = group.as_object_mut() {
                    set(group, key, self.value.clone());
                }
            }
        }
    }
}

fn set(of: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => of.insert(key.to_owned(), value),
        None => of.remove(key),
    };
}

/// Returns every setting with its value as text, in the order of `SETTINGS`. A missing setting has its default, and
/// settings that the contract does not have come last.
pub(crate) fn all(settings: &Map<String, Value>) -> Vec<(String, String)> {
    let mut given = Map::new();
    flatten("", settings, &mut given);
    let mut rows = Vec::new();
    for Setting { key, default, .. } in SETTINGS {
        let default = if default.is_empty() { NOTHING } else { default };
        let value = given.remove(*key).map_or_else(|| default.to_owned(), |value| text(&value));
        rows.push(((*key).to_owned(), value));
    }
    rows.extend(given.iter().map(|(key, value)| (text(&key.as_str().into()), text(value))));
    rows
}

fn flatten(prefix: &str, of: &Map<String, Value>, into: &mut Map<String, Value>) {
    for (key, value) in of {
        match value.as_object() {
            Some(group) => flatten(&format!("{prefix}{key}."), group, into),
            None => {
                into.insert(format!("{prefix}{key}"), value.clone());
            }
        }
    }
}

/// Returns the settings that differ, each as key, old value and new value.
pub(crate) fn difference(old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Vec<Vec<String>> {
    let (old, new) = (old.map(all).unwrap_or_default(), all(new));
    let find = |of: &[(String, String)], key: &str| {
        of.iter().find(|(name, _)| name == key).map_or_else(|| NOTHING.to_owned(), |(_, value)| value.clone())
    };
    let gone = old.iter().filter(|(key, _)| !new.iter().any(|(name, _)| name == key));
    let keys = new.iter().chain(gone).map(|(key, _)| key.clone());
    let rows = keys.map(|key| {
        let (was, becomes) = (find(&old, &key), find(&new, &key));
        vec![key, was, becomes]
    });
    rows.filter(|row| row.get(1) != row.get(2)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn patched(settings: &Value, patches: &[&str]) -> Value {
        let mut settings = settings.as_object().unwrap().clone();
        for patch in patches {
            patch.parse::<Patch>().unwrap().apply(&mut settings);
        }
        settings.into()
    }

    #[test]
    fn a_patch_parses_its_value_by_the_type_of_the_setting() {
        let patches = ["capacity=60", "rollout=drain", "task.cluster=12", "task.assignPublicIp=true", "task.url=a=b"];
        let made = patched(&json!({}), &[&patches[..], &["task.subnets=subnet-1, subnet-2"]].concat());
        let task =
            json!({ "cluster": "12", "assignPublicIp": true, "url": "a=b", "subnets": ["subnet-1", "subnet-2"] });
        assert_eq!(made, json!({ "capacity": 60, "rollout": "drain", "task": task }));
    }

    #[test]
    fn a_patch_without_a_value_restores_the_default_and_keeps_other_settings() {
        let settings = json!({ "capacity": 9, "later": 1, "task": { "launchType": "EC2", "url": "u" } });
        let made = patched(&settings, &["capacity=", "task.launchType=", "headroom="]);
        assert_eq!(made, json!({ "later": 1, "task": { "url": "u" } }));
    }

    #[test]
    fn an_invalid_patch_is_refused_with_its_key_and_reason() {
        for (patch, why) in [
            ("capacity", "KEY=VALUE"),
            ("capacity=many", "`capacity` takes a whole number"),
            ("capacity=1.5", "`capacity` takes a whole number"),
            ("task.assignPublicIp=yes", "`task.assignPublicIp` takes true or false"),
            ("Capacity=1", "there is no setting `Capacity`"),
            ("task=x", "there is no setting `task`"),
            ("=1", "there is no setting ``"),
        ] {
            let error = patch.parse::<Patch>().unwrap_err();
            assert!(error.contains(why), "{patch}: {error}");
        }
    }

    #[test]
    fn the_difference_includes_defaults_and_settings_outside_the_contract() {
        let old = json!({ "capacity": 50, "old": 1, "task": { "url": "u", "subnets": ["a", "b"] } });
        let new = json!({ "headroom": 5, "new": true, "task": { "url": "u", "subnets": ["a"] } });
        let rows = difference(old.as_object(), new.as_object().unwrap());
        let rows = rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>();
        assert_eq!(rows, ["headroom 0 5", "task.subnets a,b a", "new - true", "old 1 -"]);
        assert_eq!(difference(old.as_object(), old.as_object().unwrap()), Vec::<Vec<String>>::new());
    }

    #[test]
    fn the_settings_match_openapi_in_name_type_default_and_range() {
        let contract = include_str!("../../../openapi.yaml");
        let contract = serde_yaml_ng::from_str::<Value>(contract).unwrap();
        let schemas = &contract["components"]["schemas"];
        let mut due = Vec::new();
        for (prefix, schema) in [("", &schemas["PoolSettings"]), ("task.", &schemas["Task"])] {
            for (key, value) in schema["properties"].as_object().unwrap() {
                let kind = match value["type"].as_str() {
                    Some("integer") => Kind::Number,
                    Some("boolean") => Kind::Flag,
                    Some("array") => Kind::List,
                    _ if value["$ref"].is_string() => continue,
                    _ => Kind::Text,
                };
                let default = if value["default"].is_null() { String::new() } else { text(&value["default"]) };
                due.push((format!("{prefix}{key}"), format!("{kind:?}"), default));
                let about = SETTINGS.iter().find(|setting| setting.key == format!("{prefix}{key}")).unwrap().about;
                if kind == Kind::Number {
                    assert!(about.ends_with(&format!(", {}-{}", value["minimum"], value["maximum"])), "{key}: {about}");
                }
            }
        }
        let mut have = SETTINGS
            .iter()
            .map(|setting| (setting.key.to_owned(), format!("{:?}", setting.kind), setting.default.to_owned()))
            .collect::<Vec<_>>();
        due.sort();
        have.sort();
        assert_eq!(have, due);
    }
}
