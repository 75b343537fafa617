//! Runs many seeds, one thread per core, and sums up their outcomes.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shared::domain::bug::Bug;

use super::{
    checks::Invariant,
    run::{Outcome, run},
    world::lock,
};
use crate::report::{Progress, Table, Verdict, grouped, print};

/// Failing seeds that are printed at most; the others are only counted.
const SHOWN: usize = 10;

/// The sum of the outcomes of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Number of seeds that ran.
    pub seeds: u64,
    /// Number of function calls.
    pub calls: u64,
    /// Number of requests to AWS and of function calls.
    pub requests: u64,
    /// Number of faults, by description.
    pub faults: BTreeMap<&'static str, u64>,
    /// Number of checks of each invariant.
    pub checked: BTreeMap<Invariant, u64>,
    /// Number of violations of each invariant.
    pub violated: BTreeMap<Invariant, u64>,
    /// Failing seeds, each with its first violation or with the error of the simulation itself.
    pub failing: Vec<(u64, String)>,
}

impl Sweep {
    fn add(&mut self, seed: u64, outcome: Result<Outcome, String>) {
        self.seeds += 1;
        match outcome {
            Err(why) => self.failing.push((seed, why)),
            Ok(outcome) => {
                self.calls += outcome.calls;
                self.requests += outcome.requests;
                for (fault, count) in outcome.faults {
                    *self.faults.entry(fault).or_default() += count;
                }
                for (invariant, count) in outcome.checked {
                    *self.checked.entry(invariant).or_default() += count;
                }
                for violation in &outcome.violations {
                    *self.violated.entry(violation.invariant).or_default() += 1;
                }
                if let Some(first) = outcome.violations.first() {
                    self.failing.push((seed, format!("{}: {}", first.invariant.as_str(), first.what)));
                }
            }
        }
    }
}

/// Runs `seeds` seeds from `first` on, with one injected bug or none.
pub fn sweep(first: u64, seeds: u64, bug: Option<Bug>, progress: &mut Progress) -> Sweep {
    let (next, sum) = (AtomicU64::new(first), Mutex::new(Sweep::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let outcome = run(seed, bug, false);
            lock(&sum).add(seed, outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers = (0..threads).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::park_timeout(Duration::from_millis(100));
            progress.say(|| {
                let sum = lock(&sum);
                let last = sum.failing.last().map(|(seed, _)| format!(", last in seed {seed}")).unwrap_or_default();
                let (done, calls, failing) = (sum.seeds, grouped(sum.calls), sum.failing.len());
                format!("{done} of {seeds} seeds, {calls} calls, {failing} failing{last}")
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.failing.sort();
    sum
}

/// Returns the command that replays a seed.
fn replay(seed: u64) -> String {
    format!("cargo run --release -p verify -- simulate --seed {seed} --history")
}

/// Runs many seeds and prints a table and the first failing seeds.
pub fn many(first: u64, seeds: u64) -> Verdict {
    let mut progress = Progress::default();
    let sum = sweep(first, seeds, None, &mut progress);
    let seconds = progress.elapsed().as_secs();
    drop(progress);
    let mut table = Table::new(["simulation", "count"]);
    table.row(["seeds".to_owned(), format!("{} ({first} to {})", grouped(sum.seeds), first + seeds - 1)]);
    table.row(["seconds".to_owned(), grouped(seconds)]);
    table.row(["calls of functions".to_owned(), grouped(sum.calls)]);
    table.row(["requests to DynamoDB and ECS".to_owned(), grouped(sum.requests - sum.calls)]);
    for (fault, count) in &sum.faults {
        table.row([format!("fault: {fault}"), grouped(*count)]);
    }
    for invariant in Invariant::ALL {
        let (checked, violated) = (sum.checked.get(&invariant), sum.violated.get(&invariant));
        let cell =
            format!("{} times, violated {}", grouped(checked.copied().unwrap_or(0)), violated.copied().unwrap_or(0));
        table.row([format!("checked: {}", invariant.as_str()), cell]);
    }
    table.row(["seeds with a violation".to_owned(), grouped(sum.failing.len() as u64)]);
    print(&table);
    for (seed, what) in sum.failing.iter().take(SHOWN) {
        print(&format!("seed {seed}: {what}\n  replay: {}", replay(*seed)));
    }
    Verdict::of(sum.failing.is_empty())
}

/// Runs one seed and prints its history.
pub fn one(seed: u64) -> Verdict {
    match run(seed, None, true) {
        Err(why) => {
            print(&why);
            Verdict::Violated
        }
        Ok(outcome) => {
            print(&outcome.history);
            for violation in &outcome.violations {
                print(&format!(
                    "violated at {} ms: {}: {}",
                    violation.at_ms,
                    violation.invariant.as_str(),
                    violation.what
                ));
            }
            print(&format!("{} calls, {} violations", outcome.calls, outcome.violations.len()));
            Verdict::of(outcome.violations.is_empty())
        }
    }
}
