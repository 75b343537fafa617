//! One run of a function: who called it, and how it is killed or stands still in the middle of a request.

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
    /// The run of a function that a call on the wire belongs to.
    pub(super) static CALL: Arc<Call>;
}

/// One run of a function.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) by: Caller,
    pub(super) began: Time,
    pub(super) killed: Notify,
    stands_still: Mutex<Option<Duration>>,
}

impl Call {
    /// A run of a function that begins now.
    pub(super) fn new(number: u64, by: Caller, began: Time) -> Self {
        Self { number, by, began, killed: Notify::new(), stands_still: Mutex::default() }
    }

    /// Nothing of it runs any more.
    pub(super) async fn kill<T>(&self) -> T {
        self.killed.notify_one();
        std::future::pending().await
    }

    /// Nothing of it runs for so long.
    pub(super) async fn freeze(&self, span: Duration) {
        *lock(&self.stands_still) = Some(span);
        tokio::task::yield_now().await;
    }
}

/// A future that is not polled while its function stands still.
pub(super) struct Freezing<F> {
    call: Arc<Call>,
    thaws: Option<Pin<Box<Sleep>>>,
    inner: Pin<Box<F>>,
}

impl<F> Freezing<F> {
    /// `inner`, which is what runs in `call`.
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
            let stands_still = lock(&self.call.stands_still).take();
            match stands_still {
                Some(span) => self.thaws = Some(Box::pin(sleep(span))),
                None => return Poll::Pending,
            }
        }
    }
}
