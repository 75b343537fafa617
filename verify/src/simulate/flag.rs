//! A condition that becomes true once, and wakes its waiters in a fixed order.
//!
//! `tokio::sync::watch` would wake its waiters in a random order, which a seed does not determine.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// A flag that can be set once. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<(AtomicBool, Notify)>);

impl Flag {
    /// Sets the flag and wakes all waiters.
    pub(super) fn set(&self) {
        self.0.0.store(true, Ordering::Relaxed);
        self.0.1.notify_waiters();
    }

    /// Waits until the flag is set.
    pub(super) async fn wait(&self) {
        let notified = self.0.1.notified();
        if !self.0.0.load(Ordering::Relaxed) {
            notified.await;
        }
    }
}
