//! Where the CA says when it would like a certificate to be renewed (RFC 9773), that is when it is renewed, and the order says what it
//! replaces.

use countersign_tests::acme_front::{Fault, Kind, Moment, RenewalInfo, RetryAfter};
use countersign_tests::stack::Stack;
use time::Duration;

use super::automatic::{certificate_is, input, job_runs};
use super::{Shop, client, renewals_become, renewals_of, successor};
use crate::facts::SOON;
use crate::failures::fronted;

/// What the newOrders so far said that they replace.
fn replaced(stack: &Stack) -> Vec<Option<String>> {
    let arrivals = stack.front().arrivals().into_iter();
    arrivals.filter(|arrival| arrival.kind == Kind::NewOrder).map(|arrival| arrival.replaces).collect()
}

/// The CA is asked, and what it said is done.
async fn is_asked(stack: &Stack, certificate: i64) {
    let query = sqlx::query("UPDATE certificates SET ari_check_due = now() WHERE id = $1").bind(certificate);
    query.execute(stack.pool()).await.unwrap();
    job_runs(stack).await;
}

async fn suggesting(start: Duration, end: Duration) -> (Stack, RenewalInfo) {
    let stack = fronted().start().await;
    let ca = RenewalInfo::suggesting(start, end);
    stack.front().habit(ca.clone());
    (stack, ca)
}

#[tokio::test]
async fn a_renewal_follows_the_window_that_the_ca_moves_and_says_what_it_replaces() {
    let (stack, ca) = suggesting(Duration::days(10), Duration::days(20)).await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    ca.ask_again_after(100);
    job_runs(&stack).await;
    let inside =
        "c.renew_at BETWEEN c.ari_window_start AND c.ari_window_end AND c.ari_window_start > now() + interval '9 days'";
    assert!(certificate_is(&stack, old, inside).await);
    assert!(certificate_is(&stack, old, "c.ari_check_due = c.ari_checked_at + interval '100 seconds'").await);
    let asked = ca.asked();
    assert_eq!(asked.len(), 1);

    // The same window: the moment inside it was chosen once. And twice a day at least it is asked for.
    let chosen = async || {
        let query = sqlx::query_scalar("SELECT renew_at::text FROM certificates WHERE id = $1").bind(old);
        let chosen: String = query.fetch_one(stack.pool()).await.unwrap();
        chosen
    };
    let first = chosen().await;
    ca.ask_again_after(7 * 86_400);
    is_asked(&stack, old).await;
    assert_eq!((chosen().await, ca.asked().len()), (first, 2));
    assert!(certificate_is(&stack, old, "c.ari_check_due = c.ari_checked_at + interval '12 hours'").await);
    assert_eq!(renewals_of(&stack, old).await, [""; 0]);

    ca.suggest(Duration::days(-2), Duration::days(-1));
    job_runs(&stack).await;
    assert_eq!(renewals_of(&stack, old).await, [""; 0], "nobody has asked yet");
    is_asked(&stack, old).await;
    renewals_become(&stack, old, &["renewed"]).await;
    assert_eq!(replaced(&stack), [None, Some(asked[0].clone())]);
    // The successor has a window of its own, and the old one is asked about no more.
    ca.suggest(Duration::days(10), Duration::days(20));
    job_runs(&stack).await;
    assert!(certificate_is(&stack, successor(&stack, old).await, inside).await);
    assert_eq!(ca.asked().iter().filter(|one| **one == asked[0]).count(), 3);
}

