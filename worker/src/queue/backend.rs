//! The apalis side of the queue: hands out what the [`Leaser`](super::Leaser) has claimed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_core::backend::BackendConfig;
use apalis_core::backend::finalize::Ephemeral;
use countersign_shared::store::jobs::Outcome;
use futures::future::join_all;
use tokio::sync::mpsc;
use tower::layer::util::Identity;

use super::lease::Lease;

pub struct JobsBackend {
    claimed: mpsc::UnboundedReceiver<Lease>,
    releasing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl JobsBackend {
    pub fn new(claimed: mpsc::UnboundedReceiver<Lease>) -> Self {
        Self { claimed, releasing: None }
    }
}

impl Backend for JobsBackend {
    type Task = Task<Lease>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Never an error (that would end the worker) and never the end (the worker would hang).
    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        match self.claimed.poll_recv(cx) {
            Poll::Ready(Some(lease)) => Poll::Ready(Some(Ok(Task::new(lease)))),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Gives back what was claimed and not started.
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let claimed = &mut self.claimed;
        let releasing = self.releasing.get_or_insert_with(|| {
            claimed.close();
            let mut unstarted = Vec::new();
            while let Ok(lease) = claimed.try_recv() {
                unstarted.push(async move { lease.settle(Outcome::Release).await });
            }
            Box::pin(async move { drop(join_all(unstarted).await) })
        });
        releasing.as_mut().poll(cx).map(Ok)
    }
}

impl BackendConfig for JobsBackend {
    type Args = Lease;
    type Id = i64;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        Identity::new()
    }
}
