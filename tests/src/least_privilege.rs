//! `least-privilege`: checks that each function's role in `template.yaml` allows what its code calls, and nothing else.
//!
//! A missing permission fails a test: the local stack refuses the call (`local::iam`). An unused permission fails here.
//! The integration tests (`it`) append every permission that a function uses to one file of notes beside this program.
//! This program runs after all of them, as a step of its own, and fails when
//!
//! * there are no notes, because `it` has not run,
//! * the notes are older than the build: `it` or the stack was built again since,
//! * a role allows an action that no test has used. Notes of a partial test run lack permissions that are used, so a
//!   partial run fails here too; the message says which tests to run.
//!
//! The order in which cargo or nextest runs tests and processes does not matter.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;

const HINT: &str = "run all integration tests first: `cargo test --workspace --test it`";

fn main() -> ExitCode {
    let folder = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("permissions")));
    match check(&folder.unwrap_or_else(|| PathBuf::from("permissions"))) {
        Ok(permissions) => {
            println!("least-privilege: all {permissions} permissions of the functions' roles are used");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("least-privilege: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the notes in a folder and returns how many permissions the roles have.
fn check(folder: &Path) -> Result<usize, String> {
    let files =
        std::fs::read_dir(folder).map_err(|error| format!("no notes in {}: {error}; {HINT}", folder.display()))?;
    let mut notes = files.flatten().map(|file| file.path()).collect::<Vec<_>>();
    // One file per build of the tests; the first process of a build removes the files of other builds.
    let (Some(file), None) = (notes.pop(), notes.pop()) else {
        return Err(format!("{} must have exactly one file of notes; {HINT}", folder.display()));
    };
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}; {HINT}", file.display()))?;
    let odd = || format!("{} does not have the format that `it` writes; remove it and {HINT}", file.display());
    let (mut programs, mut allowed, mut used) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let line = serde_json::from_str::<Value>(line).map_err(|_| odd())?;
        if let Some(program) = line.get("program") {
            programs.push(program.clone());
        } else if let Some(permission) = line.get("allowed") {
            allowed.insert(permission.to_string());
        } else if let Some(permission) = line.get("used") {
            used.insert(permission.to_string());
        } else {
            return Err(odd());
        }
    }
    if programs.is_empty() || allowed.is_empty() {
        return Err(odd());
    }
    for program in &programs {
        let path = program.get("path").and_then(Value::as_str).ok_or_else(odd)?;
        if program.get("build").and_then(Value::as_str) != Some(build(Path::new(path)).as_str()) {
            return Err(format!("the notes are older than the build: {path} was built again since; {HINT}"));
        }
    }
    let list = |permissions: Vec<&String>| permissions.into_iter().map(|it| format!("\n  {it}")).collect::<String>();
    let unused = allowed.difference(&used).collect::<Vec<_>>();
    if !unused.is_empty() {
        return Err(format!(
            "template.yaml allows these [function, action, resource] that no test has used; remove each from its role, \
             or {HINT}{}",
            list(unused)
        ));
    }
    let unknown = used.difference(&allowed).collect::<Vec<_>>();
    if !unknown.is_empty() {
        return Err(format!("the notes name permissions that no role of this build has; {HINT}{}", list(unknown)));
    }
    Ok(allowed.len())
}

/// Identifies one build of a program by its size and modification time; empty if the file does not exist.
fn build(program: &Path) -> String {
    let data = std::fs::metadata(program).and_then(|data| Ok((data.len(), data.modified()?)));
    data.map(|(bytes, at)| format!("{bytes} {at:?}")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// A temporary folder of notes about one program; removed when dropped.
    struct Notes(PathBuf);

    impl Notes {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("owmm-least-privilege-{test}-{}", std::process::id()));
            std::fs::create_dir_all(folder.join("notes")).unwrap();
            let notes = Self(folder);
            std::fs::write(notes.program(), "first build").unwrap();
            notes
        }

        fn program(&self) -> PathBuf {
            self.0.join("it")
        }

        fn write(&self, file: &str, lines: &[Value]) {
            let lines = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            std::fs::write(self.0.join("notes").join(file), lines).unwrap();
        }

        /// The first lines of the file that `it` writes, for roles with these permissions.
        fn begin(&self, allowed: &[&str]) -> Vec<Value> {
            let program = json!({ "program": { "path": self.program(), "build": build(&self.program()) } });
            std::iter::once(program).chain(allowed.iter().map(|it| json!({ "allowed": of(it) }))).collect()
        }

        fn check(&self) -> Result<usize, String> {
            check(&self.0.join("notes"))
        }
    }

    impl Drop for Notes {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn of(action: &str) -> [&str; 3] {
        ["join", action, "table"]
    }

    fn used(action: &str) -> Value {
        json!({ "used": of(action) })
    }

    #[test]
    fn roles_whose_every_permission_was_used_pass() {
        let notes = Notes::new("pass");
        let mut lines = notes.begin(&["GetItem", "PutItem"]);
        // Two processes wrote the first lines at the same time, and a third one appends.
        lines.extend(notes.begin(&["GetItem", "PutItem"]));
        lines.extend([used("PutItem"), used("GetItem"), used("PutItem")]);
        notes.write("one", &lines);
        assert_eq!(notes.check(), Ok(2));
    }

    #[test]
    fn a_permission_that_no_test_used_is_named() {
        let notes = Notes::new("unused");
        let mut lines = notes.begin(&["GetItem", "PutItem"]);
        lines.push(used("GetItem"));
        notes.write("one", &lines);
        let why = notes.check().unwrap_err();
        assert!(why.contains("PutItem") && !why.contains("GetItem") && why.contains(HINT), "{why}");
    }

    #[test]
    fn a_used_permission_that_no_role_has_is_named() {
        let notes = Notes::new("unknown");
        let mut lines = notes.begin(&["GetItem"]);
        lines.extend([used("GetItem"), used("Scan")]);
        notes.write("one", &lines);
        let why = notes.check().unwrap_err();
        assert!(why.contains("Scan") && !why.contains("GetItem"), "{why}");
    }

    #[test]
    fn notes_that_are_missing_or_older_than_the_build_or_of_two_builds_fail() {
        let notes = Notes::new("stale");
        let fails = |case: &str, words: &str| {
            let why = notes.check().expect_err(case);
            assert!(why.contains(words) && why.contains(HINT), "{case}: {why}");
        };
        fails("no file", "exactly one file of notes");
        let mut lines = notes.begin(&["GetItem"]);
        lines.push(used("GetItem"));
        notes.write("one", &lines);
        assert_eq!(notes.check(), Ok(1));
        std::fs::write(notes.program(), "a second build").unwrap();
        fails("built again", "older than the build");
        std::fs::remove_file(notes.program()).unwrap();
        fails("the program does not exist", "older than the build");
        notes.write("two", &lines);
        fails("notes of two builds", "exactly one file of notes");
        std::fs::remove_dir_all(notes.0.join("notes")).unwrap();
        fails("no folder", "no notes in");
    }

    #[test]
    fn a_notes_file_without_its_first_lines_or_with_unknown_lines_fails() {
        let notes = Notes::new("odd");
        for (case, lines) in [
            ("only used permissions", vec![used("GetItem")]),
            ("no allowed permission", notes.begin(&[])),
            ("a line of an unknown kind", vec![json!({ "else": 1 })]),
        ] {
            notes.write("one", &lines);
            let why = notes.check().expect_err(case);
            assert!(why.contains("does not have the format that `it` writes"), "{case}: {why}");
        }
    }
}
