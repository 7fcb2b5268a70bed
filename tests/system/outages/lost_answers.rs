//! The database has stored the outcome of a run, and nobody heard of it.

use countersign_tests::stack::Stack;

use super::all_resume_unharmed;
use crate::facts::{SOON, names, pending_domains};

#[tokio::test]
async fn an_outcome_whose_answer_is_lost_is_not_taken_for_one_that_was_refused() {
    let stack =
        Stack::builder().postgres_front_of("worker-1").setting("POLL_INTERVAL", "20s").setting("POLL_TIMEOUT", "5m");
    let stack = stack.start().await;
    let domains = pending_domains(&stack, &names(1)).await;
    let (domain, order) = &domains[0];
    let waits = async || {
        let query =
            "SELECT EXISTS (SELECT FROM jobs WHERE order_id IS NOT NULL AND leased_by IS NULL AND due_at > now())";
        sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap_or(false).then_some(())
    };
    stack.wait_until("the order waits for its record", SOON, waits).await;
    let slow_outcomes = "
        CREATE FUNCTION slow_outcome() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER slow_outcome BEFORE UPDATE ON jobs FOR EACH ROW
            WHEN (OLD.leased_by IS NOT NULL AND NEW.leased_by IS NULL AND NEW.order_id IS NOT NULL)
            EXECUTE FUNCTION slow_outcome();";
    sqlx::raw_sql(slow_outcomes).execute(stack.pool()).await.unwrap();
    stack.api().check(&domain.id).await;
    let storing = async || {
        let query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
        sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap_or(false).then_some(())
    };
    stack.wait_until("an outcome is under way", SOON, storing).await;
    stack.postgres_front_of("worker-1").cut();
    // Waits until the outcome is stored, by a Postgres that does not know yet that nobody listens.
    sqlx::raw_sql("DROP TRIGGER slow_outcome ON jobs").execute(stack.pool()).await.unwrap();
    let again = async || stack.log("worker-1").contains("outcome not written yet").then_some(());
    stack.wait_until("the worker has not heard of it", SOON, again).await;
    // Once the job is claimed anew, nobody can tell any more.
    let found = async || stack.log("worker-1").contains("was stored after all").then_some(());
    stack.wait_until("the worker has found it", SOON, found).await;
    stack.publish_value(order).await;
    stack.api().check(&domain.id).await;
    all_resume_unharmed(&stack, &domains, SOON).await;
    assert!(!stack.log("worker-1").contains("lease lost"), "what was stored counts as refused");
}
