//! `--pools FILE`: a file with pools of the local stack, each a body of `PUT /pools/{pool}`.
//!
//! This module owns the outer JSON object, which maps pool names to bodies. The module `functions::pools` owns the
//! fields of a body and their ranges.

use std::{fmt, path::Path};

use functions::pools::Params;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};
use shared::{Pool, TaskSettings, domain::PoolName, http::parse_object};

use crate::error::Error;

/// Parsed pools of a file, before the range checks.
#[derive(Debug)]
struct Pools(Vec<(PoolName, Params)>);

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Named)
    }
}

struct Named;

impl<'de> Visitor<'de> for Named {
    type Value = Pools;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that maps pool names to settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pools: A) -> Result<Pools, A::Error> {
        let mut named = Vec::<(PoolName, Params)>::new();
        while let Some(name) = pools.next_key::<String>()? {
            let name = PoolName::parse(&name).map_err(|bad| A::Error::custom(format!("{name:?}: {bad}")))?;
            if named.iter().any(|(other, _)| *other == name) {
                pools.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format!("the pool {name} is listed twice")));
            }
            named.push((name, pools.next_value_seed(Document)?));
        }
        Ok(Pools(named))
    }
}

struct Document;

impl<'de> DeserializeSeed<'de> for Document {
    type Value = Params;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Params, D::Error> {
        shared::http::object(deserializer)
    }
}

/// Reads the pools of a file: all of them, or none if a value is invalid. A pool without `task` has `task`, so a file
/// for this machine does not have to name the local task definition.
///
/// # Errors
/// The file cannot be read, or a value is invalid; the error names file, pool and field.
pub(crate) fn read(file: &Path, task: &TaskSettings) -> Result<Vec<Pool>, Error> {
    let wrong = |problem: String| Error::Pools(file.to_owned(), problem);
    let bytes = std::fs::read(file).map_err(|error| wrong(format!("the file cannot be read: {error}")))?;
    let Pools(pools) = parse_object(&bytes).map_err(|bad| wrong(bad.of("the file")))?;
    let pools = pools.into_iter().map(|(name, params)| {
        let called = name.clone();
        params.parse(name, Some(task.clone())).map_err(|problem| wrong(format!("pool `{called}`: {problem}")))
    });
    pools.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn task() -> TaskSettings {
        let task =
            r#"{"cluster": "default", "taskDefinition": "demo:1", "container": "game", "url": "http://127.0.0.1"}"#;
        serde_json::from_str(task).unwrap()
    }

    fn of(text: &str) -> Result<Vec<Pool>, String> {
        static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("owmm-pools-{}-{number}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let pools = read(&file, &task()).map_err(|error| error.to_string());
        std::fs::remove_file(&file).unwrap();
        pools
    }

    #[test]
    fn a_pool_has_the_values_of_its_document_and_defaults_for_the_rest() {
        let pools = of(r#"{"eu": {"capacity": 7, "rollout": "drain"}, "us": {"task": {"cluster": "c",
            "taskDefinition": "g:2", "container": "g", "url": "https://owmm.example"}}}"#);
        let pools = pools.unwrap();
        let of = |i: usize| pools.get(i).unwrap();
        assert_eq!((of(0).name.as_str(), of(0).limits.capacity, &of(0).task), ("eu", 7, &task()));
        assert_eq!((of(1).limits.capacity, of(1).task.task_definition.as_str()), (50, "g:2"));
    }

    #[test]
    fn an_invalid_file_is_refused_with_the_names_of_file_pool_and_field() {
        for (text, names) in [
            (r#"{"eu": {}, "us": {"capacity": 0}}"#, ["us", "capacity"]),
            (r#"{"eu": {"capacity": "7"}}"#, ["eu", "capacity"]),
            (r#"{"eu": {"capacty": 7}}"#, ["eu", "capacty"]),
            (r#"{"eu": {"capacity": 7, "capacity": 8}}"#, ["eu", "capacity"]),
            (r#"{"eu": {"task": {"cluster": "c"}}}"#, ["eu.task", "taskDefinition"]),
            (r#"{"eu": {"task": ["c", "g:2", "g"]}}"#, ["eu.task", "an object"]),
            (r#"{"eu": {"rollout": "slow"}}"#, ["eu.rollout", "lazy"]),
            (r#"{"eu": [7]}"#, ["eu", "an object"]),
            (r#"{"eu": {}, "eu": {}}"#, ["eu", "twice"]),
            (r#"{"e u": {}}"#, ["e u", "A-Z"]),
            (r#"["eu"]"#, ["owmm-pools", "an object"]),
            ("{", ["not valid JSON", "the rest of an object"]),
            ("", ["an object", "the end of the text"]),
            (
                "{\"eu\": {\n\"capacity\": 7,}}",
                ["valid JSON in `eu`", "after the comma, or no comma, at line 2, column 15"],
            ),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains("owmm-pools") && names.iter().all(|name| error.contains(name)), "{text}: {error}");
        }
        let error = read(Path::new("/nonexistent/pools.json"), &task()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pools.json"), "{error}");
    }
}
