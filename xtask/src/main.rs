//! The project's checks: `cargo xtask ci` runs all steps, `cargo xtask check` the quick ones, `cargo xtask NAME...` some.
//!
//! Owns the command line. The steps are in [`steps`]; `.ci/run` calls `cargo xtask ci`, which every change must pass.

mod cycles;
mod documents;
mod feature_set;
mod shell;
mod source;
mod steps;
mod vocabulary;

use std::{process::ExitCode, time::Instant};

use shell::Outcome;
use steps::{STEPS, Step};

const USAGE: &str = "\
The project's checks.

Usage: cargo xtask <NAME>...

  ci       every step, as `.ci/run` does before a change lands
  check    the quick steps, for use during development
  list     the steps, with what each checks
  STEP     one step or several by name, in the order given

Each step prints its name and the seconds since the start. The first failure ends the run.
Exit codes: 0 all steps passed, 1 a step failed, 2 the command line is wrong.
";

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.iter().any(|name| name == "--help" || name == "-h" || name == "help") {
        print!("{USAGE}\n{}", listed());
        return ExitCode::SUCCESS;
    }
    if names == ["list"] {
        print!("{}", listed());
        return ExitCode::SUCCESS;
    }
    match chosen(&names) {
        Ok(steps) => run(&steps),
        Err(wrong) => {
            eprint!("xtask: {wrong}\n\n{USAGE}\n{}", listed());
            ExitCode::from(2)
        }
    }
}

/// The steps that the command line names, each once.
fn chosen(names: &[String]) -> Result<Vec<&'static Step>, String> {
    if names.is_empty() {
        return Err("name at least one step, or `ci` or `check`".to_owned());
    }
    let mut steps: Vec<&'static Step> = Vec::new();
    for name in names {
        let more: Vec<&'static Step> = match name.as_str() {
            "ci" => STEPS.iter().filter(|step| step.ci).collect(),
            "check" => STEPS.iter().filter(|step| step.check).collect(),
            name => STEPS.iter().filter(|step| step.name == name).collect(),
        };
        if more.is_empty() {
            return Err(format!("unknown step `{name}`"));
        }
        for step in more {
            if !steps.iter().any(|it| it.name == step.name) {
                steps.push(step);
            }
        }
    }
    Ok(steps)
}

fn listed() -> String {
    let width = STEPS.iter().map(|step| step.name.len()).max().unwrap_or_default();
    let line = |step: &Step| {
        let sets = match (step.ci, step.check) {
            (true, true) => "ci, check",
            (true, false) => "ci",
            (false, true) => "check",
            (false, false) => "",
        };
        format!("  {:width$}  {sets:9}  {}\n", step.name, step.about)
    };
    format!("Steps, in the order of `ci`:\n{}", STEPS.iter().map(line).collect::<String>())
}

fn run(steps: &[&Step]) -> ExitCode {
    let start = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let seconds = start.elapsed().as_secs();
        println!("\n== {} ({} of {}, {seconds} s since the start): {}", step.name, index + 1, steps.len(), step.about);
        let outcome: Outcome = (step.run)();
        if let Err(failure) = outcome {
            let seconds = start.elapsed().as_secs();
            eprintln!("\nxtask: step `{}` failed after {seconds} s: {failure}", step.name);
            eprintln!("xtask: to repeat only this step: cargo xtask {}", step.name);
            return ExitCode::FAILURE;
        }
    }
    println!("\n== all {} steps passed in {} s", steps.len(), start.elapsed().as_secs());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Result<Vec<&'static str>, String> {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        chosen(&arguments).map(|steps| steps.into_iter().map(|step| step.name).collect())
    }

    #[test]
    fn steps_run_in_the_order_given_and_each_once() {
        assert_eq!(names(&["clippy", "format", "clippy"]), Ok(vec!["clippy", "format"]));
    }

    #[test]
    fn an_unknown_step_is_refused_before_anything_runs() {
        assert_eq!(names(&["format", "nosuch"]), Err("unknown step `nosuch`".to_owned()));
        assert!(names(&[]).is_err());
    }

    #[test]
    fn every_step_has_a_name_of_its_own_and_belongs_to_ci_or_to_check() {
        for step in STEPS {
            assert_eq!(STEPS.iter().filter(|it| it.name == step.name).count(), 1, "{}", step.name);
            assert!(step.ci || step.check, "{}", step.name);
            assert!(!["ci", "check", "list", "help"].contains(&step.name));
        }
    }
}
