//! Operations about servers: register, heartbeat, deregister, drain, show, and the event that a task has stopped.

use super::{Failure, OPERATOR_RETRIES, Owmm};
use crate::{
    domain::{
        Answer, Ledger, LedgerWrite, Placement, PlayerId, PoolLimits, PoolName, PoolStatusWrite, Registration,
        ServerId, ServerState, Span, StopBy, Time, TokenHash,
    },
    table::{TableError, keys},
};

/// Most servers on one page of a pool's servers.
const SERVERS_A_PAGE: usize = 100;

/// Why a server's call about itself was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOutcome {
    /// No server has this id.
    Unknown,
    /// The token is not this server's token.
    WrongToken,
    /// The server is stopped.
    Stopped,
    /// The server has not registered yet.
    NotRegistered,
    /// The server has registered with another address or port.
    AlreadyRegistered,
    /// More slots are claimed than the capacity in the registration.
    CapacityTooSmall,
}

/// The reply to a server's registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The server's state.
    pub state: ServerState,
    /// Number of slots of the server.
    pub capacity: u32,
    /// End of the server's lease.
    pub lease_until: Time,
    /// Interval at which the server should send heartbeats.
    pub heartbeat: Span,
}

/// A player who is connected in the ledger and whom the server's heartbeat did not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlayer {
    /// The player.
    pub player: PlayerId,
    /// The placement to pass when the server disconnects the player.
    pub placement: Placement,
}

/// The reply to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The server's state.
    pub state: ServerState,
    /// End of the server's lease.
    pub lease_until: Time,
    /// Number of reservations: players who have a slot and have not connected yet.
    pub reserved: usize,
    /// Connected players whom the heartbeat did not name. The server should disconnect them unless they have just
    /// connected.
    pub unknown: Vec<UnknownPlayer>,
}

