//! `openapi.yaml` against the code: the same routes, functions and problem codes. Every response that a test of this
//! program receives is validated against the document.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, OnceLock},
};

use jsonschema::Validator;
use serde_json::{Value, json};
use shared::{domain::Bound, http::Code};

use crate::reply::Reply;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_yaml_ng::from_str(include_str!("../../../openapi.yaml")).unwrap())
}

/// Follows `$ref` if the value has one.
fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            document().pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"))
        }
        None => value,
    }
}

pub fn operations() -> impl Iterator<Item = (String, &'static str, &'static Value)> {
    let paths = document()["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods =
            METHODS.iter().filter_map(move |method| Some((method.to_uppercase(), path.as_str(), item.get(method)?)));
        methods.collect::<Vec<_>>()
    })
}

/// Whether a path matches a path template.
fn is_of(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(name, part)| name == part || (name.starts_with('{') && !part.is_empty()))
}

/// Panics if `body` does not conform to the schema. The validator is compiled once for each `place`.
fn conforms(place: &str, schema: &Value, body: &Value) {
    static COMPILED: OnceLock<Mutex<HashMap<String, &'static Validator>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap();
    let validator = *compiled.entry(place.to_owned()).or_insert_with(|| {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": document()["components"],
            "allOf": [schema],
        });
        Box::leak(Box::new(jsonschema::options().should_validate_formats(true).build(&whole).unwrap()))
    });
    drop(compiled);
    let errors = validator.iter_errors(body).map(|error| error.to_string()).collect::<Vec<_>>();
    assert!(errors.is_empty(), "{place} does not conform to openapi.yaml: {errors:?}\n{body:#}");
}

/// Validates a response against the document. Routes that are not in the document are ignored.
pub fn check((method, path): &(String, String), reply: &Reply) {
    let Some((_, template, operation)) = operations().find(|(m, template, _)| m == method && is_of(template, path))
    else {
        return;
    };
    let status = reply.status.as_u16();
    let response = operation["responses"].get(status.to_string());
    let response = resolve(
        response.unwrap_or_else(|| panic!("openapi.yaml has no response {status} of {method} {template}: {reply:?}")),
    );
    let needs_retry_after = response["headers"].get("Retry-After").is_some();
    assert_eq!(needs_retry_after, reply.retry_after.is_some(), "Retry-After of {method} {template} {status}");
    match response["content"].as_object() {
        None => assert_eq!(reply.body, Value::Null, "{method} {template} {status} must have no body"),
        Some(content) => {
            let of_type = content.get(&reply.content_type);
            let of_type = of_type.unwrap_or_else(|| {
                panic!("{method} {template} {status} must not have the type {}", reply.content_type)
            });
            conforms(&format!("{method} {template} {status}"), &of_type["schema"], &reply.body);
        }
    }
}

#[test]
fn the_document_and_the_gateway_have_the_same_routes() {
    let documented = operations().map(|(method, path, operation)| {
        format!("{method} {path}: {}", operation["x-owmm-function"].as_str().unwrap())
    });
    let documented = documented.collect::<BTreeSet<_>>();
    let served = local::gateway::routes().map(|(method, path, function)| format!("{method} {path}: {}", function.name));
    let served = served.collect::<BTreeSet<_>>();
    assert_eq!(documented, served);
}

#[test]
fn every_problem_code_is_documented_with_its_status_and_title() {
    let examples = document()["components"]["examples"].as_object().unwrap();
    let documented = examples.values().map(|example| &example["value"]).filter(|value| value.get("code").is_some());
    let of_code = documented.map(|problem| (problem["code"].as_str().unwrap(), problem)).collect::<HashMap<_, _>>();
    // These two codes belong to no route; `info.description` documents them.
    let (of_none, of_routes) = Code::ALL
        .iter()
        .copied()
        .partition::<Vec<Code>, _>(|code| matches!(code, Code::NotFound | Code::MethodNotAllowed));
    let text = document()["info"]["description"].as_str().unwrap();
    assert!(of_none.iter().all(|code| text.contains(code.as_str())), "{text}");
    let codes = of_routes.iter().map(|code| code.as_str()).collect::<BTreeSet<_>>();
    assert_eq!(of_code.keys().copied().collect::<BTreeSet<_>>(), codes);
    for code in of_routes {
        let problem = of_code[code.as_str()];
        assert_eq!(problem["status"], code.status().as_u16(), "{code:?}");
        assert_eq!(problem["title"], code.title(), "{code:?}");
        assert_eq!(problem["type"], format!("urn:owmm:problem:{}", code.as_str()), "{code:?}");
    }
}

#[test]
fn every_answer_names_only_codes_that_have_its_status() {
    for (method, path, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let schema = &resolve(response)["content"]["application/problem+json"]["schema"];
            let text = schema.to_string();
            for code in Code::ALL.iter().filter(|code| text.contains(&format!("\"{}\"", code.as_str()))) {
                assert_eq!(code.status().as_str(), status, "{method} {path}: {code:?}");
            }
        }
    }
}

#[test]
fn every_setting_of_a_pool_is_documented_with_its_range_and_default() {
    let settings = &document()["components"]["schemas"]["PoolSettings"]["properties"];
    let bounds = [
        Bound::CAPACITY,
        Bound::MAX_SERVERS,
        Bound::CONCURRENT_LAUNCHES,
        Bound::HEADROOM,
        Bound::IDLE_SECONDS,
        Bound::RESERVATION_SECONDS,
        Bound::LAUNCH_SECONDS,
        Bound::LEASE_SECONDS,
    ];
    for Bound { name, least, most, default } in bounds {
        let setting = &settings[name];
        let range = (&setting["minimum"], &setting["maximum"], &setting["default"]);
        assert_eq!(range, (&json!(least), &json!(most), &json!(default)), "{name}");
        assert!(!name.ends_with("Seconds") || setting["description"].as_str().unwrap().contains("econds"), "{name}");
    }
    let numbers = settings.as_object().unwrap().values().filter(|setting| setting["type"] == "integer");
    assert_eq!(numbers.count(), bounds.len());
}
