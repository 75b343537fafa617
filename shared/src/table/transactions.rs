//! Transactions that count a server in or out, together with its ledger, frontier and roster entry.
//!
//! Transactions write only frontiers, pool statuses, roster entries and **new** ledgers. A transaction on an existing
//! ledger would make concurrent claims on that ledger fail.

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

/// Cancellation code of a transaction's write whose condition failed.
const CONDITION_FAILED: &str = "ConditionalCheckFailed";

/// The result of a transaction that advances a frontier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// The frontier fills the new server.
    Yes,
    /// Another caller has moved the frontier, or is moving it.
    Raced,
    /// No server may be started, for this reason.
    No(NoLaunch),
}

impl Table {
    /// Creates a server ahead of demand in one transaction: its ledger, its roster entry, and its place in the pool's
    /// count.
    ///
    /// False if the pool's status has changed since `seen`, no server may be started, or another transaction
    /// interfered. So of two callers that see too little room only one starts a server.
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

    /// Advances a frontier to a new server in one transaction, with its ledger, its roster entry and the pool's count.
    ///
    /// A transaction is safe here because it rarely conflicts with other writes: the ledger is new, the frontier is
    /// used up, and the pool's status changes only when a server is started or stopped.
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

    /// Removes a stopped server from its pool's count and roster: exactly once, however often the call is repeated.
    ///
    /// False if another transaction interfered or the status write was refused; the caller should then try again.
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
            // No roster entry: the server was counted out before. In other cases the caller tries again.
            Err(reasons) => reasons.first().is_some_and(|reason| reason.code() == Some(CONDITION_FAILED)),
        })
    }

    /// Renders the creation of an item as a part of a transaction.
    fn new_item(&self, item: Attributes) -> Result<TransactWriteItem, TableError> {
        let put = Put::builder().table_name(&self.name).set_item(Some(item)).condition_expression(IS_NEW).build();
        let put = put.map_err(|error| TableError::Broken(error.to_string()))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// Renders a conditional update as a part of a transaction.
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

    /// Performs all writes or none. `Err` has one cancellation reason per write.
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
