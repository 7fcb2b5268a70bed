//! `authorized` → `prepared`: makes the key pair and the CSR. Both are stored before the CA sees the CSR, so that no crash
//! can lose a certificate.

use countersign_shared::model::order::OrderEvent;

use super::{Step, StepError, StepOutcome, StepResult};

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let made = step.tools.keys.make(step.order.algorithm, &step.order.names).await;
    let key = made.map_err(|error| StepError::counted("no key could be made", &error))?;
    Ok(StepOutcome::Advance(OrderEvent::Prepared(Box::new(key))))
}
