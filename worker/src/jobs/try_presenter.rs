//! One trial of what an account proposed through `/v2`: a value is written, seen, removed, and seen gone. Then it is in force, or
//! refused with the reason. One that was withdrawn meanwhile is only tidied up after.

use std::time::Duration;

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::store::jobs::{self, Outcome};
use countersign_shared::store::presenter_proposals::{self, ToTry};
use countersign_shared::store::{StoreError, in_time};
use countersign_shared::telemetry::chain;
use countersign_shared::telemetry::labels::JobOutcome;

use super::{crowded_out, failed};
use crate::advance::Advance;
use crate::presenters::{PresenterError, Publisher, trial};
use crate::queue::Lease;
use crate::steps::Tools;

/// A trial that no worker survives is not tried for ever, nor the removal of what one wrote.
const MOST_ATTEMPTS: i32 = 3;
const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(60);

pub async fn run(advance: &Advance, lease: &Lease, proposal_id: i64) {
    let outcome = tokio::select! {
        biased;
        () = lease.ended() => Outcome::Release,
        () = advance.abandon.cancelled() => Outcome::Release,
        tried = try_and_store(&advance.tools, lease, proposal_id) => match tried {
            Ok(None) => return,
            Ok(Some(outcome)) => outcome,
            // What was written and seen is written and seen again.
            Err(error) => {
                tracing::warn!(error = chain(&error), "a presenter's trial could not be stored");
                failed(lease, &error)
            }
        },
    };
    lease.settle(outcome).await;
}

/// None when it is stored, with the job's outcome.
async fn try_and_store(tools: &Tools, lease: &Lease, proposal_id: i64) -> Result<Option<Outcome>, StoreError> {
    let loaded = in_time(async {
        let mut conn = tools.pool.acquire().await?;
        presenter_proposals::load(&mut conn, &tools.ring, proposal_id).await
    });
    let Some(proposal) = loaded.await? else {
        return Ok(Some(Outcome::Done));
    };
    let Some(_place) = tools.places.of_trial(proposal.scope.account_id) else {
        return Ok(Some(crowded_out(lease)));
    };
    let is_given_up = lease.job.attempts >= MOST_ATTEMPTS;
    let tried = if is_given_up {
        Err("the trial could not be finished".to_owned())
    } else if proposal.is_wanted {
        try_out(tools, &proposal).await
    } else {
        // Under its first lease nothing has been written.
        let removed = if lease.job.fence.lease > 1 { remove(tools, &proposal).await } else { Ok(()) };
        if let Err(error) = removed {
            tracing::info!(error = chain(&error), domain.name = proposal.domain, "what a trial wrote is not removed");
            let saw = serde_json::json!({ "failure": { "detail": "what a trial wrote is not removed" } });
            return Ok(Some(Outcome::Retry { after_secs: REMOVE_AGAIN_AFTER.as_secs_f64(), counted: true, saw }));
        }
        Ok(())
    };
    lease.set_ending(true);
    let stored = in_time(store(tools, lease, &proposal, tried)).await;
    lease.set_ending(false);
    stored.map(|()| None)
}

async fn try_out(tools: &Tools, proposal: &ToTry) -> Result<(), String> {
    let publisher = publisher(tools, proposal).map_err(|error| error.to_string())?;
    let (owner, value) = record(proposal);
    let tried = trial::run(&publisher, &owner, &value, &tools.lookup).await;
    tried.map_err(|error| {
        tracing::info!(error = chain(&error), "a presenter's trial failed");
        error.told()
    })
}

async fn remove(tools: &Tools, proposal: &ToTry) -> Result<(), PresenterError> {
    let (owner, value) = record(proposal);
    publisher(tools, proposal)?.remove(&owner, &value, &[]).await
}

fn publisher(tools: &Tools, proposal: &ToTry) -> Result<Publisher, PresenterError> {
    tools.presenters.configured().publisher(&proposal.settings, proposal.secret.as_ref())
}

/// The same each time, so that one which a worker left behind is removed by the next.
fn record(proposal: &ToTry) -> (String, String) {
    (challenge_owner(&proposal.domain), format!("countersign-trial-{}", proposal.id))
}

async fn store(tools: &Tools, lease: &Lease, proposal: &ToTry, tried: Result<(), String>) -> Result<(), StoreError> {
    let mut tx = tools.pool.begin().await?;
    // Under its lock: whoever withdraws it meanwhile waits, or has done so.
    let is_wanted = presenter_proposals::lock(&mut tx, proposal).await?;
    let fence = lease.job.fence;
    let (Some(is_wanted), true) = (is_wanted, jobs::settle(&mut tx, fence, &Outcome::Done).await?) else {
        lease.refused("result of this trial").await;
        return Ok(());
    };
    match &tried {
        _ if !is_wanted => presenter_proposals::forget(&mut tx, proposal.id).await?,
        Ok(()) => presenter_proposals::accept(&mut tx, &tools.ring, proposal).await?,
        Err(why) => presenter_proposals::refuse(&mut tx, proposal.id, why).await?,
    }
    tx.commit().await?;
    lease.count(JobOutcome::Done);
    let account_id = proposal.scope.account_id;
    match tried {
        _ if !is_wanted => {
            tracing::info!(account.id = account_id, domain.name = proposal.domain, "presenter withdrawn");
        }
        Ok(()) => tracing::info!(account.id = account_id, domain.name = proposal.domain, "presenter accepted"),
        Err(why) => {
            tracing::info!(account.id = account_id, domain.name = proposal.domain, "presenter refused: {why}");
        }
    }
    Ok(())
}
