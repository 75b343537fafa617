//! `template.yaml`, as the tests and the local stack read it. Owns the short forms of YAML; must not know what any of it means.

use serde_json::{Map, Value, json};
use serde_yaml_ng::Value as Yaml;

use crate::error::Error;

/// The template that is deployed.
pub const DEPLOYED: &str = include_str!("../../../template.yaml");

/// A CloudFormation template with every function in its long form: `!Ref Table` is `{"Ref": "Table"}`, and `!Sub x` is
/// `{"Fn::Sub": "x"}`.
///
/// # Errors
/// It is no YAML.
pub fn read(text: &str) -> Result<Value, Error> {
    let yaml = serde_yaml_ng::from_str::<Yaml>(text).map_err(|error| Error::Template(error.to_string()))?;
    long(&yaml).ok_or_else(|| Error::Template("it holds what JSON cannot".to_owned()))
}

fn long(yaml: &Yaml) -> Option<Value> {
    Some(match yaml {
        Yaml::Sequence(items) => items.iter().map(long).collect::<Option<_>>()?,
        Yaml::Mapping(pairs) => {
            let pairs = pairs.iter().map(|(name, value)| Some((name.as_str()?.to_owned(), long(value)?)));
            Value::Object(pairs.collect::<Option<Map<_, _>>>()?)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let name = tag.trim_start_matches('!');
            let name = if matches!(name, "Ref" | "Condition") { name.to_owned() } else { format!("Fn::{name}") };
            json!({ name: long(&tagged.value)? })
        }
        plain => serde_json::to_value(plain).ok()?,
    })
}
