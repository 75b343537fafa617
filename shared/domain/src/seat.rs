//! The seat: the one item of a player, which names the server on which the player is placed. The seat decides on which
//! server a player may be connected. Every change is a compare-and-swap on the exact placement that was read. A
//! connected seat changes only when its server disconnects the player, or once that server is stopped.

use super::{
    Claim, Placement, PoolName, ServerId,
    bug::{self, Bug},
};

/// The server and the placement that a seat assigns to its player.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// The server.
    pub server: ServerId,
    /// The pool of the server.
    pub pool: PoolName,
    /// The placement, and whether the server has registered the player.
    pub claim: Claim,
}

/// The image of a seat. A vacant seat names no server and keeps the last placement, so the next placement is always
/// newer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// The player is on no server; the value is the player's last placement.
    Vacant(Placement),
    /// The player is placed on a server.
    Assigned(Assignment),
}

impl Seat {
    /// The player's last placement, which still counts if the seat is assigned.
    pub const fn placement(&self) -> Placement {
        match self {
            Self::Vacant(placement) => *placement,
            Self::Assigned(place) => place.claim.placement(),
        }
    }
}

/// The seat that a write of a new placement expects; the write is refused if the seat is a different one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedSeat {
    /// Absent, or vacant with an older placement.
    Vacant,
    /// Exactly this placement.
    Exactly {
        /// The server that the seat must name.
        server: ServerId,
        /// The claim that the seat must carry: the same placement, in the same state.
        claim: Claim,
    },
}

/// One conditional write on a seat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SeatWrite {
    /// Assigns a server to the player: a reservation under a new placement.
    Assign {
        /// The seat that the write expects.
        from: ExpectedSeat,
        /// The server to assign.
        server: ServerId,
        /// The pool of the server.
        pool: PoolName,
        /// The new placement, greater than the player's previous one.
        placement: Placement,
    },
    /// Changes the seat from reserved to connected, if it names this server with this placement. A repeated write
    /// succeeds.
    Connect {
        /// The server.
        server: ServerId,
        /// The exact placement.
        placement: Placement,
    },
    /// Ends the placement: the seat becomes vacant. `Reserved` ends a reservation only. `Connected`, which a server's
    /// disconnect writes, ends the placement whether it is connected or reserved.
    Vacate {
        /// The server.
        server: ServerId,
        /// The exact placement to end.
        claim: Claim,
    },
    /// Changes the seat from connected to reserved under a new placement: the slot is kept for a reconnect.
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

    /// The labels of the seats that accept `write`.
    fn taken<const N: usize>(write: &SeatWrite, seats: [(&'static str, Option<Seat>); N]) -> Vec<&'static str> {
        which(seats, |seat| write.apply(seat.as_ref()).is_some())
    }

    #[test]
    fn a_seat_is_assigned_only_if_it_is_absent_or_vacant_or_exactly_as_it_was_read() {
        let place = |from| SeatWrite::Assign { from, server: server("t"), pool: pool("p"), placement: placement(7) };
        let free = place(ExpectedSeat::Vacant);
        let vacant = |of| Some(Seat::Vacant(placement(of)));
        let seats = [
            ("no seat", None),
            ("vacant, older", vacant(6)),
            ("vacant, the same placement", vacant(7)),
            ("vacant, newer", vacant(8)),
            ("assigned", Some(seat("s", reserved(1)))),
        ];
        assert_eq!(taken(&free, seats), ["no seat", "vacant, older"]);
        let moved = place(ExpectedSeat::Exactly { server: server("s"), claim: reserved(1) });
        let seats = [
            ("as it was read", Some(seat("s", reserved(1)))),
            ("connected by now", Some(seat("s", connected(1)))),
            ("another placement", Some(seat("s", reserved(2)))),
            ("another server", Some(seat("t", reserved(1)))),
            ("no seat", None),
            ("vacant", vacant(1)),
        ];
        assert_eq!(taken(&moved, seats), ["as it was read"]);
        assert_eq!(moved.apply(Some(&seat("s", reserved(1)))), Some(seat("t", reserved(7))));
    }

    #[test]
    fn a_seat_connects_ends_or_is_kept_only_for_the_exact_server_and_placement() {
        let seats = || {
            [
                ("reserved", Some(seat("s", reserved(7)))),
                ("connected", Some(seat("s", connected(7)))),
                ("another placement", Some(seat("s", reserved(8)))),
                ("another server", Some(seat("t", reserved(7)))),
                ("no seat", None),
                ("vacant", Some(Seat::Vacant(placement(7)))),
            ]
        };
        let connect = SeatWrite::Connect { server: server("s"), placement: placement(7) };
        assert_eq!(taken(&connect, seats()), ["reserved", "connected"]);
        assert_eq!(connect.apply(Some(&seat("s", reserved(7)))), Some(seat("s", connected(7))));
        let vacate = |claim| SeatWrite::Vacate { server: server("s"), claim };
        assert_eq!(taken(&vacate(connected(7)), seats()), ["reserved", "connected"], "the server disconnects");
        assert_eq!(taken(&vacate(reserved(7)), seats()), ["reserved"], "the player cancels the reservation");
        assert_eq!(vacate(reserved(7)).apply(Some(&seat("s", reserved(7)))), Some(Seat::Vacant(placement(7))));
        let keep = SeatWrite::KeepForReconnect { server: server("s"), from: placement(7), to: placement(9) };
        assert_eq!(taken(&keep, seats()), ["connected"]);
        assert_eq!(keep.apply(Some(&seat("s", connected(7)))), Some(seat("s", reserved(9))));
    }

    #[test]
    fn an_assigned_and_a_vacant_seat_both_return_their_last_placement() {
        for (case, seat) in [("connected", seat("s", connected(7))), ("vacant", Seat::Vacant(placement(7)))] {
            assert_eq!(seat.placement(), placement(7), "{case}");
        }
    }
}
