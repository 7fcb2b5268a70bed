//! After the end: where the domain was deleted or the order cancelled, its authorizations are deactivated at the CA
//! (RFC 8555 section 7.5.2), so that nobody can profit from the proof. It never holds back a certificate.

use countersign_shared::model::order::{Order, OrderEvent, OrderState};
use countersign_shared::telemetry::chain;

use super::{CA_MAY_BE_AWAY, Step, StepError, StepOutcome, StepResult};
use crate::acme::ErrorClass;

/// Counted failures after which clean-up ends with a finding.
const TRIES: i32 = 5;

/// Whether anything of this order must not outlive it at the CA.
pub(super) fn calls_ca(order: &Order) -> bool {
    !order.state.is_open() && (order.domain_is_deleted || order.state == OrderState::Cancelled)
}

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let mut finding = None;
    if calls_ca(step.order) {
        for authorization in &step.order.authorizations {
            if let Err(error) = step.tools.acme.deactivate_authorization(&authorization.url).await {
                let is_away = matches!(error.class, ErrorClass::RetryLater | ErrorClass::RateLimited);
                if is_away && step.waited() < CA_MAY_BE_AWAY {
                    return step.ca_failed(&error);
                }
                let detail = "an authorization could not be deactivated at the CA";
                if !is_away && step.lease.attempts() + 1 < TRIES.min(step.tools.max_attempts) {
                    return Err(StepError::counted(detail, &error));
                }
                tracing::warn!(error = chain(&error), detail);
                finding = Some(format!("{detail}: {}", chain(&error)));
            }
        }
    }
    Ok(StepOutcome::Advance(OrderEvent::CleanedUp { at: step.now(), finding }))
}
