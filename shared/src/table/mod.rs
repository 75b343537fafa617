//! The DynamoDB table: the only module that calls DynamoDB.
//!
//! Owns keys, items, expressions and the meaning of SDK errors. A failed condition is an answer ([`Answer::Refused`]),
//! never an error; the answer contains the current item at no extra charge. An error is either [`TableError::Busy`]
//! (throttled, or the outcome is unknown; every write may be repeated safely) or [`TableError::Broken`].
//!
//! Each kind of item has a file ([`ledger`], [`seat`], [`frontier`], [`pool_status`], [`pool`]) that corresponds to the
//! file of the same name in `domain`, or to `crate::pool`. In it, `from_item` and `to_item` convert the item, and
//! `expression` renders a write.

mod attributes;
mod expression;
pub mod frontier;
pub mod keys;
pub mod ledger;
pub mod pool;
pub mod pool_status;
mod schema;
pub mod seat;
mod transactions;

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnConsumedCapacity, ReturnValue, ReturnValuesOnConditionCheckFailure},
};

pub use attributes::Malformed;
pub use expression::Expression;
pub use schema::create_table;
pub use transactions::Advanced;

use crate::{domain::Answer, sdk_error::causes};
use keys::Attributes;

/// Retries of a write that DynamoDB refused because of a transaction on the same item.
const CONFLICT_RETRIES: u32 = 3;

/// Why a call to the table failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Throttled, timed out or disconnected: the outcome is unknown, and the same call may be repeated.
    #[error("the table is busy, repeat the call: {0}")]
    Busy(String),
    /// The call or the item is invalid, so repeating the call does not help.
    #[error("the table refused the call, or an item is malformed: {0}")]
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
        let refused = match &error {
            SdkError::ServiceError(service) => {
                service.raw().status().is_client_error() && !is_transient(service.err().code())
            }
            SdkError::ConstructionFailure(_) => true,
            _ => false,
        };
        let text = causes(&error);
        if refused { Self::Broken(text) } else { Self::Busy(text) }
    }
}

/// Whether a client error of DynamoDB is transient ("Error handling with DynamoDB" in the developer guide).
fn is_transient(code: Option<&str>) -> bool {
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

/// A DynamoDB table and the client that calls it.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
}

impl Table {
    /// Uses a table through a client. The table is not checked.
    pub const fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads an item consistently; `None` if it does not exist.
    async fn get(&self, key: Attributes) -> Result<Option<Attributes>, TableError> {
        let get = self.client.get_item().table_name(&self.name).set_key(Some(key)).consistent_read(true);
        let get = get.return_consumed_capacity(ReturnConsumedCapacity::Total);
        Ok(get.send().await.map_err(TableError::of)?.item)
    }

    /// Reads one page of a partition consistently, with the key at which the next page starts.
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

    /// Performs one conditional update. Returns the new item, or the current one if the condition failed.
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

    /// Performs one conditional update, and converts the item that it returns.
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
}

/// An expression's placeholder values; `None` if there are none, because DynamoDB refuses an empty map.
fn values(expression: &Expression) -> Option<Attributes> {
    (!expression.values.is_empty()).then(|| expression.values.clone())
}
