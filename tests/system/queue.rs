//! The queue and the constraints behind it, at the level of the store: claims, leases, fenced outcomes, wakes, and what no row may say.
//!
//! Time is moved by writing `due_at`, never by waiting.

use std::fs;

use countersign_shared::model::certificate::{KeyAlgorithm, KeyAndCsr};
use countersign_shared::model::domain::{DomainStatus, verification_token};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::{Authorization, Order, OrderEvent, Placement};
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::store::domains::NewDomain;
use countersign_shared::store::jobs::{self, ClaimedJob, Fence, JobKind, Lane, Outcome};
use countersign_shared::store::{StoreError, certificates, domains, notifications, orders};
use countersign_tests::checkout;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use time::{Duration, OffsetDateTime};

use crate::databases::{connect, migrated};

const LEASE: f64 = 60.0;

/// A row of `jobs`, with times relative to the database's now.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
struct Job {
    lane: i16,
    lease: i64,
    leased_by: Option<String>,
    attempts: i32,
    last_result: Option<Value>,
    parked: bool,
    woken: bool,
    /// Seconds from now, in tens: what a slow machine adds does not count.
    due_in: i64,
}

async fn job(conn: &mut PgConnection, id: i64) -> Option<Job> {
    sqlx::query_as(
        "SELECT lane, lease, leased_by, attempts, last_result, parked_at IS NOT NULL AS parked, woken,
                10 * round(extract(epoch FROM due_at - clock_timestamp()) / 10)::bigint AS due_in
           FROM jobs WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
    .unwrap()
}

async fn sql(conn: &mut PgConnection, text: &str) -> Result<u64, StoreError> {
    let done = sqlx::query(AssertSqlSafe(text.to_owned())).execute(conn).await?;
    Ok(done.rows_affected())
}

/// A database without any job, not even the scheduled ones.
async fn empty_queue() -> (String, PgConnection) {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    sql(&mut conn, "DELETE FROM jobs").await.unwrap();
    (url, conn)
}

fn name(label: &str) -> DnsName {
    DnsName::parse(&format!("{label}.example.com"), false).unwrap()
}

/// A small number as an id: rows of different tables may share one.
fn public_id(number: u8) -> PublicId {
    PublicId::from_random([number; 16])
}

/// The internal key of a new `verified` domain.
async fn verified_domain(conn: &mut PgConnection, number: u8) -> i64 {
    let (name, token) = (name(&format!("shop-{number}")), verification_token([number; 32]));
    let new = NewDomain {
        public_id: &public_id(number),
        name: &name,
        supplied_name: name.as_str(),
        verification_token: &token,
    };
    let domain = domains::insert(conn, &new).await.unwrap();
    domains::mark_verified(conn, domain.id).await.unwrap().unwrap().id
}

async fn certificate(conn: &mut PgConnection, number: u8, domain: i64) -> i64 {
    certificates::insert_requested(conn, &public_id(number), domain, KeyAlgorithm::Rsa2048).await.unwrap()
}

/// A new domain with an `accepted` order; the order's internal key.
async fn order(conn: &mut PgConnection, number: u8) -> i64 {
    let domain = verified_domain(conn, number).await;
    let certificate = certificate(conn, number, domain).await;
    orders::insert(conn, &public_id(number), domain, certificate, 10.0, None).await.unwrap()
}

/// Such an order with its job; both keys.
async fn enqueued(conn: &mut PgConnection, number: u8) -> (i64, i64) {
    let order = order(conn, number).await;
    jobs::enqueue(conn, order, &format!("request-{number}")).await.unwrap();
    let job = sqlx::query_scalar("SELECT id FROM jobs WHERE order_id = $1").bind(order).fetch_one(conn).await.unwrap();
    (order, job)
}

async fn claim(conn: &mut PgConnection, worker: &str, limit: i64, may_take_lost: bool) -> Vec<ClaimedJob> {
    jobs::claim(conn, Lane::Waiting, worker, LEASE, limit, may_take_lost).await.unwrap()
}

/// Enqueues one job and leases it.
async fn leased(conn: &mut PgConnection) -> (i64, Fence) {
    let (order, job) = enqueued(conn, 1).await;
    let claimed = claim(conn, "worker-1", 1, false).await;
    assert_eq!(claimed[0].fence, Fence { id: job, lease: 1 });
    (order, claimed[0].fence)
}

/// As if a worker had placed it and looked in vain.
async fn awaits_record(conn: &mut PgConnection, order: i64) {
    let text = format!(
        "UPDATE orders SET state = 'presented', directory = 'https://ca.example/dir', acme_url = 'https://ca.example/{order}',
             placed_at = now(), deadline_at = now() + interval '5 minutes', revision = revision + 1 WHERE id = {order}"
    );
    sql(conn, &text).await.unwrap();
}

async fn end_lease(conn: &mut PgConnection, job: i64) {
    sql(conn, &format!("UPDATE jobs SET due_at = now() - interval '1 second' WHERE id = {job}")).await.unwrap();
}

fn ids(claimed: &[ClaimedJob]) -> Vec<i64> {
    let mut ids: Vec<i64> = claimed.iter().map(|job| job.fence.id).collect();
    ids.sort_unstable();
    ids
}

#[track_caller]
fn assert_conflict<T>(refused: Result<T, StoreError>, constraint: &str) {
    match refused {
        Err(error) => assert!(error.is_conflict_on(constraint), "expected a conflict on {constraint}: {error:?}"),
        Ok(_) => panic!("{constraint} refused nothing"),
    }
}

#[tokio::test]
async fn a_claim_takes_the_longest_due_rows_of_its_lane_up_to_its_limit() {
    let (_, mut conn) = empty_queue().await;
    let mut jobs_by_number = Vec::new();
    for number in 0..6 {
        jobs_by_number.push(enqueued(&mut conn, number).await.1);
    }
    // Due 10 s, 30 s, 20 s ago; not yet; in another lane; parked.
    for (number, change) in [
        "due_at = now() - interval '10 seconds'",
        "due_at = now() - interval '30 seconds'",
        "due_at = now() - interval '20 seconds'",
        "due_at = now() + interval '1 second'",
        "lane = 1",
        "parked_at = now()",
    ]
    .into_iter()
    .enumerate()
    {
        sql(&mut conn, &format!("UPDATE jobs SET {change} WHERE id = {}", jobs_by_number[number])).await.unwrap();
    }
    assert_eq!(ids(&claim(&mut conn, "worker-1", 0, true).await), [0i64; 0]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 2, true).await), [jobs_by_number[1], jobs_by_number[2]]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 10, true).await), [jobs_by_number[0]]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 10, true).await), [0i64; 0]);

    let of_orders = jobs::claim(&mut conn, Lane::Orders, "worker-1", LEASE, 10, true).await.unwrap();
    assert_eq!(ids(&of_orders), [jobs_by_number[4]]);
    assert!(jobs::claim(&mut conn, Lane::Housekeeping, "worker-1", LEASE, 10, true).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_claimed_row_says_what_it_is_and_who_runs_it() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 7).await;
    sql(&mut conn, "UPDATE jobs SET woken = true, attempts = 2, last_result = '{\"failures\": 3}'").await.unwrap();
    let claimed = claim(&mut conn, "worker-1", 1, false).await.remove(0);
    assert_eq!((claimed.fence, claimed.lane), (Fence { id, lease: 1 }, Lane::Waiting));
    assert_eq!(claimed.kind, JobKind::PollChallenge { order_id: order });
    assert_eq!((claimed.attempts, claimed.failures), (2, 3));
    assert_eq!(claimed.request_id.as_deref(), Some("request-7"));
    let row = job(&mut conn, id).await.unwrap();
    assert_eq!((row.leased_by.as_deref(), row.due_in, row.woken), (Some("worker-1"), 60, false));

    sql(&mut conn, "DELETE FROM jobs").await.unwrap();
    sql(&mut conn, "INSERT INTO jobs (kind, lane) VALUES ('sweep', 2)").await.unwrap();
    let sweep = jobs::claim(&mut conn, Lane::Housekeeping, "worker-1", LEASE, 1, false).await.unwrap().remove(0);
    assert_eq!((sweep.kind, sweep.request_id, sweep.failures), (JobKind::Sweep, None, 0));
}

