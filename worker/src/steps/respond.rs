//! `confirmed` → `responded`: tells the CA to look (RFC 8555 section 7.5.1).

use countersign_shared::model::order::OrderEvent;

use super::{Step, StepOutcome, StepResult};
use crate::acme::{AuthorizationStatus, ErrorClass};

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
        match step.tools.acme.respond(&authorization.challenge_url).await {
            Ok(()) => {}
            // Not pending any more: answered before a crash, or dead. The authorization says which.
            Err(error) if error.class == ErrorClass::LookAgain => {
                match step.tools.acme.authorization(&authorization.url).await {
                    Ok(view) if matches!(view.status, AuthorizationStatus::Pending | AuthorizationStatus::Valid) => {}
                    Ok(view) => {
                        return Ok(step.authorization_failed(view.dns01.and_then(|dns01| dns01.problem).as_ref()));
                    }
                    Err(error) => return step.ca_failed(&error),
                }
            }
            Err(error) => return step.ca_failed(&error),
        }
    }
    Ok(StepOutcome::Advance(OrderEvent::Responded))
}
