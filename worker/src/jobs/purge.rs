//! Every hour: what nobody has issued for 30 days is given up; orders that ended, and what was given up, longer than `RETAIN_FOR`
//! ago, deleted domains that are cleaned up, events older than 30 days, old idempotency keys, and presenters' settings that were replaced
//! and that no order needs are deleted.

use std::time::Duration;

use countersign_shared::store::certificates::ordered;
use countersign_shared::store::jobs::Outcome;
use countersign_shared::store::orders::purge::{self, Cursor};
use countersign_shared::store::{StoreError, deliveries, idempotency_keys, in_time, presenter_configs, request_counts};
use countersign_shared::telemetry::chain;

use super::{failed, result};
use crate::advance::Advance;
use crate::queue::Lease;

const EVERY: Duration = Duration::from_secs(3600);
/// Rows of one transaction.
const BATCH: i64 = 500;

pub async fn run(advance: &Advance, lease: &Lease) {
    // What a run that is cut short has deleted stays deleted; the next one begins anew.
    let purged = tokio::select! {
        biased;
        () = lease.ended() => {
            tracing::warn!("the lease ended before the purge did");
            return lease.settle(Outcome::Release).await;
        }
        () = advance.abandon.cancelled() => return lease.settle(Outcome::Release).await,
        purged = purge(advance) => purged,
    };
    let outcome = match purged {
        // Told to stop: another worker does the rest.
        Ok(_) if advance.stopping.is_cancelled() => Outcome::Release,
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

/// How many orders and domains went. Told to stop, it ends after the transaction under way.
async fn purge(advance: &Advance) -> Result<(u64, u64), StoreError> {
    let (pool, retain_secs) = (&advance.tools.pool, advance.retain_for.as_secs_f64());
    in_time(async { request_counts::purge(&mut *pool.acquire().await?).await }).await?;
    for old in [Old::Idle, Old::GivenUp, Old::Keys, Old::Events, Old::Presenters] {
        in_batches(advance, old).await?;
    }
    let mut orders = 0;
    let mut after = Some(Cursor::default());
    while let Some(cursor) = after.filter(|_| !advance.stopping.is_cancelled()) {
        let batch = in_time(async {
            let mut tx = pool.begin().await?;
            let batch = purge::orders(&mut tx, retain_secs, cursor, BATCH).await?;
            tx.commit().await?;
            Ok(batch)
        });
        let (deleted, next) = batch.await?;
        orders += deleted;
        after = next;
    }
    // Not with the orders: domains are locked before them.
    let domains = in_batches(advance, Old::Domains).await?;
    Ok((orders, domains))
}

/// What one transaction after the other is asked for.
#[derive(Clone, Copy)]
enum Old {
    /// Certificates that nobody has issued.
    Idle,
    /// Those that were given up before they had an order.
    GivenUp,
    /// Idempotency keys.
    Keys,
    Events,
    /// Settings of presenters that were replaced and that no order needs.
    Presenters,
    /// Deleted domains.
    Domains,
}

/// Until a transaction finds less than [`BATCH`] rows. Returns how many rows in all.
async fn in_batches(advance: &Advance, old: Old) -> Result<u64, StoreError> {
    let (pool, retain_secs) = (&advance.tools.pool, advance.retain_for.as_secs_f64());
    let mut all = 0;
    while !advance.stopping.is_cancelled() {
        let batch = in_time(async {
            let mut tx = pool.begin().await?;
            let found = match old {
                Old::Idle => ordered::cancel_idle(&mut tx, BATCH).await?,
                Old::GivenUp => ordered::purge_cancelled(&mut tx, retain_secs, BATCH).await?,
                Old::Keys => idempotency_keys::purge(&mut tx, BATCH).await?,
                Old::Events => deliveries::purge(&mut tx, BATCH).await?,
                Old::Presenters => presenter_configs::purge(&mut tx, BATCH).await?,
                Old::Domains => purge::domains(&mut tx, BATCH).await?,
            };
            tx.commit().await?;
            Ok(found)
        });
        let found = batch.await?;
        all += found;
        if found < BATCH as u64 {
            break;
        }
    }
    Ok(all)
}