#[tokio::test]
async fn two_workers_at_once_claim_different_rows_and_do_not_wait_for_each_other() {
    let (url, mut one) = empty_queue().await;
    let mut two = connect(&url).await;
    for number in 0..5 {
        enqueued(&mut one, number).await;
    }
    sql(&mut two, "SET lock_timeout = '2s'").await.unwrap();
    let mut uncommitted = one.begin().await.unwrap();
    let first = ids(&claim(&mut uncommitted, "worker-1", 3, true).await);
    let second = ids(&claim(&mut two, "worker-2", 5, true).await);
    assert_eq!((first.len(), second.len()), (3, 2));
    assert!(first.iter().all(|id| !second.contains(id)), "{first:?} {second:?}");
    uncommitted.rollback().await.unwrap();
    assert_eq!(ids(&claim(&mut two, "worker-2", 5, true).await), first);
}

#[tokio::test]
async fn a_leased_row_is_nobody_elses_until_its_lease_ends_and_then_it_counts_an_attempt() {
    let (_, mut conn) = empty_queue().await;
    let (_, fence) = leased(&mut conn).await;
    assert!(claim(&mut conn, "worker-2", 1, true).await.is_empty());

    end_lease(&mut conn, fence.id).await;
    assert!(claim(&mut conn, "worker-2", 1, false).await.is_empty(), "only who saw no outage takes lost rows");
    assert_eq!(job(&mut conn, fence.id).await.unwrap().attempts, 0);
    let taken = claim(&mut conn, "worker-2", 1, true).await.remove(0);
    assert_eq!((taken.fence.lease, taken.attempts), (2, 1));
    // Given back in order, the same row counts nothing at the next claim.
    assert!(jobs::settle(&mut conn, taken.fence, &Outcome::Release).await.unwrap());
    let again = claim(&mut conn, "worker-1", 1, false).await.remove(0);
    assert_eq!((again.fence.lease, again.attempts), (3, 1));
}

