//! Figures, their medians, and their output as table or JSON. Measures memory and processor time.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::args::{Args, Over};

/// One figure of one run.
pub(crate) struct Figure {
    key: String,
    label: String,
    decimals: usize,
    value: Option<f64>,
}

/// The figures of one run, in the order in which they are shown.
#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a figure: its name in JSON, its label in the table, its number of decimals, its value.
    pub(crate) fn add(&mut self, key: &str, label: &str, decimals: usize, value: impl Into<Option<f64>>) {
        let value = value.into().filter(|value| value.is_finite());
        self.0.push(Figure { key: key.to_owned(), label: label.to_owned(), decimals, value });
    }

    /// Adds the percentiles 50, 99 and 99.9 of `times`, in milliseconds.
    pub(crate) fn add_times(&mut self, key: &str, label: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        for (name, in_key, per_mille) in [("p50", "P50Ms", 500), ("p99", "P99Ms", 990), ("p99.9", "P999Ms", 999)] {
            // The nearest rank: the smallest measured time that is at least as long as `per_mille` of all times.
            let rank = (times.len() * per_mille).div_ceil(1_000).saturating_sub(1);
            let value = times.get(rank).map(|time| time.as_secs_f64() * 1_000.0);
            self.add(&format!("{key}{in_key}"), &format!("{label} {name}, ms"), 1, value);
        }
    }

    fn get(&self, key: &str) -> Option<&Figure> {
        self.0.iter().find(|figure| figure.key == key)
    }

    fn json(&self) -> Value {
        let fields = self.0.iter().map(|figure| (figure.key.clone(), number(figure.value, figure.decimals)));
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

fn number(value: Option<f64>, decimals: usize) -> Value {
    let text = value.map(|value| format!("{value:.decimals$}"));
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    let lower = if values.len().is_multiple_of(2) { values.get(middle - 1).copied()? } else { upper };
    Some(f64::midpoint(lower, upper))
}

/// Returns the median of each figure over the runs that have it.
fn medians(runs: &[Figures]) -> Figures {
    let mut medians = Figures::default();
    for figure in runs.iter().flat_map(|run| &run.0) {
        if medians.get(&figure.key).is_none() {
            let values = runs.iter().filter_map(|run| run.get(&figure.key)?.value).collect();
            medians.add(&figure.key, &figure.label, figure.decimals, median(values));
        }
    }
    medians
}

/// Describes a load run in one line.
pub(crate) fn title(args: &Args) -> String {
    let over = match args.over {
        Over::Http => "joins over HTTP (gateway and client share the cores)",
        Over::Calls => "joins by calls in this process, without gateway and HTTP",
    };
    format!(
        "scenario {:?}, {} players, {} calls at once, {} slots per server, {} frontier(s), servers {:?}, {over}",
        args.scenario, args.players, args.at_once, args.capacity, args.concurrent_launches, args.servers
    )
}

/// Formats the table: one line per figure, with the median and the value of each run.
pub(crate) fn table(title: &str, runs: &[Figures]) -> String {
    let medians = medians(runs);
    let show = |figure: Option<&Figure>| match figure {
        Some(Figure { value: Some(value), decimals, .. }) => format!("{value:.decimals$}"),
        _ => "n/a".to_owned(),
    };
    let width = medians.0.iter().map(|figure| figure.label.len()).max().unwrap_or(0);
    let mut text = format!("{title}\n\n{:width$}{:>12}", "", "median");
    // Writing to a string cannot fail.
    for run in 1..=runs.len() {
        let _ = write!(text, "{:>12}", format!("run {run}"));
    }
    for figure in &medians.0 {
        let _ = write!(text, "\n{:width$}{:>12}", figure.label, show(Some(figure)));
        for run in runs {
            let _ = write!(text, "{:>12}", show(run.get(&figure.key)));
        }
    }
    text
}

/// Returns settings, medians, runs and violations as one JSON object.
pub(crate) fn object(args: &Args, runs: &[Figures], violations: &[String]) -> Value {
    json!({
        "settings": {
            "scenario": format!("{:?}", args.scenario).to_lowercase(),
            "over": format!("{:?}", args.over).to_lowercase(),
            "servers": format!("{:?}", args.servers).to_lowercase(),
            "players": args.players,
            "atOnce": args.at_once,
            "capacity": args.capacity,
            "maxServers": args.max_servers(),
            "concurrentLaunches": args.concurrent_launches,
            "startDelayMs": args.start_delay,
            "url": args.url,
            "dynamodb": args.dynamodb,
        },
        "medians": medians(runs).json(),
        "runs": runs.iter().map(Figures::json).collect::<Vec<_>>(),
        "violations": violations,
    })
}

/// Prints a line on stderr. A failed write is ignored: there is no other place to report it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns the peak resident memory since the last [`forget_peak`] and the current one, in MB, of a process or of this
/// one. Linux only.
pub(crate) fn memory(pid: Option<u32>) -> (Option<f64>, Option<f64>) {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
        Some(kib * 1_024.0 / 1_000_000.0)
    };
    (field("VmHWM"), field("VmRSS"))
}

/// Resets this process's peak of memory. If Linux refuses, the peak counts from the start of the process.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Returns the processor time of all threads of this process so far. Linux only. Unlike elapsed time, it does not
/// include the work of other processes.
pub(crate) fn processor_time() -> Option<Duration> {
    /// Length of a tick in `/proc/PID/stat` (`USER_HZ` is 100 on every Linux).
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may hold anything; `utime` and `stime` are the 14th
    // and the 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>());
    ticks.sum::<Result<u32, _>>().ok().map(|ticks| TICK * ticks)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_at_the_nearest_rank() {
        let mut figures = Figures::default();
        figures.add_times("t", "t", (1..=1_000).rev().map(Duration::from_millis).collect());
        let value = |key| figures.get(key).unwrap().value.unwrap();
        assert_eq!((value("tP50Ms"), value("tP99Ms"), value("tP999Ms")), (500.0, 990.0, 999.0));
        let mut one = Figures::default();
        one.add_times("t", "t", vec![Duration::from_millis(7)]);
        assert_eq!(one.get("tP50Ms").unwrap().value, Some(7.0));
        let mut none = Figures::default();
        none.add_times("t", "t", Vec::new());
        assert_eq!(none.json(), json!({ "tP50Ms": null, "tP99Ms": null, "tP999Ms": null }));
    }

    #[test]
    fn a_median_is_the_middle_of_the_runs_that_have_the_figure() {
        let run = |value: Option<f64>| {
            let mut figures = Figures::default();
            figures.add("x", "x", 0, value);
            figures
        };
        let runs = [run(Some(30.0)), run(None), run(Some(10.0)), run(Some(20.0))];
        assert_eq!(medians(&runs).json(), json!({ "x": 20 }));
        assert_eq!(median(vec![1.0, 2.0]), Some(1.5));
        assert_eq!(median(Vec::new()), None);
    }
}