#[tokio::test]
async fn an_order_that_the_ca_does_not_take_as_a_replacement_is_sent_again_without() {
    let (stack, ca) = suggesting(Duration::days(-2), Duration::days(-1)).await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    // Asked, and refused, before anything is due: the renewal is tried when its lifetime says so.
    stack.front().next(1, Kind::RenewalInfo, Fault::html(503));
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;
    assert!(
        certificate_is(&stack, old, "c.renew_at > now() AND c.ari_window_start IS NULL AND c.ari_check_due > now()")
            .await
    );
    assert_eq!(ca.asked().len(), 0);
    let query = sqlx::query("UPDATE certificates SET ari_check_due = now()");
    query.execute(stack.pool()).await.unwrap();
    stack.front().hold(Kind::NewOrder);
    job_runs(&stack).await;
    let held = async || (stack.front().arrived(Kind::NewOrder) == 2).then_some(());
    stack.wait_until("the renewal is ordered", SOON, held).await;
    ca.is_replaced(&ca.asked()[0]);
    stack.front().release();
    renewals_become(&stack, old, &["renewed"]).await;
    assert_eq!(replaced(&stack), [None, Some(ca.asked()[0].clone()), None]);
}

#[tokio::test]
async fn a_window_that_makes_no_sense_is_ignored_and_a_failed_renewal_is_not_hurried_by_a_new_one() {
    let (stack, ca) = suggesting(Duration::days(2), Duration::days(1)).await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;
    assert_eq!(ca.asked().len(), 1);
    assert!(certificate_is(&stack, old, "c.renew_at > now() AND c.ari_window_start IS NULL").await);

    let query = sqlx::query("UPDATE certificates SET renewal_tried_at = now()");
    query.execute(stack.pool()).await.unwrap();
    ca.suggest(Duration::days(-2), Duration::days(-1));
    is_asked(&stack, old).await;
    let a_day_later =
        "c.renew_at BETWEEN now() + interval '23 hours' AND now() + interval '25 hours' AND c.ari_window_end < now()";
    assert!(certificate_is(&stack, old, a_day_later).await);
    assert_eq!(renewals_of(&stack, old).await, [""; 0]);
}

#[tokio::test]
async fn a_ca_that_says_when_to_come_back_is_asked_about_nothing_until_then_while_orders_go_on() {
    let (stack, ca) = suggesting(Duration::days(10), Duration::days(20)).await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    stack.front().next(1, Kind::RenewalInfo, Fault::busy(RetryAfter::Seconds(7200)));
    let refused = shop.issue(&input()).await;
    job_runs(&stack).await;
    assert_eq!(stack.front().arrived(Kind::RenewalInfo), 1);
    let other = Shop::new(&stack, &api, "other.example.com").await.issue(&input()).await;
    for certificate in [other, refused] {
        is_asked(&stack, certificate).await;
    }
    assert_eq!(stack.front().arrived(Kind::RenewalInfo), 1, "it was asked again");
    let query = "UPDATE acme_accounts SET windows_held_until = now()
                 WHERE windows_held_until BETWEEN now() + interval '119 minutes' AND now() + interval '2 hours'";
    assert_eq!(sqlx::query(query).execute(stack.pool()).await.unwrap().rows_affected(), 1);
    job_runs(&stack).await;
    assert_eq!(ca.asked().len(), 2);
}

#[tokio::test]
async fn a_worker_that_is_killed_while_it_asks_leaves_the_job_to_another() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").start().await;
    let ca = RenewalInfo::suggesting(Duration::days(-2), Duration::days(-1));
    stack.front().habit(ca.clone());
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    stack.front().hold(Kind::RenewalInfo);
    let query = "UPDATE jobs SET due_at = now() WHERE kind = 'renew-due' AND leased_by IS NULL";
    sqlx::query(query).execute(stack.pool()).await.unwrap();
    let held = async || (stack.front().held(Kind::RenewalInfo, Moment::Before) == 1).then_some(());
    stack.wait_until("a worker asks when to renew", SOON, held).await;
    let query = "SELECT leased_by FROM jobs WHERE kind = 'renew-due'";
    let worker: String = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    stack.kill(&worker);
    stack.front().release();
    renewals_become(&stack, old, &["renewed"]).await;
    assert_eq!((ca.asked().len(), stack.ca().certificates_issued().unwrap()), (1, 2));
}
