//! The seat: the one item of a player, which names the server on which the player is placed.
//!
//! The seat is the truth of which server a player may be inside. Only compare-and-swap changes it, and only on the
//! exact stamp that was seen; a connected seat is moved by its server's goodbye alone, or once that server is stopped.

use super::{
    Mark, PoolName, ServerId, Stamp,
    teeth::{self, Mistake},
};

/// Where a player is placed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The server.
    pub server: ServerId,
    /// Its pool.
    pub pool: PoolName,
    /// The placement's stamp, and whether the server has registered the player.
    pub mark: Mark,
}

/// The image of a seat. A void seat names no server and still remembers the last stamp, so stamps never go back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// Nowhere; the last stamp that the player had.
    Void(Stamp),
    /// Placed.
    At(Place),
}

impl Seat {
    /// The last stamp that the player had.
    pub const fn stamp(&self) -> Stamp {
        match self {
            Self::Void(stamp) => *stamp,
            Self::At(place) => place.mark.stamp(),
        }
    }
}

/// What a seat must be for a new placement to be written on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Before {
    /// Absent, or void with an older stamp.
    Free,
    /// Exactly this placement.
    Exactly {
        /// The server that the seat must name.
        server: ServerId,
        /// The stamp and sign that it must carry.
        mark: Mark,
    },
}

/// One conditional write on a seat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SeatWrite {
    /// Places the player: reserved, with a new stamp.
    Place {
        /// What the seat must be.
        from: Before,
        /// The server to name.
        server: ServerId,
        /// Its pool.
        pool: PoolName,
        /// The new stamp, later than any before.
        stamp: Stamp,
    },
    /// reserved → connected, if the seat names this server with this stamp. Done already is done.
    Connect {
        /// The server.
        server: ServerId,
        /// The exact stamp.
        stamp: Stamp,
    },
    /// The placement is over. `Reserved` voids a reservation only; `Connected` is the server's goodbye and voids the
    /// placement of that stamp in either state.
    Void {
        /// The server.
        server: ServerId,
        /// The exact stamp.
        mark: Mark,
    },
    /// connected → reserved under a new stamp: the slot is kept for a reconnect.
    Hold {
        /// The server.
        server: ServerId,
        /// The stamp of the connection that ended.
        from: Stamp,
        /// The stamp of the reservation.
        to: Stamp,
    },
}

impl SeatWrite {
    /// What the table makes of this write: the new seat, or `None` when the condition refuses it.
    pub fn apply(&self, seat: Option<&Seat>) -> Option<Seat> {
        let names = |server: &ServerId| match seat {
            Some(Seat::At(place)) if place.server == *server => Some(place),
            _ => None,
        };
        match self {
            Self::Place { from, server, pool, stamp } => {
                let allowed = match (from, seat) {
                    (Before::Free, None) => true,
                    (Before::Free, Some(Seat::Void(last))) => last < stamp,
                    (Before::Exactly { server, mark }, Some(Seat::At(place))) => {
                        place.server == *server && place.mark == *mark
                    }
                    _ => false,
                };
                let mark = Mark::Reserved(*stamp);
                allowed.then(|| Seat::At(Place { server: server.clone(), pool: pool.clone(), mark }))
            }
            Self::Connect { server, stamp } => {
                let place = names(server).filter(|place| place.mark.stamp() == *stamp)?;
                let mark = if teeth::has(Mistake::ReadOnlySeat) { place.mark } else { Mark::Connected(*stamp) };
                Some(Seat::At(Place { mark, ..place.clone() }))
            }
            Self::Void { server, mark } => {
                let place = names(server)?;
                let over = place.mark == *mark || (mark.is_connected() && place.mark.stamp() == mark.stamp());
                over.then(|| Seat::Void(mark.stamp()))
            }
            Self::Hold { server, from, to } => {
                let place = names(server).filter(|place| place.mark == Mark::Connected(*from))?;
                Some(Seat::At(Place { mark: Mark::Reserved(*to), ..place.clone() }))
            }
        }
    }
}
