//! One delivery of one event: an attempt, and one transaction for what came of it, with the job row's fenced outcome.
//!
//! A job whose attempts are used up is finished, not parked: nobody can help a receiver that does not answer. The attempts
//! are the job's, so that one which a worker did not survive counts too.

use std::time::Duration;

use countersign_shared::model::schedule::backoff;
use countersign_shared::model::webhook::{MOST_ATTEMPTS, pause_after};
use countersign_shared::store::deliveries::{self, Attempt, Delivery, Recorded};
use countersign_shared::store::jobs::{self, Outcome};
use countersign_shared::store::{Pool, StoreError, in_time};
use countersign_shared::telemetry::labels::{DeliveryOutcome, JobOutcome};
use countersign_shared::telemetry::{chain, metrics};
use time::format_description::well_known::Rfc3339;

use super::crowded_out;
use crate::advance::Advance;
use crate::queue::Lease;
use crate::steps::Tools;

/// Pause between tries to store what came of an attempt while the database is away.
const STORE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is to be written at the end.
enum Ending {
    Attempted {
        delivery: Delivery,
        attempt: Attempt,
        again_after: Option<Duration>,
    },
    GivenUp(&'static str),
    /// The job row alone.
    Job(Outcome),
}

pub async fn run(advance: &Advance, lease: &Lease, delivery_id: i64) {
    let pool = &advance.tools.pool;
    let ending = tokio::select! {
        biased;
        () = lease.ended() => {
            tracing::warn!("the lease ended before the delivery did");
            Ending::Job(Outcome::Release)
        }
        () = advance.abandon.cancelled() => Ending::Job(Outcome::Release),
        ending = attempt(&advance.tools, lease, delivery_id) => ending,
    };
    loop {
        let stored = match &ending {
            Ending::Attempted { delivery, attempt, again_after } => {
                in_time(store_attempt(pool, lease, delivery, attempt, *again_after)).await
            }
            Ending::GivenUp(why) => in_time(store_end(pool, lease, delivery_id, why)).await,
            Ending::Job(outcome) => return lease.settle(outcome.clone()).await,
        };
        match stored {
            Ok(Some(recorded)) => {
                count(lease, &ending, &recorded);
                return report(&ending, recorded);
            }
            Ok(None) => return lease.refused("result of this delivery").await,
            Err(error) if error.is_outage() => {
                tracing::warn!(error = chain(&error), "result of a delivery not stored yet");
                lease.answer_lost();
                tokio::time::sleep(STORE_AGAIN_AFTER).await;
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "result of a delivery cannot be stored; the lease runs out instead"
                );
                return;
            }
        }
    }
}

async fn attempt(tools: &Tools, lease: &Lease, delivery_id: i64) -> Ending {
    let loaded = in_time(async {
        let mut conn = tools.pool.acquire().await?;
        deliveries::load(&mut conn, &tools.ring, delivery_id).await
    });
    let delivery = match loaded.await {
        Ok(Some(delivery)) => delivery,
        Ok(None) => return Ending::Job(Outcome::Done),
        Err(error) => {
            tracing::warn!(error = chain(&error), "delivery not loaded");
            let pause = backoff(lease.failures().saturating_add(1), rand::random());
            let saw = failure(lease, "internal error");
            return Ending::Job(Outcome::Retry { after_secs: pause.as_secs_f64(), counted: !error.is_outage(), saw });
        }
    };
    let span = tracing::Span::current();
    span.record("webhook.id", delivery.webhook_id).record("event.name", delivery.event_name.as_str());
    if !delivery.is_wanted {
        return Ending::GivenUp("the webhook is deleted or suppressed");
    }
    if lease.job.attempts >= MOST_ATTEMPTS {
        return Ending::GivenUp("attempts used up");
    }
    if delivery.is_late && lease.job.attempts > 0 {
        return Ending::GivenUp("not acknowledged within 2 hours");
    }
    let Some(_place) = tools.places.of_webhook(delivery.account_id, delivery.webhook_id) else {
        return Ending::Job(crowded_out(lease));
    };
    let sent = tools.webhooks.send(&delivery, lease.now()).await;
    let number = lease.job.attempts + 1;
    let again_after = pause_after(number, rand::random());
    let attempt = Attempt {
        number,
        acknowledged: sent.is_acknowledged(),
        status: sent.status.map(i32::from),
        error: sent.error,
        is_last: again_after.is_none(),
    };
    Ending::Attempted { delivery, attempt, again_after }
}

/// None when the lease is lost.
async fn store_attempt(
    pool: &Pool,
    lease: &Lease,
    delivery: &Delivery,
    attempt: &Attempt,
    again_after: Option<Duration>,
) -> Result<Option<Recorded>, StoreError> {
    let mut tx = pool.begin().await?;
    let recorded = deliveries::record(&mut tx, delivery, attempt).await?;
    let outcome = match again_after {
        Some(pause) if !recorded.has_ended => Outcome::Retry {
            after_secs: pause.as_secs_f64(),
            counted: true,
            saw: failure(lease, attempt.error.as_deref().unwrap_or_default()),
        },
        _ => Outcome::Done,
    };
    if !jobs::settle(&mut tx, lease.job.fence, &outcome).await? {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(recorded))
}

/// None when the lease is lost.
async fn store_end(pool: &Pool, lease: &Lease, delivery_id: i64, why: &str) -> Result<Option<Recorded>, StoreError> {
    let mut tx = pool.begin().await?;
    deliveries::give_up(&mut tx, delivery_id, lease.job.attempts, why).await?;
    if !jobs::settle(&mut tx, lease.job.fence, &Outcome::Done).await? {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(Recorded { has_ended: true, is_suppressed: false }))
}

fn count(lease: &Lease, ending: &Ending, recorded: &Recorded) {
    lease.count(if recorded.has_ended { JobOutcome::Done } else { JobOutcome::Retried });
    metrics::webhook_delivery(match ending {
        Ending::Attempted { attempt, .. } if attempt.acknowledged => DeliveryOutcome::Acknowledged,
        Ending::Attempted { .. } if !recorded.has_ended => DeliveryOutcome::Failed,
        _ => DeliveryOutcome::GivenUp,
    });
}

fn report(ending: &Ending, recorded: Recorded) {
    match ending {
        Ending::Attempted { attempt, .. } if attempt.acknowledged => {
            tracing::info!(job.attempt = attempt.number, "event delivered");
        }
        Ending::Attempted { attempt, again_after, .. } => {
            let (status, error) = (attempt.status, attempt.error.as_deref());
            tracing::info!(job.attempt = attempt.number, status, error, ?again_after, "event not delivered");
        }
        Ending::GivenUp(why) => tracing::info!("event not delivered: {why}"),
        Ending::Job(_) => {}
    }
    if recorded.is_suppressed {
        tracing::warn!("the webhook is suppressed: it has failed too often");
    }
}

/// What the job row shows meanwhile.
fn failure(lease: &Lease, detail: &str) -> serde_json::Value {
    let at = lease.now().format(&Rfc3339).unwrap_or_default();
    serde_json::json!({ "failures": lease.failures().saturating_add(1), "failure": { "at": at, "detail": detail } })
}
