//! Every hour: orders that ended longer than `RETAIN_FOR` ago, and deleted domains that are cleaned up, are deleted.

use std::time::Duration;

use countersign_shared::store::jobs::Outcome;
use countersign_shared::store::orders::purge;
use countersign_shared::store::{PgPool, StoreError, in_time};
use countersign_shared::telemetry::chain;

use super::result;
use crate::queue::Lease;

const EVERY: Duration = Duration::from_secs(3600);
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Rows of one transaction.
const BATCH: i64 = 500;
/// Transactions of one run; what is left after them is the next run's, at once.
const MOST_BATCHES: u64 = 20;

pub async fn run(pool: &PgPool, retain_for: Duration, lease: &Lease) {
    let (pause, saw) = match purge(pool, retain_for).await {
        Ok(purged) => {
            if purged.orders + purged.domains > 0 {
                tracing::info!(orders = purged.orders, domains = purged.domains, "purged");
            }
            let saw = result(lease, serde_json::json!({ "orders": purged.orders, "domains": purged.domains }));
            (if purged.is_all { EVERY } else { Duration::ZERO }, Some(saw))
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "purge failed");
            (AFTER_FAILURE, None)
        }
    };
    lease.settle(Outcome::Wait { until: lease.now() + pause, saw }).await;
}

#[derive(Default)]
struct Purged {
    orders: u64,
    domains: u64,
    is_all: bool,
}

async fn purge(pool: &PgPool, retain_for: Duration) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    for _ in 0..MOST_BATCHES {
        let orders = in_time(async {
            let mut tx = pool.begin().await?;
            let orders = purge::orders(&mut tx, retain_for.as_secs_f64(), BATCH).await?;
            tx.commit().await?;
            Ok(orders)
        });
        let orders = orders.await?;
        // A transaction of its own: domains are locked before orders.
        let domains = in_time(async {
            let mut tx = pool.begin().await?;
            let domains = purge::domains(&mut tx, BATCH).await?;
            tx.commit().await?;
            Ok(domains)
        });
        let domains = domains.await?;
        purged.orders += orders;
        purged.domains += domains;
        if orders < BATCH as u64 && domains < BATCH as u64 {
            purged.is_all = true;
            break;
        }
    }
    Ok(purged)
}