impl Owmm {
    /// Registers a server: starting → ready.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn register_server(
        &self,
        by: TokenHash,
        server: &ServerId,
        registration: Registration,
    ) -> Result<Result<Registered, ServerOutcome>, Failure> {
        let endpoint = registration.endpoint.clone();
        let capacity = registration.capacity;
        let now = self.clock.now();
        let answer = self.table.write_ledger(server, &LedgerWrite::Register { by, registration, now }).await?;
        let ledger = match answer {
            Answer::Written(ledger) => {
                self.repair_listing(&ledger).await?;
                self.table.write_pool_status(&ledger.pool, &PoolStatusWrite::Recovered).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => {
                    let small = capacity.is_some_and(|capacity| ledger.claims.len() > capacity as usize);
                    debug_assert!(small, "a registration of a starting server is refused only for its capacity");
                    return Ok(Err(ServerOutcome::CapacityTooSmall));
                }
                // A repeated call: the reply to the first one was lost, or this one arrived late.
                Ok(ledger) if ledger.endpoint.as_ref() == Some(&endpoint) => ledger,
                Ok(_) => return Ok(Err(ServerOutcome::AlreadyRegistered)),
            },
        };
        Ok(Ok(Registered {
            state: ledger.state,
            capacity: ledger.capacity,
            lease_until: ledger.lease_until.unwrap_or(now),
            heartbeat: PoolLimits::heartbeat(ledger.lease_for),
        }))
    }

    /// Records a server's heartbeat. `connected` are the players on the server, if the heartbeat names them.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn heartbeat(
        &self,
        by: TokenHash,
        server: &ServerId,
        connected: Option<&[PlayerId]>,
    ) -> Result<Result<Heartbeat, ServerOutcome>, Failure> {
        let now = self.clock.now();
        let ledger = match self.table.write_ledger(server, &LedgerWrite::Heartbeat { by, now }).await? {
            Answer::Written(ledger) => {
                self.repair_listing(&ledger).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // A later heartbeat is on record: this one is late, or the clock of this process is behind.
                Ok(ledger) => ledger,
            },
        };
        let unknown = connected.into_iter().flat_map(|connected| ledger.connected_but_not(connected));
        let unknown = unknown.map(|(player, placement)| UnknownPlayer { player: player.clone(), placement });
        Ok(Ok(Heartbeat {
            state: ledger.state,
            lease_until: ledger.lease_until.unwrap_or(now),
            reserved: ledger.reserved(now),
            unknown: unknown.collect(),
        }))
    }

    /// Deregisters a server at its own request: the server is stopped, and every claim on it is void.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn deregister_server(
        &self,
        by: TokenHash,
        server: &ServerId,
    ) -> Result<Result<(), ServerOutcome>, Failure> {
        let stop = LedgerWrite::Stop { by: StopBy::Server(by), now: self.clock.now() };
        let ledger = match self.table.write_ledger(server, &stop).await? {
            Answer::Written(ledger) => ledger,
            Answer::Refused(image) => match image.ok_or(ServerOutcome::Unknown) {
                Ok(ledger) if ledger.token_hash == by => ledger,
                Ok(_) => return Ok(Err(ServerOutcome::WrongToken)),
                Err(unknown) => return Ok(Err(unknown)),
            },
        };
        // A server that deregisters before it has registered counts as a failed launch.
        self.launcher.count_out(&ledger.pool, &ledger.id, ledger.never_registered()).await?;
        Ok(Ok(()))
    }

    /// Checks that a ledger exists, belongs to the caller and is not stopped.
    fn known(&self, by: TokenHash, image: Option<Ledger>) -> Result<Ledger, ServerOutcome> {
        let ledger = image.ok_or(ServerOutcome::Unknown)?;
        if ledger.token_hash != by {
            return Err(ServerOutcome::WrongToken);
        }
        if ledger.state == ServerState::Stopped {
            return Err(ServerOutcome::Stopped);
        }
        Ok(ledger)
    }

    /// Corrects the server's entry in the index if its fill level or state has changed.
    async fn repair_listing(&self, ledger: &Ledger) -> Result<(), Failure> {
        if let Some(write) = ledger.listing_fix(self.clock.now()) {
            self.table.write_ledger(&ledger.id, &write).await?;
        }
        Ok(())
    }

    /// Drains a server at an operator's request: it takes no new claims, and its players stay, for at most `within`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn drain(
        &self,
        server: &ServerId,
        within: Option<Span>,
    ) -> Result<Result<Ledger, ServerOutcome>, Failure> {
        let mut at = self.clock.now();
        let drain_by = within.map(|span| at + span);
        for _ in 0..OPERATOR_RETRIES {
            let drain = LedgerWrite::Drain { at, drain_by };
            let ledger = match self.table.write_ledger(server, &drain).await? {
                Answer::Written(ledger) => {
                    tracing::info!(%server, claims = ledger.claims.len(), "servers: operator drained server");
                    return Ok(Ok(ledger));
                }
                Answer::Refused(None) => return Ok(Err(ServerOutcome::Unknown)),
                Answer::Refused(Some(ledger)) => ledger,
            };
            match ledger.state {
                ServerState::Stopped => return Ok(Err(ServerOutcome::Stopped)),
                ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // This command was applied before, and its reply was lost.
                _ if ledger.requested_at == Some(at) && ledger.drain_by == drain_by => return Ok(Ok(ledger)),
                ServerState::Ready | ServerState::Draining => {
                    at = self.clock.now().operator_timestamp(ledger.requested_at);
                }
            }
        }
        Err(TableError::Busy("other callers kept draining the server".to_owned()).into())
    }

    /// Reads a server's ledger; `None` if there is none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn server(&self, server: &ServerId) -> Result<Option<Ledger>, Failure> {
        Ok(self.table.ledger(server).await?)
    }

    /// Reads a page of a pool's servers, oldest first. The id, if any, is the `after` of the next page.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn servers(
        &self,
        pool: &PoolName,
        after: Option<&ServerId>,
    ) -> Result<(Vec<Ledger>, Option<ServerId>), Failure> {
        let known = self.table.pool(pool).await?;
        known.ok_or_else(|| Failure::UnknownPool(pool.clone()))?;
        let (mut page, _) = self.table.roster(pool, after.map(|server| keys::roster(pool, server))).await?;
        let next = page.get(SERVERS_A_PAGE - 1).filter(|_| page.len() > SERVERS_A_PAGE).cloned();
        page.truncate(SERVERS_A_PAGE);
        let mut ledgers = self.table.ledgers(&page).await?;
        ledgers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((ledgers, next))
    }

    /// Handles the stop of the task that ran a server's attempt. True if the server is stopped or unknown.
    ///
    /// A starting server gets its next attempt. A server that had registered is stopped: its claims are void, and the
    /// next join of each of its players places the player anew.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn task_stopped(&self, server: &ServerId, attempt: u32) -> Result<bool, Failure> {
        let Some(ledger) = self.table.ledger(server).await? else { return Ok(true) };
        let current = ledger.attempt == attempt;
        match ledger.state {
            ServerState::Starting if current => {
                self.launcher.failed(&ledger).await?;
                Ok(false)
            }
            ServerState::Ready | ServerState::Draining if current => {
                let stop = LedgerWrite::Stop { by: StopBy::Attempt(attempt), now: self.clock.now() };
                if let Answer::Written(ledger) = self.table.write_ledger(server, &stop).await? {
                    tracing::warn!(%server, attempt, "servers: stopped server whose task ended before it deregistered");
                    self.launcher.count_out(&ledger.pool, server, false).await?;
                }
                Ok(true)
            }
            // Repeated here because the caller that stopped the server may have died before it counted the server out.
            ServerState::Stopped => {
                self.launcher.count_out(&ledger.pool, server, ledger.never_registered()).await?;
                Ok(true)
            }
            ServerState::Starting | ServerState::Ready | ServerState::Draining => Ok(false),
        }
    }
}
