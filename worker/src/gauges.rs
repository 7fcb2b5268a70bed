//! Measures the whole installation for the gauges that every worker shows. Never in the way of a scrape: that shows what was
//! measured last.

use std::time::Duration;

use countersign_shared::store::{Pool, gauges, in_time};
use countersign_shared::telemetry::chain;
use countersign_shared::telemetry::metrics::Measured;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(15);

/// Until `stop`. While the database is away these gauges are not shown: nobody knows.
pub(crate) async fn measure(pool: Pool, stop: CancellationToken) {
    let measured = Measured::default();
    measured.observe();
    while !stop.is_cancelled() {
        let gauges = in_time(async {
            let mut conn = pool.acquire().await?;
            gauges::measure(&mut conn).await
        });
        match stop.run_until_cancelled(gauges).await {
            Some(Ok(gauges)) => measured.set(Some(gauges)),
            Some(Err(error)) => {
                tracing::debug!(error = chain(&error), "the gauges were not measured");
                measured.set(None);
            }
            None => {}
        }
        stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}
