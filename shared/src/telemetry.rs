//! What a function says about itself: log records as JSON, one record of metrics a call, and what it asked of the table.
//!
//! No secret gets out this way, however much is asked for: see [`log_as_json`] and [`crate::sdk_error`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aws_sdk_dynamodb::{
    operation::{
        batch_get_item::BatchGetItemOutput, get_item::GetItemOutput, put_item::PutItemOutput, query::QueryOutput,
        transact_write_items::TransactWriteItemsOutput, update_item::UpdateItemOutput,
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
use tracing_subscriber::{EnvFilter, Layer, filter::FilterFn, fmt::MakeWriter, layer::SubscriberExt};

use crate::{
    Failure, Reconciled,
    clock::Clock,
    http::{Body, Code, Response},
    metrics::{self, Outcome, Record},
};

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

    /// Write units, of all operations that write.
    pub fn write_units(&self) -> f64 {
        let writes = ["UpdateItem", "PutItem", "TransactWriteItems"];
        // The sum of no floats is -0.
        writes.iter().filter_map(|operation| self.units.get(*operation)).fold(0.0, |sum, units| sum + units)
    }

    /// Read units, of all operations that read.
    pub fn read_units(&self) -> f64 {
        self.units.values().fold(0.0, |sum, units| sum + units) - self.write_units()
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
    if let Some(output) = output.downcast_ref::<PutItemOutput>() {
        return one(output.consumed_capacity());
    }
    let tables = if let Some(output) = output.downcast_ref::<BatchGetItemOutput>() {
        output.consumed_capacity()
    } else {
        output.downcast_ref::<TransactWriteItemsOutput>()?.consumed_capacity()
    };
    Some(tables.iter().filter_map(ConsumedCapacity::capacity_units).sum())
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

/// Tells of each call of one function, as a record of metrics.
#[derive(Clone, Debug)]
pub struct Calls {
    function: String,
    meter: Meter,
    clock: Clock,
}

impl Calls {
    /// Of the function of that name, whose client this meter counts. Right as long as there is one call at a time, as there
    /// is in a Lambda function.
    pub fn new(function: impl Into<String>, meter: Meter, clock: Clock) -> Self {
        Self { function: function.into(), meter, clock }
    }

    /// A call, and its record on stdout.
    pub async fn told<T: Tells>(&self, call: impl Future<Output = T>) -> T {
        let (outcome, line) = self.measured(call).await;
        // Where stdout is gone there is nobody to tell.
        let _ = writeln!(io::stdout().lock(), "{line}");
        outcome
    }

    /// A call, and its record as one line.
    pub async fn measured<T: Tells>(&self, call: impl Future<Output = T>) -> (T, String) {
        let begun = Instant::now();
        self.meter.reset();
        // On the heap: a function's whole call would make the runtime's own future as large, and too deep for the compiler.
        let outcome = Box::pin(call).await;
        let usage = self.meter.read();
        let record = outcome
            .record()
            .with(metrics::DURATION, begun.elapsed().as_secs_f64() * 1_000.0)
            .with(metrics::REQUESTS, usage.total_requests() as f64)
            .with(metrics::WRITE_UNITS, usage.write_units());
        (outcome, record.line(&self.function, self.clock.now()).to_string())
    }
}

/// How a call ended, in numbers.
pub trait Tells {
    /// Its record, but for what every call has.
    fn record(&self) -> Record;
}

impl Tells for Result<Response<Body>, Infallible> {
    fn record(&self) -> Record {
        match self.as_ref().map(|response| response.extensions().get::<Code>()) {
            Ok(None) => Record::new(Outcome::Ok),
            Ok(Some(code)) => {
                let outcome = match code {
                    Code::Busy => Outcome::Busy,
                    Code::Internal => Outcome::Failed,
                    _ => Outcome::Refused,
                };
                Record::new(outcome).about(metrics::CODE, code.as_str())
            }
            Err(never) => match *never {},
        }
    }
}

impl Tells for Result<(), Failure> {
    fn record(&self) -> Record {
        Record::new(match self {
            Ok(()) => Outcome::Ok,
            Err(failure) => failure.outcome(),
        })
    }
}

impl Tells for Result<Reconciled, Failure> {
    fn record(&self) -> Record {
        match self {
            Ok(report) => report.record(),
            Err(failure) => Record::new(failure.outcome()),
        }
    }
}

/// Crates whose records may be as detailed as is asked for. What others say when asked for much (the SDK and its HTTP
/// client each request and answer, the runtime each event) has tokens, tickets and tasks' environments in it, so theirs
/// end at `info`.
const OURS: [&str; 5] = ["shared", "functions", "local", "ecs", "demo"];

fn is_harmless(record: &tracing::Metadata<'_>) -> bool {
    let from = record.target().split("::").next().unwrap_or_default();
    *record.level() <= tracing::Level::INFO || OURS.contains(&from)
}

/// Records of that level as JSON, and no secret in them.
pub fn json_log<W>(level: &str, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let wished = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer);
    tracing_subscriber::registry().with(layer.with_filter(harmless())).with(wished)
}

/// The same for whoever builds a subscriber of their own: a filter that keeps secrets out of it.
pub fn harmless() -> FilterFn {
    FilterFn::new(is_harmless)
}

/// Log records as JSON on stdout, which Lambda sends to CloudWatch. `OWMM_LOG` sets the level (default `info`).
pub fn log_as_json() {
    let level = std::env::var("OWMM_LOG").unwrap_or_else(|_| "info".to_owned());
    // A second call finds a subscriber and leaves it.
    let _ = tracing::subscriber::set_global_default(json_log(&level, io::stdout));
}
