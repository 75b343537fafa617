//! The names of OWMM's metrics, and the log record that carries their values.
//!
//! A record is one line of JSON in CloudWatch's embedded metric format: CloudWatch extracts the metrics from the log,
//! and the log keeps the line with its properties. This module alone owns names, units and dimensions; a test compares
//! alarms and dashboards with them. Must not know what is measured.
//!
//! | metric | kept for | value |
//! |---|---|---|
//! | [`CALLS`], [`DURATION`] | each function, and each outcome of it | number of calls, and their duration |
//! | [`ERRORS`] | each function | 1 for a call that failed through a fault of OWMM, else 0 |
//! | [`REQUESTS`], [`WRITE_UNITS`] | each function | requests to the table, and write units charged for them |
//! | the others | `reconcile` | state of the servers as one run found it; see each metric |

use serde_json::{Map, Value, json};

use crate::domain::Time;

/// Namespace of every metric.
pub const NAMESPACE: &str = "OWMM";
/// Dimension: name of the function, in Lambda `STACK-FUNCTION`, elsewhere `FUNCTION` alone.
pub const FUNCTION: &str = "Function";
/// Dimension: outcome of the call, see [`Outcome`].
pub const OUTCOME: &str = "Outcome";

/// A metric. Every metric has the dimension [`FUNCTION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name of the metric.
    pub name: &'static str,
    /// Unit, one of those that CloudWatch accepts.
    pub unit: &'static str,
    /// Whether the metric is also kept by [`OUTCOME`].
    pub by_outcome: bool,
}

impl Metric {
    const fn count(name: &'static str) -> Self {
        Self { name, unit: "Count", by_outcome: false }
    }
}

/// Calls of a function.
pub const CALLS: Metric = Metric { by_outcome: true, ..Metric::count("Calls") };
/// Duration of a call, in milliseconds.
pub const DURATION: Metric = Metric { name: "Duration", unit: "Milliseconds", by_outcome: true };
/// Calls that failed through a fault of OWMM.
pub const ERRORS: Metric = Metric::count("Errors");
/// Requests to the table, retries included.
pub const REQUESTS: Metric = Metric::count("Requests");
/// Write units that DynamoDB reported as charged.
pub const WRITE_UNITS: Metric = Metric::count("WriteUnits");

/// Live servers.
pub const SERVERS: Metric = Metric::count("Servers");
/// Connected players.
pub const PLAYERS: Metric = Metric::count("Players");
/// Free slots, on ready servers and on starting ones.
pub const FREE_SLOTS: Metric = Metric::count("FreeSlots");
/// Repairs. The property [`REASONS`] counts them by reason.
pub const REPAIRED: Metric = Metric::count("Repaired");
/// Servers whose leases have lapsed, because their heartbeats stopped.
pub const LAPSED_LEASES: Metric = Metric::count("LapsedLeases");
/// Pools in which so many leases lapsed at once that no server was stopped for it. More than 0 is an alarm.
pub const MASS_LAPSES: Metric = Metric::count("MassLapses");
/// Pools that could not be reconciled completely. More than 0 in several runs is an alarm.
pub const FAILED_POOLS: Metric = Metric::count("FailedPools");
/// Launches that have failed in a row, summed over all pools. A pool's count falls to 0 when one of its servers
/// registers.
pub const LAUNCHES_FAILED: Metric = Metric::count("LaunchesFailed");
/// Pools in which launching is paused because launches have failed. More than 0 is an alarm.
pub const LAUNCH_PAUSED: Metric = Metric::count("LaunchPaused");

/// Metrics of every function.
pub const OF_CALLS: [Metric; 5] = [CALLS, DURATION, ERRORS, REQUESTS, WRITE_UNITS];
/// Metrics of the function `reconcile` alone.
pub const OF_FLEET: [Metric; 9] =
    [SERVERS, PLAYERS, FREE_SLOTS, REPAIRED, LAPSED_LEASES, MASS_LAPSES, FAILED_POOLS, LAUNCHES_FAILED, LAUNCH_PAUSED];

/// Property: the problem code of a refusal.
pub const CODE: &str = "Code";
/// Property: number of repairs, by reason.
pub const REASONS: &str = "Reasons";

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call succeeded.
    Ok,
    /// The call was refused without a fault of OWMM: invalid input, missing permission or no room.
    Refused,
    /// The call ended with `busy`: the table did not answer, or the call lost too many races.
    Busy,
    /// The call failed through a fault of OWMM.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Busy, Self::Failed];

    /// The outcome's name, which is the value of the dimension [`OUTCOME`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

/// The metrics and properties of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    outcome: Outcome,
    values: Vec<(Metric, f64)>,
    properties: Map<String, Value>,
}

impl Record {
    /// Creates the record of a call with this outcome.
    pub fn new(outcome: Outcome) -> Self {
        let failed = if outcome == Outcome::Failed { 1.0 } else { 0.0 };
        Self { outcome, values: vec![(CALLS, 1.0), (ERRORS, failed)], properties: Map::new() }
    }

    /// Adds the value of a metric.
    pub fn with(mut self, metric: Metric, value: f64) -> Self {
        self.values.push((metric, value));
        self
    }

    /// Adds a property, which only the log keeps.
    pub fn about(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }

