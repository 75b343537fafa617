//! Runs `verify kill` with few players and rounds.

use verify::{
    kill::{Options, kill},
    report::Progress,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_slot_is_lost_when_the_stack_and_game_servers_are_killed() {
    let options = Options { program: env!("CARGO_BIN_EXE_verify").into(), players: 10, rounds: 3 };
    let killed = kill(&options, &mut Progress::default()).await.unwrap();
    assert!(killed.violations.is_empty(), "{killed:#?}");
    assert_eq!(killed.stacks, 3);
    assert!(killed.orphaned > 0 && killed.found > 0, "{killed:#?}");
}
