//! The shared state of a run: time, table, ECS, random decisions, checks and history.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_smithy_async::time::TimeSource;
use dynoxide::DynoxideError;
use ecs::LocalEcs;
use serde_json::Value;
use shared::domain::{Span, Time};
use tokio::time::Instant;

use super::{
    chance::Chance,
    checks::{Caller, Checks, Invariant},
    connection::Entrance,
    engine::{Applied, Engine},
    history::History,
    plan::{Fault, Plan},
};

/// Name of the table.
pub(super) const TABLE: &str = "owmm";
/// The default pool, for joins that name no pool.
pub(super) const POOL: &str = "default";
/// Start of virtual time, in milliseconds since 1970. The value is arbitrary but fixed, so that runs can be repeated.
const BEGUN_MS: u64 = 1_800_000_000_000;

/// Locks a mutex, also a poisoned one: a panic in a run is reported as a violation of its own.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of one process of the functions: virtual time plus a constant skew.
#[derive(Clone, Copy, Debug)]
pub(super) struct VirtualTime {
    begun: Instant,
    ahead_ms: u64,
}

impl VirtualTime {
    pub(super) const fn new(begun: Instant, ahead_ms: u64) -> Self {
        Self { begun, ahead_ms }
    }

    pub(super) fn ms(self) -> u64 {
        BEGUN_MS + self.ahead_ms + since(self.begun)
    }
}

impl TimeSource for VirtualTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.ms())
    }
}

fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The shared state of a run.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) begun: Instant,
    /// Decisions of the wire and the functions. Each actor has a stream of its own.
    pub(super) chance: Chance,
    pub(super) engine: Mutex<Engine>,
    pub(super) checks: Mutex<Checks>,
    /// All game servers whose process accepts connections, by port.
    pub(super) servers: Mutex<BTreeMap<u16, Arc<dyn Entrance>>>,
    ecs: OnceLock<LocalEcs>,
    history: Mutex<History>,
    calm: AtomicBool,
    numbers: AtomicU64,
    pub(super) calls: AtomicU64,
    faults: Mutex<BTreeMap<Fault, u64>>,
}

impl World {
    pub(super) fn new(plan: Plan, seed: u64, history: History) -> Result<Self, DynoxideError> {
        let begun = Instant::now();
        let skew = Span(i64::try_from(plan.skew_ms).unwrap_or(0));
        let checks = Checks::new(Time(i64::try_from(BEGUN_MS).unwrap_or(1)), plan.limits.max_servers, skew);
        Ok(Self {
            plan,
            begun,
            chance: Chance::new(seed, 1),
            engine: Mutex::new(Engine::new()?),
            checks: Mutex::new(checks),
            servers: Mutex::default(),
            ecs: OnceLock::new(),
            history: Mutex::new(history),
            calm: AtomicBool::new(true),
            numbers: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            faults: Mutex::default(),
        })
    }

    /// Returns the virtual time, without skew.
    pub(super) fn now(&self) -> Time {
        Time(i64::try_from(VirtualTime::new(self.begun, 0).ms()).unwrap_or(i64::MAX))
    }

    /// Returns the virtual time without skew, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        VirtualTime::new(self.begun, 0).ms()
    }

    /// Returns the milliseconds since the start of the run.
    pub(super) fn ms(&self) -> u64 {
        since(self.begun)
    }

    pub(super) fn with_ecs(&self, ecs: LocalEcs) {
        // Called once per run, so the cell is empty.
        let _ = self.ecs.set(ecs);
    }

    pub(super) fn ecs(&self) -> Option<&LocalEcs> {
        self.ecs.get()
    }

    /// Returns a number that is unique in this run.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether faults have stopped.
    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Stops faults, or starts them with `false`.
    pub(super) fn calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// Decides whether a fault strikes now, and counts it.
    pub(super) fn strikes(&self, fault: Fault) -> bool {
        if self.is_calm() || !self.chance.hit(self.plan.faults.rate(fault)) {
            return false;
        }
        *lock(&self.faults).entry(fault).or_default() += 1;
        true
    }

    pub(super) fn faults(&self) -> BTreeMap<Fault, u64> {
        lock(&self.faults).clone()
    }

    /// Adds a line to the history.
    pub(super) fn record(&self, line: std::fmt::Arguments<'_>) {
        lock(&self.history).line(since(self.begun), line);
    }

    /// Whether the history is kept.
    pub(super) fn is_recorded(&self) -> bool {
        lock(&self.history).is_kept()
    }

    pub(super) fn take_history(&self) -> String {
        lock(&self.history).take()
    }

    /// Applies one request to the table and checks the invariants.
    pub(super) fn apply(&self, by: &Caller, number: u64, operation: &str, body: &[u8]) -> Applied {
        let applied = lock(&self.engine).apply(operation, body, TABLE, self.now_ms());
        if self.is_recorded() {
            let changes = applied.changes.iter().map(|change| (&change.key, &change.after));
            for ((pk, sk), after) in changes {
                self.record(format_args!("  w{number} {pk} {sk} = {}", after.as_ref().map_or_else(String::new, plain)));
            }
        }
        if !applied.changes.is_empty() {
            let request = serde_json::from_slice::<Value>(body).unwrap_or_default();
            let update = request.get("UpdateExpression").and_then(Value::as_str).unwrap_or_default();
            let mut checks = lock(&self.checks);
            let known = checks.violations.len();
            checks.wrote(self.now(), by, update, &applied.changes);
            self.record_violations(&checks, known);
        }
        applied
    }

    fn record_violations(&self, checks: &Checks, known: usize) {
        for violation in checks.violations.iter().skip(known) {
            self.record(format_args!("!! {}: {}", violation.invariant.as_str(), violation.what));
        }
    }

    /// Runs a check, and records its violations in the history.
    pub(super) fn check<T>(&self, check: impl FnOnce(&mut Checks) -> T) -> T {
        let mut checks = lock(&self.checks);
        let known = checks.violations.len();
        let result = check(&mut checks);
        self.record_violations(&checks, known);
        result
    }

    /// Checks that something holds now, under the name of an invariant.
    pub(super) fn must(&self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        let now = self.now();
        self.check(|checks| checks.end(now, invariant, holds, what));
    }
}

/// Formats a value of the table, shortly and with its fields in a fixed order.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            if let (1, Some((kind, inner))) = (fields.len(), fields.iter().next())
                && matches!(kind.as_str(), "S" | "N" | "B" | "BOOL")
            {
                return inner.as_str().map_or_else(|| inner.to_string(), str::to_owned);
            }
            let sorted = fields.iter().collect::<BTreeMap<_, _>>();
            let fields = sorted.into_iter().filter(|(name, _)| !matches!(name.as_str(), "pk" | "sk" | "spec"));
            let fields = fields.map(|(name, value)| match (name.as_str(), value) {
                ("M", inner) => plain(inner),
                (name, value) => format!("{name}:{}", plain(value)),
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}