/// Every outcome, and the row it makes of [`failing`].
fn outcomes(now: OffsetDateTime) -> Vec<(Outcome, Option<Job>)> {
    let saw = || json!({"result": "absent"});
    let failed = || json!({"failures": 5, "failure": {"detail": "new"}});
    let failed_after_looking = || json!({"failures": 5, "failure": {"detail": "new"}, "result": "old"});
    let until = now + Duration::seconds(40);
    let row = Job {
        lane: 0,
        lease: 1,
        leased_by: None,
        attempts: 2,
        last_result: Some(json!({"failures": 4, "failure": {"detail": "old"}, "result": "old"})),
        parked: false,
        woken: false,
        due_in: 0,
    };
    let leased_by = Some("worker-1".to_owned());
    vec![
        (
            Outcome::Keep { lease_secs: 90.0 },
            Some(Job {
                leased_by,
                attempts: 0,
                last_result: Some(json!({"result": "old"})),
                due_in: 90,
                ..row.clone()
            }),
        ),
        (
            Outcome::Wait { until, saw: Some(saw()) },
            Some(Job { lane: 1, last_result: Some(saw()), due_in: 40, ..row.clone() }),
        ),
        (
            Outcome::Wait { until, saw: None },
            Some(Job { lane: 1, last_result: Some(json!({"result": "old"})), due_in: 40, ..row.clone() }),
        ),
        (
            Outcome::Retry { after_secs: 20.0, counted: true, saw: failed() },
            Some(Job { attempts: 3, last_result: Some(failed_after_looking()), due_in: 20, ..row.clone() }),
        ),
        (
            Outcome::Retry { after_secs: 20.0, counted: false, saw: failed() },
            Some(Job { last_result: Some(failed_after_looking()), due_in: 20, ..row.clone() }),
        ),
        (Outcome::Release, Some(row.clone())),
        (Outcome::Done, None),
        (
            Outcome::Park { saw: failed() },
            Some(Job { last_result: Some(failed_after_looking()), parked: true, due_in: 60, ..row }),
        ),
    ]
}

/// A job in lane 0 that worker-1 runs after two counted failures of four.
async fn failing(conn: &mut PgConnection) -> Fence {
    sql(conn, "DELETE FROM jobs").await.unwrap();
    let order: i64 = sqlx::query_scalar("SELECT min(id) FROM orders").fetch_one(&mut *conn).await.unwrap();
    jobs::enqueue(conn, order, "request").await.unwrap();
    let fence = claim(conn, "worker-1", 1, false).await[0].fence;
    sql(
        conn,
        "UPDATE jobs SET attempts = 2, \
         last_result = '{\"failures\": 4, \"failure\": {\"detail\": \"old\"}, \"result\": \"old\"}'",
    )
    .await
    .unwrap();
    fence
}

#[tokio::test]
async fn every_outcome_writes_what_it_says_and_only_under_the_lease_it_names() {
    let (_, mut conn) = empty_queue().await;
    order(&mut conn, 1).await;
    let now = orders::now(&mut conn).await.unwrap();
    for (outcome, expected) in outcomes(now) {
        let fence = failing(&mut conn).await;
        let before = job(&mut conn, fence.id).await;
        for foreign in [Fence { lease: fence.lease - 1, ..fence }, Fence { lease: fence.lease + 1, ..fence }] {
            assert!(!jobs::settle(&mut conn, foreign, &outcome).await.unwrap(), "{outcome:?}");
        }
        assert_eq!(job(&mut conn, fence.id).await, before, "{outcome:?}");

        assert!(jobs::settle(&mut conn, fence, &outcome).await.unwrap(), "{outcome:?}");
        assert_eq!(job(&mut conn, fence.id).await, expected, "{outcome:?}");
        let is_over = !matches!(outcome, Outcome::Keep { .. });
        assert_eq!(jobs::settle(&mut conn, fence, &Outcome::Release).await.unwrap(), !is_over, "after {outcome:?}");

        let lost = failing(&mut conn).await;
        end_lease(&mut conn, lost.id).await;
        assert_eq!(claim(&mut conn, "worker-2", 1, true).await.len(), 1);
        let taken_over = job(&mut conn, lost.id).await;
        assert!(!jobs::settle(&mut conn, lost, &outcome).await.unwrap(), "late: {outcome:?}");
        assert_eq!(job(&mut conn, lost.id).await, taken_over, "late: {outcome:?}");
    }
}

