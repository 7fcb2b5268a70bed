//! Runs that end by waiting are written together: while one statement is under way, the next batch gathers. No run waits for more
//! than that, and each hears of its own row.

use std::collections::HashSet;

use countersign_shared::store::jobs::{self, Fence, Waiting};
use countersign_shared::store::{Pool, StoreError, in_time};
use countersign_shared::telemetry::chain;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Rows of one statement.
const MOST: usize = 256;

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    /// The row is somebody else's, or locked by somebody: its run asks for itself.
    No,
    /// The answer was lost, or nobody writes any more.
    Unknown,
}

/// Where runs hand in their waits.
#[derive(Clone)]
pub struct Waits(mpsc::UnboundedSender<HandedIn>);

/// What writes them: one task of the process.
pub struct WaitsWriter {
    pool: Pool,
    handed_in: mpsc::UnboundedReceiver<HandedIn>,
}

struct HandedIn {
    waiting: Waiting,
    told: oneshot::Sender<bool>,
}

impl Waits {
    pub fn new(pool: Pool) -> (Self, WaitsWriter) {
        let (hand_in, handed_in) = mpsc::unbounded_channel();
        (Self(hand_in), WaitsWriter { pool, handed_in })
    }

    pub(super) async fn store(&self, waiting: Waiting) -> Stored {
        let (told, stored) = oneshot::channel();
        if self.0.send(HandedIn { waiting, told }).is_err() {
            return Stored::Unknown;
        }
        match stored.await {
            Ok(true) => Stored::Yes,
            Ok(false) => Stored::No,
            Err(_) => Stored::Unknown,
        }
    }
}

impl WaitsWriter {
    /// Until `stop`. From then on every run writes for itself.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        let is_some = |count: Option<usize>| count.is_some_and(|count| count > 0);
        while is_some(stop.run_until_cancelled(self.handed_in.recv_many(&mut batch, MOST)).await) {
            let (waiting, told): (Vec<Waiting>, Vec<_>) =
                batch.drain(..).map(|one: HandedIn| (one.waiting, one.told)).unzip();
            match self.write(&waiting).await {
                Ok(stored) => {
                    for (waiting, told) in waiting.iter().zip(told) {
                        // Nobody listens only when the process is leaving.
                        let _ = told.send(stored.contains(&waiting.fence));
                    }
                }
                // Nobody is told, so each run tries for itself.
                Err(error) => tracing::warn!(error = chain(&error), runs = waiting.len(), "outcome not written yet"),
            }
        }
    }

    async fn write(&self, waiting: &[Waiting]) -> Result<HashSet<Fence>, StoreError> {
        in_time(async {
            let mut conn = self.pool.acquire().await?;
            jobs::wait_all(&mut conn, waiting).await
        })
        .await
    }
}
