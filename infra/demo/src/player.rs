//! The demo player: the steps of a game client, which a demo, a test or a load test combines.
//!
//! ```no_run
//! # async fn example() -> Result<(), demo::player::Error> {
//! use std::time::Duration;
//! use demo::player::Player;
//!
//! let http = demo::http_client().expect("a client");
//! let player = Player::new("http://127.0.0.1:9000", "ann", None, http);
//! let ready = player.join_until_ready(Duration::from_secs(60), |wait| println!("{wait}")).await?;
//! let mut visit = player.connect(&ready).await?;
//! assert_eq!(visit.say("hello").await?, "hello");
//! visit.leave().await
//! # }
//! ```
//!
//! The player depends only on the public contract and its own token. It does not read a ticket, only forwards it.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use reqwest::Client;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    http::{self, Backoff, Failure},
    line::{Hello, LineError, Lines, MAX_SERVER_LINE_BYTES, ServerLine, preview},
    secret::Secret,
};

/// Time limit for connecting to a game server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a line of the game server. It is far longer than an echo takes, because the server calls OWMM,
/// perhaps repeatedly, before it lets a player in and before it closes the connection of a player who leaves.
const ANSWER_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(15) };

/// A player.
#[derive(Debug, Clone)]
pub struct Player {
    /// OWMM's URL, without a trailing slash.
    pub url: String,
    /// The player's id.
    pub id: String,
    /// Bearer token that authenticates the player: the id itself at the local stack, a JWT on AWS.
    pub token: Secret,
    /// The pool to join; without one, OWMM's default.
    pub pool: Option<String>,
    http: Client,
}

/// Answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The slot is on a ready server: connect.
    Ready(Ready),
    /// The slot is on a starting server: join again.
    Starting(Starting),
}

/// A slot on a ready server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The server's id.
    pub server: String,
    /// The server's address.
    pub address: String,
    /// The server's port.
    pub port: u16,
    /// The ticket that the server requires.
    pub ticket: Secret,
    /// Until when the slot is held, as RFC 3339.
    pub expires_at: String,
}

/// A slot on a starting server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starting {
    /// The server's id.
    pub server: String,
    /// How long to wait before the next join.
    pub retry_after: Duration,
    /// Until when the slot is held, as RFC 3339.
    pub expires_at: String,
}

/// Why [`Player::join_until_ready`] waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The server is starting.
    Starting(Starting),
    /// The join failed, and may succeed later.
    NotNow(Failure),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(starting) => {
                write!(f, "a slot is reserved on server {}, which is starting", starting.server)
            }
            Self::NotNow(failure) => write!(f, "no slot yet: {failure}"),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OWMM refused the call, or did not respond.
    #[error(transparent)]
    Owmm(#[from] Failure),
    /// No server was ready within the time limit.
    #[error("gave up after {} s, last state: {last}", .waited.as_secs())]
    NotReady {
        /// How long the player waited.
        waited: Duration,
        /// Last reason to wait.
        last: Box<Wait>,
    },
    /// The game server refused the player or a line.
    #[error("the game server refused: {code}: {detail}")]
    Refused {
        /// OWMM's code, or one of the server's own: `bad_ticket`, `no_ticket`, `bad_line`.
        code: String,
        /// Description for people.
        detail: String,
    },
    /// No connection to the game server's address could be made.
    #[error("no connection to the game server at {address}:{port} (TCP): {error}")]
    Unreachable {
        /// The server's address, from OWMM.
        address: String,
        /// The server's port.
        port: u16,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the game server failed: {0}")]
    Connection(#[from] io::Error),
    /// The game server has closed the connection.
    #[error("the game server has closed the connection")]
    Closed,
    /// The game server does not speak the protocol of the demo game server.
    #[error(
        "the game server does not speak the demo player's protocol (lines of JSON over TCP): expected {expected}, got {got}"
    )]
    Unexpected {
        /// The expected line.
        expected: String,
        /// The first bytes received instead, as printable text.
        got: String,
    },
}

impl Error {
    /// Whether the cause may be that the game server speaks another protocol.
    pub fn is_about_the_protocol(&self) -> bool {
        match self {
            Self::Owmm(_) | Self::NotReady { .. } | Self::Refused { .. } => false,
            Self::Unreachable { .. } | Self::Connection(_) | Self::Closed | Self::Unexpected { .. } => true,
        }
    }

    /// Converts [`Error::Closed`] into [`Error::Unexpected`], for a place where `expected` is not the end.
    fn instead_of(self, expected: &str) -> Self {
        match self {
            Self::Closed => {
                Self::Unexpected { expected: expected.to_owned(), got: "the end of the connection".to_owned() }
            }
            other => other,
        }
    }
}