#[tokio::test]
async fn a_wait_on_a_row_that_was_woken_meanwhile_is_due_within_a_second() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    awaits_record(&mut conn, order).await;
    let before = job(&mut conn, fence.id).await.unwrap();
    let promised = jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    let now = orders::now(&mut conn).await.unwrap();
    assert!(promised <= now);
    assert_eq!(
        job(&mut conn, fence.id).await.unwrap(),
        Job { woken: true, ..before },
        "only `woken` is others' to write"
    );

    let wait = Outcome::Wait { until: now + Duration::seconds(300), saw: None };
    assert!(jobs::settle(&mut conn, fence, &wait).await.unwrap());
    let row = job(&mut conn, fence.id).await.unwrap();
    assert_eq!((row.due_in, row.woken, row.leased_by), (0, false, None));

    end_lease(&mut conn, fence.id).await;
    let fence = jobs::claim(&mut conn, Lane::Orders, "worker-1", LEASE, 1, false).await.unwrap()[0].fence;
    assert!(jobs::settle(&mut conn, fence, &wait).await.unwrap());
    assert_eq!(job(&mut conn, fence.id).await.unwrap().due_in, 300, "a wake counts once");
}

#[tokio::test]
async fn a_check_makes_a_waiting_row_due_at_once_but_not_more_than_once_a_second() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 1).await;
    awaits_record(&mut conn, order).await;
    let last_look = async |conn: &mut PgConnection, ago: &str, due: &str| {
        let text = format!(
            "UPDATE jobs SET lane = 1, due_at = now() + interval '{due}',
                 last_result = jsonb_build_object('at', now() - interval '{ago}')"
        );
        sql(conn, &text).await.unwrap();
    };

    sql(&mut conn, "UPDATE jobs SET lane = 1, due_at = now() + interval '5 minutes'").await.unwrap();
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    let row = job(&mut conn, id).await.unwrap();
    assert_eq!((row.lane, row.due_in, row.leased_by), (0, 0, None));

    last_look(&mut conn, "1 minute", "5 minutes").await;
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    assert_eq!(job(&mut conn, id).await.unwrap().due_in, 0);

    let after_look = "SELECT extract(epoch FROM due_at - (last_result ->> 'at')::timestamptz)::float8 FROM jobs";
    last_look(&mut conn, "0 seconds", "5 minutes").await;
    for _ in 0..3 {
        jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
        let secs: f64 = sqlx::query_scalar(after_look).fetch_one(&mut conn).await.unwrap();
        assert!(secs >= 1.0, "the next look comes {secs} s after the last one");
    }
    last_look(&mut conn, "-1 minute", "10 seconds").await;
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    assert_eq!(job(&mut conn, id).await.unwrap().due_in, 10, "a wake never makes a row due later");
}

#[tokio::test]
async fn a_check_does_not_hurry_an_order_that_waits_for_the_ca() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 1).await;
    awaits_record(&mut conn, order).await;
    sql(&mut conn, "UPDATE orders SET seen_at = now(), state = 'responded'").await.unwrap();
    sql(&mut conn, "UPDATE jobs SET lane = 1, due_at = now() + interval '5 minutes'").await.unwrap();
    let before = job(&mut conn, id).await;
    assert!(jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap() > orders::now(&mut conn).await.unwrap());
    assert_eq!(job(&mut conn, id).await, before);
}

#[tokio::test]
async fn a_retry_or_a_park_on_a_row_that_was_woken_meanwhile_is_due_at_once() {
    for outcome in
        [Outcome::Retry { after_secs: 300.0, counted: true, saw: json!({}) }, Outcome::Park { saw: json!({}) }]
    {
        let (_, mut conn) = empty_queue().await;
        let (order, fence) = leased(&mut conn).await;
        jobs::wake_for_clean_up(&mut conn, order, "test").await.unwrap();
        assert!(jobs::settle(&mut conn, fence, &outcome).await.unwrap());
        let row = job(&mut conn, fence.id).await.unwrap();
        assert!(row.due_in <= 1 && !row.parked && !row.woken && row.leased_by.is_none(), "{outcome:?}: {row:?}");
    }
}

