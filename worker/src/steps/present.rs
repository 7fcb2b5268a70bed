//! `placed` → `presented`: publishes the TXT values. An order that no worker publishes for is `presented` as soon as it is placed
//! ([`follows`](super::follows)); it comes here only where an earlier release left it `placed`.
//!
//! The values are stored with the order, so that a crash here leaves nothing behind that clean-up would not find.

use std::time::Duration;

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;

use super::{Step, StepOutcome, StepResult};
use crate::presenters::{PresenterError, Publisher};

/// For DNS that cannot be written, besides the time that the record would have had to appear.
const DNS_MAY_BE_AWAY: Duration = Duration::from_secs(3600);

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    match publish(step).await {
        Ok(()) => Ok(StepOutcome::Advance(OrderEvent::Presented)),
        Err(PresenterError::Store(error)) => Err(error.into()),
        Err(error) if is_late(step) => {
            let problem = step.problem(ProblemCode::RecordNotPublished).because(&error.to_string());
            Ok(step.give_up(problem))
        }
        Err(error) => Err(step.not_presented(&error)),
    }
}

async fn publish(step: &Step<'_>) -> Result<(), PresenterError> {
    let publisher = step.tools.presenters.of(step.order.published_by).await?;
    if matches!(publisher, Publisher::Nobody) {
        return Ok(());
    }
    for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
        let owner = challenge_owner(&authorization.identifier);
        if step.leads_to_us(&owner).await == Some(true) {
            continue;
        }
        publisher.present(&owner, &authorization.txt_value).await?;
    }
    Ok(())
}

fn is_late(step: &Step<'_>) -> bool {
    let deadline_at = step.order.placement.as_ref().map(|placement| placement.deadline_at);
    deadline_at.is_some_and(|deadline_at| step.now() > deadline_at + DNS_MAY_BE_AWAY)
}
