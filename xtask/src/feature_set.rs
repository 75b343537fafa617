//! The step `one-feature-set`: no build of the workspace compiles a third-party crate again that `cargo run` has built.
//!
//! Cargo compiles a crate once per set of features, which depends on the members that a command builds.
//! `infra/feature-set` enables the same features in every build; this step names those that it lacks.

use std::collections::{BTreeMap, BTreeSet};

use crate::shell::{self, Failure, Outcome};

/// Common builds, each with the arguments of `cargo tree` for its members. The first is that of `cargo run`.
const BUILDS: &[(&str, &[&str])] = &[
    ("cargo run", &["--edges", "normal,build"]),
    ("cargo build -p load", &["--edges", "normal,build", "-p", "load"]),
    ("cargo build -p verify", &["--edges", "normal,build", "-p", "verify"]),
    ("cargo build -p cli", &["--edges", "normal,build", "-p", "cli"]),
    ("cargo test -p tests", &["--edges", "normal,build,dev", "-p", "tests"]),
    ("cargo test -p ecs", &["--edges", "normal,build,dev", "-p", "ecs"]),
    ("cargo test -p demo", &["--edges", "normal,build,dev", "-p", "demo"]),
    ("cargo test -p shared", &["--edges", "normal,build,dev", "-p", "shared"]),
    ("cargo test --workspace", &["--edges", "normal,build,dev", "--workspace"]),
];

/// Build after that of `cargo run`, in which no third-party crate must be compiled again.
const AFTER_RUN: [&str; 9] = ["cargo", "build", "--locked", "-p", "load", "-p", "verify", "-p", "cli"];

/// Crates that only tools need; no deployed function may depend on them.
const OF_TOOLS: &[&str] = &["aws-sdk-sso", "aws-sdk-ssooidc", "clap", "feature-set"];

/// For each third-party crate and version, the feature sets that a build compiles it with: as a library for programs,
/// and perhaps another one for build scripts and macros.
type Units = BTreeMap<String, BTreeSet<String>>;

/// Runs the step on the project.
pub(crate) fn check() -> Outcome {
    let mut builds = Vec::new();
    for (name, arguments) in BUILDS {
        builds.push((*name, units(&tree(arguments)?)));
    }
    let differing = differences(&builds);
    for line in &differing {
        println!("{line}");
    }
    if !differing.is_empty() {
        return Err(Failure::new(format!(
            "{} crates are compiled more than once; add what is missing to infra/feature-set/Cargo.toml",
            differing.len()
        )));
    }
    println!("{} builds ask each third-party crate for the same features", builds.len());
    functions_stay_small()?;
    // Checked with a real build too, because cargo's decision depends on more than features.
    let known = builds.first().map(|(_, units)| units.keys().cloned().collect()).unwrap_or_default();
    shell::run(&["cargo", "build", "--locked"])?;
    let again = compiled_again(&known, &shell::stderr_of(&AFTER_RUN)?);
    if again.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("after `cargo build`, `{}` compiled again: {}", AFTER_RUN.join(" "), again.join(", "))))
}

/// Third-party crates that cargo's output says are compiled, of those that were built before.
fn compiled_again(known: &BTreeSet<String>, lines: &[String]) -> Vec<String> {
    let compiled = lines.iter().filter_map(|line| line.trim_start().strip_prefix("Compiling "));
    compiled.filter(|it| known.contains(*it)).map(str::to_owned).collect()
}

/// Checks that the deployed packages do not depend on crates that only tools need.
fn functions_stay_small() -> Outcome {
    let manifest = shell::read("Cargo.toml")?;
    let deployed = deployed(&manifest);
    if deployed.is_empty() {
        return Err(Failure::new("no `packages` in [workspace.metadata.lambda.build] of Cargo.toml"));
    }
    let mut arguments = vec!["--edges", "normal,build"];
    for package in &deployed {
        arguments.extend(["--package", package]);
    }
    let tree = tree(&arguments)?;
    let found: Vec<&str> = OF_TOOLS.iter().copied().filter(|it| tree.contains(&format!("{it} v"))).collect();
    if found.is_empty() {
        println!("the deployed functions have none of {}", OF_TOOLS.join(", "));
        return Ok(());
    }
    Err(Failure::new(format!("the deployed functions depend on {}", found.join(", "))))
}

