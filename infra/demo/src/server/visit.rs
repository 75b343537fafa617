//! One connection, from its first line to its end. This module owns the order of steps and all limits on a connection.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tracing::{debug, info};

use super::{
    config::Config,
    players::{Players, Visit},
    ticket::{CheckedTicket, TicketCheck},
};
use crate::{
    line::{ClientLine, Hello, LineError, Lines, MAX_CLIENT_LINE_BYTES, ServerLine},
    secret::Secret,
};

/// Time limit for sending the ticket after connecting.
const TICKET_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a player may send no line before the server disconnects them. A cut cable closes no socket.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// State that all connections of a server share.
pub(super) struct Door {
    server_id: String,
    tickets: TicketCheck,
    players: Arc<Players>,
    grace_seconds: u32,
}

/// How a visit ended.
enum End {
    /// The player sent a leave.
    Left { grace_seconds: u32 },
    /// The connection broke or timed out, or the player sent an invalid line.
    Dropped,
    /// A newer connection of the same player has replaced this one.
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

    /// Serves one connection. After a leave, the connection stays open until the slot is free, so that a player may
    /// join again as soon as the connection closes.
    pub(super) async fn serve(&self, stream: TcpStream) {
        let mut lines = Lines::new(stream, MAX_CLIENT_LINE_BYTES);
        let mut visit = match self.admit(&mut lines).await {
            Ok(visit) => visit,
            Err(refused) => {
                info!(?refused, "player refused");
                // The client may have closed the connection already.
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
            End::Replaced => debug!("connection replaced by a newer one of the same player"),
        }
    }

    /// Admits a player: checks the ticket offline, registers the player at OWMM, then sends the welcome.
    async fn admit(&self, lines: &mut Lines) -> Result<Visit, ServerLine> {
        let (checked, ticket) = self.check_ticket(lines).await?;
        let player = checked.player.clone();
        let visit =
            self.players.let_in(checked, &ticket).await.map_err(|problem| refused(&problem.code, &problem.detail))?;
        let welcome = ServerLine::Welcome { player, server: self.server_id.clone() };
        // If the client has closed the connection meanwhile, the next read fails and the player is disconnected.
        let _ = lines.send(&welcome).await;
        Ok(visit)
    }

    async fn check_ticket(&self, lines: &mut Lines) -> Result<(CheckedTicket, Secret), ServerLine> {
        let line = match timeout(TICKET_TIMEOUT, lines.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(refused("no_ticket", "the connection closed before a ticket arrived")),
            Ok(Err(error)) => return Err(bad_line(&error)),
            Err(_) => return Err(refused("no_ticket", "no ticket arrived in time")),
        };
        // The error of serde is not used, because it would quote the ticket.
        let hello: Hello = serde_json::from_str(&line)
            .map_err(|_| refused("bad_line", r#"the first line must be {"ticket":"<JWT>"}"#))?;
        let checked = self.tickets.check(&hello.ticket).map_err(|error| refused("bad_ticket", &error))?;
        Ok((checked, hello.ticket))
    }
}

/// Echoes the player's lines until the visit ends.
async fn play(lines: &mut Lines, visit: &mut Visit) -> End {
    loop {
        let line = tokio::select! {
            // After a replacement, lines of the old connection are ignored, even a leave that is already received.
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
