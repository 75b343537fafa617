//! Protocol between the demo player and the demo game server: lines of JSON over TCP, with a limit on their length.
//!
//! ```text
//! player                              server
//! {"ticket":"<JWT>"}              ->
//!                                 <-  {"welcome":{"player":"ann","server":"01K..."}}
//!                                     or {"refused":{"code":"no_claim","detail":"..."}}, and closes
//! "hello"                         ->
//!                                 <-  {"echo":"hello"}
//! {"leave":true,"grace":30}       ->
//!                                     frees the slot (or keeps it for 30 s), and closes
//! ```
//!
//! A real game has its own protocol. OWMM only requires that the client sends the ticket to the server.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, tcp},
    time::timeout,
};

use crate::secret::Secret;

/// Longest line of a player, in bytes, without the line break.
pub(crate) const MAX_CLIENT_LINE_BYTES: usize = 8 * 1024;
/// Longest line of a server, in bytes. An echo is longer than the line that it repeats, mostly because of escapes.
pub(crate) const MAX_SERVER_LINE_BYTES: usize = 64 * 1024;
/// Time limit for sending a line. A peer that does not read for so long counts as disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// First line of a player. It has no `Debug`, because a ticket is a secret until it has been used.
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

/// Any later line of a player.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientLine {
    /// `{"leave":true}`, optionally with `"grace"`: how long to keep the slot for a reconnect, in seconds.
    Leave { grace_seconds: u32 },
    /// Any other line, to be echoed. A line that is not JSON is taken as a string.
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

/// Line of a server.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ServerLine {
    /// The server has let the player in.
    Welcome { player: String, server: String },
    /// The server refuses the player or a line, and then closes the connection.
    Refused { code: String, detail: String },
    /// The player's line, repeated.
    Echo(Value),
}

/// Why no line was received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error("a line is not UTF-8")]
    NotText,
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// TCP connection that sends and receives lines.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<tcp::OwnedReadHalf>,
    writer: tcp::OwnedWriteHalf,
    max_bytes: usize,
    /// Bytes of the last line, or the part of it that was received.
    received: Vec<u8>,
}

impl Lines {
    /// Wraps a connection. `max_bytes` is the longest line that the peer may send.
    pub(crate) fn new(stream: TcpStream, max_bytes: usize) -> Self {
        // Lines are short and must not wait for more data. If the option cannot be set, lines are only slower.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, max_bytes, received: Vec::new() }
    }

    /// Receives the next line, without its line break. Returns `None` when the peer has closed the connection; an
    /// incomplete last line is ignored.
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

    /// Returns the bytes that the last call of [`Lines::next`] received, also of an incomplete or invalid line.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    pub(crate) async fn send(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        timeout(WRITE_TIMEOUT, self.writer.write_all(&bytes)).await?
    }
}

/// Returns the first bytes as printable text: control characters and invalid UTF-8 are escaped.
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
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_leave_object_is_parsed_as_leave() {
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
    fn a_leave_with_an_invalid_grace_or_field_is_refused() {
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
    fn the_first_line_has_a_ticket_and_no_other_field() {
        let hello: Hello = serde_json::from_value(Hello::line(&"t".into())).unwrap();
        assert_eq!(hello.ticket.expose(), "t");
        for line in ["{}", r#"{"ticket":7}"#, r#"{"ticket":"t","more":1}"#, r#""t""#, "t"] {
            assert!(serde_json::from_str::<Hello>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_lines_of_a_server_have_the_documented_format() {
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

    /// Sends bytes over a real socket and returns the receiving end.
    async fn sent(bytes: &[u8]) -> Lines {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        Lines::new(listener.accept().await.unwrap().0, MAX_CLIENT_LINE_BYTES)
    }

    #[tokio::test]
    async fn lines_are_received_one_by_one_and_an_incomplete_last_line_is_ignored() {
        let mut lines = sent(b"one\n\n{\"two\":2}\ntor").await;
        for line in ["one", "", "{\"two\":2}"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(line));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_of_the_maximum_length_is_received_and_a_longer_one_is_refused() {
        let mut line = vec![b'x'; MAX_CLIENT_LINE_BYTES];
        line.push(b'\n');
        assert_eq!(sent(&line).await.next().await.unwrap().unwrap().len(), MAX_CLIENT_LINE_BYTES);
        line.insert(0, b'x');
        assert!(matches!(sent(&line).await.next().await, Err(LineError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_line_that_is_not_utf_8_is_refused() {
        assert!(matches!(sent(b"\xff\xfe\n").await.next().await, Err(LineError::NotText)));
    }
}
