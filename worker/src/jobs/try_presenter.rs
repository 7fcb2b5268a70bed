//! One trial of what an account proposed through `/v2`: a value is written, seen, removed, and seen gone. Then it is in force, or
//! refused with the reason.

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::store::jobs::{self, Outcome};
use countersign_shared::store::presenter_proposals::{self, ToTry};
use countersign_shared::store::{StoreError, in_time};
use countersign_shared::telemetry::chain;
use countersign_shared::telemetry::labels::JobOutcome;

use super::failed;
use crate::advance::Advance;
use crate::presenters::trial;
use crate::queue::Lease;
use crate::steps::Tools;

/// A trial that no worker survives is not tried for ever.
const MOST_ATTEMPTS: i32 = 3;

pub async fn run(advance: &Advance, lease: &Lease, proposal_id: i64) {
    let outcome = tokio::select! {
        biased;
        () = lease.ended() => Outcome::Release,
        () = advance.abandon.cancelled() => Outcome::Release,
        tried = try_and_store(&advance.tools, lease, proposal_id) => match tried {
            // Stored, with the job's outcome.
            Ok(true) => return,
            Ok(false) => Outcome::Done,
            // What was written and seen is written and seen again.
            Err(error) => {
                tracing::warn!(error = chain(&error), "a presenter's trial could not be stored");
                failed(lease, &error)
            }
        },
    };
    lease.settle(outcome).await;
}

/// False when it is no longer wanted.
async fn try_and_store(tools: &Tools, lease: &Lease, proposal_id: i64) -> Result<bool, StoreError> {
    let pool = &tools.pool;
    let loaded = in_time(async {
        let mut conn = pool.acquire().await?;
        presenter_proposals::load(&mut conn, &tools.ring, proposal_id).await
    });
    let Some(proposal) = loaded.await? else {
        return Ok(false);
    };
    let tried = if lease.job.attempts >= MOST_ATTEMPTS {
        Err("the trial could not be finished".to_owned())
    } else {
        try_out(tools, &proposal).await
    };
    if in_time(store(tools, lease, &proposal, tried.as_ref().err())).await? {
        lease.count(JobOutcome::Done);
        let account_id = proposal.scope.account_id;
        match tried {
            Ok(()) => tracing::info!(account.id = account_id, domain.name = proposal.domain, "presenter accepted"),
            Err(why) => {
                tracing::info!(account.id = account_id, domain.name = proposal.domain, "presenter refused: {why}");
            }
        }
    } else {
        lease.refused("result of this trial").await;
    }
    Ok(true)
}

async fn try_out(tools: &Tools, proposal: &ToTry) -> Result<(), String> {
    let configured = tools.presenters.configured();
    let publisher =
        configured.publisher(&proposal.settings, proposal.secret.as_ref()).map_err(|error| error.to_string())?;
    // The same each time, so that one which a worker left behind is removed by the next.
    let value = format!("countersign-trial-{}", proposal.id);
    let tried = trial::run(&publisher, &challenge_owner(&proposal.domain), &value, &tools.lookup).await;
    tried.map_err(|error| {
        tracing::info!(error = chain(&error), "a presenter's trial failed");
        error.told()
    })
}

/// False when the lease is lost, or the proposal withdrawn.
async fn store(tools: &Tools, lease: &Lease, proposal: &ToTry, refused: Option<&String>) -> Result<bool, StoreError> {
    let mut tx = tools.pool.begin().await?;
    if !presenter_proposals::lock(&mut tx, proposal).await?
        || !jobs::settle(&mut tx, lease.job.fence, &Outcome::Done).await?
    {
        return Ok(false);
    }
    match refused {
        None => presenter_proposals::accept(&mut tx, &tools.ring, proposal).await?,
        Some(why) => presenter_proposals::refuse(&mut tx, proposal.id, why).await?,
    }
    tx.commit().await?;
    Ok(true)
}
