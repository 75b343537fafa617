//! Tests of the simulation: it is repeatable, the first seeds violate nothing, and it finds injected bugs.

use shared::domain::bug::Bug;
use verify::{
    injected_bugs::found_by_simulation,
    report::Progress,
    simulate::{run, sweep},
};

#[test]
fn two_runs_of_one_seed_have_the_same_history() {
    let history = |_| run(4, None, true).unwrap().history.into_bytes();
    let [first, second] = [0, 1].map(history);
    assert!(first.len() > 10_000, "a history of {} bytes", first.len());
    assert!(first == second, "seed 4 is not repeatable");
}

#[test]
fn no_invariant_is_violated_in_the_first_twelve_seeds() {
    let sum = sweep(1, 12, None, &mut Progress::default());
    assert!(sum.failing.is_empty(), "{:#?}", sum.failing);
    assert_eq!(sum.seeds, 12);
}

/// The model cannot find this bug, because it does not include ECS.
#[test]
fn a_fresh_token_per_call_of_run_task_is_found_within_forty_seeds() {
    let found = found_by_simulation(Bug::FreshRunTaskToken, 40).unwrap();
    assert!(found.law.starts_with("I4"), "{found:?}");
}

#[test]
fn a_register_player_that_only_reads_the_seat_is_found_within_five_seeds() {
    let found = found_by_simulation(Bug::ReadOnlySeat, 5).unwrap();
    assert!(found.law.starts_with("I2"), "{found:?}");
}

#[test]
fn a_lapsed_lease_that_stops_a_server_with_players_is_found_within_ten_seeds() {
    let found = found_by_simulation(Bug::LapseStopsPlayers, 10).unwrap();
    assert!(found.law.starts_with("I6"), "{found:?}");
}

#[test]
fn a_launch_on_an_empty_index_is_found_within_ten_seeds() {
    let found = found_by_simulation(Bug::LaunchOnEmptyIndex, 10).unwrap();
    assert!(found.law.starts_with("I4"), "{found:?}");
}

#[test]
fn a_claim_that_turns_connected_back_into_reserved_is_found_within_forty_seeds() {
    let found = found_by_simulation(Bug::ReserveAgain, 40).unwrap();
    assert!(found.law.starts_with("I2"), "{found:?}");
}
