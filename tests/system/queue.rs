//! The queue and the constraints behind it, at the level of the store: claims, leases, fenced outcomes, wakes, plans, and what no row may say.
//!
//! Time is moved by writing `due_at`, never by waiting.

mod claims;
mod outcomes;
mod plans;
mod rows;
mod waits;
mod wakes;

use std::collections::HashMap;
use std::fs;

use countersign_shared::model::certificate::{KeyAlgorithm, StoredKeyAndCsr};
use countersign_shared::model::domain::{DomainStatus, verification_token};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::{Authorization, Order, OrderEvent, OrderOrigin, Placement};
use countersign_shared::model::presenter::PublishedBy;
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::model::secret::{AtRest, Secret};
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::domains::NewDomain;
use countersign_shared::store::jobs::{self, Cause, ClaimedJob, Fence, JobKind, Lane, Outcome, Renewal, Worker};
use countersign_shared::store::orders::NewOrder;
use countersign_shared::store::{StoreError, accounts, certificates, domains, notifications, orders};
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

fn untraced(request_id: &str) -> Cause<'_> {
    Cause { request_id, traceparent: None }
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
        account_id: accounts::DEFAULT,
        public_id: &public_id(number),
        name: &name,
        supplied_name: name.as_str(),
        verification_token: &token,
    };
    let domain = domains::insert(conn, &new).await.unwrap();
    domains::mark_verified(conn, domain.id, None).await.unwrap().unwrap().id
}

async fn certificate(conn: &mut PgConnection, number: u8, domain: i64) -> i64 {
    certificates::insert_requested(conn, &public_id(number), domain, KeyAlgorithm::Rsa2048).await.unwrap()
}

/// A new domain with an `accepted` order; the order's internal key.
async fn order(conn: &mut PgConnection, number: u8) -> i64 {
    let domain = verified_domain(conn, number).await;
    let certificate = certificate(conn, number, domain).await;
    insert_order(conn, number, domain, certificate).await.unwrap()
}

/// An order that a caller waits for.
async fn insert_order(conn: &mut PgConnection, number: u8, domain: i64, certificate: i64) -> Result<i64, StoreError> {
    let new = NewOrder {
        public_id: &public_id(number),
        domain_id: domain,
        certificate_id: certificate,
        origin: OrderOrigin::Challenge,
        published_by: PublishedBy::CUSTOMER,
        place_by_secs: Some(10.0),
        retry_of: None,
        actor: "api",
    };
    orders::insert(conn, &new).await
}

/// Such an order with its job; both keys.
async fn enqueued(conn: &mut PgConnection, number: u8) -> (i64, i64) {
    let order = order(conn, number).await;
    jobs::enqueue(conn, order, Lane::Waiting, &untraced(&format!("request-{number}"))).await.unwrap();
    let job = sqlx::query_scalar("SELECT id FROM jobs WHERE order_id = $1").bind(order).fetch_one(conn).await.unwrap();
    (order, job)
}

fn process(name: &str) -> Worker {
    Worker { name: name.to_owned(), process: 7 }
}

async fn claim(conn: &mut PgConnection, worker: &str, limit: i64, may_take_lost: bool) -> Vec<ClaimedJob> {
    let (now, _) = jobs::next_due_in(conn).await.unwrap();
    let lost_at = may_take_lost.then_some(now);
    jobs::claim(conn, Lane::Waiting, &process(worker), LEASE, limit, lost_at).await.unwrap()
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
