//! kill -9, in a size for every day.

use verify::{
    kill::{Options, kill},
    report::Progress,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_loses_nothing_that_it_was_told_when_the_stack_and_its_servers_are_killed() {
    let options = Options { program: env!("CARGO_BIN_EXE_verify").into(), players: 10, rounds: 3 };
    let killed = kill(&options, &mut Progress::default()).await.unwrap();
    assert!(killed.violations.is_empty(), "{killed:#?}");
    assert_eq!(killed.stacks, 3);
    assert!(killed.orphaned > 0 && killed.looked_for > 0, "{killed:#?}");
}
