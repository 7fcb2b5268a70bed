//! An order that fails for its DNS carries what is wrong there. Nothing that goes wrong here keeps it from failing.

use std::time::Duration;

use countersign_shared::model::diagnosis::FindingCode;
use countersign_shared::model::order::OrderEvent;
use countersign_shared::store::{acme_accounts, in_time};
use countersign_shared::telemetry::chain;

use super::{Step, StepOutcome, StepResult};

/// Until silent servers are given up on.
const LOOKS_FOR: Duration = Duration::from_secs(12);
/// With all that comes around it.
const WITHIN: Duration = Duration::from_secs(15);

/// The same outcome, with findings where the customer's DNS may be the reason for a failure. Where the domain is not
/// delegated any more that is noticed first, and the step comes to the same end again.
pub(super) async fn explain(step: &Step<'_>, mut outcome: StepOutcome) -> StepResult {
    if let StepOutcome::Advance(OrderEvent::GaveUp { problem, .. }) = &mut outcome
        && problem.code.is_about_dns()
    {
        if step.has_lost_delegation().await {
            return Ok(StepOutcome::Advance(OrderEvent::DelegationLost));
        }
        let findings = async {
            let registration = in_time(async {
                let mut conn = step.tools.pool.acquire().await?;
                acme_accounts::registration(&mut conn, Some(step.tools.acme.directory())).await
            });
            let registration = registration.await.unwrap_or_else(|error| {
                tracing::debug!(error = chain(&error), "diagnosing without the account's URL");
                None
            });
            let of_each = step.tools.doctor.facts_of_names(step.order, registration.as_ref());
            let found = of_each.iter().map(|facts| step.tools.doctor.findings(facts, LOOKS_FOR));
            let found = futures::future::join_all(found).await.into_iter().flatten();
            // It failed: that all is well by now explains nothing, nor that nobody has looked.
            found.filter(|one| !matches!(one.code, FindingCode::AllWell | FindingCode::NotLookedAt)).collect()
        };
        problem.findings = tokio::time::timeout(WITHIN, findings).await.unwrap_or_default();
    }
    Ok(outcome)
}
