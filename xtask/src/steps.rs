//! The steps, in the order in which `ci` runs them: quick ones, and those that find most, come first.

use std::{io::IsTerminal as _, time::Duration};

use crate::{
    cycles, documents, feature_set,
    shell::{self, Background, Failure, Outcome, run, run_with},
    vocabulary,
};

/// One named check.
pub(crate) struct Step {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is guaranteed once it has passed.
    pub(crate) about: &'static str,
    /// Whether `ci` runs it.
    pub(crate) ci: bool,
    /// Whether `check` runs it.
    pub(crate) check: bool,
    /// The check itself.
    pub(crate) run: fn() -> Outcome,
}

/// Every step.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "format", about: "rustfmt would change nothing", ci: true, check: true, run: format },
    Step { name: "vocabulary", about: "no replaced word is used again", ci: true, check: true, run: vocabulary::check },
    Step {
        name: "cycles",
        about: "no import cycle of modules or of crates",
        ci: true,
        check: true,
        run: cycles::check,
    },
    Step { name: "clippy", about: "no lint warns, in any target", ci: true, check: true, run: clippy },
    Step { name: "doc", about: "the documentation builds without a warning", ci: true, check: true, run: doc },
    Step {
        name: "unit-tests",
        about: "the tests inside the crates; `test` runs them as well",
        ci: false,
        check: true,
        run: unit_tests,
    },
    Step {
        name: "deny",
        about: "licences, bans, sources and advisories of all dependencies",
        ci: true,
        check: false,
        run: deny,
    },
    Step { name: "demo", about: "both flows, played with the built-in game server", ci: true, check: false, run: demo },
    Step {
        name: "demo-python",
        about: "both flows, played with infra/example-server.py",
        ci: true,
        check: false,
        run: demo_python,
    },
    Step {
        name: "one-feature-set",
        about: "builds of different members compile each third-party crate once",
        ci: true,
        check: false,
        run: feature_set::check,
    },
    Step { name: "test", about: "every test of the workspace", ci: true, check: false, run: test },
    Step {
        name: "least-privilege",
        about: "each role allows exactly what the step `test` has used",
        ci: true,
        check: false,
        run: least_privilege,
    },
    Step { name: "simulate", about: "five hundred seeds of the simulation", ci: true, check: false, run: simulate },
    Step {
        name: "edge",
        about: "responses to generated requests conform to openapi.yaml",
        ci: true,
        check: false,
        run: edge,
    },
    Step {
        name: "deployment",
        about: "template and deployed programs, without an AWS account",
        ci: true,
        check: false,
        run: deployment,
    },
    Step {
        name: "docs-commands",
        about: "every command in the documents runs",
        ci: true,
        check: false,
        run: documents::check,
    },
    Step {
        name: "dynamodb-local",
        about: "integration and differential tests on DynamoDB Local",
        ci: true,
        check: false,
        run: dynamodb_local,
    },
];

fn format() -> Outcome {
    run(&["cargo", "fmt", "--all", "--check"])
}

fn clippy() -> Outcome {
    run(&["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn doc() -> Outcome {
    run_with(&["cargo", "doc", "--locked", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}

fn unit_tests() -> Outcome {
    run(&["cargo", "test", "--locked", "--workspace", "--lib", "--bins"])
}

/// Runs cargo-deny, and installs it first if necessary.
///
/// Licences, bans and sources need only Cargo.lock. Advisories need the RustSec database, a git repository on the
/// internet; if it cannot be fetched, only this check is skipped, with a warning.
fn deny() -> Outcome {
    // One folder per version, so that a new version is installed although an old one exists.
    const VERSION: &str = "0.20.2";
    let tools = shell::path(&format!("target/tools/cargo-deny-{VERSION}"));
    let program = format!("{tools}/bin/cargo-deny");
    if !std::path::Path::new(&program).is_file() {
        // A debug build compiles in a third of the time, and its checks take about a second too.
        run(&["cargo", "install", "--locked", "--debug", "--version", VERSION, "cargo-deny", "--root", &tools])?;
    }
    run(&[&program, "--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])?;
    if !database_answers(&program) {
        let line = "== deny: ADVISORIES NOT CHECKED: the RustSec database could not be fetched";
        println!(
            "{}",
            if std::io::stdout().is_terminal() { format!("\x1b[33m{line}\x1b[0m") } else { line.to_owned() }
        );
        return Ok(());
    }
    run(&[&program, "--locked", "check", "--hide-inclusion-graph", "--disable-fetch", "advisories"])
}

fn database_answers(cargo_deny: &str) -> bool {
    run(&["timeout", "120", cargo_deny, "fetch", "db"]).is_ok()
}

fn demo() -> Outcome {
    run(&["cargo", "run", "--locked", "--", "--once", "--port", "0"])
}

fn demo_python() -> Outcome {
    let server = format!("python3 {}", shell::path("infra/example-server.py"));
    run(&["cargo", "run", "--locked", "--", "--once", "--port", "0", "--game-server", &server])
}

fn test() -> Outcome {
    run(&["cargo", "test", "--locked", "--workspace"])
}

/// Runs `least-privilege`, which the step `test` has built and whose notes the tests have written.
fn least_privilege() -> Outcome {
    run(&["target/debug/least-privilege"])
}

fn simulate() -> Outcome {
    run(&["cargo", "build", "--locked", "-p", "verify"])?;
    run(&["target/debug/verify", "simulate", "--seeds", "500"])
}

fn edge() -> Outcome {
    run(&["tests/edge/run", "--examples", "20"])
}

fn deployment() -> Outcome {
    run(&["infra/check/run", "--fast"])
}

fn dynamodb_local() -> Outcome {
    const STARTS_WITHIN: Duration = Duration::from_secs(60);
    run(&["infra/dynamodb-local/run", "--fetch-only"])?;
    let (server, url) =
        Background::start(&["infra/dynamodb-local/run", "--port", "0"], &[], "dynamodb ", STARTS_WITHIN)?;
    if url.is_empty() {
        return Err(Failure::new("infra/dynamodb-local/run printed `dynamodb` without a URL"));
    }
    let env = [("OWMM_TEST_DYNAMODB", url.as_str())];
    run_with(&["cargo", "test", "--locked", "--workspace", "--test", "it"], &env)?;
    run_with(&["cargo", "test", "--locked", "--workspace", "--lib", "--", "differential"], &env)?;
    drop(server);
    Ok(())
}