impl Player {
    /// Creates a player whose token is the id, for the local stack.
    pub fn new(url: &str, id: &str, pool: Option<&str>, http: Client) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            id: id.to_owned(),
            token: id.into(),
            pool: pool.map(str::to_owned),
            http,
        }
    }

    /// Replaces the player's token, for a stack on AWS.
    pub fn with_token(self, token: impl Into<Secret>) -> Self {
        Self { token: token.into(), ..self }
    }

    /// Joins once.
    pub async fn join(&self) -> Result<Joined, Failure> {
        let body = self.pool.as_ref().map_or_else(|| json!({}), |pool| json!({ "pool": pool }));
        let request = self.http.post(format!("{}/join", self.url)).json(&body);
        let answer: Answer = http::call(request.bearer_auth(self.token.expose())).await?;
        Ok(answer.into())
    }

    /// Joins repeatedly until the slot is on a ready server. Before each pause, whose length is set by the answer,
    /// calls `on_wait` with the reason. Fails at a final refusal, or when the next join would be later than `patience`.
    pub async fn join_until_ready(&self, patience: Duration, mut on_wait: impl FnMut(&Wait)) -> Result<Ready, Error> {
        let started = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let (wait, pause) = match self.join().await {
                Ok(Joined::Ready(ready)) => return Ok(ready),
                Ok(Joined::Starting(starting)) => {
                    backoff = Backoff::new();
                    let pause = backoff.pause(Some(starting.retry_after));
                    (Wait::Starting(starting), pause)
                }
                Err(failure) if failure.is_final() => return Err(failure.into()),
                Err(failure) => {
                    let pause = backoff.pause(failure.retry_after());
                    (Wait::NotNow(failure), pause)
                }
            };
            on_wait(&wait);
            if started.elapsed() + pause > patience {
                return Err(Error::NotReady { waited: started.elapsed(), last: Box::new(wait) });
            }
            sleep(pause).await;
        }
    }

    /// Cancels the reservation. Succeeds also without one.
    pub async fn leave_queue(&self) -> Result<(), Failure> {
        let request = self.http.delete(format!("{}/join", self.url));
        http::call::<IgnoredAny>(request.bearer_auth(self.token.expose())).await?;
        Ok(())
    }

    /// Connects to the game server, presents the ticket and waits for the welcome.
    pub async fn connect(&self, ready: &Ready) -> Result<Visit, Error> {
        let connecting = TcpStream::connect((ready.address.as_str(), ready.port));
        let stream = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let stream =
            stream.map_err(|error| Error::Unreachable { address: ready.address.clone(), port: ready.port, error })?;
        let mut visit = Visit { lines: Lines::new(stream, MAX_SERVER_LINE_BYTES) };
        visit.lines.send(&Hello::line(&ready.ticket)).await?;
        let expected = json!({ "welcome": { "player": self.id, "server": ready.server } }).to_string();
        match visit.answer(&expected).await.map_err(|error| error.instead_of(&expected))? {
            ServerLine::Welcome { player, server } if player == self.id && server == ready.server => Ok(visit),
            _ => Err(visit.unexpected(&expected)),
        }
    }
}

/// A connection to a game server that has let the player in. Dropping it drops the connection.
#[derive(Debug)]
pub struct Visit {
    lines: Lines,
}

impl Visit {
    /// Sends a line and returns the server's echo.
    pub async fn say(&mut self, text: &str) -> Result<String, Error> {
        self.lines.send(&text).await?;
        let expected = json!({ "echo": text }).to_string();
        match self.answer(&expected).await.map_err(|error| error.instead_of(&expected))? {
            ServerLine::Echo(Value::String(echo)) => Ok(echo),
            _ => Err(self.unexpected(&expected)),
        }
    }

    /// Leaves, and waits until the slot is free.
    pub async fn leave(self) -> Result<(), Error> {
        self.leave_with_grace(0).await
    }

    /// Leaves, and waits until the server closes the connection. The slot is kept for `grace_seconds` for a reconnect.
    pub async fn leave_with_grace(mut self, grace_seconds: u32) -> Result<(), Error> {
        self.lines.send(&json!({ "leave": true, "grace": grace_seconds })).await?;
        self.closed().await
    }

    /// Waits until the server closes the connection, for example because the player has connected again.
    pub async fn closed(&mut self) -> Result<(), Error> {
        let expected = "the end of the connection";
        match self.answer(expected).await {
            Err(Error::Closed) => Ok(()),
            Ok(_) => Err(self.unexpected(expected)),
            Err(error) => Err(error),
        }
    }

    /// Drops the connection without leaving, like a crash of the client.
    pub fn drop_connection(self) {}

