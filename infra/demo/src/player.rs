//! The demo player: what a game client does, in steps that a demo, a test or a load test puts together.
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
//! It knows what a player can know: the public contract and its own token. A ticket it only carries.

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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than an echo takes by far: before it lets a player in, and before it closes after a disconnect, the server asks
/// OWMM, and perhaps more than once.
const ANSWER_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(15) };

/// One player.
#[derive(Debug, Clone)]
pub struct Player {
    /// Where OWMM listens, without a slash at its end.
    pub url: String,
    /// Who the player is.
    pub id: String,
    /// What proves it: sent as `Authorization: Bearer`. The local stack takes the id itself, AWS a JWT.
    pub token: Secret,
    /// The pool to join; without one, OWMM's default.
    pub pool: Option<String>,
    http: Client,
}

/// What joining has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The slot is on a server that runs: connect.
    Ready(Ready),
    /// The slot is on a server that starts: ask again.
    Starting(Starting),
}

/// A slot on a server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The server's id.
    pub server: String,
    /// Where it listens.
    pub address: String,
    /// On which port.
    pub port: u16,
    /// What lets the player in there.
    pub ticket: Secret,
    /// Until when the slot is held, as RFC 3339.
    pub expires_at: String,
}

/// A slot on a server that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starting {
    /// The server's id.
    pub server: String,
    /// When to ask again.
    pub retry_after: Duration,
    /// Until when the slot is held, as RFC 3339.
    pub expires_at: String,
}

/// Why [`Player::join_until_ready`] goes on waiting. Prints as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The server starts.
    Starting(Starting),
    /// No slot yet, or no answer.
    NotNow(Failure),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(starting) => write!(f, "a slot is ours on server {}, which is starting", starting.server),
            Self::NotNow(failure) => write!(f, "no slot yet: {failure}"),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OWMM refused, or gave no answer.
    #[error(transparent)]
    Owmm(#[from] Failure),
    /// The time for waiting is over.
    #[error("gave up after {} s: {last}", .waited.as_secs())]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// What it was waited for at the end.
        last: Box<Wait>,
    },
    /// The game server refused.
    #[error("the game server refuses: {code}: {detail}")]
    Refused {
        /// OWMM's code, or one of the server's own: `bad_ticket`, `no_ticket`, `bad_line`.
        code: String,
        /// For people.
        detail: String,
    },
    /// Nothing takes a connection there.
    #[error("no connection to the game server at {address}:{port} (TCP): {error}")]
    Unreachable {
        /// Where OWMM says that it listens.
        address: String,
        /// On which port.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the game server: {0}")]
    Connection(#[from] io::Error),
    /// The game server has closed the connection.
    #[error("the game server has closed the connection")]
    Closed,
    /// The game server answers other than a demo game server does.
    #[error(
        "the game server does not speak the demo player's protocol (lines of JSON over TCP): expected {expected}, got {got}"
    )]
    Unexpected {
        /// The line that was waited for.
        expected: String,
        /// What came instead: its first bytes, printable.
        got: String,
    },
}

impl Error {
    /// Whether the reason may be that the game server speaks a protocol of its own.
    pub fn is_about_the_protocol(&self) -> bool {
        match self {
            Self::Owmm(_) | Self::NotReady { .. } | Self::Refused { .. } => false,
            Self::Unreachable { .. } | Self::Connection(_) | Self::Closed | Self::Unexpected { .. } => true,
        }
    }

    /// The same, where the end of the connection is not what was expected.
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
    /// A player whose token is the id, as the local stack takes it.
    pub fn new(url: &str, id: &str, pool: Option<&str>, http: Client) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            id: id.to_owned(),
            token: id.into(),
            pool: pool.map(str::to_owned),
            http,
        }
    }

    /// The same player with a real token.
    pub fn with_token(self, token: impl Into<Secret>) -> Self {
        Self { token: token.into(), ..self }
    }

    /// Asks for a slot, once.
    pub async fn join(&self) -> Result<Joined, Failure> {
        let body = self.pool.as_ref().map_or_else(|| json!({}), |pool| json!({ "pool": pool }));
        let request = self.http.post(format!("{}/join", self.url)).json(&body);
        let answer: Answer = http::call(request.bearer_auth(self.token.expose())).await?;
        Ok(answer.into())
    }

    /// Asks until the slot is on a server that runs. Between two questions it waits as long as the answer says, and tells
    /// `on_wait` why. It gives up at a refusal that is final, or when the next question would come later than `patience`.
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

    /// Gives the slot up. Also fine without one.
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
    /// Says something and returns what the server repeats.
    pub async fn say(&mut self, text: &str) -> Result<String, Error> {
        self.lines.send(&text).await?;
        let expected = json!({ "echo": text }).to_string();
        match self.answer(&expected).await.map_err(|error| error.instead_of(&expected))? {
            ServerLine::Echo(Value::String(echo)) => Ok(echo),
            _ => Err(self.unexpected(&expected)),
        }
    }

    /// Leaves, and waits until the slot has been given back.
    pub async fn leave(self) -> Result<(), Error> {
        self.leave_with_grace(0).await
    }

    /// Leaves, and waits until the server knows; the slot is held for `grace_seconds` in case the player comes back.
    pub async fn leave_with_grace(mut self, grace_seconds: u32) -> Result<(), Error> {
        self.lines.send(&json!({ "leave": true, "grace": grace_seconds })).await?;
        self.closed().await
    }

    /// Waits until the server has closed the connection, as it does when the player connects once more.
    pub async fn closed(&mut self) -> Result<(), Error> {
        let expected = "the end of the connection";
        match self.answer(expected).await {
            Err(Error::Closed) => Ok(()),
            Ok(_) => Err(self.unexpected(expected)),
            Err(error) => Err(error),
        }
    }

    /// Goes without a word, as a crash or a pulled cable does.
    pub fn drop_connection(self) {}

    /// The next line of the server.
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
            // A close that crosses with what we have sent arrives as a reset.
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

    /// That the line which came last is another than the one expected.
    fn unexpected(&self, expected: &str) -> Error {
        let line = self.lines.received();
        let got = preview(line.strip_suffix(b"\n").unwrap_or(line));
        Error::Unexpected { expected: expected.to_owned(), got }
    }
}

