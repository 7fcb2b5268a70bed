//! The scheduled jobs: one fixed row each in the queue, which is how "once in the fleet" works.

pub mod purge;
pub mod sweep;

use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use crate::queue::Lease;

/// What a run that succeeded leaves in its row: when, and what it found.
fn result(lease: &Lease, mut found: Value) -> Value {
    found["at"] = lease.now().format(&Rfc3339).unwrap_or_default().into();
    found
}