    /// Receives the next line of the server.
    async fn answer(&mut self, expected: &str) -> Result<ServerLine, Error> {
        let next = timeout(ANSWER_TIMEOUT, self.lines.next()).await;
        let nothing = self.lines.received().is_empty();
        let more = match next {
            Ok(Ok(Some(line))) => match serde_json::from_str(&line) {
                Ok(ServerLine::Refused { code, detail }) => return Err(Error::Refused { code, detail }),
                Ok(line) => return Ok(line),
                Err(_) => return Err(self.unexpected(expected)),
            },
            Ok(Ok(None)) if nothing => return Err(Error::Closed),
            // If the server closes while a line of this player is in flight, the close arrives as a reset.
            Ok(Err(LineError::Socket(error))) if nothing && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Error::Closed);
            }
            Ok(Err(LineError::Socket(error))) if nothing => return Err(Error::Connection(error)),
            Ok(Ok(None)) => "the connection ended within the line".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) if nothing => {
                let got = format!("nothing within {ANSWER_TIMEOUT:?}");
                return Err(Error::Unexpected { expected: expected.to_owned(), got });
            }
            Err(_) => format!("the line did not end within {ANSWER_TIMEOUT:?}"),
        };
        let got = format!("{} ({more})", preview(self.lines.received()));
        Err(Error::Unexpected { expected: expected.to_owned(), got })
    }

    /// Returns the error for a last line that differs from `expected`.
    fn unexpected(&self, expected: &str) -> Error {
        let line = self.lines.received();
        let got = preview(line.strip_suffix(b"\n").unwrap_or(line));
        Error::Unexpected { expected: expected.to_owned(), got }
    }
}

/// JSON format of OWMM's answer to a join.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Answer {
    Ready { server: Place, ticket: Secret, expires_at: String },
    Starting { server: Name, expires_at: String, retry_after_seconds: u32 },
}

#[derive(Deserialize)]
struct Place {
    id: String,
    address: String,
    port: u16,
}

#[derive(Deserialize)]
struct Name {
    id: String,
}

impl From<Answer> for Joined {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Ready { server: Place { id, address, port }, ticket, expires_at } => {
                Self::Ready(Ready { server: id, address, port, ticket, expires_at })
            }
            Answer::Starting { server, expires_at, retry_after_seconds } => Self::Starting(Starting {
                server: server.id,
                retry_after: Duration::from_secs(retry_after_seconds.into()),
                expires_at,
            }),
        }
    }
}

/// Entry point of the demo player: joins, waits at most `patience`, plays for `play`, and leaves. Prints each step with
/// the elapsed time.
pub async fn main(player: Player, patience: Duration, play: Duration) -> ExitCode {
    let clock = Instant::now();
    let print = |text: &dyn fmt::Display| {
        // A closed stdout does not stop the player.
        let _ = writeln!(io::stdout(), "{:>7} ms  {text}", clock.elapsed().as_millis());
    };
    match play_once(&player, patience, play, &print).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&error);
            ExitCode::FAILURE
        }
    }
}

