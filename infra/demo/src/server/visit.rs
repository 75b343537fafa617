//! One connection, from its first line to its end. It owns the order of things and every limit on a connection.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tracing::{debug, info};

use super::{
    config::Config,
    players::{Players, Visit},
    ticket::{Pass, TicketCheck},
};
use crate::{
    line::{ClientLine, Hello, LineError, Lines, MAX_CLIENT_LINE_BYTES, ServerLine},
    secret::Secret,
};

/// Who connects has to show the ticket within this time.
const TICKET_TIMEOUT: Duration = Duration::from_secs(10);
/// A player who says nothing for so long is taken for gone: a cable that was pulled closes no socket.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The door of a server: what all connections share.
pub(super) struct Door {
    server_id: String,
    tickets: TicketCheck,
    players: Arc<Players>,
    grace_seconds: u32,
}

/// How a visit has ended.
enum End {
    /// The player said so.
    Left { grace_seconds: u32 },
    /// The connection broke, fell silent, or brought what is no line.
    Dropped,
    /// Another connection of the same player has taken over.
    Replaced,
}

impl Door {
    pub(super) fn new(config: &Config, players: Arc<Players>) -> Self {
        Self {
            server_id: config.server_id.clone(),
            tickets: TicketCheck::new(&config.server_id, &config.token),
            players,
            grace_seconds: config.grace_seconds,
        }
    }

    /// Serves one connection. A socket that has been asked to leave stays open until the slot is free, so that a player
    /// who sees it close may join again at once.
    pub(super) async fn serve(&self, stream: TcpStream) {
        let mut lines = Lines::new(stream, MAX_CLIENT_LINE_BYTES);
        let mut visit = match self.admit(&mut lines).await {
            Ok(visit) => visit,
            Err(refused) => {
                info!(?refused, "a connection was refused");
                // Whether it still hears that is its own affair.
                let _ = lines.send(&refused).await;
                return;
            }
        };
        match play(&mut lines, &mut visit).await {
            End::Left { grace_seconds } => self.players.let_out(visit, grace_seconds).await,
            End::Dropped => {
                drop(lines);
                self.players.let_out(visit, self.grace_seconds).await;
            }
            End::Replaced => debug!("a connection was replaced"),
        }
    }

    /// First what can be checked here, then the question to OWMM, then the welcome.
    async fn admit(&self, lines: &mut Lines) -> Result<Visit, ServerLine> {
        let (pass, ticket) = self.check_ticket(lines).await?;
        let player = pass.player.clone();
        let visit =
            self.players.let_in(pass, &ticket).await.map_err(|problem| refused(&problem.code, &problem.detail))?;
        let welcome = ServerLine::Welcome { player, server: self.server_id.clone() };
        // A client that has gone away meanwhile shows in the next read, and then gets its disconnect.
        let _ = lines.send(&welcome).await;
        Ok(visit)
    }

    async fn check_ticket(&self, lines: &mut Lines) -> Result<(Pass, Secret), ServerLine> {
        let line = match timeout(TICKET_TIMEOUT, lines.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(refused("no_ticket", "closed before a ticket came")),
            Ok(Err(error)) => return Err(bad_line(&error)),
            Err(_) => return Err(refused("no_ticket", "no ticket came in time")),
        };
        // serde's message would quote the line, and with it the ticket.
        let hello: Hello = serde_json::from_str(&line)
            .map_err(|_| refused("bad_line", r#"the first line must be {"ticket":"<JWT>"}"#))?;
        let pass = self.tickets.check(&hello.ticket).map_err(|error| refused("bad_ticket", &error))?;
        Ok((pass, hello.ticket))
    }
}

/// Repeats what the player says, until the visit ends.
async fn play(lines: &mut Lines, visit: &mut Visit) -> End {
    loop {
        let line = tokio::select! {
            // Whoever has been replaced has no say any more, not even a disconnect that is waiting to be read.
            biased;
            () = visit.replaced() => return End::Replaced,
            line = timeout(SILENCE_TIMEOUT, lines.next()) => line,
        };
        let answer = match line {
            Ok(Ok(Some(line))) => match ClientLine::parse(&line) {
                Ok(ClientLine::Leave { grace_seconds }) => return End::Left { grace_seconds },
                Ok(ClientLine::Say(value)) => ServerLine::Echo(value),
                Err(error) => refused("bad_line", &error),
            },
            Ok(Err(LineError::Socket(_)) | Ok(None)) | Err(_) => return End::Dropped,
            Ok(Err(error)) => bad_line(&error),
        };
        let sent = lines.send(&answer).await;
        if sent.is_err() || matches!(answer, ServerLine::Refused { .. }) {
            return End::Dropped;
        }
    }
}

fn refused(code: &str, detail: &(impl ToString + ?Sized)) -> ServerLine {
    ServerLine::Refused { code: code.to_owned(), detail: detail.to_string() }
}

fn bad_line(error: &LineError) -> ServerLine {
    refused("bad_line", error)
}
