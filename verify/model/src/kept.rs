//! A shared value with a cached hash, for values that are copied and hashed often and changed rarely.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use foldhash::quality::FixedState;

#[derive(Debug)]
pub struct Kept<T> {
    hash: u64,
    value: Arc<T>,
}

impl<T: Hash> Kept<T> {
    pub fn new(value: T) -> Self {
        // A fixed key, so that a run can be repeated.
        Self { hash: FixedState::default().hash_one(&value), value: Arc::new(value) }
    }

    /// Returns a sort key. Sorting by it gives equal sets of values the same order.
    pub const fn order(&self) -> u64 {
        self.hash
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, value: Arc::clone(&self.value) }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.hash);
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && *self.value == *other.value
    }
}

impl<T: Eq> Eq for Kept<T> {}