#[tokio::test]
async fn a_check_leaves_a_parked_row_parked_and_knows_no_row_that_is_not_there() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    assert!(jobs::settle(&mut conn, fence, &Outcome::Park { saw: json!({}) }).await.unwrap());
    let parked = job(&mut conn, fence.id).await;
    assert_eq!(jobs::wake_for_check(&mut conn, order).await.unwrap(), None);
    assert_eq!(job(&mut conn, fence.id).await, parked);
    assert_eq!(jobs::wake_for_check(&mut conn, order + 1).await.unwrap(), None);
    end_lease(&mut conn, fence.id).await;
    assert!(claim(&mut conn, "worker-1", 1, true).await.is_empty(), "a parked row is never claimed");
}

#[tokio::test]
async fn clean_up_wakes_unparks_or_enqueues() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    let row = job(&mut conn, fence.id).await.unwrap();
    jobs::wake_for_clean_up(&mut conn, order, "test").await.unwrap();
    assert_eq!(job(&mut conn, fence.id).await.unwrap(), Job { woken: true, ..row });

    assert!(jobs::settle(&mut conn, fence, &Outcome::Park { saw: json!({}) }).await.unwrap());
    sql(&mut conn, "UPDATE jobs SET attempts = 10").await.unwrap();
    jobs::wake_for_clean_up(&mut conn, order, "test").await.unwrap();
    let row = job(&mut conn, fence.id).await.unwrap();
    assert_eq!((row.parked, row.attempts, row.due_in), (false, 0, 0));

    sql(&mut conn, "DELETE FROM jobs").await.unwrap();
    jobs::wake_for_clean_up(&mut conn, order, "test").await.unwrap();
    let claimed = jobs::claim(&mut conn, Lane::Orders, "worker-1", LEASE, 1, false).await.unwrap();
    assert_eq!(claimed[0].kind, JobKind::PollChallenge { order_id: order });
}

#[tokio::test]
async fn a_renewal_extends_the_leases_that_are_held_and_no_others() {
    let (_, mut conn) = empty_queue().await;
    for number in 0..4 {
        enqueued(&mut conn, number).await;
    }
    let fences: Vec<Fence> = claim(&mut conn, "worker-1", 4, false).await.iter().map(|job| job.fence).collect();
    let [held, late, lost, released] = fences[..] else { panic!("{fences:?}") };
    end_lease(&mut conn, lost.id).await;
    assert_eq!(ids(&claim(&mut conn, "worker-2", 1, true).await), [lost.id]);
    assert!(jobs::settle(&mut conn, released, &Outcome::Release).await.unwrap());
    // Over, but nobody took it: still the holder's.
    end_lease(&mut conn, late.id).await;
    let unknown = Fence { id: released.id + 1, lease: 1 };

    let mut renewed = jobs::renew(&mut conn, &[held, late, lost, released, unknown], 300.0).await.unwrap();
    renewed.sort_unstable_by_key(|fence| fence.id);
    let mut expected = [held, late];
    expected.sort_unstable_by_key(|fence| fence.id);
    assert_eq!(renewed, expected);
    for (fence, due_in) in [(held, 300), (late, 300), (lost, 60), (released, 0)] {
        assert_eq!(job(&mut conn, fence.id).await.unwrap().due_in, due_in);
    }
    assert!(jobs::renew(&mut conn, &[], 300.0).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_next_due_time_is_the_least_over_the_lanes_without_parked_rows() {
    let (_, mut conn) = empty_queue().await;
    assert_eq!(jobs::next_due_in(&mut conn).await.unwrap(), None);
    for (number, change) in
        ["lane = 0, due_at = now() + '1 hour'", "lane = 1, due_at = now() + '100 s'", "parked_at = now()"]
            .into_iter()
            .enumerate()
    {
        let (_, id) = enqueued(&mut conn, u8::try_from(number).unwrap()).await;
        sql(&mut conn, &format!("UPDATE jobs SET {change} WHERE id = {id}")).await.unwrap();
    }
    let secs = jobs::next_due_in(&mut conn).await.unwrap().unwrap();
    assert!((90.0..=100.0).contains(&secs), "{secs}");
    sql(&mut conn, "INSERT INTO jobs (kind, lane, due_at) VALUES ('sweep', 2, now() - interval '1 minute')")
        .await
        .unwrap();
    assert!(jobs::next_due_in(&mut conn).await.unwrap().unwrap() < -50.0);
}

#[tokio::test]
async fn workers_are_told_of_a_job_when_its_transaction_commits() {
    let (url, mut conn) = empty_queue().await;
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen(notifications::JOBS).await.unwrap();
    let order = order(&mut conn, 1).await;
    let mut tx = conn.begin().await.unwrap();
    jobs::enqueue(&mut tx, order, "request").await.unwrap();
    tx.rollback().await.unwrap();
    // Had the rolled-back one been told, it would be the first to arrive.
    let mark = format!("SELECT pg_notify('{}', 'mark')", notifications::JOBS);
    sql(&mut conn, &mark).await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "mark");
    jobs::enqueue(&mut conn, order, "request").await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "");
}

