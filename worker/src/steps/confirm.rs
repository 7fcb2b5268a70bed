//! `presented` → `confirmed`: looks for the TXT values, until the deadline.
//!
//! The first sight of them ends the customer's clock. Only a look-up that began at or after the deadline and found
//! nothing fails the order, so that an outage of all workers costs no order.

use std::time::Duration;

use countersign_shared::model::challenge::{LookupResult, Observation, challenge_owner};
use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::model::schedule::next_look;
use time::OffsetDateTime;

use super::{Step, StepError, StepOutcome, StepResult};

/// Pause between look-ups once the value was seen somewhere.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    if step.order.is_proved() {
        return Ok(StepOutcome::Advance(OrderEvent::Confirmed));
    }
    match step.order.seen_at {
        None => await_record(step).await,
        Some(_) if !step.tools.check_again => Ok(StepOutcome::Advance(OrderEvent::Confirmed)),
        Some(seen_at) => look_again(step, seen_at).await,
    }
}

async fn await_record(step: &Step<'_>) -> StepResult {
    let Some(placement) = &step.order.placement else {
        return Err(StepError::bug("an order without a CA order"));
    };
    let observation = look(step).await;
    let began_at = observation.at;
    match observation.result {
        LookupResult::Seen => Ok(StepOutcome::Advance(OrderEvent::Seen { at: began_at })),
        LookupResult::Absent | LookupResult::OtherValue if began_at >= placement.deadline_at => {
            let problem = step.problem(ProblemCode::RecordNotSeen).because(&observation.detail);
            Ok(step.give_up(match step.order.authorizations.as_slice() {
                [only] => problem.expecting(&only.txt_value),
                // Which of them is in the detail.
                _ => problem,
            }))
        }
        // DNS that does not answer says nothing about the record: it gets a while longer.
        LookupResult::LookupFailed if began_at >= placement.deadline_at + step.tools.confirm_grace => {
            Ok(step.give_up(step.problem(ProblemCode::DnsLookupFailed).because(&observation.detail)))
        }
        _ => {
            let next = next_look(began_at, placement.placed_at, placement.deadline_at, step.tools.poll_interval);
            Ok(StepOutcome::WaitUntil(next, to_json(&observation)))
        }
    }
}

async fn look_again(step: &Step<'_>, seen_at: OffsetDateTime) -> StepResult {
    let observation = look(step).await;
    if observation.result == LookupResult::Seen || observation.at >= seen_at + step.tools.confirm_grace {
        return Ok(StepOutcome::Advance(OrderEvent::Confirmed));
    }
    let next = observation.at + AGAIN_AFTER.min(step.tools.poll_interval);
    Ok(StepOutcome::WaitUntil(next, to_json(&observation)))
}

/// One look-up per name that is not proved yet; the first that does not show its value speaks for all.
async fn look(step: &Step<'_>) -> Observation {
    let began_at = step.now();
    let are_several = step.order.authorizations.len() > 1;
    let mut last = None;
    for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
        let owner = challenge_owner(&authorization.identifier);
        let observation = match step.tools.lookup.txt(&owner).await {
            Ok(values) => Observation::of_values(began_at, values, &authorization.txt_value),
            Err(error) => Observation::of_failure(began_at, &error.to_string()),
        };
        let is_seen = observation.result == LookupResult::Seen;
        let detail = if are_several { format!("{owner}: {}", observation.detail) } else { observation.detail };
        last = Some(Observation { detail, ..observation });
        if !is_seen {
            break;
        }
    }
    last.unwrap_or_else(|| Observation::of_values(began_at, Vec::new(), ""))
}

fn to_json(observation: &Observation) -> Option<serde_json::Value> {
    serde_json::to_value(observation).ok()
}
