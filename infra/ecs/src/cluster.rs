//! State that all operations and runners share: options, registry of tasks, and reaper.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{options::Options, reaper::Reaper, registry::Registry};

/// State that all operations and runners share.
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) registry: Mutex<Registry>,
    /// `None` in a simulation, and if no shell could be started.
    pub(crate) reaper: Option<Reaper>,
}

impl Shared {
    /// Locks the registry. A poisoned lock is used as it is: no code panics while it holds the lock.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
