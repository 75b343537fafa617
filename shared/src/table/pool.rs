//! Pool items: conversion of a pool's configuration, and table calls. Matches `crate::pool`.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;

use super::{
    Malformed, Table, TableError,
    attributes::{n, number, opt_number, read_texts, s, text, texts},
    expression::IS_NEW,
    keys::{self, Attributes},
};
use crate::{
    domain::{PoolLimits, PoolName, Rollout, ServerId, Span},
    pool::Pool,
};

/// Condition for replacing a pool's configuration: the item still has the version that was read.
pub const IS_AS_SEEN: &str = "#version = :version";

/// Reads a pool's configuration from its item.
pub fn from_item(item: &Attributes) -> Result<Pool, Malformed> {
    let concurrent_launches = number(item, keys::CONCURRENT_LAUNCHES)?;
    Ok(Pool {
        name: PoolName::parse(text(item, keys::SK)?).map_err(|_| Malformed(keys::SK))?,
        limits: PoolLimits {
            capacity: number(item, keys::CAPACITY)?,
            max_servers: number(item, keys::MAX_SERVERS)?,
            concurrent_launches,
            headroom: number(item, keys::HEADROOM)?,
            idle: Span(number(item, keys::IDLE_MS)?),
            reservation: Span(number(item, keys::RESERVATION_MS)?),
            launch: Span(number(item, keys::LAUNCH_MS)?),
            lease: Span(number(item, keys::LEASE_MS)?),
        },
        rollout: Rollout::parse(text(item, keys::ROLLOUT)?).ok_or(Malformed(keys::ROLLOUT))?,
        version: opt_number(item, keys::VERSION)?.unwrap_or(0),
        build: number(item, keys::BUILD)?,
        shards: opt_number(item, keys::SHARDS)?.unwrap_or(concurrent_launches),
        previous_clusters: read_texts(item, keys::PREVIOUS_CLUSTERS)?,
        task: serde_json::from_str(text(item, keys::SPEC)?).map_err(|_| Malformed(keys::SPEC))?,
    })
}

/// Converts a pool's configuration to its item.
pub fn to_item(pool: &Pool) -> Result<Attributes, serde_json::Error> {
    let mut item = keys::pool(&pool.name);
    let limits = &pool.limits;
    item.extend(
        [
            (keys::CAPACITY, n(limits.capacity)),
            (keys::MAX_SERVERS, n(limits.max_servers)),
            (keys::CONCURRENT_LAUNCHES, n(limits.concurrent_launches)),
            (keys::SHARDS, n(pool.shards)),
            (keys::HEADROOM, n(limits.headroom)),
            (keys::IDLE_MS, n(limits.idle.0)),
            (keys::RESERVATION_MS, n(limits.reservation.0)),
            (keys::LAUNCH_MS, n(limits.launch.0)),
            (keys::LEASE_MS, n(limits.lease.0)),
            (keys::ROLLOUT, s(pool.rollout.as_str())),
            (keys::VERSION, n(pool.version)),
            (keys::BUILD, n(pool.build)),
            (keys::PREVIOUS_CLUSTERS, texts(&pool.previous_clusters)),
            (keys::SPEC, s(serde_json::to_string(&pool.task)?)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    Ok(item)
}

impl Table {
    /// Reads a pool's configuration consistently.
    pub async fn pool(&self, pool: &PoolName) -> Result<Option<Pool>, TableError> {
        Ok(self.get(keys::pool(pool)).await?.as_ref().map(from_item).transpose()?)
    }

    /// Reads the configurations of all pools. Fails if one of the items is malformed.
    pub async fn pools(&self) -> Result<Vec<Pool>, TableError> {
        Ok(self.pools_that_read().await?.into_iter().collect::<Result<_, _>>()?)
    }

    /// Reads the configurations of all pools, each as a result of its own, so that a malformed item hides no other
    /// pool.
    pub async fn pools_that_read(&self) -> Result<Vec<Result<Pool, Malformed>>, TableError> {
        let mut pools = Vec::new();
        let mut from = None;
        loop {
            let (items, next) = self.page(keys::POOLS.to_owned(), None, from).await?;
            for item in &items {
                pools.push(from_item(item));
            }
            match next {
                Some(next) => from = Some(next),
                None => return Ok(pools),
            }
        }
    }

    /// Replaces a pool's configuration `old`, or creates it. False if the item has changed since `old` was read.
    pub async fn put_pool(&self, pool: &Pool, old: Option<&Pool>) -> Result<bool, TableError> {
        let item = to_item(pool).map_err(|error| TableError::Broken(error.to_string()))?;
        let put = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let put = put.return_consumed_capacity(ReturnConsumedCapacity::Total);
        let put = match old {
            None => put.condition_expression(IS_NEW),
            Some(old) => put
                .condition_expression(IS_AS_SEEN)
                .expression_attribute_names("#version", keys::VERSION)
                .expression_attribute_values(":version", n(old.version)),
        };
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|it| it.is_conditional_check_failed_exception()) => {
                Ok(false)
            }
            Err(error) => Err(TableError::of(error)),
        }
    }

    /// Reads a page of a pool's roster consistently: the servers that the pool's count includes, and the start of the
    /// next page.
    pub async fn roster(
        &self,
        pool: &PoolName,
        from: Option<Attributes>,
    ) -> Result<(Vec<ServerId>, Option<Attributes>), TableError> {
        let (items, next) = self.page(keys::of_pool(pool), Some(keys::ROSTER), from).await?;
        let id =
            |item: &Attributes| item.get(keys::SK).and_then(|sk| sk.as_s().ok()).and_then(|sk| keys::server_of(sk));
        let ids = items.iter().map(|item| id(item).ok_or(Malformed(keys::SK)));
        Ok((ids.collect::<Result<_, _>>()?, next))
    }
}
