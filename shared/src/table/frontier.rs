//! Frontier items: conversion, expressions for writes, and table calls. Matches `domain::frontier`.

use std::{collections::BTreeSet, future::Future};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    Malformed, Table, TableError,
    attributes::{n, number, s, servers, text},
    expression::Expression,
    keys::{self, Attributes},
};
use crate::domain::{
    Answer, Frontier, FrontierWrite, MAX_FREED, PoolName, ServerId,
    bug::{self, Bug},
};

/// Reads a frontier from its item.
pub fn from_item(item: &Attributes) -> Result<Frontier, Malformed> {
    Ok(Frontier {
        server: ServerId::parse(text(item, keys::SERVER)?).map_err(|_| Malformed(keys::SERVER))?,
        remaining: number(item, keys::REMAINING)?,
        freed: match item.get(keys::FREED) {
            None => BTreeSet::new(),
            Some(AttributeValue::Ss(ids)) => {
                let ids = ids.iter().map(|id| ServerId::parse(id).map_err(|_| Malformed(keys::FREED)));
                ids.collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Malformed(keys::FREED)),
        },
    })
}

/// Converts a frontier to its item.
pub fn to_item(pool: &PoolName, k: u32, frontier: &Frontier) -> Attributes {
    let mut item = keys::frontier(pool, k);
    item.insert(keys::SERVER.into(), s(frontier.server.as_str()));
    item.insert(keys::REMAINING.into(), n(frontier.remaining));
    if !frontier.freed.is_empty() {
        item.insert(keys::FREED.into(), servers(&frontier.freed));
    }
    item
}

/// Renders a write on a frontier as an expression.
pub fn expression(write: &FrontierWrite) -> Expression {
    match write {
        FrontierWrite::Take { slots } => {
            // With the injected bug the condition never holds, so every join without a ready server starts one.
            let enough = if bug::injected(Bug::LaunchOnEmptyIndex) {
                "#remaining >= :slots AND #remaining < :slots"
            } else {
                "#remaining >= :slots"
            };
            Expression::new("SET #remaining = #remaining - :slots", enough, [(":slots", n(*slots))])
        }
        FrontierWrite::GiveBack { server, seen, slots } => Expression::new(
            "SET #remaining = :remaining",
            "#server = :server AND #remaining = :seen",
            [(":server", s(server.as_str())), (":seen", n(*seen)), (":remaining", n(seen.saturating_add(*slots)))],
        ),
        FrontierWrite::Advance { from, to, remaining } => {
            let update = "SET #server = :to, #remaining = :remaining";
            let values = [(":to", s(to.as_str())), (":remaining", n(*remaining))];
            match from {
                None => Expression::new(update, "attribute_not_exists(#server)", values),
                Some(from) => Expression::new(update, "#server = :from AND #remaining = :left", values)
                    .with(":from", s(from.server.as_str()))
                    .with(":left", n(from.remaining)),
            }
        }
        FrontierWrite::UsedUp { server } => Expression::new(
            "SET #remaining = :zero",
            "#server = :server",
            [(":zero", n(0)), (":server", s(server.as_str()))],
        ),
        FrontierWrite::AddFreed { server } => Expression::new(
            "ADD #freed :servers",
            "attribute_exists(#server) AND (attribute_not_exists(#freed) OR size(#freed) < :most)",
            [(":servers", servers([server])), (":most", n(MAX_FREED as i64))],
        ),
        FrontierWrite::RemoveFreed { server } => Expression::new(
            "DELETE #freed :servers",
            "contains(#freed, :server)",
            [(":servers", servers([server])), (":server", s(server.as_str()))],
        ),
        FrontierWrite::Return { from, to, remaining } => Expression::new(
            "SET #server = :to, #remaining = :remaining DELETE #freed :servers",
            "#server = :from AND #remaining = :left AND contains(#freed, :to)",
            [
                (":to", s(to.as_str())),
                (":remaining", n(*remaining)),
                (":servers", servers([to])),
                (":from", s(from.server.as_str())),
                (":left", n(from.remaining)),
            ],
        ),
    }
}

impl Table {
    /// Reads a pool's `k`-th frontier consistently, from 0; `None` if it has never filled a server.
    pub async fn frontier(&self, pool: &PoolName, k: u32) -> Result<Option<Frontier>, TableError> {
        Ok(self.get(keys::frontier(pool, k)).await?.as_ref().map(from_item).transpose()?)
    }

    /// Performs one conditional write on a pool's `k`-th frontier.
    pub fn write_frontier(
        &self,
        pool: &PoolName,
        k: u32,
        write: &FrontierWrite,
    ) -> impl Future<Output = Result<Answer<Frontier>, TableError>> {
        self.write(keys::frontier(pool, k), expression(write), from_item)
    }
}
