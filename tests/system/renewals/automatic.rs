//! Certificates with `auto_renew` are renewed when their time has come, once, and again if that failed. Time passes in SQL.

use countersign_tests::acme_front::{Fault, Kind, Moment};
use countersign_tests::stack::Stack;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Shop, client, message, presented_by, renewals_become, renewals_of, successor};
use crate::facts::SOON;
use crate::failures::{fronted, refusal};

/// Has the scheduled job run once, from its claim to its outcome.
pub(crate) async fn job_runs(stack: &Stack) {
    const DUE: &str = "UPDATE jobs SET due_at = now() WHERE kind = 'renew-due' AND leased_by IS NULL RETURNING lease";
    let due = async || sqlx::query_scalar(DUE).fetch_optional(stack.pool()).await.unwrap();
    let before: i64 = stack.wait_until("renew-due is not running", SOON, due).await;
    let query = "SELECT lease > $1 AND leased_by IS NULL AND due_at > now() FROM jobs WHERE kind = 'renew-due'";
    let has_run = async || {
        let has_run: bool = sqlx::query_scalar(query).bind(before).fetch_one(stack.pool()).await.unwrap();
        has_run.then_some(())
    };
    stack.wait_until("renew-due has run", SOON, has_run).await;
}

/// Its time has come.
pub(crate) async fn is_due(stack: &Stack, certificate: i64) {
    let query = "UPDATE certificates SET renew_at = now() - interval '1 minute', ari_check_due = now() + interval '1 hour' WHERE id = $1";
    sqlx::query(query).bind(certificate).execute(stack.pool()).await.unwrap();
}

