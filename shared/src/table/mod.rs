//! The table: the only module that speaks DynamoDB.
//!
//! Owns keys, items, expressions and what an SDK error means. A refused condition is an answer
//! ([`Answer::Refused`]), never an error; it brings the item as it is, free of charge. An error is either [`TableError::Busy`]
//! (throttled, or the outcome is unknown: ask again, every write is safe when repeated) or [`TableError::Broken`].

pub mod expressions;
pub mod items;
pub mod keys;
mod schema;

use std::{future::Future, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{transact_write_items::TransactWriteItemsError, update_item::UpdateItemError},
    types::{
        AttributeValue, CancellationReason, Delete, KeysAndAttributes, Put, ReturnConsumedCapacity, ReturnValue,
        ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
    },
};

use expressions::{Expression, IS_AS_SEEN, IS_NEW, IS_THERE};
pub use items::Malformed;
pub use schema::create_table;

use crate::domain::{
    Answer, Frontier, FrontierWrite, Ledger, LedgerWrite, NoLaunch, PlayerId, PoolName, PoolStatus, PoolStatusWrite,
    Rank, Seat, SeatWrite, ServerId, Time,
};
use crate::pool::Pool;
use crate::telemetry::causes;
use keys::Attributes;

/// Servers that one query of the index brings at the most.
const LISTED_AT_MOST: i32 = 200;
/// Keys of one BatchGetItem at the most ("BatchGetItem" in the API reference).
const BATCH_AT_MOST: usize = 100;
/// How often what a BatchGetItem left out is asked for again.
const BATCH_TRIES: u32 = 6;
/// How often a write is repeated that met a transaction on its item.
const CONFLICT_RETRIES: u32 = 3;

/// Why the table gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Throttled, timed out or cut off: the outcome is unknown, and the same call may be made again.
    #[error("the table is busy: {0}")]
    Busy(String),
    /// The call or the item is wrong; asking again will not help.
    #[error("the table refuses: {0}")]
    Broken(String),
}

impl From<Malformed> for TableError {
    fn from(malformed: Malformed) -> Self {
        Self::Broken(malformed.to_string())
    }
}

impl TableError {
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
    fn of<E>(error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let said_no = match &error {
            SdkError::ServiceError(service) => {
                service.raw().status().is_client_error() && !is_passing(service.err().code())
            }
            SdkError::ConstructionFailure(_) => true,
            _ => false,
        };
        let text = causes(&error);
        if said_no { Self::Broken(text) } else { Self::Busy(text) }
    }
}

/// Client errors of DynamoDB that pass ("Error handling with DynamoDB" in the developer guide).
fn is_passing(code: Option<&str>) -> bool {
    matches!(
        code,
        Some(
            "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "ThrottlingException"
                | "TransactionConflictException"
                | "TransactionInProgressException"
                | "ReplicatedWriteConflictException"
        )
    )
}

/// What a transaction that starts a server came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// The frontier names the new server.
    Yes,
    /// Somebody else moved the frontier, or is about to.
    Raced,
    /// No server may be started.
    No(NoLaunch),
}

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
}