/// The form of OWMM's answer.
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

/// The whole program: joins, waits at most `patience`, plays for `play`, leaves. Tells each step with its time.
pub async fn main(player: Player, patience: Duration, play: Duration) -> ExitCode {
    let clock = Instant::now();
    let tell = |text: &dyn fmt::Display| {
        // Nobody reads on? Play on all the same.
        let _ = writeln!(io::stdout(), "{:>7} ms  {text}", clock.elapsed().as_millis());
    };
    match play_once(&player, patience, play, &tell).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

async fn play_once(
    player: &Player,
    patience: Duration,
    play: Duration,
    tell: &dyn Fn(&dyn fmt::Display),
) -> Result<(), Error> {
    tell(&format_args!("{} asks {} for a slot", player.id, player.url));
    let joined = player.join_until_ready(patience, |wait| tell(wait)).await;
    if matches!(joined, Err(Error::NotReady { .. })) {
        // Whoever waits no longer should not keep a slot from others. It would run out by itself, only later.
        let _ = player.leave_queue().await;
    }
    let ready = joined?;
    let Ready { server, address, port, expires_at, .. } = &ready;
    tell(&format_args!("a slot is ours on server {server} at {address}:{port} until {expires_at}"));
    let mut visit = player.connect(&ready).await?;
    tell(&"connected, the ticket is good, we are inside");
    let heard = visit.say("hello").await?;
    tell(&format_args!("we say \"hello\", the server says {heard:?}"));
    sleep(play).await;
    visit.leave().await?;
    tell(&"left, the slot is free again");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end at the first surprise")]
mod tests {
    use super::*;

    fn joined(answer: Value) -> Result<Joined, serde_json::Error> {
        serde_json::from_value::<Answer>(answer).map(Joined::from)
    }

    #[test]
    fn both_answers_to_a_join_are_understood() {
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
    fn an_answer_that_names_no_server_or_no_known_status_is_not_believed() {
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
    async fn waiting_ends_when_patience_does_and_at_once_where_it_is_in_vain() {
        let http = crate::http_client().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let player = Player::new(&format!("http://{closed}/"), "ann", None, http.clone());
        let mut waits = 0;
        let gave_up = player.join_until_ready(Duration::from_millis(400), |_| waits += 1).await;
        assert!(matches!(gave_up, Err(Error::NotReady { .. })) && waits > 1, "{gave_up:?} after {waits}");

        let nowhere = Player::new("nowhere", "ann", None, http);
        let in_vain = nowhere.join_until_ready(Duration::MAX, |_| unreachable!("it is in vain")).await;
        assert!(matches!(in_vain, Err(Error::Owmm(Failure::Unsendable(_)))), "{in_vain:?}");
    }

    #[test]
    fn tokens_and_tickets_stay_out_of_debug_output() {
        let player = Player::new("http://x", "ann", None, crate::http_client().unwrap()).with_token("s3cret");
        assert!(!format!("{player:?}").contains("s3cret"));
    }

    /// What connecting comes to where the server reads the ticket, answers so, and then closes or holds its peace.
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
    async fn a_game_with_a_protocol_of_its_own_is_told_what_was_expected_and_what_came() {
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
            let told = welcomed(answer, closes).await;
            let expected = r#"{"welcome":{"player":"ann","server":"s1"}}"#;
            let due = format!(
                "the game server does not speak the demo player's protocol (lines of JSON over TCP): expected {expected}, got {got}"
            );
            assert_eq!(told, due);
        }
        let long = welcomed(&[b'x'; 100], true).await;
        assert!(
            long.ends_with(&format!("`{}` and 20 bytes more (the connection ended within the line)", "x".repeat(80))),
            "{long}"
        );
    }

    #[tokio::test]
    async fn a_game_that_opens_no_port_is_named_with_its_address() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let player = Player::new("http://x", "ann", None, crate::http_client().unwrap());
        let (ticket, expires_at, port) = ("t".into(), String::new(), closed.port());
        let ready = Ready { server: "s1".into(), address: "127.0.0.1".into(), port, ticket, expires_at };
        let error = player.connect(&ready).await.unwrap_err();
        let due = format!("no connection to the game server at 127.0.0.1:{port} (TCP): Connection refused");
        assert!(error.to_string().starts_with(&due) && error.is_about_the_protocol(), "{error}");
    }
}
