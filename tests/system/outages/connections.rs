//! The database is there, but connections to it end, are all taken, are slow, or lead nowhere.

use std::time::{Duration, Instant};

use countersign_tests::api_client::Answer;
use countersign_tests::dns_front::DnsFault;
use countersign_tests::postgres_front::AtCommit;
use countersign_tests::stack::Stack;
use sqlx::{Postgres, Transaction};

use super::{ACQUIRE_TIMEOUT, all_resume_unharmed, answered_within, is_503};
use crate::facts::{SOON, all, events, has_one_certificate_each, is_cleaned_up, names, pending_domains};

/// In every session of ours.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of our processes that wait for a lock.
async fn blocked(stack: &Stack) -> i64 {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap()
}

/// Statements about this table wait until the transaction ends; returns when `count` of them do.
async fn block(stack: &Stack, table: &'static str) -> Transaction<'static, Postgres> {
    let mut blocking = stack.pool().begin().await.unwrap();
    let lock = sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
    sqlx::query(lock).execute(&mut *blocking).await.unwrap();
    blocking
}

async fn wait_until_blocked(stack: &Stack, count: i64) {
    let waiting = async || (blocked(stack).await >= count).then_some(());
    stack.wait_until(&format!("{count} statements wait for a lock"), SOON, waiting).await;
}

#[tokio::test]
async fn backends_terminated_again_and_again_cost_no_order_and_no_attempt() {
    let stack = Stack::builder().apis(2).workers(2).setting("POLL_TIMEOUT", "5m").start().await;
    let domains = pending_domains(&stack, &names(8)).await;
    let mut terminated = 0;
    for (domain, order) in &domains {
        stack.publish_value(order).await;
        for number in [1, 2] {
            let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let count: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
            terminated += count;
            let asked = Instant::now();
            let answer = stack.api_replica(number).try_fetch(&domain.id).await.unwrap();
            answered_within(asked, ACQUIRE_TIMEOUT);
            if answer.status != 200 {
                is_503(&answer);
            }
        }
    }
    assert!(terminated >= 16, "only {terminated} connections were there to be terminated");
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
}

/// Its database goes away between any two of its statements.
#[tokio::test]
#[ignore = "some fifty starts of each process: make test-all"]
async fn whatever_a_process_asks_when_it_is_cut_off_during_its_start_it_starts_all_the_same() {
    let stack = Stack::builder().postgres_front_of("api-1").postgres_front_of("worker-1").start().await;
    let cut_off_at_every_piece = async |replica: &str| {
        let front = stack.postgres_front_of(replica);
        for piece in 1.. {
            stack.kill(replica);
            front.cut_at(piece);
            stack.restart(replica).await;
            if front.is_cut_to_come() {
                front.cut_at(0);
                return piece - 1;
            }
        }
        unreachable!("a start has an end")
    };
    let [api, worker] = tokio::join!(cut_off_at_every_piece("api-1"), cut_off_at_every_piece("worker-1")).into();
    assert!(api > 10 && worker > 10, "cut off {api} and {worker} times");
    let domains = pending_domains(&stack, &names(1)).await;
    stack.publish_value(&domains[0].1).await;
    all_resume_unharmed(&stack, &domains, SOON).await;
}

/// A renewal then no longer finds the lease that its run has given up.
#[tokio::test]
async fn a_run_hears_late_of_its_last_commit_and_is_not_taken_for_lost() {
    let stack = Stack::builder().postgres_front_of("worker-1").setting("LEASE_FOR", "3s").setting("PLACE_WAIT", "25s");
    let stack = stack.start().await;
    // Longer than from one renewal to the next.
    stack.postgres_front_of("worker-1").at_commit(100, AtCommit::AnswerLate(Duration::from_millis(1500)));
    let domains = pending_domains(&stack, &names(1)).await;
    stack.publish_value(&domains[0].1).await;
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
    is_cleaned_up(&stack, &domains[0].0.id).await;
    let ended = async || {
        let log = stack.log("worker-1");
        (log.contains(r#""message":"cleaned_up""#) || log.contains("lease lost")).then_some(log)
    };
    let log = stack.wait_until("the run has heard of its end", SOON, ended).await;
    assert!(!log.contains("lease lost") && !log.contains("the lease ended"), "{log}");
}

/// Waits are written together; one whose row somebody has locked must hold up no other, and is written when it can be.
#[tokio::test]
async fn a_wait_whose_row_is_locked_holds_up_no_other_and_is_written_after_all() {
    let stack =
        Stack::builder().dns_front().setting("POLL_TIMEOUT", "1h").setting("POLL_INTERVAL", "10m").start().await;
    let domains = pending_domains(&stack, &names(2)).await;
    let query = "SELECT count(*) FROM jobs WHERE order_id IS NOT NULL AND leased_by IS NULL AND due_at > now() + interval '5 minutes'";
    let waiting = async |count: i64| {
        let waits: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (waits == count).then_some(())
    };
    stack.wait_until("the first looks are over", SOON, async || waiting(2).await).await;
    for (_, order) in &domains {
        stack.dns_front().fault(&format!("{}.", order.challenge_domain), DnsFault::After(Duration::from_secs(1)));
    }
    for (domain, _) in &domains {
        let woken = async || (stack.api().try_check(&domain.id).await.unwrap().status == 202).then_some(());
        stack.wait_until("the API wakes the job", SOON, woken).await;
    }
    let looking = async || {
        let query = "SELECT count(*) FROM jobs WHERE order_id IS NOT NULL AND leased_by IS NOT NULL";
        let leased: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (leased == 2).then_some(())
    };
    stack.wait_until("both are looked at", SOON, looking).await;
    let mut locking = stack.pool().begin().await.unwrap();
    let lock = "SELECT 1 FROM jobs JOIN orders ON orders.id = order_id WHERE orders.public_id = $1 FOR UPDATE OF jobs";
    sqlx::query(lock).bind(&domains[0].1.order_id).execute(&mut *locking).await.unwrap();
    wait_until_blocked(&stack, 1).await;
    stack.wait_until("the other one waits again", SOON, async || waiting(1).await).await;
    locking.rollback().await.unwrap();
    stack.wait_until("both wait again", SOON, async || waiting(2).await).await;
    assert!(!stack.log("worker-1").contains("lease lost"));
    stack.abandon();
}

/// What was committed is found to be so, and what was not is done again.
#[tokio::test]
async fn commits_of_a_worker_that_are_lost_with_or_without_their_effect_cost_nothing() {
    let stack = Stack::builder().postgres_front_of("worker-1").setting("PLACE_WAIT", "25s").start().await;
    let front = stack.postgres_front_of("worker-1");
    for _ in 0..50 {
        front.at_commit(1, AtCommit::LoseAnswer);
        front.at_commit(1, AtCommit::Lose);
        front.at_commit(1, AtCommit::LoseAnswer);
    }
    let domains = pending_domains(&stack, &names(3)).await;
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
    for (domain, order) in &domains {
        is_cleaned_up(&stack, &domain.id).await;
        let story = events(&stack, &order.order_id).await;
        assert_eq!(story.len(), 11, "an event is missing, or there twice: {story:?}");
    }
    stack.finish().await;
    assert!(front.commits_to_come() <= 150 - 3 * 10, "{} commits have not come", front.commits_to_come());
    all_resume_unharmed(&stack, &domains, SOON).await;
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_costs_no_attempt() {
    let stack = Stack::builder().postgres_front_of("worker-1").setting("LEASE_FOR", "2s").setting("POLL_TIMEOUT", "5m");
    let stack = stack.start().await;
    let domains = pending_domains(&stack, &names(1)).await;
    let slow_claims = "
        CREATE FUNCTION slow_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER slow_claim BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.lease > OLD.lease) EXECUTE FUNCTION slow_claim();";
    sqlx::raw_sql(slow_claims).execute(stack.pool()).await.unwrap();
    let claiming = async || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let sleeping: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (sleeping > 0).then_some(())
    };
    stack.wait_until("a claim is under way", SOON, claiming).await;
    stack.postgres_front_of("worker-1").cut();
    // Waits until the claim is stored, by a Postgres that does not know yet that nobody listens.
    sqlx::raw_sql("DROP TRIGGER slow_claim ON jobs").execute(stack.pool()).await.unwrap();
    stack.publish_value(&domains[0].1).await;
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
    assert!(stack.log("worker-1").contains("given back"), "no claim was lost");
}

#[tokio::test]
async fn a_commit_of_the_api_that_is_lost_is_a_503_and_the_caller_finds_out_what_became_of_it() {
    let stack = Stack::builder().postgres_front_of("api-1").start().await;
    let front = stack.postgres_front_of("api-1");
    let names = names(2);
    let [without, with] = [stack.verified_domain(&names[0]).await, stack.verified_domain(&names[1]).await];

    front.at_commit(1, AtCommit::Lose);
    is_503(&stack.api().try_issue(&without.id).await.unwrap());
    assert_eq!(stack.api().fetch(&without.id).await.status, "verified");
    let order = stack.api().issue(&without.id).await;
    stack.publish_value(&order).await;

    front.at_commit(1, AtCommit::LoseAnswer);
    is_503(&stack.api().try_issue(&with.id).await.unwrap());
    let pending = stack.becomes(&with.id, "certificate_pending", SOON).await;
    let [owner, value] = ["challenge_domain", "expected_txt_value"].map(|field| pending.more[field].as_str().unwrap());
    stack.dns().set_txt(owner, value).await.unwrap();
    for domain in [&without, &with] {
        stack.becomes_active(&domain.id).await;
        assert_eq!(stack.ca().certificates_issued_for(&domain.domain_name).await.unwrap(), 1);
    }
    assert_eq!((front.commits_to_come(), stack.ca().certificates_issued().unwrap()), (0, 2));
}

/// One connection of the two is that with which the API listens.
async fn no_connection_is_free(held_for: Duration) {
    let stack = Stack::builder().setting_of("api-1", "DATABASE_MAX_CONNECTIONS", "2").start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    let blocking = block(&stack, "domains").await;
    let began = Instant::now();
    let held = async {
        let answer = stack.api().try_fetch(&domain.id).await.unwrap();
        answered_within(began, LOCK_TIMEOUT);
        // It was waiting when the lock went, or had met the limit before.
        if began.elapsed() < held_for || answer.status != 200 {
            is_503(&answer);
        }
    };
    // A connection whose wait for the lock is over is the next caller's, who then waits for the lock.
    let limit = if held_for > LOCK_TIMEOUT { LOCK_TIMEOUT } else { ACQUIRE_TIMEOUT };
    let others = async {
        wait_until_blocked(&stack, 1).await;
        while began.elapsed() < held_for {
            let calls = (0..20).map(|_| {
                let (api, id) = (stack.api().clone(), domain.id.clone());
                async move { api.try_fetch(&id).await.unwrap() }
            });
            let asked = Instant::now();
            all(calls.collect::<Vec<_>>()).await.iter().for_each(is_503);
            answered_within(asked, limit);
        }
        blocking.rollback().await.unwrap();
    };
    tokio::join!(held, others);
    let order = stack.api().issue(&domain.id).await;
    stack.publish_value(&order).await;
    let domains = [(stack.becomes_active(&domain.id).await, order)];
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn while_no_connection_is_free_every_caller_gets_a_503() {
    no_connection_is_free(Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn while_no_connection_is_free_for_35_s_every_caller_gets_a_503() {
    no_connection_is_free(Duration::from_secs(35)).await;
}

/// The database is far away; an order takes some hundred round trips.
async fn every_round_trip_takes(time: Duration) {
    let stack = Stack::builder().workers(2).postgres_front().setting("PLACE_WAIT", "25s").setting("POLL_TIMEOUT", "5m");
    let stack = stack.start().await;
    // The first order, which makes the account and prepares the statements, takes longer than a caller would wait.
    let first = stack.pending_domain("first.example.com").await;
    stack.postgres_front().delay(time / 2);
    let domains = [first, stack.pending_domain("second.example.com").await];
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_resume_unharmed(&stack, &domains, 4 * SOON).await;
    for (domain, _) in &domains {
        is_cleaned_up(&stack, &domain.id).await;
    }
    for worker in ["worker-1", "worker-2"] {
        for lost in ["lease lost", "the lease ended", "leases not renewed", "not written yet", "not stored yet"] {
            assert!(!stack.log(worker).contains(lost), "{worker}: {lost}");
        }
    }
    stack.postgres_front().heal();
}

#[tokio::test]
async fn with_60_ms_for_every_round_trip_to_the_database_no_lease_is_lost() {
    every_round_trip_takes(Duration::from_millis(60)).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn with_300_ms_for_every_round_trip_to_the_database_no_lease_is_lost() {
    every_round_trip_takes(Duration::from_millis(300)).await;
}

/// As after a fail-over that nobody was told of: what was connected leads nowhere, and whoever connects now is served.
#[tokio::test]
async fn workers_whose_statements_are_never_answered_go_on_with_new_connections() {
    let stack = Stack::builder().workers(2).postgres_front().setting("LEASE_FOR", "2s").setting("POLL_TIMEOUT", "1h");
    let stack = stack.setting("POLL_INTERVAL", "10m").start().await;
    let domains = pending_domains(&stack, &names(4)).await;
    let nothing_is_due = async || {
        let query = "SELECT bool_and(leased_by IS NULL AND due_at > now() + interval '5 minutes') FROM jobs WHERE order_id IS NOT NULL";
        sqlx::query_scalar::<_, bool>(query).fetch_one(stack.pool()).await.unwrap().then_some(())
    };
    stack.wait_until("the first looks are over", SOON, nothing_is_due).await;
    // So these are the statements by which the two of them look for what is due.
    let blocking = block(&stack, "jobs").await;
    wait_until_blocked(&stack, 2).await;
    stack.postgres_front().strand();
    blocking.rollback().await.unwrap();
    for (domain, order) in &domains {
        stack.publish_value(order).await;
        let woken = async || (stack.api().try_check(&domain.id).await.unwrap().status == 202).then_some(());
        stack.wait_until("the API wakes the job", SOON, woken).await;
    }
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn an_api_whose_statements_were_never_answered_serves_with_new_connections() {
    let stack = Stack::builder().workers(0).postgres_front().setting("DATABASE_MAX_CONNECTIONS", "4").start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    let blocking = block(&stack, "domains").await;
    let began = Instant::now();
    let calls = (0..6).map(|_| {
        let (api, id) = (stack.api().clone(), domain.id.clone());
        async move { api.try_fetch(&id).await.unwrap() }
    });
    let stranded = async {
        wait_until_blocked(&stack, 3).await;
        stack.postgres_front().strand();
        blocking.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(all(calls.collect::<Vec<_>>()), stranded);
    answers.iter().for_each(is_503);
    // Without a limit of its own the API would say nothing, and the client give up after 40 s.
    let met_the_limit = |answer: &&Answer| answer.error() == Some("the request could not be answered in time");
    assert!(answers.iter().filter(met_the_limit).count() >= 3, "{answers:?}");
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    let answered = async || (stack.api().try_fetch(&domain.id).await.unwrap().status == 200).then_some(());
    stack.wait_until("the API answers", SOON, answered).await;
}
