//! `authorized` → `prepared`: makes the key pair and the CSR. Both are stored before the CA sees the CSR, so that no crash
//! can lose a certificate.

use countersign_shared::model::certificate::StoredKeyAndCsr;
use countersign_shared::model::order::OrderEvent;
use countersign_shared::sealed::Place;
use countersign_shared::store::StoreError;

use super::{Step, StepError, StepOutcome, StepResult};

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    let made = step.tools.keys.make(step.order.algorithm, &step.order.names).await;
    let key = made.map_err(|error| StepError::counted("no key could be made", &error))?;
    let sealed = step.tools.ring.seal(Place::CertificateKey(step.order.certificate_id), &key.private_key_pem);
    let private_key = sealed.map_err(StoreError::from)?;
    Ok(StepOutcome::Advance(OrderEvent::Prepared(Box::new(StoredKeyAndCsr { private_key, csr_pem: key.csr_pem }))))
}
