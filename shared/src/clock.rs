//! The time and the random numbers of a process: its only inputs besides the network.
//!
//! The clock is the SDK's own time source ([`SharedTimeSource`]), so a simulation that sets it controls request signing
//! too. All random numbers come from one seedable generator, so that a simulation can be repeated.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ulid::Ulid;

use crate::domain::{ServerId, Span, Time};

/// The clock of a process.
#[derive(Clone, Debug)]
pub struct Clock(SharedTimeSource);

impl Clock {
    /// Uses the machine's clock.
    pub fn system() -> Self {
        Self(SharedTimeSource::new(SystemTimeSource::new()))
    }

    /// Uses another time source, as a simulation does.
    pub const fn of(source: SharedTimeSource) -> Self {
        Self(source)
    }

    /// The current time, in milliseconds since 1970.
    pub fn now(&self) -> Time {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The random number generator behind random choices, ids and tokens.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Creates a generator seeded by the operating system.
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// Creates a generator seeded by a number, for a simulation.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a random number below `n`, or 0 if `n` is 0.
    pub fn below(&self, n: usize) -> usize {
        if n < 2 { 0 } else { self.draw(|rng| rng.random_range(0..n)) }
    }

    /// Returns a random time from 0 to `at_most`, which spreads callers that would otherwise collide again.
    pub fn jitter(&self, at_most: Span) -> Duration {
        Duration::from_millis(self.draw(|rng| rng.random_range(0..=at_most.0.max(0).unsigned_abs())))
    }

    /// Creates a server id: a ULID, so that ids sort by launch time.
    pub fn server_id(&self, now: Time) -> ServerId {
        let ulid = Ulid::from_parts(now.0.max(0).unsigned_abs(), self.draw(|rng| rng.random()));
        // Never fails: every character of a ULID is allowed in an id.
        ServerId::parse(&ulid.to_string()).unwrap_or_else(|_| self.server_id(now))
    }

    /// Creates a server's token: 256 random bits in base64url without padding.
    pub fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.draw(|rng| rng.random::<[u8; 32]>()))
    }
}
