//! Compares the list of functions in `functions/src/lib.rs` with every other place that names functions.

use std::collections::BTreeSet;

use functions::{ALL, Handler, named};
use serde_json::Value;

use crate::{
    openapi::operations,
    template::{functions as deployed, root, template},
};

/// Differences of one place from the list: missing names and unknown names.
fn compare(place: &str, found: &BTreeSet<String>, listed: &BTreeSet<String>) -> Vec<String> {
    let lacks = listed.difference(found).map(|name| format!("{place} lacks {name}"));
    let unknown = found.difference(listed).map(|name| format!("{place} has {name}, which is not in the list"));
    lacks.chain(unknown).collect()
}

/// Names of the Rust files of a folder, without `.rs`.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Names of the `[[bin]]` targets of `functions/Cargo.toml` with `test = false`.
fn programs() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("functions/Cargo.toml")).unwrap();
    let tables = text.split("[[bin]]\n").skip(1).filter_map(|table| table.strip_prefix("name = \""));
    let tested = tables.filter(|table| table.contains("\ntest = false"));
    tested.map(|table| table.split('"').next().unwrap().to_owned()).collect()
}

/// Kinds of events that invoke a deployed function, named like the variants of `Handler`.
fn events(function: &Value) -> BTreeSet<&'static str> {
    let events = function["Properties"]["Events"].as_object().into_iter().flatten();
    let kind = |event: &Value| match event["Type"].as_str().unwrap() {
        "HttpApi" => "Http",
        "Schedule" => "Schedule",
        "EventBridgeRule" if event["Properties"]["Pattern"].to_string().contains("ECS Task State Change") => {
            "TaskStateChange"
        }
        other => panic!("`Handler` has no variant for the event {other}"),
    };
    events.map(|(_, event)| kind(event)).collect()
}

#[test]
fn every_place_that_names_functions_has_exactly_the_listed_ones() {
    let names = |is_listed: fn(&Handler) -> bool| {
        let listed = ALL.iter().filter(|function| is_listed(&function.handler));
        listed.map(|function| function.name.to_owned()).collect::<BTreeSet<_>>()
    };
    let (all, over_http) = (names(|_| true), names(|handler| matches!(handler, Handler::Http(_))));
    assert_eq!(all.len(), ALL.len(), "two functions have the same name");
    let modules = all.iter().map(|name| name.replace('-', "_")).chain(["lib".to_owned(), "main".to_owned()]);
    let with_main = all.iter().cloned().chain(["functions".to_owned()]).collect();
    let documented = operations().map(|(_, _, operation)| operation["x-owmm-function"].as_str().unwrap().to_owned());
    let routed = local::gateway::routes().map(|(_, _, function)| function.name.to_owned());
    let template = template();
    let mut problems = [
        compare("functions/src", &files("functions/src"), &modules.collect()),
        compare("functions/src/bin", &files("functions/src/bin"), &all),
        compare("functions/Cargo.toml, [[bin]] with `test = false`,", &programs(), &with_main),
        compare("openapi.yaml, x-owmm-function,", &documented.collect(), &over_http),
        compare("infra/local/src/gateway.rs, ROUTES,", &routed.collect(), &over_http),
        compare("template.yaml, `Handler` of functions,", &deployed(&template).into_keys().collect(), &all),
    ]
    .concat();
    for (name, function) in deployed(&template) {
        let kind = named(&name).map(|function| match function.handler {
            Handler::Http(_) => "Http",
            Handler::Schedule(_) => "Schedule",
            Handler::TaskStateChange(_) => "TaskStateChange",
        });
        if kind.is_ok_and(|kind| events(&function) != [kind].into()) {
            problems.push(format!("template.yaml: events of {name} are {:?}", events(&function)));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_handler_selects_its_function_and_the_error_for_an_unknown_one_lists_all_names() {
    for function in ALL {
        assert_eq!(named(function.name).unwrap().name, function.name);
    }
    for unknown in ["", "bootstrap", "Join", "functions"] {
        let error = named(unknown).unwrap_err();
        // The program prints the error with `Debug`.
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(text.contains(&format!("{unknown:?}")) || text.contains(&format!("`{unknown}`")), "{text}");
            assert!(ALL.iter().all(|function| text.contains(function.name)), "{text}");
        }
    }
}