    /// Renders the record in the embedded metric format, for a call of `function` that ended at `now`.
    pub fn line(&self, function: &str, now: Time) -> Value {
        // "Specification: Embedded metric format" in the CloudWatch user guide: one directive for each set of
        // dimensions, and every name in a directive is a member of the root.
        let directive = |dimensions: &[&str], by_outcome: bool| {
            let metrics = self.values.iter().filter(|(metric, _)| !by_outcome || metric.by_outcome);
            let metrics = metrics.map(|(metric, _)| json!({ "Name": metric.name, "Unit": metric.unit }));
            json!({
                "Namespace": NAMESPACE,
                "Dimensions": [dimensions],
                "Metrics": metrics.collect::<Vec<_>>(),
            })
        };
        let mut line = self.properties.clone();
        line.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": now.0,
                "CloudWatchMetrics": [directive(&[FUNCTION], false), directive(&[FUNCTION, OUTCOME], true)],
            }),
        );
        line.insert(FUNCTION.to_owned(), function.into());
        line.insert(OUTCOME.to_owned(), self.outcome.as_str().into());
        line.extend(self.values.iter().map(|(metric, value)| (metric.name.to_owned(), json!(value))));
        Value::Object(line)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    /// Units that CloudWatch accepts: "Unit" of "MetricDatum" in the CloudWatch API reference.
    const UNITS: [&str; 27] = [
        "Seconds",
        "Microseconds",
        "Milliseconds",
        "Bytes",
        "Kilobytes",
        "Megabytes",
        "Gigabytes",
        "Terabytes",
        "Bits",
        "Kilobits",
        "Megabits",
        "Gigabits",
        "Terabits",
        "Percent",
        "Count",
        "Bytes/Second",
        "Kilobytes/Second",
        "Megabytes/Second",
        "Gigabytes/Second",
        "Terabytes/Second",
        "Bits/Second",
        "Kilobits/Second",
        "Megabits/Second",
        "Gigabits/Second",
        "Terabits/Second",
        "Count/Second",
        "None",
    ];

    /// Asserts that a line meets the specification of the embedded metric format.
    fn is_embedded_metric_format(line: &Value) {
        let text = line.to_string();
        assert!(text.len() < 256 * 1024 && !text.contains('\n'), "a record must fit into one log event of one line");
        let metadata = line["_aws"].as_object().unwrap();
        assert!(metadata["Timestamp"].as_i64().unwrap() > 0);
        let directives = metadata["CloudWatchMetrics"].as_array().unwrap();
        assert!(!directives.is_empty());
        for directive in directives {
            assert_eq!(directive.as_object().unwrap().len(), 3, "{directive}");
            let namespace = directive["Namespace"].as_str().unwrap();
            assert!((1..=256).contains(&namespace.len()));
            let sets = directive["Dimensions"].as_array().unwrap();
            assert!(!sets.is_empty());
            for set in sets {
                let set = set.as_array().unwrap();
                assert!((1..=30).contains(&set.len()));
                for dimension in set {
                    let value = line[dimension.as_str().unwrap()].as_str().unwrap();
                    assert!((1..=1_024).contains(&value.len()), "the value of a dimension must be a text at the root");
                }
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                let (name, unit) = (metric["Name"].as_str().unwrap(), metric["Unit"].as_str().unwrap());
                assert!(UNITS.contains(&unit), "{unit}");
                assert!((1..=1_024).contains(&name.len()));
                assert!(line[name].is_number(), "{name} must be a number at the root");
            }
        }
    }

    #[test]
    fn every_record_is_in_the_embedded_metric_format() {
        for outcome in Outcome::ALL {
            let mut record = Record::new(outcome).about(CODE, "busy").about(REASONS, json!({ "idle": 2 }));
            is_embedded_metric_format(&record.line("join", Time(1)));
            for metric in OF_CALLS.into_iter().skip(1).chain(OF_FLEET) {
                record = record.with(metric, 1.5);
            }
            let line = record.line("reconcile", Time(1_790_000_000_000));
            is_embedded_metric_format(&line);
            assert_eq!((&line[FUNCTION], &line[OUTCOME]), (&json!("reconcile"), &json!(outcome.as_str())));
            assert_eq!(line[REASONS]["idle"], 2);
        }
    }

    #[test]
    fn metrics_by_outcome_are_in_both_sets_of_dimensions_and_metric_names_are_unique() {
        let line = Record::new(Outcome::Ok).with(WRITE_UNITS, 2.0).line("join", Time(1));
        let names = |i: usize| {
            let metrics = line["_aws"]["CloudWatchMetrics"][i]["Metrics"].as_array().unwrap();
            metrics.iter().map(|metric| metric["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["Calls", "Errors", "WriteUnits"]);
        assert_eq!(names(1), ["Calls"]);
        let all = OF_CALLS.iter().chain(&OF_FLEET).map(|metric| metric.name);
        assert_eq!(all.clone().collect::<std::collections::BTreeSet<_>>().len(), all.count());
    }

    #[test]
    fn only_the_outcome_failed_counts_as_an_error() {
        for outcome in Outcome::ALL {
            let line = Record::new(outcome).line("join", Time(1));
            assert_eq!(line["Errors"], json!(if outcome == Outcome::Failed { 1.0 } else { 0.0 }));
        }
    }
}
