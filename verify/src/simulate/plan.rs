//! The plan of a seed: the pool, the actors, and the rate of each fault.
//!
//! A run has only some of the faults, because a run in which everything fails all the time never reaches the
//! interesting states.

use std::fmt;

use shared::domain::{PoolLimits, Rollout, Span};

use super::chance::Chance;

/// A fault that the simulation injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    /// A request to DynamoDB or ECS never arrives.
    RequestLost,
    /// A request to DynamoDB or ECS takes effect, and its answer never arrives.
    AnswerLost,
    /// A request to DynamoDB or ECS takes effect twice, the second time later.
    Repeated,
    /// A request to DynamoDB or ECS takes effect long after the caller has given up.
    Late,
    /// A request to DynamoDB or ECS is slow, so that later requests overtake it.
    Slow,
    /// A request to DynamoDB or ECS is throttled.
    Throttled,
    /// A request to DynamoDB or ECS takes effect, and the answer is a 500.
    ErrorAfterEffect,
    /// A request to DynamoDB or ECS has no effect, and the answer is a 500 or 503.
    Error,
    /// A write conflicts with a transaction.
    Conflict,
    /// A query of the index, or a read without strong consistency, returns data of a few seconds ago.
    Stale,
    /// RunTask answers 200 with `failures`.
    NoCapacity,
    /// A function is killed before, during or after a request.
    FunctionKilled,
    /// A function freezes before or after a request, and continues later with the old values of its variables.
    FunctionFrozen,
    /// A request to a function never arrives.
    CallLost,
    /// A function's answer never arrives.
    CallAnswerLost,
    /// A request to a function arrives twice.
    CallRepeated,
    /// A game server dies.
    TaskDies,
    /// A game server exits at its start, or hangs.
    TaskFailsToStart,
    /// A game server needs more than the launch time to start, so that two tasks run for one id.
    TaskStartsLate,
    /// A game server cannot reach OWMM for a while, and keeps its players.
    ServerCutOff,
    /// A task event is late, so that other events overtake it.
    EventLate,
    /// A task event is delivered twice.
    EventRepeated,
    /// A task event is lost.
    EventLost,
    /// Two reconcile runs are active at once.
    ReconcileTwice,
}

impl Fault {
    /// All faults.
    pub(super) const ALL: [Self; 24] = [
        Self::RequestLost,
        Self::AnswerLost,
        Self::Repeated,
        Self::Late,
        Self::Slow,
        Self::Throttled,
        Self::ErrorAfterEffect,
        Self::Error,
        Self::Conflict,
        Self::Stale,
        Self::NoCapacity,
        Self::FunctionKilled,
        Self::FunctionFrozen,
        Self::CallLost,
        Self::CallAnswerLost,
        Self::CallRepeated,
        Self::TaskDies,
        Self::TaskFailsToStart,
        Self::TaskStartsLate,
        Self::ServerCutOff,
        Self::EventLate,
        Self::EventRepeated,
        Self::EventLost,
        Self::ReconcileTwice,
    ];

    /// Returns the description of the fault.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::RequestLost => "request to AWS lost",
            Self::AnswerLost => "answer of AWS lost after the effect",
            Self::Repeated => "request to AWS applied twice",
            Self::Late => "request to AWS applied after the caller gave up",
            Self::Slow => "request to AWS overtaken",
            Self::Throttled => "throttled",
            Self::ErrorAfterEffect => "500 after the effect",
            Self::Error => "500 or 503 without effect",
            Self::Conflict => "transaction conflict",
            Self::Stale => "outdated read",
            Self::NoCapacity => "RunTask: `failures` in a 200",
            Self::FunctionKilled => "function killed",
            Self::FunctionFrozen => "function frozen",
            Self::CallLost => "request to a function lost",
            Self::CallAnswerLost => "answer of a function lost",
            Self::CallRepeated => "request to a function delivered twice",
            Self::TaskDies => "game server dies",
            Self::TaskFailsToStart => "game server fails to start",
            Self::TaskStartsLate => "game server starts too late, so two tasks run for one id",
            Self::ServerCutOff => "game server cut off from OWMM",
            Self::EventLate => "task event late",
            Self::EventRepeated => "task event repeated",
            Self::EventLost => "task event lost",
            Self::ReconcileTwice => "two reconcile runs at once",
        }
    }

    /// Returns the highest rate of the fault, in strikes per thousand occasions.
    const fn at_most(self) -> u64 {
        match self {
            Self::FunctionKilled | Self::FunctionFrozen | Self::Late => 30,
            Self::Slow | Self::Stale | Self::NoCapacity => 200,
            Self::TaskDies | Self::TaskFailsToStart | Self::ServerCutOff | Self::EventLate | Self::EventLost => 400,
            Self::TaskStartsLate | Self::EventRepeated | Self::ReconcileTwice => 300,
            _ => 60,
        }
    }
}

/// The rate of each fault, in strikes per thousand occasions.
#[derive(Clone, Debug)]
pub(super) struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    fn of(chance: &Chance, theme: Theme) -> Self {
        let quiet = chance.hit(60);
        // Scales all rates of a run, so that some runs have few faults and others many.
        let tenths = chance.within(1, 10);
        Self(Fault::ALL.map(|fault| {
            let on = !quiet && chance.hit(500);
            match (theme, fault) {
                (Theme::Silence, Fault::ServerCutOff) => 2 * fault.at_most(),
                _ if on => (fault.at_most() * tenths / 10).max(1),
                _ => 0,
            }
        }))
    }

    /// Returns the rate of a fault, in strikes per thousand occasions.
    pub(super) fn rate(&self, fault: Fault) -> u64 {
        self.0.get(fault as usize).copied().unwrap_or(0)
    }
}

