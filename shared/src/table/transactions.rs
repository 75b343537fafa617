//! Transactions: a server is counted in or out together with its ledger, its frontier and its roster entry.
//!
//! Transactions touch frontiers, pool statuses, roster entries and **new** ledgers only. One on an existing ledger would make
//! plain claims on it fail.

use aws_sdk_dynamodb::{
    operation::transact_write_items::TransactWriteItemsError,
    types::{
        CancellationReason, Delete, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
        TransactWriteItem, Update,
    },
};

use super::{
    Table, TableError,
    expression::{Expression, IS_NEW, IS_THERE},
    frontier,
    keys::{self, Attributes},
    ledger, pool_status, values,
};
use crate::domain::{Frontier, FrontierWrite, Ledger, NoLaunch, PoolName, PoolStatus, PoolStatusWrite, ServerId, Time};

/// The code of a cancellation reason whose condition failed.
const CONDITION_FAILED: &str = "ConditionalCheckFailed";

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

impl Table {
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
            self.part(keys::pool_status(&ledger.pool), &pool_status::expression(&started))?,
            self.new_item(ledger::to_item(ledger))?,
            self.new_item(keys::roster(&ledger.pool, &ledger.id))?,
        ];
        Ok(self.transact(writes).await?.is_ok())
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
        let started = pool_status::expression(&PoolStatusWrite::Started { max_servers, now });
        let writes = vec![
            self.part(keys::frontier(&ledger.pool, k), &frontier::expression(&advance))?,
            self.part(keys::pool_status(&ledger.pool), &started)?,
            self.new_item(ledger::to_item(ledger))?,
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
                let status = status.item().map(pool_status::from_item).transpose()?.unwrap_or_default();
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
            self.part(keys::pool_status(pool), &pool_status::expression(status))?,
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
