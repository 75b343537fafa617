//! Logs as JSON, one record of metrics per call, and the count of a call's DynamoDB requests.
//!
//! Logs contain no secret at any log level: see [`harmless`] and `crate::sdk_error`.

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

/// Requests that a DynamoDB client has sent, and the capacity units that it was charged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Requests by operation, retries included.
    pub requests: BTreeMap<String, u64>,
    /// Capacity units by operation, as the responses report them: read units of reads, write units of writes. A write
    /// that its condition refuses is charged too, but its response does not report the units.
    pub units: BTreeMap<String, f64>,
}

impl Usage {
    /// Number of requests of all operations.
    pub fn total_requests(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Write units of all operations that write.
    pub fn write_units(&self) -> f64 {
        let writes = ["UpdateItem", "PutItem", "TransactWriteItems"];
        // `sum` of no floats is -0, so the fold starts at 0.
        writes.iter().filter_map(|operation| self.units.get(*operation)).fold(0.0, |sum, units| sum + units)
    }

    /// Read units of all operations that read.
    pub fn read_units(&self) -> f64 {
        self.units.values().fold(0.0, |sum, units| sum + units) - self.write_units()
    }
}

/// Counts the requests of a DynamoDB client and the units that it is charged.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

impl Meter {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the usage since the last reset.
    pub fn read(&self) -> Usage {
        self.usage().clone()
    }

    /// Sets the usage to zero.
    pub fn reset(&self) {
        *self.usage() = Usage::default();
    }
}

fn operation(config: &ConfigBag) -> String {
    config.load::<Metadata>().map_or("unknown", |metadata| metadata.name()).to_owned()
}

/// The capacity units that a response reports; `None` for operations without them.
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

/// Records each call of one function as a line of metrics.
#[derive(Clone, Debug)]
pub struct Calls {
    function: String,
    meter: Meter,
    clock: Clock,
}

impl Calls {
    /// Creates the recorder of a function from the meter of its DynamoDB client.
    ///
    /// The counts are right only if calls do not overlap, as in a Lambda function.
    pub fn new(function: impl Into<String>, meter: Meter, clock: Clock) -> Self {
        Self { function: function.into(), meter, clock }
    }

    /// Runs a call and prints its record to stdout.
    pub async fn recorded<T: Recorded>(&self, call: impl Future<Output = T>) -> T {
        let (outcome, line) = self.measured(call).await;
        // Without stdout the record has no destination, and the call must not fail for it.
        let _ = writeln!(io::stdout().lock(), "{line}");
        outcome
    }

    /// Runs a call and returns its outcome with its record as one line.
    pub async fn measured<T: Recorded>(&self, call: impl Future<Output = T>) -> (T, String) {
        let begun = Instant::now();
        self.meter.reset();
        // Boxed: otherwise the runtime's future would contain the whole call, and its type would be too deep for the
        // compiler.
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

/// An outcome of a call that can be recorded as metrics.
pub trait Recorded {
    /// Creates the outcome's record, without the duration and usage that every call has.
    fn record(&self) -> Record;
}

impl Recorded for Result<Response<Body>, Infallible> {
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

impl Recorded for Result<(), Failure> {
    fn record(&self) -> Record {
        Record::new(match self {
            Ok(()) => Outcome::Ok,
            Err(failure) => failure.outcome(),
        })
    }
}

impl Recorded for Result<Reconciled, Failure> {
    fn record(&self) -> Record {
        match self {
            Ok(report) => report.record(),
            Err(failure) => Record::new(failure.outcome()),
        }
    }
}

/// Crates whose log records are kept at every level; those of other crates are kept up to `info`.
///
/// At `debug` and `trace` the SDK and its HTTP client log requests and responses, and the Lambda runtime logs events.
/// These contain tokens, tickets and the environments of tasks.
const OURS: [&str; 5] = ["shared", "functions", "local", "ecs", "demo"];

fn is_harmless(record: &tracing::Metadata<'_>) -> bool {
    let from = record.target().split("::").next().unwrap_or_default();
    *record.level() <= tracing::Level::INFO || OURS.contains(&from)
}

/// Builds a subscriber that writes log records of a level as JSON, without secrets. An invalid level means `info`.
pub fn json_log<W>(level: &str, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let wanted = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer);
    tracing_subscriber::registry().with(layer.with_filter(harmless())).with(wanted)
}

/// Builds a filter that keeps secrets out of a subscriber's log: it drops detailed records of other crates.
pub fn harmless() -> FilterFn {
    FilterFn::new(is_harmless)
}

/// Writes log records as JSON to stdout, which Lambda sends to CloudWatch. `OWMM_LOG` sets the level (default `info`).
pub fn log_as_json() {
    let level = std::env::var("OWMM_LOG").unwrap_or_else(|_| "info".to_owned());
    // Fails if a subscriber is set already, which a second call keeps.
    let _ = tracing::subscriber::set_global_default(json_log(&level, io::stdout));
}
