//! The operators' command line `owmm`: the real program against the local gateway.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::Stdio,
    sync::{Arc, Mutex},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::domain::{PlayerId, Seat, ServerState};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::support::{SOON, World, eventually, limits, line_with, settings, signal};

/// The program `owmm` in a clean environment: no AWS configuration and no proxy settings of this machine.
fn owmm(url: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_operator"));
    program.env_clear().env("OWMM_URL", url).env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    program
}

/// Result of a finished run.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn prints(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in stderr: {self:?}");
        }
        self
    }
}

async fn finish(program: &mut Command) -> Ran {
    let output = tokio::time::timeout(2 * SOON, program.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command line, split at blanks.
async fn run(world: &World, line: &str) -> Ran {
    finish(owmm(world.stack.url()).args(line.split_whitespace())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_prints_a_table_and_with_json_the_response_of_the_api() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("auth0|alice").await;
    server.let_in(&world, "auth0|alice").await;
    world.join("bob").await.is(200);
    let id = server.id.as_str();
    let views = [
        ("pools", "/pools".to_owned(), vec!["POOL", "default", "1/100", "on", "lazy"]),
        ("pool show default", "/pools/default".to_owned(), vec!["capacity", "50", "task.taskDefinition"]),
        (
            &format!("server show {id}"),
            format!("/servers/{id}"),
            vec![id, "auth0|alice", "connected", "bob", "lease until"],
        ),
        ("player show auth0|alice", "/players/auth0%7Calice".to_owned(), vec!["connected to", id, "connected"]),
        ("player show bob", "/players/bob".to_owned(), vec!["reserved on", id, "reserved", ", in "]),
    ];
    for (line, path, words) in views {
        let text = run(&world, line).await.exits(0).stdout;
        for word in words {
            assert!(text.contains(word), "{line}: no {word} in {text}");
        }
        let script = run(&world, &format!("{line} --json")).await.exits(0);
        assert_eq!(script.json(), world.operate("GET", &path, None).await.is(200).body, "{line}");
        assert_eq!(script.stderr, "");
    }
    let text = run(&world, "servers").await.exits(0).stdout;
    let row = text.lines().nth(1).unwrap().split_whitespace().take(7).collect::<Vec<_>>();
    assert_eq!(row, ["default", id, "ready", "1", "1", "50", "127.0.0.1:7777"], "{text}");
    let mut due = world.operate("GET", "/pools/default/servers", None).await.is(200).body;
    due["servers"][0]["pool"] = json!("default");
    assert_eq!(run(&world, "servers --json").await.exits(0).json(), due);
    assert_eq!(run(&world, "servers --json --pool default").await.exits(0).json(), due);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_lists_every_page_of_every_pool() {
    let world = World::new(limits(1, 1_000)).await;
    world.operate("PUT", "/pools/arena", Some(settings(|_| {}))).await.is(200);
    for i in 0..103 {
        world.join(&format!("player-{i}")).await.is(202);
    }
    world.call("POST", "/join", Some("alice"), Some(json!({ "pool": "arena" }))).await.is(202);
    let all = run(&world, "servers --json").await.exits(0).json();
    let mut ids = all["servers"].as_array().unwrap().iter().map(|server| server["id"].clone()).collect::<Vec<_>>();
    ids.sort_by_key(Value::to_string);
    ids.dedup();
    assert_eq!((ids.len(), &all["next"], &all["servers"][0]["pool"]), (104, &Value::Null, &json!("arena")));
    let text = run(&world, "servers --pool default").await.exits(0).stdout;
    assert_eq!(text.lines().count(), 104, "a heading and one line per server");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_set_takes_patches_or_a_file_and_shows_the_difference() {
    let world = World::new(|_| {}).await;
    let before = world.operate("GET", "/pools/default", None).await.is(200).body["settings"].clone();
    // A dry run changes nothing.
    let dry = run(&world, "pool set default capacity=60 --dry-run --json").await.exits(0);
    let mut due = before.clone();
    due["capacity"] = json!(60);
    assert_eq!(dry.json(), due);
    assert!(!dry.stderr.contains("headroom"), "{}", dry.stderr);
    let row = dry.stderr.lines().find(|line| line.starts_with("capacity")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["capacity", "50", "60"]);
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body["settings"], before);
    // A patch keeps settings that it does not name; an empty value restores the default.
    run(&world, "pool set default --yes capacity=60 rollout=drain task.assignPublicIp=false").await.exits(0);
    due["rollout"] = json!("drain");
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body["settings"], due);
    let set = run(&world, "pool set default --yes --json capacity= rollout=").await.exits(0);
    assert_eq!(set.json(), world.operate("GET", "/pools/default", None).await.is(200).body);
    assert_eq!(set.json()["settings"], before);
    // Settings that the pool already has are not sent again.
    let same = run(&world, "pool set default --yes capacity=50").await.exits(0).stdout;
    assert_eq!(same, "default already has these settings\n");
    // An invalid value is refused by name, and nothing changes.
    let refused = run(&world, "pool set default --yes capacity=0 headroom=5").await.exits(1);
    refused.prints(&["400 invalid_body", "`capacity` must be 1 to 1000", "request local-"]);
    run(&world, "pool set default --yes Capacity=1").await.exits(2).prints(&["no setting `Capacity`", "maxServers"]);
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body["settings"], before);
    // A file holds all settings, and creates a pool that did not exist.
    let file = std::env::temp_dir().join(format!("owmm-test-settings-{}.json", std::process::id()));
    std::fs::write(&file, settings(|_| {}).to_string()).unwrap();
    let line = format!("pool set arena --yes --json headroom=5 --file {}", file.display());
    let made = run(&world, &line).await.exits(0).prints(&["There is no pool `arena` yet"]).json();
    std::fs::remove_file(&file).unwrap();
    assert_eq!((&made["settings"]["capacity"], &made["settings"]["headroom"]), (&json!(20), &json!(5)));
    run(&world, "pool set arena --yes --file /nonexistent/file").await.exits(2).prints(&["/nonexistent/file"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn launch_pause_and_resume_change_the_pool_and_print_the_result() {
    let world = World::new(limits(10, 25)).await;
    let launched = run(&world, "launch default --yes --json --at-least 23").await.exits(0).json();
    let count = launched["started"].as_array().unwrap().len();
    assert_eq!((count, &launched["liveServers"], &launched["missing"]), (23, &json!(23), &json!(0)), "over two calls");
    let again = run(&world, "launch default --yes --at-least 23").await.exits(0).stdout;
    assert_eq!(again, "default: 23 live servers\n");
    run(&world, "launch default --yes --at-least 26").await.exits(1).prints(&["409 at_maximum", "maxServers"]);
    let paused = run(&world, "pause default --yes --for 3600").await.exits(0).stdout;
    assert_eq!(paused, "default: launching is paused for 1h00m\n");
    assert!(run(&world, "pools").await.exits(0).stdout.contains("paused by operator for "));
    let refused = run(&world, "launch default --yes --at-least 24").await.exits(1);
    refused.prints(&["Launching is paused (503 launch_paused)", "request local-", "owmm resume"]);
    run(&world, "pause default --yes").await.exits(0);
    let resumed = run(&world, "resume default --json").await.exits(0).json();
    assert_eq!(resumed["operatorPause"], Value::Null);
    run(&world, "launch default --yes --at-least 24").await.exits(0);
    run(&world, "pause nowhere --yes").await.exits(1).prints(&["404 unknown_pool"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_starts_and_release_of_a_connected_player_is_refused_with_a_hint() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let id = server.id.as_str();
    run(&world, "player release alice --yes").await.exits(0);
    assert!(world.ledger(id).await.claims.is_empty());
    server.let_in(&world, "alice").await;
    let refused = run(&world, "player release alice --yes").await.exits(1);
    refused.prints(&["409 player_inside", id, "owmm server drain"]);
    let script = run(&world, "player release alice --yes --json").await.exits(1);
    let problem = serde_json::from_str::<Value>(&script.stderr).unwrap();
    assert_eq!((&problem["code"], script.stdout.as_str()), (&json!("player_inside"), ""));
    let drained = run(&world, &format!("server drain {id} --yes --deadline 3600")).await.exits(0).stdout;
    assert!(drained.contains("1 connected, 0 reserved") && drained.contains("at the latest 20"), "{drained}");
    assert!(run(&world, "servers").await.exits(0).stdout.contains("deadline in "));
    let drained = run(&world, &format!("server drain {id} --yes --json --deadline 0")).await.exits(0).json();
    assert_eq!((&drained["state"], &drained["connected"]), (&json!("draining"), &json!(1)));
    world.reconcile().await;
    run(&world, &format!("server drain {id} --yes")).await.exits(1).prints(&["410 server_stopped"]);
    run(&world, "player release alice --yes").await.exits(0);
    assert!(matches!(world.seat("alice").await, Some(Seat::Vacant(_))));
    run(&world, "server show nobody").await.exits(1).prints(&["404 unknown_server"]);
    run(&world, "player show nobody").await.exits(1).prints(&["404 unknown_player"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changing_command_without_terminal_and_without_yes_does_nothing() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let before = world.operate("GET", "/pools/default", None).await.is(200).body;
    let lines = [
        "launch default --at-least 5",
        "pause default",
        "pool set default capacity=1",
        "player release alice",
        &format!("server drain {}", server.id),
    ];
    for line in lines {
        run(&world, line).await.exits(4).prints(&["Nothing was done", "--yes"]);
    }
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body, before);
    let ledger = world.ledger(&server.id).await;
    assert_eq!((ledger.state, ledger.claims.len()), (ServerState::Ready, 1));
    world.end().await;
}

/// A pseudo-terminal, and the text that was written to it.
struct Terminal {
    hand: File,
    line: std::path::PathBuf,
    written: Arc<Mutex<String>>,
}

impl Terminal {
    fn new() -> Self {
        let hand = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&hand).unwrap();
        unlockpt(&hand).unwrap();
        let line = ptsname(&hand, Vec::new()).unwrap().into_string().unwrap().into();
        let hand = File::from(hand);
        let (mut read, written) = (hand.try_clone().unwrap(), Arc::<Mutex<String>>::default());
        let written_too = written.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 1_024];
            // Reading fails, and so ends, once no process has the terminal open.
            while let Ok(count @ 1..) = read.read(&mut bytes) {
                written_too.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { hand, line, written }
    }

    /// The program with this terminal in place of pipes.
    fn owmm(&self, world: &World, line: &str) -> tokio::process::Child {
        let end = || Stdio::from(OpenOptions::new().read(true).write(true).open(&self.line).unwrap());
        let mut program = owmm(world.stack.url());
        program.args(line.split_whitespace()).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    async fn shows(&self, words: &str, times: usize) {
        let what = format!("`{words}` is shown {times} times");
        let written = || async { self.written.lock().unwrap().clone() };
        eventually(&what, written, |written| written.matches(words).count() >= times).await;
    }

    fn types(&mut self, text: &str) {
        self.hand.write_all(text.as_bytes()).unwrap();
    }
}

async fn ended(mut program: tokio::process::Child) -> Option<i32> {
    tokio::time::timeout(SOON, program.wait()).await.unwrap().unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changing_command_on_a_terminal_asks_first_and_only_y_confirms() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    server.let_in(&world, "alice").await;
    let line = format!("server drain {}", server.id);
    for (answer, code, state) in [
        ("n\n", 4, ServerState::Ready),
        ("\n", 4, ServerState::Ready),
        ("\u{4}", 4, ServerState::Ready),
        ("y\n", 0, ServerState::Draining),
    ] {
        let mut terminal = Terminal::new();
        let program = terminal.owmm(&world, &line);
        terminal.shows("1 connected, 0 reserved", 1).await;
        terminal.shows("[y/N]", 1).await;
        assert_eq!(world.ledger(&server.id).await.state, ServerState::Ready, "changed before the answer");
        terminal.types(answer);
        assert_eq!(ended(program).await, Some(code), "{answer:?}");
        assert_eq!(world.ledger(&server.id).await.state, state, "{answer:?}");
    }
    // Every other changing command asks for confirmation too, and shows what it would do.
    for (line, words) in [
        ("launch default --at-least 3", "`default` has 1 live servers"),
        ("pause default --for 90", "for 1m30s"),
        ("player release alice", "alice is connected to"),
        ("pool set default capacity=7", "capacity"),
    ] {
        let mut terminal = Terminal::new();
        let program = terminal.owmm(&world, line);
        terminal.shows("[y/N]", 1).await;
        terminal.shows(words, 1).await;
        terminal.types("no\n");
        assert_eq!(ended(program).await, Some(4), "{line}");
    }
    assert_eq!(world.operate("GET", "/pools/default", None).await.is(200).body["liveServers"], 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_set_does_not_overwrite_settings_that_changed_since_it_read_them() {
    let world = World::new(|_| {}).await;
    let mut terminal = Terminal::new();
    let program = terminal.owmm(&world, "pool set default headroom=7");
    terminal.shows("[y/N]", 1).await;
    run(&world, "pool set default --yes capacity=33").await.exits(0);
    terminal.types("y\n");
    assert_eq!(ended(program).await, Some(1));
    terminal.shows("another operator has changed `default` in the meantime", 1).await;
    let settings = world.operate("GET", "/pools/default", None).await.is(200).body["settings"].clone();
    assert_eq!((&settings["capacity"], &settings["headroom"]), (&json!(33), &json!(0)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_continues_after_a_failed_request_and_ends_on_a_signal() {
    let world = World::new(|_| {}).await;
    let id = world.ready_server("alice").await.id;
    let mut program = owmm(world.stack.url());
    let mut program = program.args(["servers", "--watch", "--interval", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    run(&world, "servers --pool nowhere --watch").await.exits(1).prints(&["404 unknown_pool"]);
    for _ in 0..2 {
        line_with(&mut lines, ", every 1s").await;
        line_with(&mut lines, &id).await;
    }
    world.end().await;
    for _ in 0..2 {
        line_with(&mut lines, "! http://127.0.0.1:").await;
    }
    assert!(signal("INT", &program.id().unwrap().to_string()));
    assert_eq!(ended(program).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_json_prints_one_document_per_line() {
    let world = World::new(|_| {}).await;
    let mut program = owmm(world.stack.url());
    let mut program = program.args(["pools", "--json", "-w", "--interval", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = line_with(&mut lines, "").await;
        let document = serde_json::from_str::<Value>(&line).unwrap();
        assert_eq!(document, world.operate("GET", "/pools", None).await.is(200).body);
    }
    assert!(signal("TERM", &program.id().unwrap().to_string()));
    assert_eq!(ended(program).await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_on_a_terminal_redraws_in_place() {
    let world = World::new(|_| {}).await;
    let terminal = Terminal::new();
    let program = terminal.owmm(&world, "pools --watch --interval 1");
    terminal.shows("\u{1b}[H", 3).await;
    assert_eq!(terminal.written.lock().unwrap().matches("\u{1b}[2J").count(), 1, "cleared once");
    assert!(signal("INT", &program.id().unwrap().to_string()));
    assert_eq!(ended(program).await, Some(0));
    world.end().await;
}

/// A request as it arrived at the socket.
#[derive(Debug)]
struct Arrived {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Arrived {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// Reads one request and sends `answer` as the response.
async fn answer(stream: TcpStream, answer: &str) -> Arrived {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers = lines[1..].iter().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let mut arrived = Arrived { line: lines[0].clone(), headers: headers.collect(), body: Vec::new() };
    arrived.body.resize(arrived.header("content-length").map_or(0, |length| length.parse().unwrap()), 0);
    stream.read_exact(&mut arrived.body).await.unwrap();
    stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    stream.get_mut().shutdown().await.unwrap();
    arrived
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Starts an HTTP server that sends these responses in order; returns its URL and, when done, the requests.
async fn scripted(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<Arrived>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = tokio::spawn(async move {
        let mut arrived = Vec::new();
        for text in answers {
            arrived.push(answer(listener.accept().await.unwrap().0, &text).await);
        }
        arrived
    });
    (url, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_with_sigv4_and_no_secret_is_printed() {
    const SECRETS: [&str; 2] = ["wJalrXUtnFEMIsecretEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLEtoken"];
    let pool = json!({ "name": "default", "settings": {}, "liveServers": 0 }).to_string();
    let (url, requests) =
        scripted(vec![http("200 OK", "", &pool), http("403 Forbidden", "", r#"{"message":"no"}"#)]).await;
    for (line, code) in [("pause default --yes --for 60 -v", 0), ("player show auth0|x --verbose", 1)] {
        let mut program = owmm(&url);
        program.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_REGION", "eu-central-1");
        program.env("AWS_SECRET_ACCESS_KEY", SECRETS[0]).env("AWS_SESSION_TOKEN", SECRETS[1]);
        let ran = finish(program.args(line.split_whitespace())).await.exits(code);
        for secret in SECRETS {
            assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran:?}");
        }
        assert!(ran.stderr.contains(" after "), "--verbose must print each call: {ran:?}");
    }
    let requests = requests.await.unwrap();
    assert_eq!(requests[0].line, "POST /pools/default/pause HTTP/1.1");
    assert_eq!(requests[0].body, br#"{"seconds":60}"#);
    assert_eq!(requests[1].line, "GET /players/auth0%7Cx HTTP/1.1");
    for request in &requests {
        let time = request.header("x-amz-date").unwrap();
        let (date, _) = time.split_once('T').unwrap();
        assert!(date.len() == 8 && time.len() == 16 && time.ends_with('Z'), "{time}");
        let authorization = request.header("authorization").unwrap();
        let scope = format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{date}/eu-central-1/execute-api/aws4_request, ");
        let rest = authorization.strip_prefix(&scope).unwrap_or_else(|| panic!("{authorization}"));
        let (signed, signature) = rest.split_once(", Signature=").unwrap();
        let signed = signed.strip_prefix("SignedHeaders=").unwrap().split(';').collect::<Vec<_>>();
        assert_eq!(signed, ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"]);
        assert!(signature.len() == 64 && signature.bytes().all(|byte| byte.is_ascii_hexdigit()), "{signature}");
        assert_eq!(request.header("host"), url.strip_prefix("http://"));
        assert_eq!(request.header("x-amz-security-token"), Some(SECRETS[1]));
        let hash = Sha256::digest(&request.body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(request.header("x-amz-content-sha256"), Some(hash.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_a_loopback_request_is_signed_with_a_placeholder() {
    let (url, requests) = scripted(vec![http("200 OK", "", r#"{"pools":[]}"#)]).await;
    let ran = finish(owmm(&url).arg("pools")).await.exits(0);
    assert_eq!(ran.stdout, "no pool is configured\n");
    let authorization = requests.await.unwrap()[0].header("authorization").unwrap().to_owned();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=local/"), "{authorization}");
    assert!(authorization.contains("/local/execute-api/aws4_request, "), "{authorization}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_api_is_retried_after_its_retry_after_a_limited_number_of_times() {
    let busy = r#"{"title":"Busy","status":503,"code":"busy","requestId":"r-1"}"#;
    let answers = vec![
        http("503 Service Unavailable", "retry-after: 1\r\n", busy),
        http("429 Too Many Requests", "retry-after: 1\r\n", r#"{"message":"Too Many Requests"}"#),
        http("200 OK", "", r#"{"pools":[]}"#),
    ];
    let (url, requests) = scripted(answers).await;
    finish(owmm(&url).args(["pools", "-v"])).await.exits(0).prints(&["503: retrying in 1 s", "429: retrying"]);
    assert_eq!(requests.await.unwrap().len(), 3);
    // At most five attempts, and none after a long `Retry-After`.
    let (url, requests) = scripted(vec![http("503 Service Unavailable", "retry-after: 0\r\n", busy); 5]).await;
    finish(owmm(&url).arg("pools")).await.exits(3).prints(&["503 busy", "request r-1", "unknown"]);
    assert_eq!(requests.await.unwrap().len(), 5);
    let (url, requests) = scripted(vec![http("503 Service Unavailable", "retry-after: 3600\r\n", busy)]).await;
    finish(owmm(&url).arg("pools")).await.exits(3);
    assert_eq!(requests.await.unwrap().len(), 1);
    // `launch_paused` is not retried.
    let paused = r#"{"title":"Launching is paused","status":503,"code":"launch_paused"}"#;
    let (url, requests) = scripted(vec![http("503 Service Unavailable", "retry-after: 1\r\n", paused)]).await;
    finish(owmm(&url).args(["launch", "default", "--yes"])).await.exits(1);
    assert_eq!(requests.await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_prints_a_hint_and_has_its_exit_code() {
    // No process listens at this address.
    let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    finish(owmm(&format!("http://{free}")).arg("pools")).await.exits(3).prints(&["cannot be reached", "--url"]);
    // The URL is not OWMM's.
    let (url, _) = scripted(vec![http("200 OK", "", "<html>")]).await;
    finish(owmm(&url).arg("pools")).await.exits(3).prints(&["not an answer of OWMM's"]);
    let (url, _) = scripted(vec![http("302 Found", "location: http://127.0.0.1:1/\r\n", "")]).await;
    finish(owmm(&url).arg("pools")).await.exits(3).prints(&["302"]);
    // The server accepts connections and sends no response.
    let deaf = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", deaf.local_addr().unwrap());
    finish(owmm(&url).args(["pools", "--timeout", "1"])).await.exits(3).prints(&["not answered within 1 s"]);
    // API Gateway itself refuses the request.
    let gateways = http("403 Forbidden", "apigw-requestid: abc=\r\n", r#"{"message":"Forbidden"}"#);
    let (url, _) = scripted(vec![gateways]).await;
    finish(owmm(&url).arg("pools")).await.exits(1).prints(&["403", "Forbidden", "request abc=", "execute-api:Invoke"]);
    // URL, region or credentials are missing.
    finish(owmm("").arg("pools")).await.exits(2).prints(&["--url", "OWMM_URL"]);
    let abroad = "https://owmm.invalid";
    finish(owmm(abroad).arg("pools")).await.exits(2).prints(&["region", "--region"]);
    let line = ["pools", "--region", "eu-central-1"];
    finish(owmm(abroad).args(line)).await.exits(2).prints(&["no AWS credentials", "--profile"]);
    finish(owmm("http://owmm.invalid").arg("pools")).await.exits(2).prints(&["https"]);
    finish(owmm(abroad).args(["server", "show", ".."])).await.exits(2);
    finish(owmm(abroad).args(["pools", "--interval", "5"])).await.exits(2).prints(&["--watch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bash_completion_script_completes_a_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = finish(owmm("").args(["completion", shell])).await.exits(0).stdout;
        assert!(script.contains("owmm") && script.contains("release"), "{shell}");
    }
    let script = finish(owmm("").args(["completion", "bash"])).await.exits(0).stdout;
    let typed = "COMP_WORDS=(owmm server d) COMP_CWORD=2\n_owmm owmm d server\necho \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &format!("{script}\n{typed}")]).stderr(Stdio::piped());
    let ran = finish(&mut bash).await.exits(0);
    assert_eq!(ran.stdout, "drain\n", "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_lists_options_environment_variables_and_exit_codes() {
    let help = finish(owmm("").args(["pool", "set", "--help"])).await.exits(0).stdout;
    for word in ["OWMM_URL", "OWMM_TIMEOUT", "AWS_REGION", "AWS_PROFILE", "--dry-run", "task.securityGroups"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = finish(owmm("").arg("--help")).await.exits(0).stdout;
    for code in 0..=4 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn player_ids_with_special_characters_reach_the_function_unchanged() {
    let world = World::new(|_| {}).await;
    for player in ["auth0|5f7c8ec7", "a@b.c", "x=y+z-:_", "..."] {
        assert!(PlayerId::parse(player).is_ok());
        world.operate("DELETE", "/players/nobody", None).await.problem(404, "unknown_player");
        world.join_for_good_or_starting(player).await;
        let shown = run(&world, &format!("player show --json {player}")).await.exits(0).json();
        assert_eq!(shown["player"], player);
    }
    world.end().await;
}
