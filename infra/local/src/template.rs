//! Parser of `template.yaml` for the tests and the local stack. It expands the short forms of CloudFormation's YAML and
//! does not interpret the template.

use serde_json::{Map, Value, json};
use serde_yaml_ng::Value as Yaml;

use crate::error::Error;

/// Text of the deployed template.
pub const DEPLOYED: &str = include_str!("../../../template.yaml");

/// Parses a CloudFormation template and expands its intrinsic functions: `!Ref Table` becomes `{"Ref": "Table"}`, and
/// `!Sub x` becomes `{"Fn::Sub": "x"}`.
///
/// # Errors
/// The text is not YAML, or has values that JSON does not have.
pub fn read(text: &str) -> Result<Value, Error> {
    let yaml = serde_yaml_ng::from_str::<Yaml>(text).map_err(|error| Error::Template(error.to_string()))?;
    long(&yaml).ok_or_else(|| Error::Template("it has a value that JSON cannot represent".to_owned()))
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
