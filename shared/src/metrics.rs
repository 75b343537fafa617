//! What OWMM says of itself in numbers: the names of its metrics, and the record that carries them.
//!
//! A record is one line of JSON in CloudWatch's embedded metric format: CloudWatch takes the metrics out of the log, and
//! the log keeps the line with its properties. Owns names, units and dimensions, once: alarms and dashboards are held
//! against them. Must not know what is measured.
//!
//! | metric | of | says |
//! |---|---|---|
//! | [`CALLS`], [`DURATION`] | each function, and each outcome of it | one call, and how long it took |
//! | [`ERRORS`] | each function | 1 for a call that failed by our mistake, or 0 |
//! | [`REQUESTS`], [`WRITE_UNITS`] | each function | what the call asked of the table, and was charged for writes |
//! | the others | `reconcile` | the fleet as one look has found it; see each |

use serde_json::{Map, Value, json};

use crate::domain::Time;

/// The namespace of every metric.
pub const NAMESPACE: &str = "OWMM";
/// Dimension: the function, by its name in Lambda, `STACK-FUNCTION`; elsewhere by the function's name alone.
pub const FUNCTION: &str = "Function";
/// Dimension: how a call ended, see [`Outcome`].
pub const OUTCOME: &str = "Outcome";

/// A metric. Every metric has the dimension [`FUNCTION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its unit, one that CloudWatch knows.
    pub unit: &'static str,
    /// Whether it is kept by [`OUTCOME`] too.
    pub by_outcome: bool,
}

impl Metric {
    const fn count(name: &'static str) -> Self {
        Self { name, unit: "Count", by_outcome: false }
    }
}

/// A call.
pub const CALLS: Metric = Metric { by_outcome: true, ..Metric::count("Calls") };
/// How long a call took.
pub const DURATION: Metric = Metric { name: "Duration", unit: "Milliseconds", by_outcome: true };
/// Calls that failed by our mistake.
pub const ERRORS: Metric = Metric::count("Errors");
/// Requests to the table, repeated ones included.
pub const REQUESTS: Metric = Metric::count("Requests");
/// Write units that the table said it charged.
pub const WRITE_UNITS: Metric = Metric::count("WriteUnits");

/// Servers that live.
pub const SERVERS: Metric = Metric::count("Servers");
/// Players inside servers.
pub const PLAYERS: Metric = Metric::count("Players");
/// Slots that can be had, now or once their server is ready.
pub const FREE_SLOTS: Metric = Metric::count("FreeSlots");
/// Things that were put right; the property [`REASONS`] says which.
pub const REPAIRED: Metric = Metric::count("Repaired");
/// Servers that should have beaten and have not.
pub const LAPSED_LEASES: Metric = Metric::count("LapsedLeases");
/// Pools in which so many leases lapsed at once that nobody was believed dead for it. More than 0 is an alarm.
pub const MASS_LAPSES: Metric = Metric::count("MassLapses");
/// Pools that could not be looked after to the end. More than 0, again and again, is an alarm.
pub const FAILED_POOLS: Metric = Metric::count("FailedPools");
/// Launches that have failed in a row, over all pools. Falls to 0 with the first server that registers.
pub const LAUNCHES_FAILED: Metric = Metric::count("LaunchesFailed");
/// Pools in which launching is paused because launches have failed. More than 0 is an alarm.
pub const LAUNCH_PAUSED: Metric = Metric::count("LaunchPaused");

/// Metrics of every function.
pub const OF_CALLS: [Metric; 5] = [CALLS, DURATION, ERRORS, REQUESTS, WRITE_UNITS];
/// Metrics of `reconcile` alone.
pub const OF_FLEET: [Metric; 9] =
    [SERVERS, PLAYERS, FREE_SLOTS, REPAIRED, LAPSED_LEASES, MASS_LAPSES, FAILED_POOLS, LAUNCHES_FAILED, LAUNCH_PAUSED];

/// Property: the problem code of a refusal.
pub const CODE: &str = "Code";
/// Property: how often something was put right, by reason.
pub const REASONS: &str = "Reasons";

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As its caller wished.
    Ok,
    /// With a refusal that is no fault: bad input, no right, no room.
    Refused,
    /// With `busy`: the table gave no answer, or too much was going on.
    Busy,
    /// By our mistake.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Busy, Self::Failed];

    /// Its name, the value of the dimension [`OUTCOME`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

/// What one call came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    outcome: Outcome,
    values: Vec<(Metric, f64)>,
    properties: Map<String, Value>,
}

impl Record {
    /// Of a call that ended so.
    pub fn new(outcome: Outcome) -> Self {
        let failed = if outcome == Outcome::Failed { 1.0 } else { 0.0 };
        Self { outcome, values: vec![(CALLS, 1.0), (ERRORS, failed)], properties: Map::new() }
    }

    /// The same with a value of a metric.
    pub fn with(mut self, metric: Metric, value: f64) -> Self {
        self.values.push((metric, value));
        self
    }

    /// The same with a property, which only the log keeps.
    pub fn about(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }

    /// The record of a function's call that ended then, in the embedded metric format.
    pub fn line(&self, function: &str, now: Time) -> Value {
        // "Specification: Embedded metric format" in the CloudWatch user guide: one directive for each set of dimensions,
        // and every name in a directive is a member of the root.
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

    /// "Unit" of "MetricDatum" in the CloudWatch API reference.
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

    /// What the specification demands of a line.
    fn is_embedded_metric_format(line: &Value) {
        let text = line.to_string();
        assert!(text.len() < 256 * 1024 && !text.contains('\n'), "one log event");
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
                    assert!((1..=1_024).contains(&value.len()), "a dimension's value is a text at the root");
                }
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                let (name, unit) = (metric["Name"].as_str().unwrap(), metric["Unit"].as_str().unwrap());
                assert!(UNITS.contains(&unit), "{unit}");
                assert!((1..=1_024).contains(&name.len()));
                assert!(line[name].is_number(), "{name} is a number at the root");
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
    fn metrics_by_outcome_are_in_both_sets_of_dimensions_and_no_name_is_there_twice() {
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
    fn only_a_mistake_of_ours_is_an_error() {
        for outcome in Outcome::ALL {
            let line = Record::new(outcome).line("join", Time(1));
            assert_eq!(line["Errors"], json!(if outcome == Outcome::Failed { 1.0 } else { 0.0 }));
        }
    }
}
