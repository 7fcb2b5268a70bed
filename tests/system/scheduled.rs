//! The scheduled jobs in trouble: workers that do not survive them, and workers that are told to stop in the middle of one.

use std::time::Duration;

use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ctl;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::facts::SOON;

const SCHEDULED: &str = "kind IN ('sweep', 'purge', 'renew-due')";

async fn sql(stack: &Stack, text: &str) {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(stack.pool()).await.unwrap();
}

/// Waits until all three are as this condition says.
async fn all_are(stack: &Stack, condition: &str) {
    let query = format!("SELECT count(*) FROM jobs WHERE {SCHEDULED} AND {condition}");
    let all = async || {
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(query.clone())).fetch_one(stack.pool()).await.unwrap();
        (count == 3).then_some(())
    };
    stack.wait_until(&format!("all scheduled jobs are {condition}"), SOON, all).await;
}

/// They have run, and nothing went wrong.
async fn all_have_run(stack: &Stack) {
    let condition = "leased_by IS NULL AND parked_at IS NULL AND attempts = 0 AND due_at > now() AND last_result ? 'at'
                     AND NOT last_result ?| '{lost, failure, parked}'";
    all_are(stack, condition).await;
}

/// As if a worker had died with all of them, after so many others.
async fn lose(stack: &Stack, after: i32) {
    let text = format!(
        "UPDATE jobs SET lease = lease + 1, leased_by = 'worker-9', attempts = {after}, due_at = now() WHERE {SCHEDULED}"
    );
    sql(stack, &text).await;
}

#[tokio::test]
async fn a_scheduled_job_that_no_worker_survives_is_parked_and_one_that_was_survived_is_not_blamed() {
    let stack = Stack::builder().setting("MAX_ATTEMPTS", "2").setting("LEASE_FOR", "2s").start().await;
    all_have_run(&stack).await;
    lose(&stack, 0).await;
    all_have_run(&stack).await;

    lose(&stack, 1).await;
    all_are(&stack, "parked_at IS NOT NULL AND attempts = 2 AND last_result ->> 'parked' = 'attempts used up'").await;
    assert_eq!(stack.log("worker-1").matches("attempts used up: parked for a person").count(), 3);
    assert!(stack.is_running("worker-1"));

    ctl(stack.plan(), &["jobs", "retry", "--state", "parked"]).unwrap();
    all_have_run(&stack).await;
}

/// Statements about this table wait until the transaction ends.
async fn block(stack: &Stack, table: &str) -> Transaction<'static, Postgres> {
    let mut blocking = stack.pool().begin().await.unwrap();
    let lock = AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
    sqlx::query(lock).execute(&mut *blocking).await.unwrap();
    blocking
}

/// Makes a job due, and waits until it is under way and waits for a lock.
async fn runs_into_the_lock(stack: &Stack, kind: &str) {
    sql(stack, &format!("UPDATE jobs SET due_at = now() WHERE kind = '{kind}'")).await;
    let query =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')
                     AND leased_by IS NOT NULL FROM jobs WHERE kind = $1";
    let waits =
        async || sqlx::query_scalar(query).bind(kind).fetch_one(stack.pool()).await.unwrap_or(false).then_some(());
    stack.wait_until(&format!("{kind} waits for a lock"), SOON, waits).await;
}

/// Due, in nobody's hands, and nobody is blamed.
async fn is_given_back(stack: &Stack, kind: &str) -> bool {
    let query = "SELECT leased_by IS NULL AND due_at <= now() AND attempts = 0 FROM jobs WHERE kind = $1";
    sqlx::query_scalar(query).bind(kind).fetch_one(stack.pool()).await.unwrap()
}

#[tokio::test]
async fn a_scheduled_job_that_does_not_end_within_the_grace_is_given_back() {
    let stack = Stack::builder().setting("SHUTDOWN_GRACE", "1s").start().await;
    for (kind, table) in [("sweep", "orders"), ("purge", "idempotency_keys")] {
        all_have_run(&stack).await;
        let blocking = block(&stack, table).await;
        runs_into_the_lock(&stack, kind).await;
        // The grace of 1 s and a moment; three times that on a busy machine.
        let status = stack.terminate("worker-1", Duration::from_secs(6)).await;
        assert!(status.success(), "{status}");
        assert!(is_given_back(&stack, kind).await, "the {kind} was left to its lease");
        blocking.rollback().await.unwrap();
        stack.restart("worker-1").await;
    }
    all_have_run(&stack).await;
}

#[tokio::test]
async fn a_purge_that_is_told_to_stop_ends_after_the_transaction_under_way() {
    let stack = Stack::builder().start().await;
    all_have_run(&stack).await;
    let mut blocking = block(&stack, "idempotency_keys").await;
    let old = "INSERT INTO idempotency_keys (caller, path, key, request_sha256, runs_until, created_at)
               SELECT 'domains', 'path', n::text, sha256(''), now(), now() - interval '25 hours' FROM generate_series(1, 1100) AS n";
    sqlx::query(old).execute(&mut *blocking).await.unwrap();
    runs_into_the_lock(&stack, "purge").await;

    let goes_on = async {
        let told = async || stack.log("worker-1").contains("signal received").then_some(());
        stack.wait_until("the worker has read the signal", SOON, told).await;
        blocking.commit().await.unwrap();
    };
    let (status, ()) = tokio::join!(stack.terminate("worker-1", SOON), goes_on);
    assert!(status.success(), "{status}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys").fetch_one(stack.pool()).await.unwrap();
    assert_eq!(left, 600, "one transaction deletes 500");
    assert!(is_given_back(&stack, "purge").await, "nobody goes on with it");

    stack.restart("worker-1").await;
    let gone = async || {
        let left = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys").fetch_one(stack.pool()).await;
        (left.unwrap_or(-1_i64) == 0).then_some(())
    };
    stack.wait_until("the rest is purged", SOON, gone).await;
}
