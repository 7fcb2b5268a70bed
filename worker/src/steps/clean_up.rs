//! After the end: TXT records that we published are removed. Where the domain was deleted or the order cancelled, its
//! authorizations are deactivated at the CA (RFC 8555 section 7.5.2), so that nobody can profit from the proof. It never holds
//! back a certificate.

use std::time::Duration;

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::order::{Authorization, Order, OrderEvent, OrderState};
use countersign_shared::model::presenter::PublishedBy;
use countersign_shared::store::{StoreError, authorizations, in_time};
use countersign_shared::telemetry::chain;

use super::{CA_MAY_BE_AWAY, Step, StepError, StepOutcome, StepResult};
use crate::acme::ErrorClass;
use crate::presenters::Publisher;

/// For DNS that cannot be written: then a TXT record stays behind, with a finding.
const DNS_MAY_BE_AWAY: Duration = Duration::from_secs(3600);
/// Counted failures after which clean-up ends with a finding.
const TRIES: i32 = 5;

/// Whether anything of this order must not outlive it at the CA.
pub(super) fn calls_ca(order: &Order) -> bool {
    !order.state.is_open() && (order.domain_is_deleted || order.state == OrderState::Cancelled)
}

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let mut finding = remove_records(step).await?;
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

/// Returns a finding when a record could not be removed, after some tries.
async fn remove_records(step: &Step<'_>) -> Result<Option<String>, StepError> {
    let removed = async {
        let publisher = step.publisher(step.order.published_by).await?;
        if matches!(publisher, Publisher::Nobody) {
            return Ok(());
        }
        for authorization in &step.order.authorizations {
            let (owner, value) = (challenge_owner(&authorization.identifier), &authorization.txt_value);
            if step.leads_to_us(&owner).await == Some(true) {
                continue;
            }
            let others = values_of_others(step, &authorization.identifier).await?;
            // Left to the last order that needs it, which removes it wherever it was written.
            if others.contains(value) {
                continue;
            }
            let mut removed = Ok(());
            for published_by in written_by(step, authorization).await? {
                let by_this = async {
                    let writer = step.publisher(published_by).await?;
                    writer.remove(&owner, value, &others).await.map_err(|error| step.not_presented(&error))
                };
                removed = removed.and(by_this.await);
            }
            // Of orders that were placed in between, also where one of the writers failed.
            for value in values_of_others(step, &authorization.identifier).await? {
                if !others.contains(&value) {
                    publisher.present(&owner, &value).await.map_err(|error| step.not_presented(&error))?;
                }
            }
            removed?;
        }
        Ok(())
    };
    match removed.await {
        Err(StepError::Retry { detail, cause, .. }) if step.waited() > DNS_MAY_BE_AWAY => {
            tracing::warn!(cause, detail);
            Ok(Some(format!("{detail}: {cause}")))
        }
        removed => removed.map(|()| None),
    }
}

async fn values_of_others(step: &Step<'_>, identifier: &str) -> Result<Vec<String>, StoreError> {
    in_time(async {
        let mut conn = step.tools.pool.acquire().await?;
        authorizations::values_of_others(&mut conn, identifier, step.order.id).await
    })
    .await
}

async fn written_by(step: &Step<'_>, authorization: &Authorization) -> Result<Vec<PublishedBy>, StoreError> {
    let Authorization { identifier, txt_value, .. } = authorization;
    in_time(async {
        let mut conn = step.tools.pool.acquire().await?;
        authorizations::written_by(&mut conn, step.order, identifier, txt_value).await
    })
    .await
}
