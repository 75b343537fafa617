//! The seat: the one item of a player, which names the server on which the player is placed.
//!
//! The seat is the truth of which server a player may be inside. Only compare-and-swap changes it, and only on the
//! exact placement that was seen; a connected seat is moved by its server's disconnect alone, or once that server is stopped.

use super::{
    Claim, Placement, PoolName, ServerId,
    bug::{self, Bug},
};

/// Where a player is placed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// The server.
    pub server: ServerId,
    /// Its pool.
    pub pool: PoolName,
    /// The placement, and whether the server has registered the player.
    pub claim: Claim,
}

/// The image of a seat. A vacant seat names no server and still remembers the last placement, so placements never go back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// Nowhere; the last placement that the player had.
    Vacant(Placement),
    /// Placed.
    Assigned(Assignment),
}

impl Seat {
    /// The last placement that the player had.
    pub const fn placement(&self) -> Placement {
        match self {
            Self::Vacant(placement) => *placement,
            Self::Assigned(place) => place.claim.placement(),
        }
    }
}

/// What a seat must be for a new placement to be written on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedSeat {
    /// Absent, or void with an older placement.
    Vacant,
    /// Exactly this placement.
    Exactly {
        /// The server that the seat must name.
        server: ServerId,
        /// The placement and sign that it must carry.
        claim: Claim,
    },
}

/// One conditional write on a seat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SeatWrite {
    /// Places the player: reserved, with a new placement.
    Assign {
        /// What the seat must be.
        from: ExpectedSeat,
        /// The server to name.
        server: ServerId,
        /// Its pool.
        pool: PoolName,
        /// The new placement, later than any before.
        placement: Placement,
    },
    /// reserved → connected, if the seat names this server with this placement. Done already is done.
    Connect {
        /// The server.
        server: ServerId,
        /// The exact placement.
        placement: Placement,
    },
    /// The placement is over. `Reserved` voids a reservation only; `Connected` is the server's disconnect and voids the
    /// placement of that placement in either state.
    Vacate {
        /// The server.
        server: ServerId,
        /// The exact placement.
        claim: Claim,
    },
    /// connected → reserved under a new placement: the slot is kept for a reconnect.
    KeepForReconnect {
        /// The server.
        server: ServerId,
        /// The placement of the connection that ended.
        from: Placement,
        /// The placement of the reservation.
        to: Placement,
    },
}

impl SeatWrite {
    /// What the table makes of this write: the new seat, or `None` when the condition refuses it.
    pub fn apply(&self, seat: Option<&Seat>) -> Option<Seat> {
        let names = |server: &ServerId| match seat {
            Some(Seat::Assigned(place)) if place.server == *server => Some(place),
            _ => None,
        };
        match self {
            Self::Assign { from, server, pool, placement } => {
                let allowed = match (from, seat) {
                    (ExpectedSeat::Vacant, None) => true,
                    (ExpectedSeat::Vacant, Some(Seat::Vacant(last))) => last < placement,
                    (ExpectedSeat::Exactly { server, claim }, Some(Seat::Assigned(place))) => {
                        place.server == *server && place.claim == *claim
                    }
                    _ => false,
                };
                let claim = Claim::Reserved(*placement);
                allowed.then(|| Seat::Assigned(Assignment { server: server.clone(), pool: pool.clone(), claim }))
            }
            Self::Connect { server, placement } => {
                let place = names(server).filter(|place| place.claim.placement() == *placement)?;
                let claim = if bug::injected(Bug::ReadOnlySeat) { place.claim } else { Claim::Connected(*placement) };
                Some(Seat::Assigned(Assignment { claim, ..place.clone() }))
            }
            Self::Vacate { server, claim } => {
                let place = names(server)?;
                let over =
                    place.claim == *claim || (claim.is_connected() && place.claim.placement() == claim.placement());
                over.then(|| Seat::Vacant(claim.placement()))
            }
            Self::KeepForReconnect { server, from, to } => {
                let place = names(server).filter(|place| place.claim == Claim::Connected(*from))?;
                Some(Seat::Assigned(Assignment { claim: Claim::Reserved(*to), ..place.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{connected, placement, pool, reserved, seat, server, which};

    /// The labels of the seats on which a write takes.
    fn taken<const N: usize>(write: &SeatWrite, seats: [(&'static str, Option<Seat>); N]) -> Vec<&'static str> {
        which(seats, |seat| write.apply(seat.as_ref()).is_some())
    }

    #[test]
    fn a_player_is_seated_where_there_is_no_seat_or_exactly_the_one_that_was_seen() {
        let place = |from| SeatWrite::Assign { from, server: server("t"), pool: pool("p"), placement: placement(7) };
        let free = place(ExpectedSeat::Vacant);
        let void = |of| Some(Seat::Vacant(placement(of)));
        let seats = [
            ("no seat", None),
            ("void, older", void(6)),
            ("void, the same placement", void(7)),
            ("void, newer", void(8)),
            ("placed", Some(seat("s", reserved(1)))),
        ];
        assert_eq!(taken(&free, seats), ["no seat", "void, older"]);
        let moved = place(ExpectedSeat::Exactly { server: server("s"), claim: reserved(1) });
        let seats = [
            ("as it was seen", Some(seat("s", reserved(1)))),
            ("connected by now", Some(seat("s", connected(1)))),
            ("another placement", Some(seat("s", reserved(2)))),
            ("another server", Some(seat("t", reserved(1)))),
            ("no seat", None),
            ("void", void(1)),
        ];
        assert_eq!(taken(&moved, seats), ["as it was seen"]);
        assert_eq!(moved.apply(Some(&seat("s", reserved(1)))), Some(seat("t", reserved(7))));
    }

    #[test]
    fn every_other_change_is_for_that_server_and_that_placement_only() {
        let seats = || {
            [
                ("reserved", Some(seat("s", reserved(7)))),
                ("connected", Some(seat("s", connected(7)))),
                ("another placement", Some(seat("s", reserved(8)))),
                ("another server", Some(seat("t", reserved(7)))),
                ("no seat", None),
                ("void", Some(Seat::Vacant(placement(7)))),
            ]
        };
        let connect = SeatWrite::Connect { server: server("s"), placement: placement(7) };
        assert_eq!(taken(&connect, seats()), ["reserved", "connected"]);
        assert_eq!(connect.apply(Some(&seat("s", reserved(7)))), Some(seat("s", connected(7))));
        let void = |claim| SeatWrite::Vacate { server: server("s"), claim };
        assert_eq!(taken(&void(connected(7)), seats()), ["reserved", "connected"], "the server's disconnect");
        assert_eq!(taken(&void(reserved(7)), seats()), ["reserved"], "a reservation that is given up");
        assert_eq!(void(reserved(7)).apply(Some(&seat("s", reserved(7)))), Some(Seat::Vacant(placement(7))));
        let keep = SeatWrite::KeepForReconnect { server: server("s"), from: placement(7), to: placement(9) };
        assert_eq!(taken(&keep, seats()), ["connected"]);
        assert_eq!(keep.apply(Some(&seat("s", connected(7)))), Some(seat("s", reserved(9))));
    }

    #[test]
    fn a_seat_remembers_its_last_placement() {
        for (case, seat) in [("connected", seat("s", connected(7))), ("void", Seat::Vacant(placement(7)))] {
            assert_eq!(seat.placement(), placement(7), "{case}");
        }
    }
}
