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

/// Times that a join is begun anew because the launch it met was over.
const LAUNCHES_OUTLIVED: u32 = 2;

/// What a player gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A slot on a server that is up.
    Ready {
        /// The server.
        server: ServerId,
        /// Where it listens.
        address: String,
        /// Where it listens.
        port: u16,
        /// What to show there.
        ticket: String,
        /// Until when the slot is held, or, for a player who is connected, the ticket is good.
        expires: Time,
    },
    /// A slot on a server that is being started.
    Starting {
        /// The server.
        server: ServerId,
        /// Until when the slot is held at least.
        expires: Time,
    },
}

/// How a join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// With a slot.
    Slot(Slot),
    /// Connected in another pool.
    Elsewhere(PoolName),
    /// Without a slot.
    No(NoSlot),
}

/// How a party's join ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartyOutcome {
    /// With a slot for each, all on the same server, in the order of the call.
    Slots(Vec<(PlayerId, Slot)>),
    /// These hold a slot elsewhere, or where there is no room for the others.
    Elsewhere(Vec<PlayerId>),
    /// No server of the pool has more slots than this.
    TooLarge(u32),
    /// Without a slot for any.
    No(NoSlot),
}

/// What is known of a player.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayerView {
    /// Where the player is placed.
    pub seat: Seat,
    /// The ledger of the server that the seat names, if it is still there.
    pub ledger: Option<Ledger>,
}

impl Owmm {
    /// Places a player. The same call is the poll while a server starts, and the reconnect after a drop.
    ///
    /// # Errors
    /// See [`Failure`]. Nothing is lost: the same call goes on from where this one ended.
    pub async fn join(&self, player: &PlayerId, asked: Option<PoolName>) -> Result<JoinOutcome, Failure> {
        let name = asked.as_ref().unwrap_or(&self.default_pool);
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCHES_OUTLIVED {
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
                    // Whatever comes of it, the promise is made from the ledger as it is then.
                    self.launcher.advance_launch(&placed.ledger).await?;
                }
            }
        }
        Ok(JoinOutcome::No(NoSlot::Busy))
    }

    /// Places a party of distinct players on one server of a pool, all or none. The same call is the poll.
    ///
    /// # Errors
    /// See [`Failure`]. Nothing is lost: the same call goes on from where this one ended.
    pub async fn party(&self, players: &[PlayerId], name: &PoolName) -> Result<PartyOutcome, Failure> {
        let pool = self.pool(name).await?;
        for _ in 0..=LAUNCHES_OUTLIVED {
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

    /// The slot that a claim on `ledger`, as it was seen some time after `begun`, stands for.
    fn slot(&self, player: &PlayerId, ledger: &Ledger, claim: Claim, begun: Time) -> Result<Slot, Failure> {
        let server = ledger.id.clone();
        let Some(endpoint) = &ledger.endpoint else {
            // If the server has registered since it was seen, the reservation runs from then on, which a function that was
            // frozen on the way does not know; if the server never does, it runs to the deadline.
            let reservation = begun + ledger.reservation;
            let expires = ledger.launch.as_ref().map_or(reservation, |launch| launch.deadline.min(reservation));
            return Ok(Slot::Starting { server, expires });
        };
        let expires = ledger.expires(claim).unwrap_or_else(|| self.clock.now() + ledger.reservation);
        let ticket = ticket::issue(&ledger.token_hash, &server, player, claim.placement(), expires)?;
        Ok(Slot::Ready { server, address: endpoint.address.clone(), port: endpoint.port, ticket, expires })
    }

    /// A player cancels a reservation. Without one, or once connected, nothing happens.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn cancel_reservation(&self, player: &PlayerId) -> Result<(), Failure> {
        self.run(CancelReservation::new(player.clone()), None).await
    }

    /// A server registers a player, with the ticket that the player has shown if it passes that on.
    ///
    /// # Errors
    /// See [`Failure`]. The outcome is unknown then: the server repeats the call before it makes another one about this
    /// player.
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

    /// A server disconnects a player: to exactly `placement`, or to whichever the ledger holds.
    ///
    /// # Errors
    /// See [`Failure`]; as for [`Owmm::register_player`].
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

    /// What is known of a player; `None` if nobody has placed them for long.
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

    /// An operator releases a player. One who is inside a server that lives stays there.
    ///
    /// # Errors
    /// See [`Failure`]. The same call goes on from where this one ended.
    pub async fn release_player(&self, player: &PlayerId) -> Result<Released, Failure> {
        let released = self.run(Release::new(player.clone()), None).await?;
        tracing::info!(%player, ?released, "an operator releases a player");
        Ok(released)
    }
}
