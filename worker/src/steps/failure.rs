//! Errors of steps, each carrying its own decision.

use std::time::Duration;

use countersign_shared::model::problem::ProblemCode;
use countersign_shared::store::StoreError;
use countersign_shared::store::orders::ACME_URL_OPEN_KEY;
use countersign_shared::telemetry::{chain, metrics};

use super::{Step, StepOutcome};
use crate::acme::{AcmeError, ErrorClass, Problem, class_of_authorization_problem};

/// How long the CA is left alone when it limits our rate without saying for how long.
const HOLD_BACK: Duration = Duration::from_secs(60);
/// Bounds of what a CA asks for. A longer time is asked about again after the upper one: the limit may be for one name
/// only, and the hold is everybody's.
const SHORTEST_HOLD_BACK: Duration = Duration::from_secs(1);
const LONGEST_HOLD_BACK: Duration = Duration::from_secs(3600);
/// The longest pause that a CA which cannot serve may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Why a step could not be done now.
pub enum StepError {
    /// Try again. `counted` unless the fault is not the order's.
    Retry {
        /// Never sooner than the backoff says.
        after: Option<Duration>,
        counted: bool,
        /// In our words: a waiting caller reads it.
        detail: String,
        /// The error's own words, for the log.
        cause: String,
    },
    /// The CA limits the account's rate: nobody calls it for that long.
    HoldBack { hold_for: Duration, because: String },
}

impl StepError {
    /// Something that the schema or the code rules out.
    pub(super) fn bug(what: &str) -> Self {
        let detail = "an internal error; the service's operator must act".to_owned();
        Self::Retry { after: None, counted: true, detail, cause: what.to_owned() }
    }

    pub(crate) fn panicked() -> Self {
        Self::bug("a panic")
    }

    pub(crate) fn counted(detail: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::Retry { after: None, counted: true, detail: detail.to_owned(), cause: chain(cause) }
    }

    fn of_store(error: &StoreError) -> Self {
        // Two orders of ours may be placed as one of the CA's at the same moment: the loser looks again and waits for the other.
        let counted = !error.is_outage() && !error.is_conflict_on(ACME_URL_OPEN_KEY);
        Self::Retry { after: None, counted, detail: "the database failed".to_owned(), cause: chain(error) }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::of_store(&error)
    }
}

impl Step<'_> {
    /// What a refusal or failure of the CA means for this order. With the TXT record written by hand a dead CA order is
    /// the end: a new one has a new TXT value that nobody was told.
    pub(super) fn ca_failed(&self, error: &AcmeError) -> Result<StepOutcome, StepError> {
        if let Some(store) = error.store_failure() {
            return Err(StepError::of_store(store));
        }
        let cause = chain(error);
        let retry = |after: Option<Duration>, counted: bool, detail: &str| {
            Err(StepError::Retry { after, counted, detail: detail.to_owned(), cause: cause.clone() })
        };
        match error.class {
            ErrorClass::RetryLater if self.waits_in_vain() => {
                let problem = self.problem(ProblemCode::CaRefused).because("it could not be reached for a day");
                Ok(self.give_up(problem))
            }
            ErrorClass::RetryLater => {
                let after = error.retry_after.map(|after| after.min(LONGEST_PAUSE));
                retry(after, false, "the certificate authority cannot be reached")
            }
            ErrorClass::LookAgain => {
                retry(Some(Duration::from_secs(1)), true, "the certificate authority is not ready")
            }
            ErrorClass::RateLimited => {
                let hold_for = error.retry_after.unwrap_or(HOLD_BACK).clamp(SHORTEST_HOLD_BACK, LONGEST_HOLD_BACK);
                if !error.problem.as_ref().is_some_and(|problem| problem.is_about(&self.order.names)) {
                    return Err(StepError::HoldBack { hold_for, because: cause });
                }
                // Nobody else's order is to wait for this name.
                let is_waited_for = self.order.placement.is_none() && self.order.place_by.is_some();
                if is_waited_for || self.waits_in_vain() {
                    return Ok(self.end(ProblemCode::RateLimited, error.problem.as_ref()));
                }
                retry(
                    Some(hold_for),
                    false,
                    "the certificate authority limits how many certificates it issues for the name",
                )
            }
            ErrorClass::NewOrderNeeded => Ok(self.end(ProblemCode::CaOrderLost, error.problem.as_ref())),
            ErrorClass::FatalForOrder => Ok(self.end(refusal_code(error.problem.as_ref()), error.problem.as_ref())),
            ErrorClass::FatalForAccount => {
                metrics::account_problem();
                tracing::error!(cause, "the CA does not accept our account: check ACME_DIRECTORY and the account");
                // After `placed` an operator has a day to mend the account: the order is still good then.
                if self.order.placement.is_none() || self.waits_in_vain() {
                    return Ok(self.end(ProblemCode::CaAccount, error.problem.as_ref()));
                }
                retry(Some(Duration::from_secs(300)), false, "the certificate authority does not accept our account")
            }
        }
    }

    /// The CA looked at the record and found the authorization `invalid`.
    pub(super) fn authorization_failed(&self, problem: Option<&Problem>) -> StepOutcome {
        let code = match problem {
            Some(problem) if class_of_authorization_problem(problem) == ErrorClass::FatalForOrder => {
                refusal_code(Some(problem))
            }
            _ => ProblemCode::ChallengeRefused,
        };
        self.end(code, problem)
    }

    /// Ends the order: our text for the customer, the CA's own words for operators.
    pub(super) fn end(&self, code: ProblemCode, problem: Option<&Problem>) -> StepOutcome {
        let acme = problem.and_then(|problem| serde_json::to_value(problem).ok());
        let mut ended = self.problem(code).with_acme(acme);
        if let Some(seen) = problem.and_then(|problem| what_the_ca_saw(problem.deciding_name()))
            && code == ProblemCode::ChallengeRefused
        {
            ended = ended.because(seen);
        }
        self.give_up(ended)
    }
}

/// The CA's finding in our words, where a customer can act on it (RFC 8555 section 6.7).
fn what_the_ca_saw(problem: &str) -> Option<&'static str> {
    match problem {
        "dns" => Some("its DNS look-up failed"),
        "unauthorized" | "incorrectResponse" => Some("it did not see the value"),
        "connection" => Some("it could not reach the name servers"),
        _ => None,
    }
}

fn refusal_code(problem: Option<&Problem>) -> ProblemCode {
    match problem.map(Problem::deciding_name) {
        Some("rejectedIdentifier" | "unsupportedIdentifier") => ProblemCode::NameRefused,
        Some("caa") => ProblemCode::CaaForbids,
        _ => ProblemCode::CaRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_loses_the_cas_order_to_another_is_not_to_blame() {
        for (constraint, is_blamed) in [(ACME_URL_OPEN_KEY, false), ("orders_failed_has_problem", true)] {
            let source = std::io::Error::other("refused").into();
            let conflict = StoreError::Conflict { constraint: constraint.to_owned(), source };
            let StepError::Retry { counted, .. } = StepError::from(conflict) else {
                panic!("{constraint} holds everybody back");
            };
            assert_eq!(counted, is_blamed, "{constraint}");
        }
    }
}
