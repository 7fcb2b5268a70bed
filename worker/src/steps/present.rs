//! `placed` → `presented`: publishes the TXT values, or leaves it to the customer, whom the API has told them.
//!
//! The values are stored with the order, so that a crash here leaves nothing behind that clean-up would not find.

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::order::OrderEvent;

use super::{Step, StepOutcome, StepResult};

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    if let Some(presenter) = step.presenter()? {
        for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
            let owner = challenge_owner(&authorization.identifier);
            if let Err(error) = presenter.present(&owner, &authorization.txt_value).await {
                return Err(step.not_presented(&error));
            }
        }
    }
    Ok(StepOutcome::Advance(OrderEvent::Presented))
}
