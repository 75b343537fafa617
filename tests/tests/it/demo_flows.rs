//! Both flows (join a new server, join an existing one), step by step, with real processes and real sockets.

use std::{process::Stdio, time::Duration};

use demo::player::{Joined, Player};
use shared::domain::{Claim, Seat, ServerState};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::support::{SOON, World, demo_server, eventually, line_with, signal};

fn player(world: &World, id: &str) -> Player {
    Player::new(world.stack.url(), id, None, world.http.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_join_starts_a_server_and_a_second_join_uses_it() {
    let world = World::new(|options| {
        options.game_server = demo_server();
        options.start_delay = Duration::from_millis(300);
    })
    .await;

    // Join a new server. 1: the client joins; 2, 3: no server has a free slot, so OWMM calls ECS; 4: ECS starts a task.
    let pioneer = player(&world, "pioneer");
    let Joined::Starting(starting) = pioneer.join().await.unwrap() else { panic!("a server ran already") };
    assert_eq!(world.stack.ecs().counts().run_task_calls, 1);
    // 5: OWMM has recorded the task's ARN from ECS's response.
    let ledger = world.ledger(&starting.server).await;
    assert!(ledger.task.is_some_and(|task| task.contains(":task/")));
    // 6 and 7: the server registers, and the client gets its address.
    let ready = pioneer.join_until_ready(SOON, |_| {}).await.unwrap();
    assert_eq!(ready.server, starting.server);
    assert_eq!(world.ledger(&ready.server).await.state, ServerState::Ready);
    assert_eq!(world.stack.ecs().counts().processes_started, 1);
    // 8 and 9: the client connects, and the server registers the player.
    let mut visit = pioneer.connect(&ready).await.unwrap();
    assert_eq!(visit.say("hello").await.unwrap(), "hello");
    let ledger = world.ledger(&ready.server).await;
    assert!(matches!(ledger.claims.values().collect::<Vec<_>>()[..], [Claim::Connected(_)]));

    // Join an existing server. 1 to 3: the client joins and gets the address at once; no server is started.
    let follower = player(&world, "follower");
    let Joined::Ready(there) = follower.join().await.unwrap() else { panic!("a server has room") };
    assert_eq!(there.server, ready.server);
    assert_eq!(world.stack.ecs().counts().run_task_calls, 1);
    // 4 and 5: the client connects, and the server registers the player.
    let mut second = follower.connect(&there).await.unwrap();
    assert_eq!(second.say("me too").await.unwrap(), "me too");
    assert_eq!(world.ledger(&ready.server).await.claims.len(), 2);

    // Both players leave, and their slots are freed.
    visit.leave().await.unwrap();
    second.leave().await.unwrap();
    world.until(&ready.server, "both slots are free", |ledger| ledger.claims.is_empty()).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gets_sigterm_deregisters_and_its_players_are_placed_anew() {
    let world = World::new(|options| options.game_server = demo_server()).await;
    let player = player(&world, "wanderer");
    let ready = player.join_until_ready(SOON, |_| {}).await.unwrap();
    let _visit = player.connect(&ready).await.unwrap();
    let task =
        world.until(&ready.server, "the ledger has the task's ARN", |ledger| ledger.task.is_some()).await.task.unwrap();

    let ecs = crate::support::ecs_client(world.stack.ecs_url());
    ecs.stop_task().task(task).send().await.unwrap();
    let ledger =
        world.until(&ready.server, "the server is stopped", |ledger| ledger.state == ServerState::Stopped).await;
    assert!(ledger.claims.is_empty(), "a stopped server must have no claims");
    let again = player.join_until_ready(SOON, |_| {}).await.unwrap();
    assert_ne!(again.server, ready.server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_plays_both_flows_prints_its_urls_and_ends_every_task() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stack"));
    program.args(["--once", "--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Ok(url) = std::env::var("OWMM_TEST_DYNAMODB") {
        program.args(["--dynamodb", &url]);
    }
    let output = tokio::time::timeout(SOON, program.output()).await.unwrap().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    let lines = stdout.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 3, "{stdout}");
    assert!(lines[0].starts_with("dynamodb http://") && lines[0].ends_with(" table owmm"), "{stdout}");
    assert!(lines[1].starts_with("ecs http://127.0.0.1:"), "{stdout}");
    assert!(lines[2].starts_with("ready http://127.0.0.1:"), "{stdout}");
    for step in 1..=9 {
        assert!(stderr.contains(&format!("\n  {step}. ")), "step {step} is missing: {stderr}");
    }
    assert_eq!(stderr.matches("\n  5. ").count(), 2, "both flows have a step 5: {stderr}");
    // Every task that was started has ended.
    assert_eq!(stderr.matches("started task=").count(), stderr.matches("ended task=").count(), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_every_process_that_was_started() {
    let pid_file = std::env::temp_dir().join(format!("owmm-test-pid-{}", std::process::id()));
    let command = format!("sh -c 'echo $$ > {}; exec sleep 4321'", pid_file.display());
    let mut program = Command::new(env!("CARGO_BIN_EXE_stack"))
        .args(["--port", "0", "--no-demo", "--game-server", &command])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let ready = line_with(&mut lines, "ready ").await;
    let url = ready.strip_prefix("ready ").unwrap();
    let http = demo::http_client().unwrap();
    let reply = http.post(format!("{url}/join")).bearer_auth("alice").send().await.unwrap();
    assert_eq!(reply.status(), 202);
    let read = || async { std::fs::read_to_string(&pid_file).unwrap_or_default() };
    let pid = eventually("the task's process has written its id", read, |pid| pid.ends_with('\n')).await;
    let pid = pid.trim();
    assert!(signal("0", pid));
    assert!(signal("INT", &program.id().unwrap().to_string()));
    let status = tokio::time::timeout(SOON, program.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(!signal("0", pid), "the task's process still runs after the stack has ended");
    std::fs::remove_file(pid_file).unwrap();
}

/// Runs the program with `--once`; returns whether it succeeded, and its stderr. Always on the embedded engine: the
/// program's table has one name, so on another engine two of these tests would share it.
async fn play(game_server: &str) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stack"));
    program.args(["--once", "--port", "0", "--game-server", game_server]).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::time::timeout(2 * SOON, program.kill_on_drop(true).output()).await.unwrap().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_game_server_plays_both_flows_unchanged() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/example-server.py");
    let (played, stderr) = play(&format!("python3 '{example}'")).await;
    assert!(played, "{stderr}");
    assert_eq!(stderr.matches("\n  5. ").count(), 2, "both flows have a step 5: {stderr}");
    let port = |stderr: &str| stderr.split_once("the player connects to 127.0.0.1:")?.1.get(..5)?.parse::<u16>().ok();
    assert!(port(&stderr).is_some_and(|port| (20_000..30_000).contains(&port)), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_game_server_is_logged_and_the_demo_names_the_failed_step() {
    let (played, stderr) = play("sh -c 'echo no map; echo no licence >&2; exit 7'").await;
    assert!(!played, "{stderr}");
    let lines = stderr.lines().collect::<Vec<_>>();
    for line in ["no map", "no licence"] {
        let found = lines.iter().find(|found| found.ends_with(&format!(" | {line}")));
        assert_eq!(found.map(|found| found.len()), Some("12345678 | ".len() + line.len()), "{line}: {stderr}");
    }
    let crash = lines.iter().position(|line| line.contains(" WARN process crashed with exit code 7 task="));
    let crash = crash.unwrap_or_else(|| panic!("no warning: {stderr}"));
    let mut output = lines[crash + 1..crash + 3].to_vec();
    output.sort_unstable();
    assert_eq!(output, ["    no licence", "    no map"], "{stderr}");
    assert!(stderr.contains("the demo failed: step "), "{stderr}");
    assert!(stderr.contains("the game server has ended (exit code 7). The lines above show"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_suggests_no_demo_when_the_game_server_speaks_another_protocol() {
    let world = World::new(|_| {}).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let game = async {
        let server = loop {
            match world.ledgers().await.first() {
                Some(ledger) => break ledger.id.to_string(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let hand = world.game_server(&server).await;
        hand.register_as(&world, serde_json::json!({ "address": "127.0.0.1", "port": port })).await.is(200);
        let mut player = BufReader::new(listener.accept().await.unwrap().0);
        player.read_line(&mut String::new()).await.unwrap();
        player.write_all(b"MYGAME 1.0\n").await.unwrap();
        std::future::pending::<()>().await;
    };
    let missed = tokio::select! {
        missed = local::play::both_flows(&world.stack, |_| {}) => missed.unwrap_err().to_string(),
        () = game => unreachable!("the game server never ends"),
    };
    assert!(missed.starts_with("step 8: ") && missed.contains(r#"expected {"welcome":"#), "{missed}");
    assert!(missed.contains("got `MYGAME 1.0`") && missed.contains("`--no-demo`"), "{missed}");
    world.end().await;
}

/// A temporary file; removed when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let file = std::env::temp_dir().join(format!("owmm-test-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        Self(file)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pool_of_a_pools_file_is_created_and_starts_its_own_servers() {
    let file =
        Scratch::new("more-pools", r#"{"eu": {"capacity": 7, "rollout": "drain"}, "default": {"maxServers": 3}}"#);
    let world = World::new(|options| options.pools = Some(file.path().into())).await;
    let settings = async |pool: &str| {
        let reply = world.operate("GET", &format!("/pools/{pool}"), None).await.is(200);
        reply.body["settings"].clone()
    };
    let (eu, default) = (settings("eu").await, settings("default").await);
    assert_eq!((&eu["capacity"], &eu["rollout"], &eu["maxServers"]), (&7.into(), &"drain".into(), &100.into()));
    assert_eq!((&default["maxServers"], &default["capacity"]), (&3.into(), &50.into()));
    assert_eq!(eu["task"]["url"], world.stack.url(), "a setting that the file omits is that of the default pool");
    let body = Some(serde_json::json!({ "pool": "eu" }));
    let server = world.call("POST", "/join", Some("alice"), body).await.is(202).server().to_owned();
    assert_eq!(world.ledger(&server).await.pool.as_str(), "eu");
    assert_eq!(world.stack.ecs().counts().run_task_calls, 1);
    world.end().await;
}

/// Runs the program with invalid arguments, asserts that it fails and returns its stderr.
async fn refused(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stack"));
    program.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn().unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
    assert!(!status.success(), "{arguments:?}");
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_option_is_refused_with_its_name_and_a_hint() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = refused(&["--once", "--port", &port]).await;
    assert!(text.contains(&port) && text.contains("--port 0"), "{text}");
    let text = refused(&["--once", "--port", "0", "--data", "/nonexistent/folder/table.db"]).await;
    assert!(text.contains("/nonexistent/folder/table.db") && text.contains("--data"), "{text}");
    let text = refused(&["--once", "--port", "0", "--game-server", "no-such-program-here --x"]).await;
    let due = "`--game-server no-such-program-here --x`: there is no program `no-such-program-here` in any folder of \
               PATH, or it may not be executed";
    assert!(text.contains(due), "{text}");
    let text = refused(&["--once", "--port", "0", "--game-server", "/nonexistent/game"]).await;
    assert!(text.contains("there is no program `/nonexistent/game` at that path"), "{text}");
    let text = refused(&["--once", "--port", "0", "--game-server", ""]).await;
    assert!(text.contains("name a program and its arguments"), "{text}");
    let text = refused(&["--once", "--port", "0", "--game-server", "'unclosed"]).await;
    assert!(text.contains("quote"), "{text}");
    for url in ["garbage", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", ""] {
        let text = refused(&["--once", "--port", "0", "--dynamodb", url]).await;
        assert!(text.contains(&format!("--dynamodb {url}`")) && text.contains("http://127.0.0.1:8000"), "{text}");
    }
    let text = refused(&["--once", "--port", "0", "--functions", "garbage"]).await;
    assert!(text.contains("`--functions garbage`: give the URL"), "{text}");
    let text = refused(&["player", "--url", "garbage"]).await;
    assert!(text.contains("`--url garbage`: give OWMM's URL"), "{text}");
    let text = refused(&["--once", "--port", "0", "--dynamodb", "http://127.0.0.1:1"]).await;
    assert!(text.contains("http://127.0.0.1:1") && text.contains("--dynamodb"), "{text}");
    let pools = Scratch::new("pools", r#"{"eu": {"capacity": 7}, "us": {"headroom": -1}}"#);
    let text = refused(&["--once", "--port", "0", "--pools", pools.path()]).await;
    assert!(text.contains(pools.path()) && text.contains("`us`") && text.contains("`headroom`"), "{text}");
    assert!(!text.contains("table engine"), "nothing must be started: {text}");
    let comma = Scratch::new("comma", "{\n  \"eu\": {\"capacity\": 7},\n}");
    let text = refused(&["--once", "--port", "0", "--pools", comma.path()]).await;
    let due = "the file is not valid JSON: expected another entry after the comma, or no comma, at line 3, column 1";
    assert!(text.contains(&format!("`--pools {}`: {due}", comma.path())), "{text}");
    let text = refused(&["--once", "--port", "0", "--pools", "/nonexistent/pools.json"]).await;
    assert!(text.contains("`--pools /nonexistent/pools.json`: the file cannot be read: No such file"), "{text}");
    for option in ["--capacity", "--lease-seconds"] {
        let text = refused(&["--once", "--port", "0", "--pools", pools.path(), option, "5"]).await;
        assert!(text.contains(option) && text.contains("--pools"), "{text}");
    }
    for (option, value) in
        [("--capacity", "0"), ("--capacity", "1001"), ("--concurrent-launches", "0"), ("--max-servers", "0")]
    {
        let text = refused(&["--once", "--port", "0", option, value]).await;
        assert!(text.contains(option), "{option} {value}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_file_outlives_the_stack() {
    if std::env::var_os("OWMM_TEST_DYNAMODB").is_some() {
        return; // `--data` is an option of the embedded engine.
    }
    let folder = std::env::temp_dir().join(format!("owmm-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("table.db");
    let default = crate::support::pool("default");
    let (server, table) = {
        let world = World::new(|options| options.data = Some(file.clone())).await;
        let hand = world.ready_server("alice").await;
        let table = world.table.clone();
        let mut pool = world.stack.owmm().table().pool(&default).await.unwrap().unwrap();
        pool.limits.capacity = 7;
        world.stack.owmm().configure(pool).await.unwrap();
        world.end().await;
        (hand, table)
    };
    let world = World::new(|options| {
        options.data = Some(file.clone());
        options.table = table;
        options.keeps_pool = true;
    })
    .await;
    let pool = world.stack.owmm().table().pool(&default).await.unwrap().unwrap();
    assert_eq!(
        (pool.limits.capacity, pool.task.url.as_str()),
        (7, world.stack.url()),
        "kept, except for the URL of the new gateway"
    );
    let seat = world.seat("alice").await;
    assert!(
        matches!(&seat, Some(Seat::Assigned(place)) if place.server.as_str() == server.id),
        "the seat must be kept: {seat:?}"
    );
    let reply = world.join("alice").await;
    // The first stack may or may not have recorded the end of the task before it stopped itself.
    if world.ledger(&server.id).await.state == ServerState::Stopped {
        assert_ne!(reply.is(202).server(), server.id);
    } else {
        assert_eq!(reply.is(200).server(), server.id, "the slot must be kept");
    }
    world.end().await;
    std::fs::remove_dir_all(folder).unwrap();
}