#[tokio::test]
async fn the_sweep_enqueues_orders_that_need_a_job_and_have_none() {
    let (_, mut conn) = empty_queue().await;
    let [open, ended, cleaned_up, parked] =
        [order(&mut conn, 1).await, order(&mut conn, 2).await, order(&mut conn, 3).await, order(&mut conn, 4).await];
    let cancelled = "UPDATE orders SET state = 'cancelled', ended_at = now()";
    sql(&mut conn, &format!("{cancelled} WHERE id = {ended}")).await.unwrap();
    sql(&mut conn, &format!("{cancelled}, cleaned_up_at = now() WHERE id = {cleaned_up}")).await.unwrap();
    jobs::enqueue(&mut conn, parked, "request").await.unwrap();
    sql(&mut conn, "UPDATE jobs SET parked_at = now()").await.unwrap();

    assert_eq!(jobs::enqueue_missing(&mut conn).await.unwrap(), 2);
    assert_eq!(jobs::enqueue_missing(&mut conn).await.unwrap(), 0);
    let claimed = jobs::claim(&mut conn, Lane::Orders, "worker-1", LEASE, 9, false).await.unwrap();
    let mut found: Vec<JobKind> = claimed.iter().map(|job| job.kind).collect();
    found.sort_unstable_by_key(|kind| *kind == JobKind::PollChallenge { order_id: ended });
    assert_eq!(found, [open, ended].map(|order_id| JobKind::PollChallenge { order_id }));
    assert_eq!(sql(&mut conn, "SELECT FROM jobs WHERE parked_at IS NOT NULL").await.unwrap(), 1);
}

fn placed() -> OrderEvent {
    let at = OffsetDateTime::UNIX_EPOCH;
    OrderEvent::Placed {
        placement: Placement {
            directory: "https://ca.example/dir".to_owned(),
            acme_url: "https://ca.example/order/1".to_owned(),
            placed_at: at,
            deadline_at: at,
        },
        authorizations: vec![Authorization {
            identifier: "shop-1.example.com".to_owned(),
            wildcard: false,
            url: "https://ca.example/authz/1".to_owned(),
            challenge_url: "https://ca.example/chall/1".to_owned(),
            token: "token".to_owned(),
            txt_value: "x".repeat(43),
            proved_at: None,
        }],
    }
}

async fn load(conn: &mut PgConnection, order: i64) -> Order {
    orders::load(conn, order).await.unwrap().unwrap()
}

