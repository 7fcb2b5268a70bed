//! Every hour: orders that ended longer than `RETAIN_FOR` ago, deleted domains that are cleaned up, and events older than 30
//! days are deleted.

use std::time::Duration;

use countersign_shared::store::certificates::ordered;
use countersign_shared::store::jobs::Outcome;
use countersign_shared::store::orders::purge::{self, Cursor};
use countersign_shared::store::{PgPool, StoreError, deliveries, idempotency_keys, in_time, request_counts};
use countersign_shared::telemetry::chain;

use super::{failed, result};
use crate::queue::Lease;

const EVERY: Duration = Duration::from_secs(3600);
/// Rows of one transaction.
const BATCH: i64 = 500;

pub async fn run(pool: &PgPool, retain_for: Duration, lease: &Lease) {
    // What a run that is cut short has deleted stays deleted; the next one begins anew.
    let purged = tokio::select! {
        biased;
        () = lease.ended() => {
            tracing::warn!("the lease ended before the purge did");
            return lease.settle(Outcome::Release).await;
        }
        purged = purge(pool, retain_for) => purged,
    };
    let outcome = match purged {
        Ok((orders, domains)) => {
            if orders + domains > 0 {
                tracing::info!(orders, domains, "purged");
            }
            let saw = result(lease, serde_json::json!({ "orders": orders, "domains": domains }));
            Outcome::Wait { until: lease.now() + EVERY, saw: Some(saw) }
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "purge failed");
            failed(lease, &error)
        }
    };
    lease.settle(outcome).await;
}

/// How many orders and domains went.
async fn purge(pool: &PgPool, retain_for: Duration) -> Result<(u64, u64), StoreError> {
    in_time(async {
        let mut conn = pool.acquire().await?;
        request_counts::purge(&mut conn).await?;
        ordered::cancel_idle(&mut conn, BATCH).await?;
        idempotency_keys::purge(&mut conn, 10 * BATCH).await
    })
    .await?;
    loop {
        let batch = in_time(async {
            let mut tx = pool.begin().await?;
            let batch = deliveries::purge(&mut tx, BATCH).await?;
            tx.commit().await?;
            Ok(batch)
        });
        if batch.await? < BATCH as u64 {
            break;
        }
    }
    let (mut orders, mut domains) = (0, 0);
    let mut after = Some(Cursor::default());
    while let Some(cursor) = after {
        let batch = in_time(async {
            let mut tx = pool.begin().await?;
            let batch = purge::orders(&mut tx, retain_for.as_secs_f64(), cursor, BATCH).await?;
            tx.commit().await?;
            Ok(batch)
        });
        let (deleted, next) = batch.await?;
        orders += deleted;
        after = next;
    }
    loop {
        // A transaction of its own: domains are locked before orders.
        let batch = in_time(async {
            let mut tx = pool.begin().await?;
            let batch = purge::domains(&mut tx, BATCH).await?;
            tx.commit().await?;
            Ok(batch)
        });
        let deleted = batch.await?;
        domains += deleted;
        if deleted < BATCH as u64 {
            return Ok((orders, domains));
        }
    }
}