async fn play_once(
    player: &Player,
    patience: Duration,
    play: Duration,
    print: &dyn Fn(&dyn fmt::Display),
) -> Result<(), Error> {
    print(&format_args!("{} joins at {}", player.id, player.url));
    let joined = player.join_until_ready(patience, |wait| print(wait)).await;
    if matches!(joined, Err(Error::NotReady { .. })) {
        // Cancelling frees the slot for other players at once. Without it, the reservation would expire later.
        let _ = player.leave_queue().await;
    }
    let ready = joined?;
    let Ready { server, address, port, expires_at, .. } = &ready;
    print(&format_args!("a slot is reserved on server {server} at {address}:{port} until {expires_at}"));
    let mut visit = player.connect(&ready).await?;
    print(&"connected, the game server has accepted the ticket");
    let echo = visit.say("hello").await?;
    print(&format_args!("sent \"hello\", received {echo:?}"));
    sleep(play).await;
    visit.leave().await?;
    print(&"disconnected, the slot is free");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn joined(answer: Value) -> Result<Joined, serde_json::Error> {
        serde_json::from_value::<Answer>(answer).map(Joined::from)
    }

    #[test]
    fn both_answers_to_a_join_are_parsed() {
        let ready = json!({
            "status": "ready",
            "server": {"id": "s1", "address": "127.0.0.1", "port": 4242},
            "ticket": "t",
            "expiresAt": "2026-01-01T00:00:00Z",
        });
        let Joined::Ready(ready) = joined(ready).unwrap() else { unreachable!("it is ready") };
        assert_eq!((ready.server.as_str(), ready.address.as_str(), ready.port), ("s1", "127.0.0.1", 4242));
        assert_eq!((ready.ticket.expose(), ready.expires_at.as_str()), ("t", "2026-01-01T00:00:00Z"));

        let starting = json!({
            "status": "starting",
            "server": {"id": "s1"},
            "expiresAt": "2026-01-01T00:00:00Z",
            "retryAfterSeconds": 2,
        });
        let Joined::Starting(starting) = joined(starting).unwrap() else { unreachable!("it is starting") };
        assert_eq!((starting.server.as_str(), starting.retry_after), ("s1", Duration::from_secs(2)));
    }

    #[test]
    fn an_answer_without_a_server_or_with_an_unknown_status_is_refused() {
        for answer in [
            json!({"status": "ready", "ticket": "t", "expiresAt": "x"}),
            json!({"status": "ready", "server": {"id": "s1", "address": "a", "port": 70000}, "ticket": "t", "expiresAt": "x"}),
            json!({"status": "soon", "server": {"id": "s1"}, "expiresAt": "x", "retryAfterSeconds": 2}),
            json!({}),
            Value::Null,
        ] {
            assert!(joined(answer.clone()).is_err(), "{answer}");
        }
    }

    #[tokio::test]
    async fn waiting_for_a_server_ends_after_patience_or_at_a_final_failure() {
        let http = crate::http_client().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let player = Player::new(&format!("http://{closed}/"), "ann", None, http.clone());
        let mut waits = 0;
        let gave_up = player.join_until_ready(Duration::from_millis(400), |_| waits += 1).await;
        assert!(matches!(gave_up, Err(Error::NotReady { .. })) && waits > 1, "{gave_up:?} after {waits}");

        let nowhere = Player::new("nowhere", "ann", None, http);
        let in_vain = nowhere.join_until_ready(Duration::MAX, |_| unreachable!("the failure is final")).await;
        assert!(matches!(in_vain, Err(Error::Owmm(Failure::Unsendable(_)))), "{in_vain:?}");
    }

    #[test]
    fn debug_output_of_a_player_does_not_have_the_token() {
        let player = Player::new("http://x", "ann", None, crate::http_client().unwrap()).with_token("s3cret");
        assert!(!format!("{player:?}").contains("s3cret"));
    }

    /// Connects to a server that reads the ticket, sends `answer`, and then closes or waits. Returns the player's
    /// error.
    async fn welcomed(answer: &'static [u8], closes: bool) -> String {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let game = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut String::new()).await.unwrap();
            stream.write_all(answer).await.unwrap();
            if !closes {
                std::future::pending::<()>().await;
            }
            drop(stream);
            std::future::pending::<()>().await;
        };
        let player = Player::new("http://x", "ann", None, crate::http_client().unwrap());
        let (ticket, expires_at) = ("t".into(), String::new());
        let ready = Ready { server: "s1".into(), address: "127.0.0.1".into(), port, ticket, expires_at };
        tokio::select! {
            visit = player.connect(&ready) => visit.unwrap_err().to_string(),
            () = game => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test]
    async fn the_error_for_another_protocol_has_the_expected_and_the_received_line() {
        for (answer, closes, got) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], true, r"`HTTP/1.1 400 Bad Request\r`"),
            (b"{\"hello\":1}\n", true, r#"`{"hello":1}`"#),
            (
                b"{\"welcome\":{\"player\":\"bob\",\"server\":\"s1\"}}\n",
                false,
                r#"`{"welcome":{"player":"bob","server":"s1"}}`"#,
            ),
            (b"{\"echo\":1}\n", false, r#"`{"echo":1}`"#),
            (b"\x00\xffgame\x1b", true, r"`\u{0}\xffgame\u{1b}` (the connection ended within the line)"),
            (b"login: ", false, "`login: ` (the line did not end within 500ms)"),
            (b"\xff\xfe\n", false, r"`\xff\xfe\n` (a line is not UTF-8)"),
            (b"", true, "the end of the connection"),
            (b"", false, "nothing within 500ms"),
        ] {
            let error = welcomed(answer, closes).await;
            let expected = r#"{"welcome":{"player":"ann","server":"s1"}}"#;
            let due = format!(
                "the game server does not speak the demo player's protocol (lines of JSON over TCP): expected {expected}, got {got}"
            );
            assert_eq!(error, due);
        }
        let long = welcomed(&[b'x'; 100], true).await;
        assert!(
            long.ends_with(&format!("`{}` and 20 bytes more (the connection ended within the line)", "x".repeat(80))),
            "{long}"
        );
    }

    #[tokio::test]
    async fn the_error_for_a_closed_port_has_the_address_of_the_game_server() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let player = Player::new("http://x", "ann", None, crate::http_client().unwrap());
        let (ticket, expires_at, port) = ("t".into(), String::new(), closed.port());
        let ready = Ready { server: "s1".into(), address: "127.0.0.1".into(), port, ticket, expires_at };
        let error = player.connect(&ready).await.unwrap_err();
        let due = format!("no connection to the game server at 127.0.0.1:{port} (TCP): Connection refused");
        assert!(error.to_string().starts_with(&due) && error.is_about_the_protocol(), "{error}");
    }
}
