//! `placed` → `presented`: the customer publishes the record; the API has told them the value.

use countersign_shared::model::order::OrderEvent;

use super::{Step, StepOutcome, StepResult};

pub(super) fn run(_: &Step<'_>) -> StepResult {
    Ok(StepOutcome::Advance(OrderEvent::Presented))
}
