//! The load: customers who publish the right record, a wrong one or none; a name that the CA refuses, a deleted domain;
//! and domains that renew by themselves, of which one is late.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, LocalSet};

use crate::chaos::Options;
use crate::chaos::customers::{Patience, visit};
use crate::chaos::narrator::Narrator;
use crate::chaos::plan::Plan;
use crate::stack::{Stack, pebble, waiting};

/// So long customers have to publish their record.
pub(super) const POLL_TIMEOUT: Duration = Duration::from_secs(15);

const PATIENCE: Duration = Duration::from_secs(60);
const SEED: u64 = 20_261_128;
const DELEGATED: [&str; 3] = ["blog.example.com", "docs.example.com", "status.example.com"];

/// Until every order has ended.
pub(super) async fn run(stack: &Stack, orders: usize, narrator: Narrator) -> Result<()> {
    narrator.say(&format!("{orders} customers order certificates"));
    // On this thread, as in a storm.
    let thread = LocalSet::new();
    let customers = thread.run_until(customers(stack, orders, narrator));
    tokio::try_join!(customers, delegated(stack), refused(stack), deleted(stack))?;
    renewals(stack).await?;
    narrator.say("waiting until every order has ended");
    let ended = async || {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = 'poll-challenge'")
            .fetch_one(stack.pool())
            .await
            .ok()?;
        (open == 0).then_some(())
    };
    waiting::poll(POLL_TIMEOUT + PATIENCE, ended).await.context("some orders do not end")
}

/// Those of a storm, without the storm.
async fn customers(stack: &Stack, orders: usize, narrator: Narrator) -> Result<()> {
    let options = Options {
        arrivals_for: Duration::from_secs(12),
        records_within: Duration::from_secs(6),
        ..Options::small(orders, SEED)
    };
    let apis: Vec<_> = (1..=options.apis).map(|number| stack.api_replica(number).clone()).collect();
    let patience = Patience { until: narrator.began() + options.arrivals_for + PATIENCE };
    let mut visits = JoinSet::new();
    for customer in Plan::new(&options).customers {
        visits.spawn_local(visit(apis.clone(), stack.dns().clone(), customer, narrator.began(), patience));
    }
    while let Some(ended) = visits.join_next().await {
        let story = ended??;
        ensure!(story.gave_up.is_none(), "{} gave up: {:?}", story.name, story.gave_up);
    }
    Ok(())
}

/// One CNAME each, and no TXT record ever.
async fn delegated(stack: &Stack) -> Result<()> {
    for name in DELEGATED {
        let domain = stack.api().try_register(name).await?.expect(201);
        let id = domain["id"].as_str().context("a domain has an id")?;
        let record = |field: &str| domain["delegation"][field].as_str().context("a domain can be delegated");
        stack.dns().set_cname(record("record_name")?, record("cname_target")?).await?;
        stack.api().try_verify(id).await?.expect(200);
        stack.api().try_issue(id).await?.expect(202);
        stack.becomes(id, "active", PATIENCE).await;
    }
    Ok(())
}

/// The CA does not certify this name.
async fn refused(stack: &Stack) -> Result<()> {
    let domain = stack.verified_domain(pebble::BLOCKED).await;
    stack.api().try_issue(&domain.id).await?.expect(500);
    Ok(())
}

async fn deleted(stack: &Stack) -> Result<()> {
    let (domain, _) = stack.pending_domain("given-up.example.com").await;
    stack.api().delete(&domain.id).await;
    Ok(())
}

/// What takes months: the time of one renewal has come, and another certificate ends in five days.
async fn renewals(stack: &Stack) -> Result<()> {
    let planned = async || {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM certificates WHERE common_name = ANY($1) AND renew_at IS NOT NULL",
        )
        .bind(DELEGATED.as_slice())
        .fetch_one(stack.pool())
        .await
        .ok()?;
        wake(stack).await.ok()?;
        (count == DELEGATED.len() as i64).then_some(())
    };
    waiting::poll(PATIENCE, planned).await.context("the job renew-due has not planned the renewals")?;
    for (name, change) in [
        (DELEGATED[0], "renew_at = now(), ari_check_due = now() + interval '1 day'"),
        (DELEGATED[1], "not_after = now() + interval '5 days', ari_check_due = now() + interval '1 day'"),
    ] {
        let statement = format!("UPDATE certificates SET {change} WHERE common_name = $1 AND state = 'issued'");
        let changed = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(name).execute(stack.pool()).await?;
        ensure!(changed.rows_affected() == 1, "{name} has one certificate");
    }
    wake(stack).await?;
    let renewed = async || {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM renewals WHERE state = 'renewed'")
            .fetch_one(stack.pool())
            .await
            .ok()?;
        (count > 0).then_some(())
    };
    waiting::poll(PATIENCE, renewed).await.context("a renewal that was due has not ended")
}

/// The job that renews runs every minute otherwise.
async fn wake(stack: &Stack) -> Result<()> {
    let due = "UPDATE jobs SET due_at = now() WHERE kind = 'renew-due' AND leased_by IS NULL";
    sqlx::query(due).execute(stack.pool()).await?;
    sqlx::query("SELECT pg_notify('countersign_jobs', '')").execute(stack.pool()).await?;
    Ok(())
}
