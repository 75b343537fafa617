//! Chance: one generator that a seed starts, for everything that the simulation decides.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A stream of decisions.
#[derive(Debug)]
pub(super) struct Chance(Mutex<StdRng>);

impl Chance {
    /// The `stream`-th stream of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // Any odd number far from small ones keeps the streams of neighbouring seeds apart.
        Self(Mutex::new(StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    fn advance<T>(&self, advance: impl FnOnce(&mut StdRng) -> T) -> T {
        advance(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number below `n`; 0 if there is none.
    pub(super) fn below(&self, n: u64) -> u64 {
        if n < 2 { 0 } else { self.advance(|rng| rng.random_range(0..n)) }
    }

    /// A number from `least` to `most`.
    pub(super) fn within(&self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True so many times in a thousand.
    pub(super) fn hit(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1_000) < per_mille
    }

    /// A time from `least` to `most` milliseconds.
    pub(super) fn ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.within(least, most))
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or(0))
    }

    /// Another seed.
    pub(super) fn seed(&self) -> u64 {
        self.advance(|rng| rng.random())
    }

    /// Bits for an id.
    pub(super) fn bits(&self) -> u128 {
        self.advance(|rng| rng.random())
    }
}
