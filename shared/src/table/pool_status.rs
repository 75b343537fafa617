//! Pool status items: conversion, expressions for writes, and table calls. Matches `domain::pool_status`.

use std::future::Future;

use super::{
    Malformed, Table, TableError,
    attributes::{n, opt_number, time},
    expression::Expression,
    keys::{self, Attributes},
};
use crate::domain::{Answer, PoolName, PoolStatus, PoolStatusWrite};

/// Condition: launching is paused neither after failures nor by an operator.
const NOT_PAUSED: &str = "(attribute_not_exists(#backoffUntil) OR #backoffUntil <= :now) \
                          AND (attribute_not_exists(#pausedUntil) OR #pausedUntil <= :now)";
/// Condition: neither this operator command nor a later one was applied.
pub(super) const NOT_SUPERSEDED: &str = "(attribute_not_exists(#requestedAt) OR #requestedAt < :at)";

/// Reads a pool's status from its item.
pub fn from_item(item: &Attributes) -> Result<PoolStatus, Malformed> {
    Ok(PoolStatus {
        live: opt_number(item, keys::LIVE)?.unwrap_or(0),
        changes: opt_number(item, keys::CHANGES)?.unwrap_or(0),
        failures: opt_number(item, keys::FAILURES)?.unwrap_or(0),
        backoff_until: time(item, keys::BACKOFF_UNTIL)?,
        paused_until: time(item, keys::PAUSED_UNTIL)?,
        requested_at: time(item, keys::REQUESTED_AT)?,
    })
}

/// Converts a pool's status to its item.
pub fn to_item(pool: &PoolName, status: &PoolStatus) -> Attributes {
    let mut item = keys::pool_status(pool);
    item.insert(keys::LIVE.into(), n(status.live));
    if status.changes > 0 {
        item.insert(keys::CHANGES.into(), n(status.changes));
    }
    if status.failures > 0 {
        item.insert(keys::FAILURES.into(), n(status.failures));
    }
    if let Some(until) = status.backoff_until {
        item.insert(keys::BACKOFF_UNTIL.into(), n(until.0));
    }
    if let Some(until) = status.paused_until {
        item.insert(keys::PAUSED_UNTIL.into(), n(until.0));
    }
    if let Some(at) = status.requested_at {
        item.insert(keys::REQUESTED_AT.into(), n(at.0));
    }
    item
}

/// Renders a write on a pool's status as an expression.
pub fn expression(write: &PoolStatusWrite) -> Expression {
    match write {
        PoolStatusWrite::Started { max_servers, now } => Expression::new(
            "ADD #live :one, #changes :one",
            format!("(attribute_not_exists(#live) OR #live < :max) AND {NOT_PAUSED}"),
            [(":one", n(1)), (":max", n(*max_servers)), (":now", n(now.0))],
        ),
        PoolStatusWrite::StartedAhead { changes, max_servers, now } => {
            let room = "(attribute_not_exists(#live) OR #live < :max)";
            let values = [(":one", n(1)), (":max", n(*max_servers)), (":now", n(now.0))];
            let update = "ADD #live :one, #changes :one";
            match changes {
                // `to_item` writes no `changes` while it is 0, and a pool without a server has no item at all.
                0 => {
                    let condition = format!("attribute_not_exists(#changes) AND {room} AND {NOT_PAUSED}");
                    Expression::new(update, condition, values)
                }
                seen => Expression::new(update, format!("#changes = :changes AND {room} AND {NOT_PAUSED}"), values)
                    .with(":changes", n(*seen)),
            }
        }
        // An item without `changes` has counted none.
        PoolStatusWrite::Recount { changes: 0, live } => Expression::new(
            "SET #live = :live",
            "attribute_exists(#live) AND attribute_not_exists(#changes)",
            [(":live", n(*live))],
        ),
        PoolStatusWrite::Recount { changes, live } => Expression::new(
            "SET #live = :live",
            "#changes = :changes",
            [(":live", n(*live)), (":changes", n(*changes))],
        ),
        PoolStatusWrite::Ended => {
            Expression::new("SET #live = #live - :one ADD #changes :one", "#live >= :one", [(":one", n(1))])
        }
        PoolStatusWrite::Failed { was, backoff_until } => {
            let same = if *was == 0 { "attribute_not_exists(#failures)" } else { "#failures = :was" };
            let mut expression = Expression::new(
                "ADD #changes :one SET #live = #live - :one, #failures = :failures",
                format!("#live >= :one AND {same}"),
                [(":one", n(1)), (":failures", n(was.saturating_add(1)))],
            );
            if *was > 0 {
                expression = expression.with(":was", n(*was));
            }
            match backoff_until {
                None => expression,
                Some(until) => {
                    let update = format!("{}, #backoffUntil = :backoffUntil", expression.update);
                    Expression { update: update.into(), ..expression }.with(":backoffUntil", n(until.0))
                }
            }
        }
        PoolStatusWrite::Recovered => {
            Expression::new("REMOVE #failures, #backoffUntil", "attribute_exists(#failures)", [])
        }
        PoolStatusWrite::Pause { at, until } => Expression::new(
            "SET #pausedUntil = :until, #requestedAt = :at, #live = if_not_exists(#live, :zero)",
            NOT_SUPERSEDED,
            [(":until", n(until.0)), (":at", n(at.0)), (":zero", n(0))],
        ),
        PoolStatusWrite::Resume { at } => Expression::new(
            "SET #requestedAt = :at, #live = if_not_exists(#live, :zero) REMOVE #pausedUntil, #failures, #backoffUntil",
            NOT_SUPERSEDED,
            [(":at", n(at.0)), (":zero", n(0))],
        ),
    }
}

impl Table {
    /// Reads a pool's status consistently; the default status if there is no item.
    pub async fn pool_status(&self, pool: &PoolName) -> Result<PoolStatus, TableError> {
        let status = self.get(keys::pool_status(pool)).await?.as_ref().map(from_item).transpose()?;
        Ok(status.unwrap_or_default())
    }

    /// Performs one conditional write on a pool's status.
    pub fn write_pool_status(
        &self,
        pool: &PoolName,
        write: &PoolStatusWrite,
    ) -> impl Future<Output = Result<Answer<PoolStatus>, TableError>> {
        self.write(keys::pool_status(pool), expression(write), from_item)
    }
}
