//! `presented` → `confirmed`: looks for the TXT values, until the deadline.
//!
//! The first sight of them ends the customer's clock. From then on the zones' own servers are asked, until all that answer show
//! them or the grace is over. Only a look-up that began at or after the deadline and found nothing fails the order, so that
//! an outage of all workers costs no order.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_shared::model::challenge::{LookupResult, Observation, challenge_owner};
use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::model::schedule::next_look;
use countersign_shared::model::walk::Sight;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::{Step, StepError, StepOutcome, StepResult};

/// Pause before the second look-up for a record that we have published ourselves; later ones come ever more rarely.
const SOONEST_LOOK: Duration = Duration::from_millis(200);
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
    let Look { observation, is_delegated } = look(step).await;
    let began_at = observation.at;
    match observation.result {
        LookupResult::Seen => Ok(StepOutcome::Advance(OrderEvent::Seen { at: began_at, is_delegated })),
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
        // The customer is told what to do while there is time.
        LookupResult::Absent | LookupResult::OtherValue if step.has_lost_delegation().await => {
            Ok(StepOutcome::Advance(OrderEvent::DelegationLost))
        }
        _ => {
            let interval = step.tools.poll_interval;
            // A record that nobody has to set is there at once, or when all name servers have it.
            let interval = if step.order.published_by.presenter.is_automatic() {
                (step.waited() / 2).clamp(SOONEST_LOOK.min(interval), interval)
            } else {
                interval
            };
            let next = next_look(began_at, placement.placed_at, placement.deadline_at, interval);
            Ok(StepOutcome::WaitUntil(next, to_json(&observation)))
        }
    }
}

async fn look_again(step: &Step<'_>, seen_at: OffsetDateTime) -> StepResult {
    let began_at = step.now();
    let observation = match ask_everywhere(step).await {
        Sight::Everywhere => return Ok(StepOutcome::Advance(OrderEvent::Confirmed)),
        Sight::NotAt(detail) => Observation { at: began_at, result: LookupResult::Absent, values: Vec::new(), detail },
        // As on networks that reach the resolvers only.
        Sight::NobodyAnswers => look(step).await.observation,
    };
    if observation.result == LookupResult::Seen || observation.at >= seen_at + step.tools.confirm_grace {
        return Ok(StepOutcome::Advance(OrderEvent::Confirmed));
    }
    let next = observation.at + AGAIN_AFTER.min(step.tools.poll_interval);
    Ok(StepOutcome::WaitUntil(next, to_json(&observation)))
}

/// What the zones' own servers show, of all names that are not proved yet. An alias of the domain's delegation target is not
/// followed: there our own servers answer, and the look-up has just found the value there.
async fn ask_everywhere(step: &Step<'_>) -> Sight {
    let target = step.tools.challenge_zone.as_ref().map(|zone| zone.target(&step.order.delegation_label));
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
        let owner = challenge_owner(&authorization.identifier);
        expected.entry(owner).or_default().push(authorization.txt_value.clone());
    }
    let mut walks = JoinSet::new();
    for (owner, values) in expected {
        let (authoritative, target) = (step.tools.doctor.authoritative.clone(), target.clone());
        walks.spawn(async move {
            let walk = authoritative.walk(&owner, target.as_deref()).await;
            (walk.sight(&values), owner)
        });
    }
    let mut all = Sight::Everywhere;
    for (sight, owner) in walks.join_all().await {
        match sight {
            Sight::Everywhere => {}
            Sight::NobodyAnswers => all = Sight::NobodyAnswers,
            Sight::NotAt(detail) => return Sight::NotAt(format!("{owner}: {detail}")),
        }
    }
    all
}

struct Look {
    observation: Observation,
    is_delegated: Option<bool>,
}

/// One look-up per name that is not proved yet; the first that does not show its value speaks for all.
async fn look(step: &Step<'_>) -> Look {
    let began_at = step.now();
    let are_several = step.order.authorizations.len() > 1;
    let target = step.tools.challenge_zone.as_ref().map(|zone| zone.target(&step.order.delegation_label));
    let (mut last, mut own_delegated) = (None, None);
    for authorization in step.order.authorizations.iter().filter(|one| one.proved_at.is_none()) {
        let owner = challenge_owner(&authorization.identifier);
        let observation = match step.tools.lookup.txt(&owner).await {
            Ok(answer) => {
                // Another name of the domain says nothing of the domain itself.
                if authorization.identifier == step.order.domain_name.as_str() {
                    own_delegated = target.as_ref().map(|target| answer.aliases.contains(target));
                }
                Observation::of_values(began_at, answer.values, &authorization.txt_value)
            }
            Err(error) => Observation::of_failure(began_at, &error.to_string()),
        };
        let is_seen = observation.result == LookupResult::Seen;
        let detail = if are_several { format!("{owner}: {}", observation.detail) } else { observation.detail };
        last = Some(Observation { detail, ..observation });
        if !is_seen {
            break;
        }
    }
    let observation = last.unwrap_or_else(|| Observation::of_values(began_at, Vec::new(), ""));
    Look { observation, is_delegated: own_delegated }
}

fn to_json(observation: &Observation) -> Option<serde_json::Value> {
    serde_json::to_value(observation).ok()
}
