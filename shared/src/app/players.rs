//! Operations about players: join, party, cancel, register, deregister, show and release.

use std::sync::Arc;

use super::{Failure, Owmm};
use crate::{
    domain::{
        CancelReservation, Claim, Connect, Connected, Disconnect, Disconnected, Join, Joined, Ledger, NoSlot, Party,
        PartyJoined, Placement, PlayerId, PoolLimits, PoolName, PresentedTicket, Release, Released, Seat, ServerId,
        Span, Time, Together, TokenHash,
    },
    ticket,
};

/// Retries of a join or a party's join that was placed on a starting server whose launch needed a step first.
const LAUNCH_RETRIES: u32 = 2;

/// A slot that a player holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A slot on a ready server.
    Ready {
        /// The server.
        server: ServerId,
        /// Host name or IP address at which the server listens.
        address: String,
        /// Port on which the server listens.
        port: u16,
        /// The ticket that the player presents to the server.
        ticket: String,
        /// End of the reservation; for a connected player, end of the ticket's validity.
        expires: Time,
    },
    /// A slot on a server that is being started.
    Starting {
        /// The server.
        server: ServerId,
        /// Earliest end of the reservation.
        expires: Time,
    },
}

/// How a join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The player holds a slot.
    Slot(Slot),
    /// Refused: the player is connected to a server of this other pool.
    Elsewhere(PoolName),
    /// There is no slot, for this reason.
    No(NoSlot),
}

/// How a party's join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartyOutcome {
    /// Every player holds a slot, all on the same server, in the order of the call.
    Slots(Vec<(PlayerId, Slot)>),
    /// Refused: these players hold slots in another pool, or on a server without room for the rest of the party.
    Elsewhere(Vec<PlayerId>),
    /// Refused: the party is larger than a server of the pool, which has this many slots.
    TooLarge(u32),
    /// There are no slots for the party, for this reason.
    No(NoSlot),
}

/// A player's seat, with the ledger of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayerView {
    /// The player's seat.
    pub seat: Seat,
    /// The ledger of the server that the seat names, if that ledger still exists.
    pub ledger: Option<Ledger>,
}

impl Owmm {
    /// Places a player on a server. The same call polls while a server starts, and reconnects a player who was
    /// disconnected.
    ///
    /// # Errors
    /// See [`Failure`]. No progress is lost: a repeated call continues where this one failed.
    pub async fn join(&self, player: &PlayerId, asked: Option<PoolName>) -> Result<JoinOutcome, Failure> {
        let name = asked.as_ref().unwrap_or(&self.default_pool);
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCH_RETRIES {
            let heartbeat = PoolLimits::heartbeat(pool.limits.lease);
            let join = Join::new(player.clone(), asked.clone(), pool.name.clone(), pool.limits.capacity, heartbeat);
            let begun = self.clock.now();
            match self.run(join, Some(Arc::clone(&pool))).await? {
                Joined::Elsewhere(pool) => return Ok(JoinOutcome::Elsewhere(pool)),
                Joined::No(reason) => return Ok(JoinOutcome::No(reason)),
                Joined::Placed(placed) => {
                    if placed.ledger.due(self.clock.now()).is_none() {
                        return Ok(JoinOutcome::Slot(self.slot(player, &placed.ledger, placed.claim, begun)?));
                    }
                    // Whatever this step changes, the next round reads the ledger again before a slot is returned.
                    self.launcher.advance_launch(&placed.ledger).await?;
                }
            }
        }
        Ok(JoinOutcome::No(NoSlot::Busy))
    }