/// State and revision of the order, status of its domain, and how many events the order has.
async fn standing(conn: &mut PgConnection, order: i64) -> (String, i64, String, i64) {
    let text = "SELECT o.state, o.revision, d.status, (SELECT count(*) FROM order_events e WHERE e.order_id = o.id)
                  FROM orders o JOIN domains d ON d.id = o.domain_id WHERE o.id = $1";
    sqlx::query_as(text).bind(order).fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn an_event_computed_from_an_older_revision_is_refused() {
    let (_, mut conn) = empty_queue().await;
    let id = order(&mut conn, 1).await;
    let loaded = load(&mut conn, id).await;
    let after = loaded.clone().apply(&placed()).unwrap();
    assert!(orders::record(&mut conn, &after, &placed(), "worker-1").await.unwrap());
    let once = ("placed".to_owned(), 1, "certificate_pending".to_owned(), 2);
    assert_eq!(standing(&mut conn, id).await, once);

    let problem = OrderProblem::new(ProblemCode::DomainDeleted, &loaded.domain_name);
    let cancelled = OrderEvent::Cancelled { at: OffsetDateTime::UNIX_EPOCH, problem };
    for late in [placed(), cancelled] {
        let after = loaded.clone().apply(&late).unwrap();
        assert!(!orders::record(&mut conn, &after, &late, "worker-2").await.unwrap(), "{}", late.name());
        assert_eq!(standing(&mut conn, id).await, once);
    }
}

#[tokio::test]
async fn an_advance_under_a_lost_lease_leaves_no_trace() {
    let (_, mut conn) = empty_queue().await;
    let (id, fence) = leased(&mut conn).await;
    end_lease(&mut conn, fence.id).await;
    assert_eq!(claim(&mut conn, "worker-2", 1, true).await.len(), 1);
    let before = standing(&mut conn, id).await;

    let after = load(&mut conn, id).await.apply(&placed()).unwrap();
    let mut tx = conn.begin().await.unwrap();
    assert!(orders::record(&mut tx, &after, &placed(), "worker-1").await.unwrap());
    assert!(!jobs::settle(&mut tx, fence, &Outcome::Keep { lease_secs: LEASE }).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(standing(&mut conn, id).await, before);
    assert_eq!(before, ("accepted".to_owned(), 0, "verified".to_owned(), 1));
}

#[tokio::test]
async fn a_certificate_row_takes_one_key_and_one_chain() {
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let [first, second] = [certificate(&mut conn, 1, domain).await, certificate(&mut conn, 2, domain).await];
    let key = |text: &str| KeyAndCsr { private_key_pem: format!("key {text}"), csr_pem: format!("CSR {text}") };
    for id in [first, second] {
        assert!(certificates::store_key(&mut conn, id, &key("one")).await.unwrap());
        assert!(!certificates::store_key(&mut conn, id, &key("two")).await.unwrap());
        assert_eq!(certificates::key(&mut conn, id).await.unwrap().unwrap().csr_pem, "CSR one");
    }
    let at = OffsetDateTime::UNIX_EPOCH;
    let issued = |serial: &str| countersign_shared::model::certificate::IssuedCertificate {
        chain_pem: format!("chain {serial}"),
        not_before: at,
        not_after: at,
        serial_number: serial.to_owned(),
        fingerprint_sha256: serial.repeat(32),
        issuer: "Test CA".to_owned(),
    };
    assert!(certificates::store_issued(&mut conn, first, at, &issued("aa")).await.unwrap());
    assert!(!certificates::store_issued(&mut conn, first, at, &issued("bb")).await.unwrap());
    let shown = certificates::newest_issued(&mut conn, &[domain]).await.unwrap().remove(&domain).unwrap();
    assert_eq!(shown.serial_number, "aa");
    let twice = certificates::store_issued(&mut conn, second, at, &issued("aa")).await;
    assert_conflict(twice, "certificates_fingerprint_sha256_key");
}

#[tokio::test]
async fn a_domain_and_a_certificate_have_one_open_order() {
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let first = certificate(&mut conn, 1, domain).await;
    let second = certificate(&mut conn, 2, domain).await;
    let id = orders::insert(&mut conn, &public_id(1), domain, first, 10.0, None).await.unwrap();
    let twice = orders::insert(&mut conn, &public_id(2), domain, second, 10.0, None).await;
    assert_conflict(twice, orders::ONE_OPEN_PER_DOMAIN);
    let other_domain = verified_domain(&mut conn, 2).await;
    let shared = orders::insert(&mut conn, &public_id(2), other_domain, first, 10.0, None).await;
    assert_conflict(shared, "orders_one_open_per_certificate");

    sql(&mut conn, &format!("UPDATE orders SET state = 'cancelled', ended_at = now() WHERE id = {id}")).await.unwrap();
    orders::insert(&mut conn, &public_id(2), domain, second, 10.0, None).await.unwrap();
}

/// The documented moves, and the two that were decided here.
const MOVES: [(DomainStatus, DomainStatus); 7] = {
    use DomainStatus::{Active, CertificatePending, Failed, Pending, Verified};
    [
        (Pending, Verified),
        (Verified, CertificatePending),
        (CertificatePending, Active),
        (CertificatePending, Failed),
        (Failed, Verified),
        (Failed, CertificatePending),
        (Active, Verified),
    ]
};

#[tokio::test]
async fn the_database_refuses_every_other_move_of_a_domains_status() {
    use DomainStatus::{Active, CertificatePending, Failed, Pending, Verified};
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let all = [Pending, Verified, CertificatePending, Active, Failed];
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        let mut tx = conn.begin().await.unwrap();
        let from_text = from.as_str();
        sql(&mut tx, "ALTER TABLE domains DISABLE TRIGGER domains_status_moves").await.unwrap();
        sql(&mut tx, &format!("UPDATE domains SET status = '{from_text}'")).await.unwrap();
        sql(&mut tx, "ALTER TABLE domains ENABLE TRIGGER domains_status_moves").await.unwrap();
        let moved = domains::move_status(&mut tx, domain, to).await;
        if from == to || MOVES.contains(&(from, to)) {
            moved.unwrap_or_else(|error| panic!("{from:?} -> {to:?}: {error:?}"));
        } else {
            assert_conflict(moved, "domains_status_moves");
        }
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn rows_that_make_no_sense_cannot_be_stored() {
    let (_, mut conn) = empty_queue().await;
    let (order, job) = enqueued(&mut conn, 1).await;
    enqueued(&mut conn, 2).await;
    let url = "https://ca.example/order/1";
    let placed = format!("directory = 'd', acme_url = '{url}', placed_at = now(), deadline_at = now()");
    sql(&mut conn, &format!("UPDATE orders SET {placed} WHERE id <> {order}")).await.unwrap();
    let of_order = |change: &str| format!("UPDATE orders SET {change} WHERE id = {order}");
    let of_job = |change: &str| format!("UPDATE jobs SET {change} WHERE id = {job}");
    for (statement, constraint) in [
        (of_order("state = 'placed'"), "orders_past_accepted_are_placed"),
        (of_order("directory = 'd', placed_at = now(), deadline_at = now()"), "orders_placed_is_whole"),
        (
            of_order(&placed.replace(url, "elsewhere").replace("directory =", "state = 'unheard_of', directory =")),
            "orders_state_check",
        ),
        (of_order("state = 'cancelled'"), "orders_ended_has_time"),
        (of_order("ended_at = now()"), "orders_ended_has_time"),
        (of_order("state = 'failed', ended_at = now()"), "orders_failed_has_problem"),
        (of_order("cleaned_up_at = now()"), "orders_clean_up_comes_last"),
        (of_order(&placed), orders::ACME_URL_OPEN_KEY),
        (of_job("parked_at = now(), leased_by = 'worker-1'"), "jobs_parked_is_not_leased"),
        (of_job("attempts = -1"), "jobs_attempts_check"),
        (of_job("lane = 3"), "jobs_lane_check"),
        (of_job("order_id = NULL"), "jobs_order_iff_poll_challenge"),
        (format!("INSERT INTO jobs (kind, order_id, lane) VALUES ('poll-challenge', {order}, 1)"), "jobs_order_id_key"),
        ("INSERT INTO jobs (kind, lane) VALUES ('sweep', 2), ('sweep', 2)".to_owned(), "jobs_scheduled_once"),
        ("UPDATE domains SET verified_at = NULL".to_owned(), "domains_verified_before_issuance"),
        ("UPDATE domains SET public_id = upper(public_id) || 'X'".to_owned(), "domains_public_id_check"),
        ("UPDATE domains SET name = 'Upper.example.com'".to_owned(), "domains_name_check"),
        ("UPDATE domains SET name = 'same.example.com'".to_owned(), domains::NAME_KEY),
        ("UPDATE certificates SET csr = 'CSR'".to_owned(), "certificates_key_comes_with_csr"),
        ("UPDATE certificates SET state = 'issued'".to_owned(), "certificates_issued_is_whole"),
        ("UPDATE certificates SET certificate_pem = 'chain'".to_owned(), "certificates_chain_only_when_issued"),
        (
            "INSERT INTO acme_accounts (directory, private_key_pem, kid) VALUES ('d', 'key', 'kid')".to_owned(),
            "acme_accounts_registered_has_time",
        ),
    ] {
        let refused = sql(&mut conn, &statement).await;
        assert!(refused.as_ref().is_err_and(|error| error.is_conflict_on(constraint)), "{statement}: {refused:?}");
    }
}

/// The text of the store's one query that has `part`, as the macros recorded it.
fn query_with(part: &str) -> String {
    let folder = checkout::root().unwrap().join(".sqlx");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let query =
        |file: Vec<u8>| serde_json::from_slice::<Value>(&file).unwrap()["query"].as_str().map(ToOwned::to_owned);
    let found: Vec<String> = files.filter_map(query).filter(|query| query.contains(part)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_claim_from_200_000_rows_reads_one_index_in_order() {
    let (_, mut conn) = empty_queue().await;
    // Without foreign keys, because 200,000 orders would add nothing.
    sql(&mut conn, "SET session_replication_role = replica").await.unwrap();
    sql(
        &mut conn,
        "INSERT INTO jobs (kind, order_id, lane, due_at)
         SELECT 'poll-challenge', n, (n % 100 <> 0)::int, now() + (hashint4(n::int) % 1000) * interval '1 second'
           FROM generate_series(1, 200000) AS n",
    )
    .await
    .unwrap();
    sql(&mut conn, "ANALYZE jobs").await.unwrap();
    let claim = format!("EXPLAIN {}", query_with("SKIP LOCKED"));
    for (lane, may_take_lost) in [(0i16, true), (1, true), (1, false), (2, true)] {
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(claim.clone()))
            .bind(lane)
            .bind("worker-1")
            .bind(LEASE)
            .bind(32i64)
            .bind(may_take_lost)
            .fetch_all(&mut conn)
            .await
            .unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Scan using jobs_due"), "lane {lane}:\n{plan}");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "lane {lane}:\n{plan}");
    }
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {}", query_with("min(due)"))))
        .fetch_all(&mut conn)
        .await
        .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("using jobs_due") && !plan.contains("Seq Scan on jobs"), "{plan}");

    let claimed = jobs::claim(&mut conn, Lane::Orders, "worker-1", LEASE, 32, true).await.unwrap();
    assert_eq!(claimed.len(), 32);
}
