//! Seat items: conversion, expressions for writes, and table calls. Matches `domain::seat`.

use std::future::Future;

use super::{
    Malformed, Table, TableError,
    attributes::{claim, connected, n, opt_text, reserved, s, seconds, text},
    expression::{Expression, KEEP},
    keys::{self, Attributes},
};
use crate::domain::{
    Answer, Assignment, Claim, ExpectedSeat, Placement, PlayerId, PoolName, Seat, SeatWrite, ServerId,
    bug::{self, Bug},
};

/// Reads a seat from its item.
pub fn from_item(item: &Attributes) -> Result<Seat, Malformed> {
    let claim = claim(item.get(keys::PLACEMENT).ok_or(Malformed(keys::PLACEMENT))?, keys::PLACEMENT)?;
    Ok(match opt_text(item, keys::SERVER)? {
        None => Seat::Vacant(claim.placement()),
        Some(server) => Seat::Assigned(Assignment {
            server: ServerId::parse(server).map_err(|_| Malformed(keys::SERVER))?,
            pool: PoolName::parse(text(item, keys::POOL)?).map_err(|_| Malformed(keys::POOL))?,
            claim,
        }),
    })
}

/// Converts a seat to its item.
pub fn to_item(player: &PlayerId, seat: &Seat) -> Attributes {
    let mut item = keys::seat(player);
    match seat {
        Seat::Vacant(placement) => {
            item.insert(keys::PLACEMENT.into(), n(placement.get()));
        }
        Seat::Assigned(place) => {
            item.insert(keys::PLACEMENT.into(), n(place.claim.number()));
            item.insert(keys::SERVER.into(), s(place.server.as_str()));
            item.insert(keys::POOL.into(), s(place.pool.as_str()));
        }
    }
    item
}

/// Renders a write on a seat as an expression.
pub fn expression(write: &SeatWrite) -> Expression {
    const ASSIGN: &str = "SET #server = :server, #pool = :pool, #placement = :placement, #ttl = :ttl";
    const VACATE: &str = "SET #placement = :reserved, #ttl = :ttl REMOVE #server, #pool";
    let ttl = |placement: Placement| seconds(placement.time() + KEEP);
    match write {
        SeatWrite::Assign { from, server, pool, placement } => {
            let values = [
                (":server", s(server.as_str())),
                (":pool", s(pool.as_str())),
                (":placement", reserved(*placement)),
                (":ttl", ttl(*placement)),
            ];
            match from {
                ExpectedSeat::Vacant => Expression::new(
                    ASSIGN,
                    "attribute_not_exists(#server) AND (attribute_not_exists(#placement) OR #placement < :placement)",
                    values,
                ),
                ExpectedSeat::Exactly { server, claim } => {
                    Expression::new(ASSIGN, "#server = :wasServer AND #placement = :was", values)
                        .with(":wasServer", s(server.as_str()))
                        .with(":was", n(claim.number()))
                }
            }
        }
        SeatWrite::Connect { server, placement } if bug::injected(Bug::ReadOnlySeat) => Expression::new(
            "SET #server = :server",
            "#server = :server AND #placement IN (:reserved, :connected)",
            [
                (":server", s(server.as_str())),
                (":reserved", reserved(*placement)),
                (":connected", connected(*placement)),
            ],
        ),
        // A connected seat has no TTL: it must exist as long as the player is connected.
        SeatWrite::Connect { server, placement } => Expression::new(
            "SET #placement = :connected REMOVE #ttl",
            "#server = :server AND #placement IN (:reserved, :connected)",
            [
                (":server", s(server.as_str())),
                (":reserved", reserved(*placement)),
                (":connected", connected(*placement)),
            ],
        ),
        SeatWrite::Vacate { server, claim } => {
            let placement = claim.placement();
            let values =
                [(":server", s(server.as_str())), (":reserved", reserved(placement)), (":ttl", ttl(placement))];
            match claim {
                Claim::Reserved(_) => Expression::new(VACATE, "#server = :server AND #placement = :reserved", values),
                Claim::Connected(_) => {
                    Expression::new(VACATE, "#server = :server AND #placement IN (:reserved, :connected)", values)
                        .with(":connected", connected(placement))
                }
            }
        }
        SeatWrite::KeepForReconnect { server, from, to } => Expression::new(
            "SET #placement = :to, #ttl = :ttl",
            "#server = :server AND #placement = :connected",
            [
                (":server", s(server.as_str())),
                (":connected", connected(*from)),
                (":to", reserved(*to)),
                (":ttl", ttl(*to)),
            ],
        ),
    }
}

impl Table {
    /// Reads a player's seat consistently; `None` if there is none.
    pub async fn seat(&self, player: &PlayerId) -> Result<Option<Seat>, TableError> {
        Ok(self.get(keys::seat(player)).await?.as_ref().map(from_item).transpose()?)
    }

    /// Performs one conditional write on a player's seat.
    pub fn write_seat(
        &self,
        player: &PlayerId,
        write: &SeatWrite,
    ) -> impl Future<Output = Result<Answer<Seat>, TableError>> {
        self.write(keys::seat(player), expression(write), from_item)
    }
}