/// The packages that `cargo lambda build` builds, as the root Cargo.toml lists them.
fn deployed(manifest: &str) -> Vec<&str> {
    let section = manifest.split("[workspace.metadata.lambda.build]").nth(1).unwrap_or_default();
    let list = section.split("packages = [").nth(1).and_then(|it| it.split(']').next()).unwrap_or_default();
    list.split(',').map(|it| it.trim().trim_matches('"')).filter(|it| !it.is_empty()).collect()
}

fn tree(arguments: &[&str]) -> Result<String, Failure> {
    let mut line = vec!["cargo", "tree", "--locked", "--prefix", "none", "--format", "{p}|{f}"];
    line.extend(arguments);
    shell::stdout_of(&line)
}

/// Parses lines such as `tokio v1.54.1|macros,rt`, without crates of the workspace, which have a folder in parentheses.
fn units(tree: &str) -> Units {
    let mut units = Units::new();
    for line in tree.lines() {
        // A line ends with ` (*)` if its dependencies were listed before.
        let Some((package, features)) = line.trim_end_matches(" (*)").split_once('|') else { continue };
        let package = package.trim_end_matches(" (proc-macro)");
        if !package.contains('(') {
            units.entry(package.to_owned()).or_default().insert(features.to_owned());
        }
    }
    units
}

/// One line for each crate that two builds compile with different features.
///
/// A build with a subset of the other's feature sets, such as only that of build scripts, is no difference.
fn differences(builds: &[(&str, Units)]) -> Vec<String> {
    let mut lines = BTreeMap::new();
    for (index, (one, ours)) in builds.iter().enumerate() {
        for (other, theirs) in builds.iter().skip(index + 1) {
            for (package, sets) in ours {
                let Some(others) = theirs.get(package) else { continue };
                if sets.is_subset(others) || others.is_subset(sets) {
                    continue;
                }
                let line = || format!("{package}: {}", difference(one, sets, other, others));
                lines.entry(package.clone()).or_insert_with(line);
            }
        }
    }
    lines.into_values().collect()
}

fn difference(one: &str, ours: &BTreeSet<String>, other: &str, theirs: &BTreeSet<String>) -> String {
    let all = |sets: &BTreeSet<String>| -> BTreeSet<String> {
        sets.iter().flat_map(|it| it.split(',')).filter(|it| !it.is_empty()).map(str::to_owned).collect()
    };
    let (ours, theirs) = (all(ours), all(theirs));
    let only = |name: &str, these: &BTreeSet<String>, those: &BTreeSet<String>| {
        let only: Vec<&str> = these.difference(those).map(String::as_str).collect();
        (!only.is_empty()).then(|| format!("only `{name}` has {}", only.join(", ")))
    };
    let parts: Vec<String> = [only(one, &ours, &theirs), only(other, &theirs, &ours)].into_iter().flatten().collect();
    if parts.is_empty() { format!("`{one}` and `{other}` differ for build scripts") } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "local v0.1.0 (/x)|\ntokio v1.54.1|macros,rt\ntokio v1.54.1|macros,rt (*)\nsyn v2.0.1|full\nserde_derive v1.0.0 (proc-macro)|\n";

    #[test]
    fn a_feature_that_one_build_alone_has_is_named_with_that_build() {
        let other = RUN.replace("macros,rt", "macros,rt,test-util");
        let found = differences(&[("cargo run", units(RUN)), ("cargo build -p verify", units(&other))]);
        assert_eq!(found, ["tokio v1.54.1: only `cargo build -p verify` has test-util"]);
    }

    #[test]
    fn the_packages_that_are_deployed_are_read_from_the_manifest() {
        let manifest = "packages = [\"x\"]\n[workspace.metadata.lambda.build]\npackages = [\"functions\"]\n";
        assert_eq!(deployed(manifest), ["functions"]);
    }

    #[test]
    fn only_crates_that_were_built_before_are_compiled_again() {
        let known = units(RUN).into_keys().collect();
        let lines = ["   Compiling tokio v1.54.1", "   Compiling stateright v0.31.0", "   Compiling local v0.1.0 (/x)"];
        assert_eq!(compiled_again(&known, &lines.map(str::to_owned)), ["tokio v1.54.1"]);
    }

    #[test]
    fn crates_of_the_workspace_and_new_crates_are_no_difference() {
        let other = "local v0.1.0 (/x)|bugs\nstateright v0.31.0|\nsyn v2.0.1|full\nsyn v2.0.1|full,visit\n";
        assert_eq!(differences(&[("a", units(RUN)), ("b", units(other))]), Vec::<String>::new());
    }
}
