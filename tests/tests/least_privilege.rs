//! Each function's role in `template.yaml` allows what its code calls, and nothing else.
//!
//! Too little shows where it is called: the local stack refuses it (`local::iam`), and the test that needs it fails. Too
//! much shows here, once all tests have run: the program `it` notes every permission that is used, and cargo runs
//! this one after it. It is a program of its own because nothing in `it` could know that all other tests are over, and it
//! links nothing of OWMM's.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;

use serde_json::Value;

#[test]
fn every_permission_of_a_role_is_used_by_some_test() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("permissions.json");
    let hint = "run all of `cargo test -p tests`, which notes what is used first";
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}: {hint}", file.display()));
    let notes = serde_json::from_str::<Value>(&text).unwrap();
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_stack")).unwrap();
    let program = format!("{:?} {}", program.modified().unwrap(), program.len());
    assert_eq!(notes["program"], program, "the notes are of another build: {hint}");
    let of = |what: &str| {
        let roles = notes[what].as_object().unwrap().iter();
        let permissions = roles.flat_map(|(function, permissions)| {
            let permissions = permissions.as_array().unwrap().iter();
            permissions.map(move |permission| {
                format!("{function}: {} on {}", permission[0].as_str().unwrap(), permission[1].as_str().unwrap())
            })
        });
        permissions.collect::<Vec<_>>()
    };
    let (allowed, used) = (of("allowed"), of("used"));
    assert!(!allowed.is_empty(), "no role of any function was read");
    let unused = allowed.iter().filter(|permission| !used.contains(permission)).collect::<Vec<_>>();
    assert!(unused.is_empty(), "template.yaml allows what no test has used ({hint}):\n{unused:#?}");
    assert!(used.iter().all(|permission| allowed.contains(permission)));
}