impl Table {
    /// The table of that name, behind that client.
    pub const fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, key: Attributes) -> Result<Option<Attributes>, TableError> {
        let get = self.client.get_item().table_name(&self.name).set_key(Some(key)).consistent_read(true);
        let get = get.return_consumed_capacity(ReturnConsumedCapacity::Total);
        Ok(get.send().await.map_err(TableError::of)?.item)
    }

    /// Reads a server's ledger, consistently.
    ///
    /// # Errors
    /// The table gave no answer, or the item is malformed; likewise below.
    pub async fn ledger(&self, server: &ServerId) -> Result<Option<Ledger>, TableError> {
        Ok(self.get(keys::ledger(server)).await?.as_ref().map(items::read_ledger).transpose()?)
    }

    /// Reads a player's seat, consistently.
    pub async fn seat(&self, player: &PlayerId) -> Result<Option<Seat>, TableError> {
        Ok(self.get(keys::seat(player)).await?.as_ref().map(items::read_seat).transpose()?)
    }

    /// Reads a pool's configuration.
    pub async fn pool(&self, pool: &PoolName) -> Result<Option<Pool>, TableError> {
        Ok(self.get(keys::pool(pool)).await?.as_ref().map(items::read_pool).transpose()?)
    }

    /// Reads a pool's `k`-th frontier.
    pub async fn frontier(&self, pool: &PoolName, k: u32) -> Result<Option<Frontier>, TableError> {
        Ok(self.get(keys::frontier(pool, k)).await?.as_ref().map(items::read_frontier).transpose()?)
    }

    /// Reads a pool's status.
    pub async fn pool_status(&self, pool: &PoolName) -> Result<PoolStatus, TableError> {
        let status = self.get(keys::pool_status(pool)).await?.as_ref().map(items::read_pool_status).transpose()?;
        Ok(status.unwrap_or_default())
    }

    /// Every pool that operators have configured.
    pub async fn pools(&self) -> Result<Vec<Pool>, TableError> {
        Ok(self.pools_that_read().await?.into_iter().collect::<Result<_, _>>()?)
    }

    /// The same, for whoever can go on with those whose items read.
    pub async fn pools_that_read(&self) -> Result<Vec<Result<Pool, Malformed>>, TableError> {
        let mut pools = Vec::new();
        let mut from = None;
        loop {
            let (items, next) = self.page(keys::POOLS.to_owned(), None, from).await?;
            for item in &items {
                pools.push(items::read_pool(item));
            }
            match next {
                Some(next) => from = Some(next),
                None => return Ok(pools),
            }
        }
    }

    /// A page of a pool's roster: servers that the fleet's count includes. Consistent.
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

    async fn page(
        &self,
        pk: String,
        sk_begins: Option<&str>,
        from: Option<Attributes>,
    ) -> Result<(Vec<Attributes>, Option<Attributes>), TableError> {
        let mut query = self
            .client
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .set_exclusive_start_key(from)
            .expression_attribute_values(":pk", AttributeValue::S(pk));
        query = match sk_begins {
            None => query.key_condition_expression("pk = :pk"),
            Some(prefix) => query
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned())),
        };
        let query = query.return_consumed_capacity(ReturnConsumedCapacity::Total);
        let page = query.send().await.map_err(TableError::of)?;
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
    }

    /// The ledgers of these servers, as far as they are there. Not consistent: what follows is decided by conditional
    /// writes, and half the price.
    pub async fn ledgers(&self, servers: &[ServerId]) -> Result<Vec<Ledger>, TableError> {
        let mut ledgers = Vec::with_capacity(servers.len());
        for some in servers.chunks(BATCH_AT_MOST) {
            let mut wanted = some.iter().map(keys::ledger).collect::<Vec<_>>();
            for pause in 0..BATCH_TRIES {
                tokio::time::sleep(Duration::from_millis(50) * pause).await;
                let keys = KeysAndAttributes::builder().set_keys(Some(std::mem::take(&mut wanted))).build();
                let keys = keys.map_err(|error| TableError::Broken(error.to_string()))?;
                let batch = self.client.batch_get_item().request_items(&self.name, keys);
                let page = batch.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await;
                let page = page.map_err(TableError::of)?;
                for item in page.responses().and_then(|tables| tables.get(&self.name)).into_iter().flatten() {
                    ledgers.push(items::read_ledger(item)?);
                }
                let left = page.unprocessed_keys.and_then(|mut tables| tables.remove(&self.name));
                wanted = left.map(|left| left.keys).unwrap_or_default();
                if wanted.is_empty() {
                    break;
                }
            }
            if !wanted.is_empty() {
                return Err(TableError::Busy(format!("{} ledgers were not read", wanted.len())));
            }
        }
        Ok(ledgers)
    }

    /// Starts a server that no frontier asked for, in one transaction: its ledger is there, the fleet counts it and lists
    /// it. Only if the fleet is as it was seen, so that of two who see too little room only one acts.
    pub async fn start_ahead(
        &self,
        ledger: &Ledger,
        seen: &PoolStatus,
        max: u32,
        now: Time,
    ) -> Result<bool, TableError> {
        let started = PoolStatusWrite::StartedAhead { changes: seen.changes, max_servers: max, now };
        let writes = vec![
            self.part(keys::pool_status(&ledger.pool), &expressions::pool_status(&started))?,
            self.new_item(items::write_ledger(ledger))?,
            self.new_item(keys::roster(&ledger.pool, &ledger.id))?,
        ];
        Ok(self.transact(writes).await?.is_ok())
    }

    /// Writes a pool's configuration in the place of `old`. False if that has been replaced.
    pub async fn put_pool(&self, pool: &Pool, old: Option<&Pool>) -> Result<bool, TableError> {
        let item = items::write_pool(pool).map_err(|error| TableError::Broken(error.to_string()))?;
        let put = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let put = put.return_consumed_capacity(ReturnConsumedCapacity::Total);
        let put = match old {
            None => put.condition_expression(IS_NEW),
            Some(old) => put
                .condition_expression(IS_AS_SEEN)
                .expression_attribute_names("#version", keys::VERSION)
                .expression_attribute_values(":version", items::n(old.version)),
        };
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|it| it.is_conditional_check_failed_exception()) => {
                Ok(false)
            }
            Err(error) => Err(TableError::of(error)),
        }
    }

    /// One conditional update; the item as it is afterwards, or as it is that the condition refused.
    async fn update(&self, key: Attributes, expression: &Expression) -> Result<Answer<Attributes>, TableError> {
        let mut conflicts = 0;
        loop {
            let mut update = self
                .client
                .update_item()
                .table_name(&self.name)
                .set_key(Some(key.clone()))
                .update_expression(expression.update.as_ref())
                .condition_expression(expression.condition.as_ref())
                .set_expression_attribute_values(values(expression))
                .return_values(ReturnValue::AllNew)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (placeholder, name) in expression.names() {
                update = update.expression_attribute_names(placeholder, name);
            }
            match update.send().await {
                Ok(output) => return Ok(Answer::Written(output.attributes.unwrap_or_default())),
                Err(error) => match error.as_service_error() {
                    Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                        return Ok(Answer::Refused(refused.item.clone()));
                    }
                    Some(UpdateItemError::TransactionConflictException(_)) if conflicts < CONFLICT_RETRIES => {
                        conflicts += 1;
                        tokio::time::sleep(Duration::from_millis(10 << conflicts)).await;
                    }
                    _ => return Err(TableError::of(error)),
                },
            }
        }
    }

    async fn write<T>(
        &self,
        key: Attributes,
        expression: Expression,
        read: impl Fn(&Attributes) -> Result<T, Malformed>,
    ) -> Result<Answer<T>, TableError> {
        Ok(match self.update(key, &expression).await? {
            Answer::Written(item) => Answer::Written(read(&item)?),
            Answer::Refused(item) => Answer::Refused(item.as_ref().map(read).transpose()?),
        })
    }

    /// One conditional write on a server's ledger.
    pub fn write_ledger(
        &self,
        server: &ServerId,
        write: &LedgerWrite,
    ) -> impl Future<Output = Result<Answer<Ledger>, TableError>> {
        self.write(keys::ledger(server), expressions::ledger(write), items::read_ledger)
    }

    /// One conditional write on a player's seat.
    pub fn write_seat(
        &self,
        player: &PlayerId,
        write: &SeatWrite,
    ) -> impl Future<Output = Result<Answer<Seat>, TableError>> {
        self.write(keys::seat(player), expressions::seat(write), items::read_seat)
    }

    /// One conditional write on a pool's `k`-th frontier.
    pub fn write_frontier(
        &self,
        pool: &PoolName,
        k: u32,
        write: &FrontierWrite,
    ) -> impl Future<Output = Result<Answer<Frontier>, TableError>> {
        self.write(keys::frontier(pool, k), expressions::frontier(write), items::read_frontier)
    }

    /// One conditional write on a pool's status.
    pub fn write_pool_status(
        &self,
        pool: &PoolName,
        write: &PoolStatusWrite,
    ) -> impl Future<Output = Result<Answer<PoolStatus>, TableError>> {
        self.write(keys::pool_status(pool), expressions::pool_status(write), items::read_pool_status)
    }

    /// Ready servers of a pool with room, as one shard of the index lists them, newest build and fullest first. The index
    /// lags.
    pub async fn listed(&self, pool: &PoolName, shard: u32) -> Result<Vec<(ServerId, Rank)>, TableError> {
        let query = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(keys::INDEX)
            .key_condition_expression("#open = :indexPart")
            .expression_attribute_names("#open", keys::LISTED)
            .expression_attribute_values(":indexPart", AttributeValue::S(keys::index_part(pool, shard)))
            .scan_index_forward(false)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .limit(LISTED_AT_MOST);
        let page = query.send().await.map_err(TableError::of)?;
        page.items().iter().map(|item| Ok(items::read_listed(item)?)).collect()
    }

    /// Starts a server in one transaction: the frontier names it, its ledger is there, the fleet counts it and lists it. The one
    /// place where a transaction is right, because no other write meets it there: the ledger is new, the frontier is
    /// used up, and the fleet changes only when servers come and go.
    pub async fn advance(
        &self,
        k: u32,
        from: Option<Frontier>,
        ledger: &Ledger,
        slots: u32,
        max_servers: u32,
        now: Time,
    ) -> Result<Advanced, TableError> {
        let to = ledger.id.clone();
        let advance = FrontierWrite::Advance { from, to, remaining: ledger.capacity.saturating_sub(slots) };
        let started = expressions::pool_status(&PoolStatusWrite::Started { max_servers, now });
        let writes = vec![
            self.part(keys::frontier(&ledger.pool, k), &expressions::frontier(&advance))?,
            self.part(keys::pool_status(&ledger.pool), &started)?,
            self.new_item(items::write_ledger(ledger))?,
            self.new_item(keys::roster(&ledger.pool, &ledger.id))?,
        ];
        match self.transact(writes).await? {
            Ok(()) => Ok(Advanced::Yes),
            Err(reasons) => {
                let refused = |i: usize| reasons.get(i).filter(|reason| reason.code() == Some(CONDITION_FAILED));
                if refused(0).is_some() {
                    return Ok(Advanced::Raced);
                }
                let Some(status) = refused(1) else { return Ok(Advanced::Raced) };
                let status = status.item().map(items::read_pool_status).transpose()?.unwrap_or_default();
                Ok(status.no_launch(max_servers, now).map_or(Advanced::Raced, Advanced::No))
            }
        }
    }

    /// Counts a stopped server out of its status, with its roster entry: exactly once, however often it is asked. False
    /// if somebody else's transaction was in the way.
    pub async fn count_out(
        &self,
        pool: &PoolName,
        server: &ServerId,
        status: &PoolStatusWrite,
    ) -> Result<bool, TableError> {
        let entry = Delete::builder()
            .table_name(&self.name)
            .set_key(Some(keys::roster(pool, server)))
            .condition_expression(IS_THERE)
            .build();
        let entry = entry.map_err(|error| TableError::Broken(error.to_string()))?;
        let writes = vec![
            TransactWriteItem::builder().delete(entry).build(),
            self.part(keys::pool_status(pool), &expressions::pool_status(status))?,
        ];
        Ok(match self.transact(writes).await? {
            Ok(()) => true,
            // Counted out already: done. Anything else is for the caller to repeat.
            Err(reasons) => reasons.first().is_some_and(|reason| reason.code() == Some(CONDITION_FAILED)),
        })
    }

    fn new_item(&self, item: Attributes) -> Result<TransactWriteItem, TableError> {
        let put = Put::builder().table_name(&self.name).set_item(Some(item)).condition_expression(IS_NEW).build();
        let put = put.map_err(|error| TableError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    fn part(&self, key: Attributes, expression: &Expression) -> Result<TransactWriteItem, TableError> {
        let mut update = Update::builder()
            .table_name(&self.name)
            .set_key(Some(key))
            .update_expression(expression.update.as_ref())
            .condition_expression(expression.condition.as_ref())
            .set_expression_attribute_values(values(expression))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        for (placeholder, name) in expression.names() {
            update = update.expression_attribute_names(placeholder, name);
        }
        let update = update.build().map_err(|error| TableError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// All of these writes or none; if none, why, write by write.
    async fn transact(
        &self,
        writes: Vec<TransactWriteItem>,
    ) -> Result<Result<(), Vec<CancellationReason>>, TableError> {
        let transact = self.client.transact_write_items().set_transact_items(Some(writes));
        let transact = transact.return_consumed_capacity(ReturnConsumedCapacity::Total);
        match transact.send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) => match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    Ok(Err(cancelled.cancellation_reasons().to_vec()))
                }
                _ => Err(TableError::of(error)),
            },
        }
    }
}

/// The code of a cancellation reason whose condition failed.
const CONDITION_FAILED: &str = "ConditionalCheckFailed";

fn values(expression: &Expression) -> Option<Attributes> {
    (!expression.values.is_empty()).then(|| expression.values.clone())
}