/// The theme of a run. Some states are rarely reached unless the whole plan favours them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// No theme.
    Anything,
    /// Players join right when reconcile runs and are away otherwise, so that servers are idle in between.
    OnTheMinute,
    /// Game servers with connected players are cut off for longer than their leases, and reconcile runs often.
    Silence,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The theme.
    pub(super) theme: Theme,
    /// The pool's limits.
    pub(super) limits: PoolLimits,
    /// The pool's rollout setting.
    pub(super) rollout: Rollout,
    /// Number of single players.
    pub(super) players: u64,
    /// Number of parties.
    pub(super) parties: u64,
    /// Number of processes that run the functions.
    pub(super) instances: u64,
    /// Largest difference between the clocks of two processes, in milliseconds.
    pub(super) skew_ms: u64,
    /// Duration of the part with faults, in seconds.
    pub(super) chaos_seconds: u64,
    /// Longest start of a game server, in milliseconds.
    pub(super) start_ms: u64,
    /// Longest stay of a player, in milliseconds.
    pub(super) stay_ms: u64,
    /// Longest pause between two visits of a player, in milliseconds.
    pub(super) away_ms: u64,
    /// Interval of reconcile runs in the part with faults, in seconds.
    pub(super) reconcile_seconds: u64,
    /// Mean interval of an operator's calls, in seconds; 0 for no operator.
    pub(super) operator_seconds: u64,
    /// Mean interval of a stranger's calls, in seconds; 0 for no stranger.
    pub(super) stranger_seconds: u64,
    /// The rate of each fault.
    pub(super) faults: Faults,
}

impl Plan {
    /// Draws the plan of a run.
    pub(super) fn of(chance: &Chance) -> Self {
        let seconds = |least: u64, most: u64| Span::seconds(u32::try_from(chance.within(least, most)).unwrap_or(1));
        let number = |least: u64, most: u64| u32::try_from(chance.within(least, most)).unwrap_or(1);
        let capacity = number(1, 5);
        let max_servers = number(1, 5);
        let short_reservations = chance.hit(500);
        let headroom = if chance.hit(300) { number(1, capacity.into()) } else { 0 };
        let slots = u64::from(capacity * max_servers);
        let theme = match chance.below(10) {
            0 | 1 => Theme::OnTheMinute,
            2 | 3 => Theme::Silence,
            _ => Theme::Anything,
        };
        let (on_the_minute, silence) = (theme == Theme::OnTheMinute, theme == Theme::Silence);
        let (least, most) = match theme {
            Theme::Anything => (1, 14),
            Theme::OnTheMinute => (1, 3),
            Theme::Silence => (slots.clamp(3, 12), 14),
        };
        Self {
            theme,
            limits: PoolLimits {
                capacity,
                max_servers,
                concurrent_launches: if chance.hit(700) { 1 } else { number(2, 3) },
                headroom,
                idle: if on_the_minute { seconds(5, 20) } else { seconds(10, 90) },
                reservation: if short_reservations { seconds(2, 8) } else { seconds(10, 40) },
                launch: seconds(8, 40),
                lease: if silence || chance.hit(300) { seconds(4, 9) } else { seconds(12, 45) },
            },
            rollout: if chance.hit(500) { Rollout::Lazy } else { Rollout::Drain },
            players: chance.within(least, (slots * 3 / 2).clamp(3, most)),
            parties: if chance.hit(400) { chance.within(1, 2) } else { 0 },
            instances: chance.within(1, 4),
            skew_ms: if chance.hit(600) { chance.within(0, 5_000) } else { 0 },
            chaos_seconds: match theme {
                Theme::Anything => chance.within(60, 150),
                Theme::OnTheMinute => chance.within(190, 400),
                Theme::Silence => chance.within(100, 200),
            },
            start_ms: chance.within(200, 12_000),
            stay_ms: match theme {
                Theme::Anything => chance.within(500, 60_000),
                Theme::OnTheMinute => 2_000,
                Theme::Silence => chance.within(20_000, 60_000),
            },
            away_ms: chance.within(100, 20_000),
            reconcile_seconds: if silence { chance.within(8, 20) } else { 60 },
            operator_seconds: if chance.hit(500) { chance.within(5, 40) } else { 0 },
            stranger_seconds: if chance.hit(300) { chance.within(5, 20) } else { 0 },
            faults: Faults::of(chance, theme),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.limits;
        write!(
            f,
            "{:?}: capacity {}, max servers {}, concurrent launches {}, headroom {}, idle {} s, reservation {} s, \
             launch {} s, lease {} s, rollout {}, {} players, {} parties, {} instances, skew {} ms, faults:",
            self.theme,
            limits.capacity,
            limits.max_servers,
            limits.concurrent_launches,
            limits.headroom,
            limits.idle.as_seconds(),
            limits.reservation.as_seconds(),
            limits.launch.as_seconds(),
            limits.lease.as_seconds(),
            self.rollout.as_str(),
            self.players,
            self.parties,
            self.instances,
            self.skew_ms,
        )?;
        for fault in Fault::ALL.into_iter().filter(|fault| self.faults.rate(*fault) > 0) {
            write!(f, " {fault:?}={}", self.faults.rate(fault))?;
        }
        Ok(())
    }
}
