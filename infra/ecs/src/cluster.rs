//! What all operations and runners share: options, tasks and the reaper.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{options::Options, reaper::Reaper, registry::Registry};

/// What all operations and runners share.
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) registry: Mutex<Registry>,
    /// None in a simulation, and where there is no shell.
    pub(crate) reaper: Option<Reaper>,
}

impl Shared {
    /// No code panics while it holds the lock, and every change is whole before it is let go: a poisoned lock is fine.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
