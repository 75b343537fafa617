//! Which check finds which injected bug.
//!
//! Each of [`shared::domain::bug`] is injected, one at a time, and the checks run as they always do, until one of them sees a
//! law broken.

use shared::domain::bug::Bug;

use ::model::{Size, explore, scopes};

use crate::{
    report::{Progress, Table, Verdict, grouped, print},
    simulate,
};

/// How a bug was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The law that was broken.
    pub law: String,
    /// Where, and after how much work.
    pub after: String,
}

/// Looks for a bug with the model checker, in its small worlds.
pub fn found_by_model(bug: Bug) -> Option<Found> {
    let mut states = 0;
    scopes(Size::Small).into_iter().find_map(|scope| {
        // One thread goes through the states in the same order each time.
        let explored = explore(&scope.clone().with(Some(bug)), 1, |_, _| {});
        states += explored.states;
        explored
            .broken
            .map(|(law, _)| Found { law: law.to_owned(), after: format!("{}, {} states", scope.name, grouped(states)) })
    })
}

/// Looks for a bug with the simulation, seed after seed.
pub fn found_by_simulation(bug: Bug, seeds: u64) -> Option<Found> {
    (1..=seeds).find_map(|seed| {
        let outcome = simulate::run(seed, Some(bug), false).ok()?;
        let first = outcome.violations.first()?;
        Some(Found { law: first.invariant.as_str().to_owned(), after: format!("{seed} seeds") })
    })
}

/// Seeds that the simulation runs for each bug.
const SEEDS: u64 = 200;

/// In how many seeds the simulation finds a bug, and what it sees broken in the first.
fn found_in_seeds(bug: Bug, progress: &mut Progress) -> Option<String> {
    let failing = simulate::sweep(1, SEEDS, Some(bug), progress).failing;
    let (first, what) = failing.first()?;
    let law = what.split(':').next().unwrap_or_default();
    Some(format!("{law}, in {} of {SEEDS} seeds, {first} the first", failing.len()))
}

/// Injects each bug, and prints which checks found it.
pub fn run() -> Verdict {
    let mut table = Table::new(["bug", "model", "simulation"]);
    let mut missed = false;
    let mut progress = Progress::default();
    for bug in Bug::ALL {
        progress.say(|| bug.as_str().to_owned());
        let model = found_by_model(bug).map(|it| format!("{}, {}", it.law, it.after));
        let simulation = found_in_seeds(bug, &mut progress);
        missed |= model.is_none() && simulation.is_none();
        let told = |found: Option<String>| found.unwrap_or_else(|| "–".to_owned());
        table.row([bug.as_str().to_owned(), told(model), told(simulation)]);
    }
    drop(progress);
    print(&table);
    Verdict::of(!missed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn breaks(bug: Bug, law: &str) {
        let found = found_by_model(bug).unwrap();
        assert!(found.law.starts_with(law), "{found:?}");
    }

    #[test]
    fn the_model_finds_a_second_join_that_turns_connected_back_into_reserved() {
        breaks(Bug::ReserveAgain, "I2");
    }

    #[test]
    fn the_model_finds_a_release_that_does_not_compare_the_placement() {
        breaks(Bug::FreeAnyPlacement, "I6");
    }

    #[test]
    fn the_model_finds_a_registration_of_a_player_that_only_reads_the_seat() {
        breaks(Bug::ReadOnlySeat, "I2");
    }

    #[test]
    fn the_model_finds_expired_claims_that_are_removed_without_their_exact_value() {
        breaks(Bug::EvictInexactly, "I2");
    }

    #[test]
    fn the_model_finds_a_freed_slot_that_is_not_listed() {
        breaks(Bug::FreeUnlisted, "I3");
    }

    #[test]
    fn the_model_finds_a_server_that_is_started_on_an_empty_index() {
        breaks(Bug::LaunchOnEmptyIndex, "I4");
    }

    #[test]
    fn the_model_finds_a_scale_in_that_checks_before_it_writes() {
        breaks(Bug::CheckedScaleIn, "I6");
    }

    #[test]
    fn the_model_finds_a_lapsed_lease_that_stops_a_server_with_players() {
        breaks(Bug::LapseStopsPlayers, "I6");
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

    /// Every file below `folder` whose name ends in `suffix`, as its path in the repository and its text.
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
    fn the_product_asks_for_injected_bugs_only_in_apply_and_in_expressions() {
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
    fn no_crate_with_injected_bugs_is_built_for_deployment() {
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