    /// Places a party of distinct players on one server of a pool, all or none. The same call polls while a server
    /// starts.
    ///
    /// # Errors
    /// See [`Failure`]. No progress is lost: a repeated call continues where this one failed.
    pub async fn party(&self, players: &[PlayerId], name: &PoolName) -> Result<PartyOutcome, Failure> {
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCH_RETRIES {
            let heartbeat = PoolLimits::heartbeat(pool.limits.lease);
            let party = Party::new(players.to_vec(), pool.name.clone(), pool.limits.capacity, heartbeat);
            let begun = self.clock.now();
            match self.run(party, Some(Arc::clone(&pool))).await? {
                PartyJoined::Elsewhere(players) => return Ok(PartyOutcome::Elsewhere(players)),
                PartyJoined::TooLarge => return Ok(PartyOutcome::TooLarge(pool.limits.capacity)),
                PartyJoined::No(reason) => return Ok(PartyOutcome::No(reason)),
                PartyJoined::Placed(together) => {
                    let Together { ledger, players } = *together;
                    if ledger.due(self.clock.now()).is_none() {
                        let slots = players.into_iter().map(|(player, claim)| {
                            let slot = self.slot(&player, &ledger, claim, begun)?;
                            Ok::<_, Failure>((player, slot))
                        });
                        return Ok(PartyOutcome::Slots(slots.collect::<Result<_, _>>()?));
                    }
                    self.launcher.advance_launch(&ledger).await?;
                }
            }
        }
        Ok(PartyOutcome::No(NoSlot::Busy))
    }

    /// Builds the slot for a claim on `ledger`, which was read some time after `begun`.
    fn slot(&self, player: &PlayerId, ledger: &Ledger, claim: Claim, begun: Time) -> Result<Slot, Failure> {
        let server = ledger.id.clone();
        let Some(endpoint) = &ledger.endpoint else {
            // The reservation runs from the server's registration, or to the launch's deadline if the server never
            // registers. The server may have registered since the ledger was read, by a function that was frozen in
            // between. So the earliest possible end counts.
            let reservation = begun + ledger.reservation;
            let expires = ledger.launch.as_ref().map_or(reservation, |launch| launch.deadline.min(reservation));
            return Ok(Slot::Starting { server, expires });
        };
        let expires = ledger.expires(claim).unwrap_or_else(|| self.clock.now() + ledger.reservation);
        let ticket = ticket::issue(&ledger.token_hash, &server, player, claim.placement(), expires)?;
        Ok(Slot::Ready { server, address: endpoint.address.clone(), port: endpoint.port, ticket, expires })
    }

    /// Cancels a player's reservation. Changes nothing if the player has none or is connected.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn cancel_reservation(&self, player: &PlayerId) -> Result<(), Failure> {
        self.run(CancelReservation::new(player.clone()), None).await
    }

    /// Connects a player at a server's request. `ticket` is the player's ticket, if the server passes it on.
    ///
    /// # Errors
    /// See [`Failure`]. The outcome is then unknown: the server must repeat the call before it makes another one about
    /// this player.
    pub async fn register_player(
        &self,
        by: TokenHash,
        server: &ServerId,
        player: &PlayerId,
        ticket: Option<PresentedTicket>,
    ) -> Result<Connected, Failure> {
        let connect = Connect::new(by, server.clone(), player.clone(), ticket);
        self.run(connect, None).await
    }

    /// Disconnects a player at a server's request: exactly `placement`, or whichever placement the ledger holds.
    ///
    /// # Errors
    /// See [`Failure`]. The outcome is then unknown, as for [`Owmm::register_player`].
    pub async fn deregister_player(
        &self,
        by: TokenHash,
        server: &ServerId,
        player: &PlayerId,
        placement: Option<Placement>,
        grace: Option<Span>,
    ) -> Result<Disconnected, Failure> {
        let disconnect = Disconnect::new(by, server.clone(), player.clone(), placement, grace);
        self.run(disconnect, None).await
    }

    /// Reads a player's seat and the ledger of its server; `None` if the player has no seat.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn player(&self, player: &PlayerId) -> Result<Option<PlayerView>, Failure> {
        let Some(seat) = self.table.seat(player).await? else { return Ok(None) };
        let ledger = match &seat {
            Seat::Assigned(place) => self.table.ledger(&place.server).await?,
            Seat::Vacant(_) => None,
        };
        Ok(Some(PlayerView { seat, ledger }))
    }

    /// Releases a player at an operator's request. A player who is connected to a live server stays connected.
    ///
    /// # Errors
    /// See [`Failure`]. A repeated call continues where this one failed.
    pub async fn release_player(&self, player: &PlayerId) -> Result<Released, Failure> {
        let released = self.run(Release::new(player.clone()), None).await?;
        tracing::info!(%player, ?released, "players: operator released player");
        Ok(released)
    }
}
