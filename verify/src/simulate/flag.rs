//! Something that becomes true once, and those who wait for it.
//!
//! Not a `tokio::sync::watch`: that wakes its waiters in an order that it draws by lot.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Clones are of the same flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<(AtomicBool, Notify)>);

impl Flag {
    /// It is true from now on.
    pub(super) fn set(&self) {
        self.0.0.store(true, Ordering::Relaxed);
        self.0.1.notify_waiters();
    }

    /// Waits until it is.
    pub(super) async fn wait(&self) {
        let told = self.0.1.notified();
        if !self.0.0.load(Ordering::Relaxed) {
            told.await;
        }
    }
}
