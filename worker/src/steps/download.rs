//! `finalizing` → `issued`: fetches the chain and checks it against the stored key and the names (RFC 8555 section 7.4.2).

use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::telemetry::chain;

use super::{Step, StepError, StepOutcome, StepResult};
use crate::acme::ErrorClass;
use crate::keys;

/// Counted failures after which a chain that cannot be read is refused.
const TRIES: i32 = 3;

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let chain_pem = match step.tools.acme.download(step.acme_url()?).await {
        Ok(Some(chain_pem)) => chain_pem,
        Ok(None) => return Ok(step.ask_again(None)),
        // The CA has the CSR and does not show it yet.
        Err(error) if error.class == ErrorClass::LookAgain => return Ok(step.ask_again(error.retry_after)),
        Err(error) => return step.ca_failed(&error),
    };
    let key = step.key().await?;
    match keys::check_chain(&chain_pem, key.private_key_pem.expose(), &step.order.names) {
        Ok(certificate) => {
            Ok(StepOutcome::Advance(OrderEvent::Issued { at: step.now(), certificate: Box::new(certificate) }))
        }
        // The certificate exists: a second GET may deliver all of it.
        Err(error) if error.may_be_cut() && step.lease.attempts() + 1 < TRIES.min(step.tools.max_attempts) => {
            Err(StepError::counted("the certificate authority's answer is cut off", &error))
        }
        Err(error) => {
            tracing::error!(error = chain(&error), "the CA delivered a chain that does not fit");
            Ok(step.end(ProblemCode::ChainRefused, None))
        }
    }
}
