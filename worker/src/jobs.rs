//! Jobs that are no order's: deliveries of events, trials of presenters, and the scheduled ones, one fixed row each in the queue, which is how
//! "once in the fleet" works.

pub mod deliver;
pub mod purge;
pub mod renew_due;
pub mod sweep;
pub mod try_presenter;

use std::time::Duration;

use countersign_shared::store::StoreError;
use countersign_shared::store::jobs::Outcome;
use countersign_shared::telemetry::chain;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use crate::queue::Lease;

/// Where a customer's server or account is busy with others: from here to three times as long.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

/// No place was free.
fn crowded_out(lease: &Lease) -> Outcome {
    let pause = COME_BACK_AFTER.mul_f64(1.0 + 2.0 * rand::random::<f64>());
    Outcome::Wait { until: lease.now() + pause, saw: None }
}

/// The end of a run that failed: tried again in a minute, and shown to operators until it has succeeded.
fn failed(lease: &Lease, error: &StoreError) -> Outcome {
    let failure = serde_json::json!({
        "failures": lease.failures().saturating_add(1),
        "failure": { "at": lease.now().format(&Rfc3339).unwrap_or_default(), "detail": chain(error) },
    });
    Outcome::Retry { after_secs: 60.0, counted: false, saw: failure }
}

/// Attempts are used up: the job stops for a person.
pub async fn park(lease: &Lease) {
    tracing::error!(kind = ?lease.job.kind, job.attempt = lease.job.attempts, "attempts used up: parked for a person");
    lease.settle(Outcome::Park { saw: serde_json::json!({ "parked": "attempts used up" }) }).await;
}

/// What a run that succeeded leaves in its row: when, and what it found.
fn result(lease: &Lease, mut found: Value) -> Value {
    found["at"] = lease.now().format(&Rfc3339).unwrap_or_default().into();
    found
}
