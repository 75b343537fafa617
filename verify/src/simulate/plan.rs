//! What a seed chooses: the pool, who plays, and which faults come how often.
//!
//! Not every fault is in every run: a run in which everything goes wrong all the time never gets anywhere near the
//! interesting states.

use std::fmt;

use shared::domain::{PoolLimits, Rollout, Span};

use super::chance::Chance;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    /// A request to DynamoDB or ECS never arrives.
    RequestLost,
    /// It takes effect, and its answer never arrives.
    AnswerLost,
    /// It takes effect twice, the second time later.
    Repeated,
    /// It takes effect long after the caller has given up.
    Late,
    /// It is slow, so that later ones overtake it.
    Slow,
    /// It is throttled.
    Throttled,
    /// It takes effect, and the answer is a 500.
    ErrorAfterEffect,
    /// The answer is a 500 or 503, and nothing has happened.
    Error,
    /// A write meets a transaction.
    Conflict,
    /// The index, or a read that does not ask for consistency, answers with what was true a while ago.
    Stale,
    /// RunTask answers 200 with `failures`.
    NoCapacity,
    /// A function is killed between two calls.
    FunctionKilled,
    /// A function stands still before a call or after one, and goes on with old variables.
    FunctionFrozen,
    /// A request to a function never arrives.
    CallLost,
    /// A function's answer never arrives.
    CallAnswerLost,
    /// A request to a function arrives twice.
    CallRepeated,
    /// A game server dies.
    TaskDies,
    /// A game server's start fails, or hangs.
    TaskFailsToStart,
    /// A game server takes longer to start than the launch may, so that two tasks run for one id.
    TaskStartsLate,
    /// A game server reaches nobody for a while, and plays on.
    ServerCutOff,
    /// A task event is late, so that others overtake it.
    EventLate,
    /// A task event comes again.
    EventRepeated,
    /// A task event never comes.
    EventLost,
    /// The fleet is looked after by two at once.
    ReconcileTwice,
}

impl Fault {
    /// Every one.
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

    /// In words.
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
            Self::Stale => "read that is out of date",
            Self::NoCapacity => "RunTask: `failures` in a 200",
            Self::FunctionKilled => "function killed between two calls",
            Self::FunctionFrozen => "function frozen before or between two calls",
            Self::CallLost => "request to a function lost",
            Self::CallAnswerLost => "function's answer lost",
            Self::CallRepeated => "request to a function delivered twice",
            Self::TaskDies => "game server dies",
            Self::TaskFailsToStart => "game server fails to start",
            Self::TaskStartsLate => "game server starts too late: two tasks for one id",
            Self::ServerCutOff => "game server cut off",
            Self::EventLate => "task event late",
            Self::EventRepeated => "task event repeated",
            Self::EventLost => "task event lost",
            Self::ReconcileTwice => "two reconciles at once",
        }
    }

    /// How often it may come at the most, in a thousand chances.
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

/// How often each fault comes, in a thousand chances.
#[derive(Clone, Debug)]
pub(super) struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    fn of(chance: &Chance, theme: Theme) -> Self {
        let quiet = chance.hit(60);
        // A run has a temper: the same faults rarely or often.
        let temper = chance.within(1, 10);
        Self(Fault::ALL.map(|fault| {
            let on = !quiet && chance.hit(500);
            match (theme, fault) {
                (Theme::Silence, Fault::ServerCutOff) => 2 * fault.at_most(),
                _ if on => (fault.at_most() * temper / 10).max(1),
                _ => 0,
            }
        }))
    }

    /// How often this one comes.
    pub(super) fn rate(&self, fault: Fault) -> u64 {
        self.0.get(fault as usize).copied().unwrap_or(0)
    }
}

/// What a run is about: some states are hardly ever reached unless everything works towards them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Nothing in particular.
    Anything,
    /// Players come right when the fleet is looked after, and stay away otherwise: servers fall idle.
    OnTheMinute,
    /// Game servers with players inside reach nobody for longer than their leases last, and the fleet is looked after often.
    Silence,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What it is about.
    pub(super) theme: Theme,
    /// The pool's limits.
    pub(super) limits: PoolLimits,
    /// The pool's roll-outs.
    pub(super) rollout: Rollout,
    /// Players who come and go.
    pub(super) players: u64,
    /// Parties that come and go.
    pub(super) parties: u64,
    /// Processes that run the functions.
    pub(super) instances: u64,
    /// How far their clocks are ahead of the slowest at the most, in milliseconds.
    pub(super) skew_ms: u64,
    /// How long faults come, in seconds.
    pub(super) chaos_seconds: u64,
    /// How long a game server takes to start at the most, in milliseconds.
    pub(super) start_ms: u64,
    /// How long players stay at the most, in milliseconds.
    pub(super) stay_ms: u64,
    /// How long players wait between two visits at the most, in milliseconds.
    pub(super) away_ms: u64,
    /// How often the fleet is looked after while faults come, in seconds.
    pub(super) look_seconds: u64,
    /// How often an operator does something, in seconds; 0 for never.
    pub(super) operator_seconds: u64,
    /// How often somebody calls with a token that is not theirs, in seconds; 0 for never.
    pub(super) intruder_seconds: u64,
    /// The faults.
    pub(super) faults: Faults,
}

impl Plan {
    /// What the seed chooses.
    pub(super) fn of(chance: &Chance) -> Self {
        let seconds = |least: u64, most: u64| Span::seconds(u32::try_from(chance.within(least, most)).unwrap_or(1));
        let number = |least: u64, most: u64| u32::try_from(chance.within(least, most)).unwrap_or(1);
        let capacity = number(1, 5);
        let max_servers = number(1, 5);
        let short_holds = chance.hit(500);
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
                reservation: if short_holds { seconds(2, 8) } else { seconds(10, 40) },
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
            look_seconds: if silence { chance.within(8, 20) } else { 60 },
            operator_seconds: if chance.hit(500) { chance.within(5, 40) } else { 0 },
            intruder_seconds: if chance.hit(300) { chance.within(5, 20) } else { 0 },
            faults: Faults::of(chance, theme),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.limits;
        write!(
            f,
            "{:?}: capacity {} max {} frontiers {} headroom {} idle {} s hold {} s launch {} s lease {} s {}, {} players {} \
             parties, {} instances skew {} ms, faults:",
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
