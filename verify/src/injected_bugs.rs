//! Injects each bug of [`shared::domain::bug`], one at a time, and reports which checks find it.
//!
//! The model checker runs its small worlds and the simulation its seeds, as without the bug, until a law is violated.

use shared::domain::bug::Bug;

use ::model::{Size, explore, scopes};

use crate::{
    report::{Progress, Table, Verdict, grouped, print},
    simulate,
};

/// How a check found a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The law that was violated.
    pub law: String,
    /// The world and the number of states, or the number of seeds.
    pub after: String,
}

/// Searches for a bug with the model checker, in its small worlds.
pub fn found_by_model(bug: Bug) -> Option<Found> {
    let mut states = 0;
    scopes(Size::Small).into_iter().find_map(|scope| {
        // One thread visits the states in the same order each time.
        let explored = explore(&scope.clone().with(Some(bug)), 1, |_, _| {});
        states += explored.states;
        explored
            .broken
            .map(|(law, _)| Found { law: law.to_owned(), after: format!("{}, {} states", scope.name, grouped(states)) })
    })
}

/// Searches for a bug with the simulation, seed after seed.
pub fn found_by_simulation(bug: Bug, seeds: u64) -> Option<Found> {
    (1..=seeds).find_map(|seed| {
        let outcome = simulate::run(seed, Some(bug), false).ok()?;
        let first = outcome.violations.first()?;
        Some(Found { law: first.invariant.as_str().to_owned(), after: format!("{seed} seeds") })
    })
}

/// Seeds that the simulation runs for each bug.
const SEEDS: u64 = 200;

/// Returns the law that the first failing seed violates, the number of failing seeds, and the first of them.
fn found_in_seeds(bug: Bug, progress: &mut Progress) -> Option<String> {
    let failing = simulate::sweep(1, SEEDS, Some(bug), progress).failing;
    let (first, what) = failing.first()?;
    let law = what.split(':').next().unwrap_or_default();
    Some(format!("{law}, in {} of {SEEDS} seeds, first in seed {first}", failing.len()))
}

/// Injects each bug, and prints which checks found it. A bug that no check finds is a violation.
pub fn run() -> Verdict {
    let mut table = Table::new(["bug", "model", "simulation"]);
    let mut missed = false;
    let mut progress = Progress::default();
    for bug in Bug::ALL {
        progress.say(|| bug.as_str().to_owned());
        let model = found_by_model(bug).map(|it| format!("{}, {}", it.law, it.after));
        let simulation = found_in_seeds(bug, &mut progress);
        missed |= model.is_none() && simulation.is_none();
        let cell = |found: Option<String>| found.unwrap_or_else(|| "–".to_owned());
        table.row([bug.as_str().to_owned(), cell(model), cell(simulation)]);
    }
    drop(progress);
    print(&table);
    Verdict::of(!missed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn assert_violates(bug: Bug, law: &str) {
        let found = found_by_model(bug).unwrap();
        assert!(found.law.starts_with(law), "{found:?}");
    }

    #[test]
    fn the_model_finds_that_a_second_join_turns_connected_back_into_reserved() {
        assert_violates(Bug::ReserveAgain, "I2");
    }

    #[test]
    fn the_model_finds_that_a_release_does_not_compare_the_placement() {
        assert_violates(Bug::FreeAnyPlacement, "I6");
    }

    #[test]
    fn the_model_finds_that_register_player_only_reads_the_seat() {
        assert_violates(Bug::ReadOnlySeat, "I2");
    }

    #[test]
    fn the_model_finds_that_expired_claims_are_removed_without_comparing_their_value() {
        assert_violates(Bug::EvictInexactly, "I2");
    }

    #[test]
    fn the_model_finds_that_a_server_with_a_freed_slot_is_not_listed() {
        assert_violates(Bug::FreeUnlisted, "I3");
    }

    #[test]
    fn the_model_finds_that_a_server_is_started_because_the_index_is_empty() {
        assert_violates(Bug::LaunchOnEmptyIndex, "I4");
    }

    #[test]
    fn the_model_finds_that_scale_in_checks_for_claims_before_its_write() {
        assert_violates(Bug::CheckedScaleIn, "I6");
    }

    #[test]
    fn the_model_finds_that_a_lapsed_lease_stops_a_server_with_players() {
        assert_violates(Bug::LapseStopsPlayers, "I6");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod placement {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    /// Returns path and text of every file below `folder` whose name ends in `suffix`. Paths start at the repository's
    /// root.
    fn files(folder: &Path, suffix: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                found.extend(files(&path, suffix));
            } else if name.ends_with(suffix) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned(), text));
            }
        }
        found
    }

    #[test]
    fn the_product_checks_for_injected_bugs_only_in_apply_and_in_expressions() {
        let asks = |text: &str| text.contains("injected(Bug::") || text.contains("bug::injected");
        let asking = files(&repository(), ".rs")
            .into_iter()
            .filter(|(path, text)| !path.starts_with("verify/") && path != "shared/domain/src/bug.rs" && asks(text));
        let (faces, elsewhere): (Vec<_>, Vec<_>) = asking.partition(|(path, text)| {
            path.starts_with("shared/src/table/")
                || path.starts_with("shared/domain/src/") && text.contains("    pub fn apply(&self, ")
        });
        let names = |files: Vec<(String, String)>| files.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(names(elsewhere), Vec::<String>::new());
        assert!(faces.len() >= 4, "{:?}", names(faces));
    }

    #[test]
    fn crates_with_injected_bugs_are_excluded_from_the_lambda_build() {
        let manifests = files(&repository(), "Cargo.toml");
        let turns_on = |text: &str| {
            let mut lines = text.lines().filter(|line| !line.starts_with("injected-bugs = "));
            lines.any(|line| line.contains("\"injected-bugs\""))
        };
        let name = |text: &str| {
            text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).map(str::to_owned)
        };
        let with = manifests.iter().filter(|(_, text)| turns_on(text)).filter_map(|(_, text)| name(text));
        let with = with.collect::<BTreeSet<_>>();
        assert_eq!(with, BTreeSet::from(["model", "verify"].map(str::to_owned)));
        let (_, root) = manifests.iter().find(|(path, _)| path == "Cargo.toml").unwrap();
        let lambda = root.split("[workspace.metadata.lambda.build]").nth(1).unwrap();
        // Cargo unifies the features of the packages that it builds together: these alone are built for deployment.
        let built = lambda.lines().find(|line| line.starts_with("packages = ")).unwrap();
        assert!(built.starts_with("packages = [\"functions\"]"), "{built}");
    }
}
