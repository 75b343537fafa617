//! Random decisions of the simulation, all from one seed.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A stream of random decisions.
#[derive(Debug)]
pub(super) struct Chance(Mutex<StdRng>);

impl Chance {
    /// Creates the `stream`-th stream of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // Multiplying by a large odd number gives neighbouring seeds and streams different generators.
        Self(Mutex::new(StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    fn advance<T>(&self, advance: impl FnOnce(&mut StdRng) -> T) -> T {
        advance(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a number below `n`; 0 if `n` is 0.
    pub(super) fn below(&self, n: u64) -> u64 {
        if n < 2 { 0 } else { self.advance(|rng| rng.random_range(0..n)) }
    }

    /// Returns a number from `least` to `most`, both included.
    pub(super) fn within(&self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// Returns true `per_mille` times in a thousand on average.
    pub(super) fn hit(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1_000) < per_mille
    }

    /// Returns a duration from `least` to `most` milliseconds.
    pub(super) fn ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.within(least, most))
    }

    /// Returns one element; none of an empty slice.
    pub(super) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or(0))
    }

    /// Returns a seed for another stream.
    pub(super) fn seed(&self) -> u64 {
        self.advance(|rng| rng.random())
    }

    /// Returns random bits for an id.
    pub(super) fn bits(&self) -> u128 {
        self.advance(|rng| rng.random())
    }
}
