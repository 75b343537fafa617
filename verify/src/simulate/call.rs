//! One run of a function: its caller, and how it is killed or frozen in the middle of a request.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use shared::domain::Time;
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{checks::Caller, world::lock};

tokio::task_local! {
    /// The run of a function that the current request on the wire belongs to.
    pub(super) static CALL: Arc<Call>;
}

/// One run of a function.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) by: Caller,
    pub(super) began: Time,
    pub(super) killed: Notify,
    frozen_for: Mutex<Option<Duration>>,
}

impl Call {
    /// Creates a run of a function that starts at `began`.
    pub(super) fn new(number: u64, by: Caller, began: Time) -> Self {
        Self { number, by, began, killed: Notify::new(), frozen_for: Mutex::default() }
    }

    /// Kills the run. The future never completes.
    pub(super) async fn kill<T>(&self) -> T {
        self.killed.notify_one();
        std::future::pending().await
    }

    /// Freezes the run for a time: none of its futures is polled meanwhile.
    pub(super) async fn freeze(&self, span: Duration) {
        *lock(&self.frozen_for) = Some(span);
        tokio::task::yield_now().await;
    }
}

/// A future that is not polled while its function is frozen.
pub(super) struct Freezing<F> {
    call: Arc<Call>,
    thaws: Option<Pin<Box<Sleep>>>,
    inner: Pin<Box<F>>,
}

impl<F> Freezing<F> {
    /// Wraps `inner`, the work of `call`.
    pub(super) fn new(call: Arc<Call>, inner: Pin<Box<F>>) -> Self {
        Self { call, thaws: None, inner }
    }
}

impl<F: Future> Future for Freezing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        loop {
            if let Some(thaws) = &mut self.thaws {
                ready!(thaws.as_mut().poll(context));
                self.thaws = None;
            }
            if let Poll::Ready(output) = self.inner.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            let frozen_for = lock(&self.call.frozen_for).take();
            match frozen_for {
                Some(span) => self.thaws = Some(Box::pin(sleep(span))),
                None => return Poll::Pending,
            }
        }
    }
}
