//! Time and chance, the two things that a function takes from its surroundings besides the wire.
//!
//! The clock is the SDK's own seam ([`SharedTimeSource`]), so a simulation that turns it turns request signing too.
//! Chance is one seeded generator, for the same reason.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ulid::Ulid;

use crate::domain::{ServerId, Span, Time};

/// Where `now` comes from.
#[derive(Clone, Debug)]
pub struct Clock(SharedTimeSource);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(SharedTimeSource::new(SystemTimeSource::new()))
    }

    /// Another clock.
    pub const fn of(source: SharedTimeSource) -> Self {
        Self(source)
    }

    /// The time now.
    pub fn now(&self) -> Time {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Where choices, ids and tokens come from.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Seeded by the operating system.
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// Seeded by a number, for a simulation.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn roll<T>(&self, roll: impl FnOnce(&mut StdRng) -> T) -> T {
        roll(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number below `n`; 0 if there is none.
    pub fn below(&self, n: usize) -> usize {
        if n < 2 { 0 } else { self.roll(|rng| rng.random_range(0..n)) }
    }

    /// A time between nothing and `at_most`, to keep callers apart.
    pub fn jitter(&self, at_most: Span) -> Duration {
        Duration::from_millis(self.roll(|rng| rng.random_range(0..=at_most.0.max(0).unsigned_abs())))
    }

    /// A new server's id: a ULID, so that ids sort by the time of their launch.
    pub fn server_id(&self, now: Time) -> ServerId {
        let ulid = Ulid::from_parts(now.0.max(0).unsigned_abs(), self.roll(|rng| rng.random()));
        // The alphabet of a ULID is part of the alphabet of ids; the digits of a number are too.
        ServerId::parse(&ulid.to_string()).unwrap_or_else(|_| self.server_id(now))
    }

    /// A new server's token: 256 bits.
    pub fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.roll(|rng| rng.random::<[u8; 32]>()))
    }
}
