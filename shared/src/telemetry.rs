//! What a function says about itself: log records as JSON, and what it asked of the table.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_sdk_dynamodb::{
    operation::{
        get_item::GetItemOutput, query::QueryOutput, transact_write_items::TransactWriteItemsOutput,
        update_item::UpdateItemOutput,
    },
    types::ConsumedCapacity,
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, Output},
            dyn_dispatch_hint,
        },
        orchestrator::Metadata,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;

/// What a client has sent, and what it was charged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Requests, repeated ones included, by operation.
    pub requests: BTreeMap<String, u64>,
    /// Capacity units of the answers that came: read units of reads, write units of writes. A write that its condition
    /// refuses is charged too, but its answer does not say how much.
    pub units: BTreeMap<String, f64>,
}

impl Usage {
    /// All requests.
    pub fn total_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Counts what a DynamoDB client sends and is charged.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

impl Meter {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the last reset.
    pub fn read(&self) -> Usage {
        self.usage().clone()
    }

    /// Starts again at nothing.
    pub fn reset(&self) {
        *self.usage() = Usage::default();
    }
}

fn operation(config: &ConfigBag) -> String {
    config.load::<Metadata>().map_or("unknown", |metadata| metadata.name()).to_owned()
}

/// What an answer says it was charged.
fn units(output: &Output) -> Option<f64> {
    let one = |capacity: Option<&ConsumedCapacity>| capacity.and_then(ConsumedCapacity::capacity_units);
    if let Some(output) = output.downcast_ref::<UpdateItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<GetItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<QueryOutput>() {
        return one(output.consumed_capacity());
    }
    let output = output.downcast_ref::<TransactWriteItemsOutput>()?;
    Some(output.consumed_capacity().iter().filter_map(ConsumedCapacity::capacity_units).sum())
}

#[dyn_dispatch_hint]
impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.usage().requests.entry(operation(config)).or_default() += 1;
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(units) = context.output_or_error().ok().and_then(units) {
            *self.usage().units.entry(operation(config)).or_default() += units;
        }
        Ok(())
    }
}

/// Log records as JSON on stdout, which Lambda sends to CloudWatch. `OWMM_LOG` sets the level (default `info`).
pub fn log_as_json() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OWMM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call finds a subscriber and leaves it.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        .try_init();
}
