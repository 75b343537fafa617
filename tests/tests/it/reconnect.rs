//! Players who lose their connection and reconnect, with real processes: a killed client, a killed server.

use std::process::Stdio;

use demo::player::{Joined, Player, Ready};
use shared::{
    domain::{Claim, Ledger, Placement, PlayerId, ServerId, ServerState},
    ticket,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{SOON, World, limits, line_with, seconds, signal};

fn player(world: &World, id: &str) -> Player {
    Player::new(world.stack.url(), id, None, world.http.clone())
}

/// A pool of one server with one slot; the demo server holds the slot of a lost connection for `grace_seconds`.
async fn one_slot(grace_seconds: u32) -> World {
    World::new(|options| {
        limits(1, 1)(options);
        // Frequent heartbeats, so that an expired reservation is noticed soon.
        options.limits.lease = seconds(3);
        // Placements only grow, so a slot is held at least this long after the placement that it replaces.
        options.limits.reservation = seconds(5);
        let grace = format!("OWMM_DEMO_GRACE_SECONDS={grace_seconds}");
        let program = env!("CARGO_BIN_EXE_stack");
        options.game_server = vec!["env".into(), grace.into(), program.into(), "game-server".into()];
    })
    .await
}

/// Starts a player in a process of its own; returns once the player is connected to a server.
async fn connected_player(world: &World, id: &str) -> Child {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stack"));
    program.args(["player", "--url", world.stack.url(), "--id", id, "--play-seconds", "3600"]);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    line_with(&mut lines, "received").await;
    child
}

fn claim(ledger: &Ledger, player: &str) -> Option<Claim> {
    ledger.claims.get(&PlayerId::parse(player).unwrap()).copied()
}

fn placement(ledger: &Ledger, player: &str, ready: &Ready) -> Placement {
    let (server, player) = (ServerId::parse(&ready.server).unwrap(), PlayerId::parse(player).unwrap());
    ticket::read(&ledger.token_hash, &server, &player, ready.ticket.expose()).unwrap().placement
}

async fn join(player: &Player) -> Ready {
    match player.join().await.unwrap() {
        Joined::Ready(ready) => ready,
        Joined::Starting(starting) => panic!("{starting:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_whose_client_was_killed_gets_the_same_slot_with_a_new_ticket() {
    let world = one_slot(600).await;
    let client = connected_player(&world, "alice").await;
    let alice = player(&world, "alice");
    let first = join(&alice).await;
    let connected = world.ledger(&first.server).await;
    let before = claim(&connected, "alice").unwrap();
    assert!(before.is_connected());
    assert_eq!(placement(&connected, "alice", &first), before.placement());

    assert!(signal("KILL", &client.id().unwrap().to_string()));
    let held = |ledger: &Ledger| matches!(claim(ledger, "alice"), Some(Claim::Reserved(_)));
    let ledger = world.until(&first.server, "the server has disconnected the player and holds the slot", held).await;
    let held = claim(&ledger, "alice").unwrap();
    assert!(held.placement() > before.placement());
    world.join("bob").await.problem(503, "pool_full");

    let again = join(&alice).await;
    assert_eq!(again.server, first.server);
    assert_eq!(placement(&ledger, "alice", &again), held.placement(), "the ticket has the current placement");
    assert_ne!(again.ticket, first.ticket);
    // The old ticket's placement has ended.
    let refused = alice.connect(&first).await.unwrap_err();
    assert!(matches!(refused, demo::player::Error::Refused { .. }), "{refused:?}");
    let mut visit = alice.connect(&again).await.unwrap();
    assert_eq!(visit.say("back").await.unwrap(), "back");
    assert_eq!(claim(&world.ledger(&first.server).await, "alice"), Some(Claim::Connected(held.placement())));
    assert_eq!(world.audit().await, 1);
    assert_eq!(world.stack.ecs().counts().processes_started, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_held_for_reconnect_goes_to_another_player_after_the_grace_time() {
    let world = one_slot(1).await;
    let client = connected_player(&world, "alice").await;
    let server = join(&player(&world, "alice")).await.server;
    world.join("bob").await.problem(503, "pool_full");
    assert!(signal("KILL", &client.id().unwrap().to_string()));
    let bob = player(&world, "bob");
    let ready = bob.join_until_ready(SOON, |_| {}).await.unwrap();
    assert_eq!(ready.server, server);
    let mut visit = bob.connect(&ready).await.unwrap();
    assert_eq!(visit.say("mine now").await.unwrap(), "mine now");
    world.join("alice").await.problem(503, "pool_full");
    assert_eq!(world.audit().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn players_of_a_server_that_was_killed_are_placed_anew_and_their_old_tickets_are_refused_there() {
    let pids = std::env::temp_dir().join(format!("owmm-test-killed-{}", std::process::id()));
    let program = env!("CARGO_BIN_EXE_stack");
    let command = format!("echo $$ >> '{}'; exec '{program}' game-server", pids.display());
    let world = World::new(|options| options.game_server = vec!["sh".into(), "-c".into(), command.into()]).await;
    let players = ["alice", "bob"].map(|id| player(&world, id));
    let mut visits = Vec::new();
    let mut old = Vec::new();
    for player in &players {
        let ready = player.join_until_ready(SOON, |_| {}).await.unwrap();
        visits.push(player.connect(&ready).await.unwrap());
        old.push(ready);
    }
    assert_eq!(old[0].server, old[1].server);
    assert_eq!(world.audit().await, 2);
    // The killed server sends no disconnects.
    let pid = std::fs::read_to_string(&pids).unwrap();
    assert!(signal("KILL", pid.trim()));
    let stopped = |ledger: &Ledger| ledger.state == ServerState::Stopped;
    let ledger = world.until(&old[0].server, "the server is stopped", stopped).await;
    assert!(ledger.claims.is_empty());
    for (player, old) in players.iter().zip(&old) {
        let again = player.join_until_ready(SOON, |_| {}).await.unwrap();
        assert_ne!(again.server, old.server);
        let late = Ready { ticket: old.ticket.clone(), ..again.clone() };
        let refused = player.connect(&late).await.unwrap_err();
        assert!(matches!(refused, demo::player::Error::Refused { .. }), "{refused:?}");
        visits.push(player.connect(&again).await.unwrap());
    }
    assert_eq!(world.audit().await, 2);
    assert_eq!(world.stack.ecs().counts().processes_started, 2, "both players share one new server");
    drop(visits);
    world.end().await;
    std::fs::remove_file(pids).unwrap();
}
