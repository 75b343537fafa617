//! What game server and player say to each other: lines of JSON over TCP, each with a limit.
//!
//! ```text
//! player                              server
//! {"ticket":"<JWT>"}              ->
//!                                 <-  {"welcome":{"player":"ann","server":"01K..."}}
//!                                     or {"refused":{"code":"no_claim","detail":"..."}}, and it closes
//! "hello"                         ->
//!                                 <-  {"echo":"hello"}
//! {"leave":true,"grace":30}       ->
//!                                     gives the slot back (or holds it for 30 s), and closes
//! ```
//!
//! A game has a protocol of its own; all that OWMM needs of it is that the ticket arrives.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, tcp},
    time::timeout,
};

use crate::secret::Secret;

/// What a player may send in one line, without its end.
pub(crate) const MAX_CLIENT_LINE_BYTES: usize = 8 * 1024;
/// What a server may send in one line: an echo is longer than what it repeats, the more so where it has to be escaped.
pub(crate) const MAX_SERVER_LINE_BYTES: usize = 64 * 1024;
/// Whoever does not take a line for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first line of a player. No `Debug`: a ticket is a secret until it has been used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hello {
    pub(crate) ticket: Secret,
}

impl Hello {
    pub(crate) fn line(ticket: &Secret) -> Value {
        serde_json::json!({ "ticket": ticket.expose() })
    }
}

/// Every further line of a player.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientLine {
    /// `{"leave":true}`, perhaps with `"grace"`: the seconds to hold the slot for.
    Leave { grace_seconds: u32 },
    /// Anything else. A line that is not JSON is taken as a string.
    Say(Value),
}

impl ClientLine {
    pub(crate) fn parse(line: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Leave {
            #[serde(rename = "leave")]
            _leave: bool,
            #[serde(default)]
            grace: u32,
        }
        let value = serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
        if value.get("leave") == Some(&Value::Bool(true)) {
            let leave: Leave = serde_json::from_value(value)?;
            return Ok(Self::Leave { grace_seconds: leave.grace });
        }
        Ok(Self::Say(value))
    }
}

/// Every line of a server.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ServerLine {
    /// The player is in.
    Welcome { player: String, server: String },
    /// The player is not let in, or is sent away. The socket closes after it.
    Refused { code: String, detail: String },
    /// What the player said.
    Echo(Value),
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error("a line is not UTF-8")]
    NotText,
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// A socket that speaks in lines.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<tcp::OwnedReadHalf>,
    writer: tcp::OwnedWriteHalf,
    max_bytes: usize,
    /// The line that came last, or the part of it that has come.
    received: Vec<u8>,
}

impl Lines {
    /// `max_bytes`: what the other side may send in one line.
    pub(crate) fn new(stream: TcpStream, max_bytes: usize) -> Self {
        // Lines are short and wanted at once. A socket that refuses this is merely slower.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, max_bytes, received: Vec::new() }
    }

    /// The next line, without its end. `None`: the other side has closed; a line without an end does not count.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, LineError> {
        let line = &mut self.received;
        line.clear();
        let mut bounded = (&mut self.reader).take(self.max_bytes as u64 + 1);
        bounded.read_until(b'\n', line).await?;
        if line.len() > self.max_bytes && line.last() != Some(&b'\n') {
            return Err(LineError::TooLong(self.max_bytes));
        }
        let Some((b'\n', line)) = line.split_last() else { return Ok(None) };
        String::from_utf8(line.to_vec()).map(Some).map_err(|_| LineError::NotText)
    }

    /// The bytes of the last call of [`Lines::next`], whatever came of it: also those of a line without an end.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    pub(crate) async fn send(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        timeout(WRITE_TIMEOUT, self.writer.write_all(&bytes)).await?
    }
}

/// The first bytes, printable: control characters and what is not UTF-8 are escaped.
pub(crate) fn preview(bytes: &[u8]) -> String {
    const SHOWN: usize = 80;
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut text = String::new();
    for chunk in shown.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    let rest = bytes.len() - shown.len();
    if rest == 0 { format!("`{text}`") } else { format!("`{text}` and {rest} bytes more") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end at the first surprise")]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_leave_is_told_from_what_a_player_says() {
        let leave = |grace_seconds| ClientLine::Leave { grace_seconds };
        let say = |value| ClientLine::Say(value);
        for (line, meaning) in [
            (r#"{"leave":true}"#, leave(0)),
            (r#"{"leave":true,"grace":30}"#, leave(30)),
            (r#"{"leave":false}"#, say(json!({"leave": false}))),
            (r#"{"leave":"now"}"#, say(json!({"leave": "now"}))),
            (r#"{"move":[1,2.5]}"#, say(json!({"move": [1, 2.5]}))),
            (r#""leave""#, say(json!("leave"))),
            ("7", say(json!(7))),
            ("hello there", say(json!("hello there"))),
            ("{\"leave\":true", say(json!("{\"leave\":true"))),
            ("", say(json!(""))),
        ] {
            assert_eq!(ClientLine::parse(line).unwrap(), meaning, "{line}");
        }
    }

    #[test]
    fn a_leave_that_asks_for_the_impossible_is_refused() {
        for line in [
            r#"{"leave":true,"grace":-1}"#,
            r#"{"leave":true,"grace":"long"}"#,
            r#"{"leave":true,"grace":5000000000}"#,
            r#"{"leave":true,"gracE":1}"#,
        ] {
            assert!(ClientLine::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_hello_is_a_ticket_and_nothing_else() {
        let hello: Hello = serde_json::from_value(Hello::line(&"t".into())).unwrap();
        assert_eq!(hello.ticket.expose(), "t");
        for line in ["{}", r#"{"ticket":7}"#, r#"{"ticket":"t","more":1}"#, r#""t""#, "t"] {
            assert!(serde_json::from_str::<Hello>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_lines_of_a_server_have_the_documented_form() {
        let welcome = ServerLine::Welcome { player: "ann".into(), server: "s1".into() };
        let refused = ServerLine::Refused { code: "no_claim".into(), detail: "none".into() };
        for (line, form) in [
            (welcome, json!({"welcome": {"player": "ann", "server": "s1"}})),
            (refused, json!({"refused": {"code": "no_claim", "detail": "none"}})),
            (ServerLine::Echo(json!("hi")), json!({"echo": "hi"})),
        ] {
            assert_eq!(serde_json::to_value(&line).unwrap(), form, "{line:?}");
            assert_eq!(serde_json::from_value::<ServerLine>(form.clone()).unwrap(), line, "{form}");
        }
    }

    /// What comes out of the server's end of a real socket when these bytes go in at the other.
    async fn sent(bytes: &[u8]) -> Lines {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        Lines::new(listener.accept().await.unwrap().0, MAX_CLIENT_LINE_BYTES)
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_a_torn_one_does_not_count() {
        let mut lines = sent(b"one\n\n{\"two\":2}\ntor").await;
        for line in ["one", "", "{\"two\":2}"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(line));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_longest_line_passes_and_one_byte_more_does_not() {
        let mut line = vec![b'x'; MAX_CLIENT_LINE_BYTES];
        line.push(b'\n');
        assert_eq!(sent(&line).await.next().await.unwrap().unwrap().len(), MAX_CLIENT_LINE_BYTES);
        line.insert(0, b'x');
        assert!(matches!(sent(&line).await.next().await, Err(LineError::TooLong(_))));
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_are_refused() {
        assert!(matches!(sent(b"\xff\xfe\n").await.next().await, Err(LineError::NotText)));
    }
}
