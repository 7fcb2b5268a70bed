//! Every minute: an order that is open, or ended but not cleaned up, and has no job gets one.

use std::time::Duration;

use countersign_shared::store::in_time;
use countersign_shared::store::jobs::{self, Outcome};
use countersign_shared::telemetry::chain;

use super::{failed, result};
use crate::advance::Advance;
use crate::queue::Lease;

const EVERY: Duration = Duration::from_secs(60);

pub async fn run(advance: &Advance, lease: &Lease) {
    let swept = in_time(async {
        let mut conn = advance.tools.pool.acquire().await?;
        jobs::enqueue_missing(&mut conn).await
    });
    let swept = tokio::select! {
        biased;
        () = lease.ended() => return lease.settle(Outcome::Release).await,
        () = advance.abandon.cancelled() => return lease.settle(Outcome::Release).await,
        swept = swept => swept,
    };
    let outcome = match swept {
        Ok(found) => {
            if found > 0 {
                tracing::error!(found, "orders without a job were found and given one; this is a bug");
            }
            let saw = result(lease, serde_json::json!({ "orders": found }));
            Outcome::Wait { until: lease.now() + EVERY, saw: Some(saw) }
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "sweep failed");
            failed(lease, &error)
        }
    };
    lease.settle(outcome).await;
}
