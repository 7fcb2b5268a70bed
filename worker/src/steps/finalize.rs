//! `prepared` → `finalizing`: sends the stored CSR (RFC 8555 section 7.4). Always the same one, however often.

use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;

use super::{Step, StepError, StepOutcome, StepResult};
use crate::acme::OrderStatus;
use crate::keys;

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let key = step.key().await?;
    let csr_der =
        keys::csr_der(&key.csr_pem).map_err(|error| StepError::counted("the stored CSR cannot be read", &error))?;
    match step.tools.acme.finalize(step.acme_url()?, &csr_der).await {
        Ok(order) => match order.status {
            OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {
                Ok(StepOutcome::Advance(OrderEvent::Finalizing))
            }
            // Not what the CA said before: its order was started anew, or is dead.
            OrderStatus::Pending | OrderStatus::Invalid => {
                Ok(step.end(ProblemCode::CaOrderLost, order.problem.as_ref()))
            }
        },
        Err(error) => step.ca_failed(&error),
    }
}
