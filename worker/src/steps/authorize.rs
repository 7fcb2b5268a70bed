//! `responded` → `authorized`: reads the CA's order until it is `ready` (RFC 8555 section 7.1.6).

use std::time::Duration;

use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;

use super::{Step, StepOutcome, StepResult};
use crate::acme::{AuthorizationStatus, OrderStatus, OrderView};

/// A CA validates in less, or takes its time: until then a pending order is reason enough to look again.
const TOO_EARLY_TO_TELL: Duration = Duration::from_millis(500);

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let order = match step.tools.acme.order(step.acme_url()?).await {
        Ok(order) => order,
        Err(error) => return step.ca_failed(&error),
    };
    match order.status {
        OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {
            Ok(StepOutcome::Advance(OrderEvent::Authorized { at: step.now() }))
        }
        OrderStatus::Pending if step.waited() < TOO_EARLY_TO_TELL => Ok(step.ask_again(order.retry_after)),
        OrderStatus::Pending | OrderStatus::Invalid => why_not_ready(step, order).await,
    }
}

/// The order says that it is not ready; its authorizations say why, and when to ask again.
async fn why_not_ready(step: &Step<'_>, order: OrderView) -> StepResult {
    let mut retry_after = order.retry_after;
    for authorization in step.order.authorizations.iter() {
        match step.tools.acme.authorization(&authorization.url).await {
            Ok(view) => match view.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => retry_after = view.retry_after.or(retry_after),
                _ => return Ok(step.authorization_failed(view.dns01.and_then(|dns01| dns01.problem).as_ref())),
            },
            Err(error) => return step.ca_failed(&error),
        }
    }
    if order.status == OrderStatus::Invalid {
        return Ok(step.end(ProblemCode::CaOrderLost, order.problem.as_ref()));
    }
    Ok(step.ask_again(retry_after))
}
