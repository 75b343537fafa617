//! Who finds which mistake.
//!
//! Every mistake that designs of this kind make is put back ([`shared::domain::teeth`]), one at a time, and the checks are
//! run as they always are, until one of them sees a law broken.

use shared::domain::teeth::Mistake;

use crate::{
    model::{Size, explore, scopes},
    report::{Progress, Table, Verdict, grouped, print},
    simulate,
};

/// How a mistake was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The law that was broken.
    pub law: String,
    /// Where, and after how much work.
    pub after: String,
}

/// Looks for a mistake with the model checker, in its small worlds.
pub fn found_by_model(mistake: Mistake) -> Option<Found> {
    let mut states = 0;
    scopes(Size::Small).into_iter().find_map(|scope| {
        // One thread goes through the states in the same order each time.
        let explored = explore(&scope.clone().with(Some(mistake)), 1, |_, _| {});
        states += explored.states;
        explored
            .broken
            .map(|(law, _)| Found { law: law.to_owned(), after: format!("{}, {} states", scope.name, grouped(states)) })
    })
}

/// Looks for a mistake with the simulation, seed after seed.
pub fn found_by_simulation(mistake: Mistake, seeds: u64) -> Option<Found> {
    (1..=seeds).find_map(|seed| {
        let outcome = simulate::run(seed, Some(mistake), false).ok()?;
        let first = outcome.violations.first()?;
        Some(Found { law: first.invariant.as_str().to_owned(), after: format!("{seed} seeds") })
    })
}

/// Seeds that the simulation is given for each mistake.
const SEEDS: u64 = 200;

/// In how many seeds the simulation finds a mistake, and what it sees broken in the first.
fn found_in_seeds(mistake: Mistake, progress: &mut Progress) -> Option<String> {
    let failing = simulate::sweep(1, SEEDS, Some(mistake), progress).failing;
    let (first, what) = failing.first()?;
    let law = what.split(':').next().unwrap_or_default();
    Some(format!("{law}, in {} of {SEEDS} seeds, {first} the first", failing.len()))
}

/// Puts each mistake back, and tells who found it.
pub fn run() -> Verdict {
    let mut table = Table::new(["mistake", "model", "simulation"]);
    let mut missed = false;
    let mut progress = Progress::default();
    for mistake in Mistake::ALL {
        progress.say(|| mistake.as_str().to_owned());
        let model = found_by_model(mistake).map(|it| format!("{}, {}", it.law, it.after));
        let simulation = found_in_seeds(mistake, &mut progress);
        missed |= model.is_none() && simulation.is_none();
        let told = |found: Option<String>| found.unwrap_or_else(|| "–".to_owned());
        table.row([mistake.as_str().to_owned(), told(model), told(simulation)]);
    }
    drop(progress);
    print(&table);
    Verdict::of(!missed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn breaks(mistake: Mistake, law: &str) {
        let found = found_by_model(mistake).unwrap();
        assert!(found.law.starts_with(law), "{found:?}");
    }

    #[test]
    fn the_model_finds_a_second_join_that_turns_connected_back_into_reserved() {
        breaks(Mistake::ReserveAgain, "I2");
    }

    #[test]
    fn the_model_finds_a_release_that_does_not_compare_the_placement() {
        breaks(Mistake::ReleaseAnyStamp, "I6");
    }

    #[test]
    fn the_model_finds_a_registration_of_a_player_that_only_reads_the_seat() {
        breaks(Mistake::ReadOnlySeat, "I2");
    }

    #[test]
    fn the_model_finds_expired_claims_that_are_removed_without_their_exact_value() {
        breaks(Mistake::EvictInexactly, "I2");
    }

    #[test]
    fn the_model_finds_a_freed_slot_that_is_not_listed() {
        breaks(Mistake::FreeUnlisted, "I3");
    }

    #[test]
    fn the_model_finds_a_server_that_is_started_on_an_empty_index() {
        breaks(Mistake::LaunchOnEmptyIndex, "I4");
    }

    #[test]
    fn the_model_finds_a_scale_in_that_checks_before_it_writes() {
        breaks(Mistake::CheckedScaleIn, "I6");
    }

    #[test]
    fn the_model_finds_a_lapsed_lease_that_stops_a_server_with_players() {
        breaks(Mistake::LapseStopsPlayers, "I6");
    }
}