/// Whether `condition`, in SQL over the certificate `c`, holds.
pub(super) async fn certificate_is(stack: &Stack, certificate: i64, condition: &'static str) -> bool {
    let query = format!("SELECT coalesce({condition}, false) FROM certificates c WHERE id = $1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(certificate).fetch_one(stack.pool()).await.unwrap()
}

pub(super) fn input() -> Value {
    json!({"name": "", "auto_renew": true, "signature_algorithm": "RSA"})
}

#[tokio::test]
async fn a_certificate_is_renewed_in_its_time_and_so_is_its_successor() {
    let stack = Stack::builder().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let (mut certificate, left_alone) = (shop.issue(&input()).await, shop.issue(&json!({"name": "www"})).await);
    job_runs(&stack).await;
    // A third of the lifetime is left, and a twentieth more at most.
    let planned = "c.renew_at BETWEEN c.not_after - (c.not_after - c.not_before) * 0.384 AND c.not_after - (c.not_after - c.not_before) * 0.333";
    assert!(certificate_is(&stack, certificate, planned).await);
    assert!(certificate_is(&stack, left_alone, "c.renew_at IS NULL").await);
    for _ in 0..2 {
        assert_eq!(renewals_of(&stack, certificate).await, [""; 0]);
        is_due(&stack, certificate).await;
        job_runs(&stack).await;
        renewals_become(&stack, certificate, &["renewed"]).await;
        assert!(certificate_is(&stack, certificate, "c.renewal_ended_at IS NOT NULL AND c.state = 'issued'").await);
        let new = successor(&stack, certificate).await;
        assert!(
            certificate_is(
                &stack,
                new,
                "c.auto_renew AND c.algorithm = 'rsa2048' AND c.origin = 'renewal' AND c.name = ''"
            )
            .await
        );
        // What was renewed is not renewed again, though its time is long over.
        is_due(&stack, certificate).await;
        job_runs(&stack).await;
        assert_eq!(renewals_of(&stack, certificate).await, ["renewed"]);
        certificate = new;
        assert!(certificate_is(&stack, certificate, planned).await);
    }
    assert_eq!(stack.ca().certificates_issued().unwrap(), 4);
    assert_eq!(renewals_of(&stack, left_alone).await, [""; 0]);
}

#[tokio::test]
async fn a_failed_renewal_is_tried_again_a_day_later_until_the_certificate_expires() {
    let stack = fronted().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;
    stack.front().always(Kind::NewOrder, refusal(403, "rejectedIdentifier"));
    for failures in 1..=2 {
        is_due(&stack, old).await;
        job_runs(&stack).await;
        renewals_become(&stack, old, &vec!["failed"; failures]).await;
        let a_day_later =
            "c.renew_at BETWEEN c.renewal_tried_at + interval '23 hours' AND c.renewal_tried_at + interval '25 hours'";
        assert!(certificate_is(&stack, old, a_day_later).await);
        job_runs(&stack).await;
        assert_eq!(renewals_of(&stack, old).await.len(), failures);
    }
    assert!(stack.log("worker-1").contains("a certificate could not be renewed"));
    stack.front().heal();
    is_due(&stack, old).await;
    job_runs(&stack).await;
    renewals_become(&stack, old, &["failed", "failed", "renewed"]).await;

    let last = successor(&stack, old).await;
    job_runs(&stack).await;
    is_due(&stack, last).await;
    let expired = sqlx::query("UPDATE certificates SET not_after = now() WHERE id = $1").bind(last);
    expired.execute(stack.pool()).await.unwrap();
    job_runs(&stack).await;
    assert_eq!(renewals_of(&stack, last).await, [""; 0]);
    assert!(certificate_is(&stack, last, "c.renewal_ended_at IS NOT NULL").await);
}

#[tokio::test]
async fn nothing_is_ordered_where_a_person_publishes_for_a_deleted_domain_or_beside_another_renewal() {
    let stack = Stack::builder().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;

    presented_by(&stack, "manual").await;
    is_due(&stack, old).await;
    job_runs(&stack).await;
    assert!(
        certificate_is(&stack, old, "c.renew_at > now() + interval '23 hours' AND c.renewal_tried_at IS NOT NULL")
            .await
    );
    assert_eq!(renewals_of(&stack, old).await, [""; 0]);
    assert!(shop.show(old).await["expires_at"].is_string());

    presented_by(&stack, "test-dns").await;
    shop.renew(old, &Value::Null).await;
    is_due(&stack, old).await;
    job_runs(&stack).await;
    assert_eq!(renewals_of(&stack, old).await, ["new"]);
    assert!(certificate_is(&stack, old, "c.renew_at BETWEEN now() AND now() + interval '1 hour'").await);

    let deleted = api.request(Method::DELETE, &format!("/v2/1/domains/{}", shop.domain));
    assert_eq!(api.send(deleted).await.unwrap().status, 204);
    sqlx::query("UPDATE renewals SET state = 'cancelled'").execute(stack.pool()).await.unwrap();
    is_due(&stack, old).await;
    job_runs(&stack).await;
    assert_eq!(renewals_of(&stack, old).await, ["cancelled"]);
    assert!(certificate_is(&stack, old, "c.renewal_ended_at IS NOT NULL").await);
}

#[tokio::test]
async fn a_renewal_that_was_ordered_and_forgotten_does_not_let_the_certificate_expire() {
    let stack = Stack::builder().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;
    let forgotten = shop.renew(old, &Value::Null).await;
    sqlx::query("UPDATE renewals SET created_at = now() - interval '25 hours'").execute(stack.pool()).await.unwrap();
    is_due(&stack, old).await;
    job_runs(&stack).await;
    renewals_become(&stack, old, &["cancelled", "renewed"]).await;
    let late = shop.try_issue_renewal(old, &forgotten["id"]).await;
    assert_eq!(message(late, 400), "Certificate renewal cannot be issued: its state is cancelled");
}

#[tokio::test]
async fn a_certificate_of_the_domains_api_is_renewed_beside_the_domains_status_until_another_is_issued() {
    let stack = Stack::builder().start().await;
    let domain = stack.active_domain("shop.example.com").await;
    let newest = async || stack.api().certificate(&domain.id).await;
    let ids = async |condition: &str| -> Vec<i64> {
        let query = format!("SELECT id FROM certificates WHERE {condition} ORDER BY id");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(stack.pool()).await.unwrap()
    };
    let first = newest().await;
    let old = ids("true").await[0];
    job_runs(&stack).await;
    // The customer publishes: a person must act, and is told so.
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    assert_eq!(shown["certificate"]["act_by"], shown["certificate"]["not_after"]);
    is_due(&stack, old).await;
    job_runs(&stack).await;
    assert_eq!(renewals_of(&stack, old).await, [""; 0]);

    presented_by(&stack, "test-dns").await;
    is_due(&stack, old).await;
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    assert!(shown["certificate"]["renews_at"].is_string() && shown["certificate"].get("act_by").is_none(), "{shown}");
    job_runs(&stack).await;
    renewals_become(&stack, old, &["renewed"]).await;
    let successor = newest().await;
    assert_ne!(first.more["serial_number"], successor.more["serial_number"]);
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    assert_eq!(
        (&shown["status"], &shown["certificate"]["serial_number"]),
        (&json!("active"), &successor.more["serial_number"])
    );

    // Another issuance by the customer ends that line.
    // The renewal has emptied the name.
    let token = sqlx::query_scalar::<_, String>("SELECT verification_token FROM domains").fetch_one(stack.pool()).await;
    stack.dns().set_txt("_acme-challenge.shop.example.com.", &token.unwrap()).await.unwrap();
    stack.api().verify(&domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    let line = ids("renewal_ended_at IS NOT NULL").await;
    assert_eq!(line, ids("id <> (SELECT max(id) FROM certificates)").await);
    assert_ne!(newest().await.more["serial_number"], successor.more["serial_number"]);
}

#[tokio::test]
async fn workers_that_run_the_job_at_the_same_moment_renew_once() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").start().await;
    let api = client(&stack).await;
    let mut certificates = Vec::new();
    for name in ["a.example.com", "b.example.com", "c.example.com"] {
        let shop = Shop::new(&stack, &api, name).await;
        certificates.push(shop.issue(&input()).await);
    }
    job_runs(&stack).await;
    for certificate in &certificates {
        is_due(&stack, *certificate).await;
    }
    // Whoever runs the job waits for the domains; its lease is taken away, and the other one runs it too.
    let mut tx = stack.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM domains FOR UPDATE").execute(&mut *tx).await.unwrap();
    for runner in ["first", "second"] {
        const DUE: &str = "UPDATE jobs SET due_at = now(), leased_by = NULL WHERE kind = 'renew-due' RETURNING lease";
        let before: i64 = sqlx::query_scalar(DUE).fetch_one(stack.pool()).await.unwrap();
        let query = "SELECT lease > $1 AND leased_by IS NOT NULL FROM jobs WHERE kind = 'renew-due'";
        let runs = async || {
            let runs: bool = sqlx::query_scalar(query).bind(before).fetch_one(stack.pool()).await.unwrap();
            runs.then_some(())
        };
        stack.wait_until(&format!("the {runner} one runs the job"), SOON, runs).await;
    }
    tx.commit().await.unwrap();
    for certificate in certificates {
        renewals_become(&stack, certificate, &["renewed"]).await;
    }
    assert_eq!(stack.ca().certificates_issued().unwrap(), 6);
}

#[tokio::test]
async fn a_worker_that_is_killed_during_a_renewal_costs_none_and_makes_no_second() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&input()).await;
    job_runs(&stack).await;
    is_due(&stack, old).await;
    stack.front().next(1, Kind::Finalize, Fault::lose_answer());
    stack.front().hold_answers(Kind::NewOrder);
    job_runs(&stack).await;
    let held = async || (stack.front().held(Kind::NewOrder, Moment::After) == 1).then_some(());
    stack.wait_until("the CA has the order", SOON, held).await;
    let query = "SELECT leased_by FROM jobs WHERE kind = 'poll-challenge'";
    let worker: String = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    stack.kill(&worker);
    stack.front().release();
    renewals_become(&stack, old, &["renewed"]).await;
    assert_eq!(stack.ca().certificates_issued().unwrap(), 2);
    assert_eq!(renewals_of(&stack, old).await.len(), 1);
}
