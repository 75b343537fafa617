//! Operations about servers: register, heartbeat, deregister, drain, show, and the event that a task has stopped.

use super::{Failure, OPERATOR_RETRIES, Owmm};
use crate::{
    domain::{
        Answer, Ledger, LedgerWrite, Placement, PlayerId, PoolLimits, PoolName, PoolStatusWrite, Registration,
        ServerId, ServerState, Span, StopBy, Time, TokenHash,
    },
    table::{TableError, keys},
};

/// Servers of one page of a pool's servers.
const SERVERS_A_PAGE: usize = 100;

/// How a call of a server about itself can end badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOutcome {
    /// There is no such server.
    Unknown,
    /// The token is not this server's.
    WrongToken,
    /// It is stopped.
    Stopped,
    /// It has not registered.
    NotRegistered,
    /// It has registered with another address.
    AlreadyRegistered,
    /// More slots are held than the capacity that it names.
    CapacityTooSmall,
}

/// A server has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The state that OWMM wants.
    pub state: ServerState,
    /// Its slots.
    pub capacity: u32,
    /// Until when it is believed alive.
    pub lease_until: Time,
    /// How often it should beat.
    pub heartbeat: Span,
}

/// A player whom the ledger holds as connected and the server did not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlayer {
    /// The player.
    pub player: PlayerId,
    /// The placement to name in the disconnect.
    pub placement: Placement,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The state that OWMM wants.
    pub state: ServerState,
    /// Until when the server is believed alive.
    pub lease_until: Time,
    /// Reservations: players who are on their way.
    pub reserved: usize,
    /// Players to disconnect, unless they have just come in.
    pub unknown: Vec<UnknownPlayer>,
}

impl Owmm {
    /// A server has started: starting → ready.
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
                self.put_listing_right(&ledger).await?;
                self.table.write_pool_status(&ledger.pool, &PoolStatusWrite::Recovered).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => {
                    let small = capacity.is_some_and(|capacity| ledger.claims.len() > capacity as usize);
                    debug_assert!(small, "the only other reason to refuse");
                    return Ok(Err(ServerOutcome::CapacityTooSmall));
                }
                // The answer to an earlier call was lost, or this is a late repeat of it.
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

    /// A heartbeat. `inside` are the players that the server has, if it says so.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn heartbeat(
        &self,
        by: TokenHash,
        server: &ServerId,
        inside: Option<&[PlayerId]>,
    ) -> Result<Result<Heartbeat, ServerOutcome>, Failure> {
        let now = self.clock.now();
        let ledger = match self.table.write_ledger(server, &LedgerWrite::Heartbeat { by, now }).await? {
            Answer::Written(ledger) => {
                self.put_listing_right(&ledger).await?;
                ledger
            }
            Answer::Refused(image) => match self.known(by, image) {
                Err(outcome) => return Ok(Err(outcome)),
                Ok(ledger) if ledger.state == ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // A later one has been heard: this one is late, or its clock is behind.
                Ok(ledger) => ledger,
            },
        };
        let unknown = inside.into_iter().flat_map(|inside| ledger.connected_but_not(inside));
        let unknown = unknown.map(|(player, placement)| UnknownPlayer { player: player.clone(), placement });
        Ok(Ok(Heartbeat {
            state: ledger.state,
            lease_until: ledger.lease_until.unwrap_or(now),
            reserved: ledger.reserved(now),
            unknown: unknown.collect(),
        }))
    }

    /// A server deregisters itself: every claim on it is void.
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
        // A server that gives up before it has registered has failed to start.
        self.launcher.count_out(&ledger.pool, &ledger.id, ledger.never_registered()).await?;
        Ok(Ok(()))
    }

    /// The ledger, if it is this server's and not stopped.
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

    async fn put_listing_right(&self, ledger: &Ledger) -> Result<(), Failure> {
        if let Some(write) = ledger.listing_fix(self.clock.now()) {
            self.table.write_ledger(&ledger.id, &write).await?;
        }
        Ok(())
    }

    /// An operator lets a server run empty: no new claims, and who is inside stays, at most for `within`.
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
                    tracing::info!(%server, claims = ledger.claims.len(), "an operator drains the server");
                    return Ok(Ok(ledger));
                }
                Answer::Refused(None) => return Ok(Err(ServerOutcome::Unknown)),
                Answer::Refused(Some(ledger)) => ledger,
            };
            match ledger.state {
                ServerState::Stopped => return Ok(Err(ServerOutcome::Stopped)),
                ServerState::Starting => return Ok(Err(ServerOutcome::NotRegistered)),
                // It has been heard, and the answer was lost.
                _ if ledger.requested_at == Some(at) && ledger.drain_by == drain_by => return Ok(Ok(ledger)),
                ServerState::Ready | ServerState::Draining => {
                    at = self.clock.now().operator_timestamp(ledger.requested_at);
                }
            }
        }
        Err(TableError::Busy("others drain the server".to_owned()).into())
    }

    /// A server, as its ledger has it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn server(&self, server: &ServerId) -> Result<Option<Ledger>, Failure> {
        Ok(self.table.ledger(server).await?)
    }

    /// A page of a pool's servers, oldest first, and where the next one begins.
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

    /// The task of a server's attempt has stopped. A server that was starting gets its next attempt, one that was up is
    /// over: its claims are void, and its players' next join places them anew. Whether it is over.
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
                    tracing::warn!(%server, attempt, "the server's task has stopped without a disconnect");
                    self.launcher.count_out(&ledger.pool, server, false).await?;
                }
                Ok(true)
            }
            // Repeated: whoever stopped it may have died before it was counted out.
            ServerState::Stopped => {
                self.launcher.count_out(&ledger.pool, server, ledger.never_registered()).await?;
                Ok(true)
            }
            ServerState::Starting | ServerState::Ready | ServerState::Draining => Ok(false),
        }
    }
}
