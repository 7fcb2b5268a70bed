//! Delegated domains, from the one CNAME record to their certificates, also while a name server is lost.

use countersign_tests::acme_front::{Kind, Moment};
use std::time::Duration;

use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::{ZONE, target};
use serde_json::Value;
use sqlx::query_scalar;

use crate::facts::is_cleaned_up;

use crate::facts::{SOON, all_become_active, has_one_certificate_each, names};
use crate::renewals::automatic::job_runs;

#[tokio::test]
async fn a_delegated_domain_becomes_active_with_no_txt_record_set_by_hand() {
    let stack = Stack::builder().responders(1).start().await;
    let domain = stack.api().register("shop.example.com").await;
    let delegation = &domain.more["delegation"];
    assert_eq!(delegation["record_name"], "_acme-challenge.shop.example.com.");
    let label = target(&domain).strip_suffix(&format!(".{ZONE}.")).expect("the target is in the zone");
    assert!(label.len() == 32 && label != domain.id, "{label}");
    assert!(stack.api().try_verify(&domain.id).await.unwrap().status == 400, "nothing is delegated yet");

    stack.delegate(&domain).await;
    assert_eq!(stack.api().verify(&domain.id).await.status, "verified");
    let issued = stack.api().try_issue(&domain.id).await.unwrap().expect(202);
    assert_eq!(issued["delegation"]["cname_target"], delegation["cname_target"]);
    stack.becomes_active(&domain.id).await;
    job_runs(&stack).await;
    let active = stack.api().fetch(&domain.id).await;
    let certificate = &active.more["certificate"];
    assert!(certificate["renews_at"].is_string() && certificate.get("act_by").is_none(), "{certificate}");
    assert_eq!(active.more["delegation"]["cname_target"], delegation["cname_target"]);
    assert!(active.more["delegation"]["seen_at"].is_string());
    let presenters: Vec<String> = query_scalar("SELECT presenter FROM orders").fetch_all(stack.pool()).await.unwrap();
    assert_eq!(presenters, ["delegated"]);
    stack.finish().await;
}

#[tokio::test]
async fn a_domain_that_is_not_delegated_is_renewed_by_a_person() {
    let stack = Stack::builder().responders(1).start().await;
    let domain = stack.active_domain("shop.example.com").await;
    let certificate = &domain.more["certificate"];
    assert!(certificate["act_by"].is_string() && certificate["renews_at"] == Value::Null, "{certificate}");
}

#[tokio::test]
async fn a_name_server_killed_during_validation_costs_no_order() {
    let stack = Stack::builder().responders(2).acme_front().start().await;
    let mut domains = Vec::new();
    stack.front().hold(Kind::Challenge);
    for name in names(4) {
        let domain = stack.delegated_domain(&name).await;
        domains.push((domain.clone(), stack.api().issue(&domain.id).await));
    }
    let all_held = async || (stack.front().held(Kind::Challenge, Moment::Before) == domains.len()).then_some(());
    stack.wait_until("all challenges are about to be answered", SOON, all_held).await;
    stack.kill("dns-1");
    stack.front().release();
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
    assert_eq!(stack.ca().orders_placed().unwrap(), domains.len(), "no order was placed again");
    stack.finish().await;
}

#[tokio::test]
async fn a_delegated_domain_does_not_wait_for_the_next_look() {
    // As by default; in the stack it is shorter.
    let stack = Stack::builder().responders(1).setting("POLL_INTERVAL", "10s").start().await;
    for number in 1..=3 {
        let domain = stack.delegated_domain(&format!("shop-{number}.example.com")).await;
        stack.api().issue(&domain.id).await;
        // It shall take 3 s at most, and three times that on a busy machine.
        stack.becomes(&domain.id, "active", Duration::from_secs(9)).await;
    }
}

#[tokio::test]
async fn a_name_that_leads_to_us_is_left_to_us_whatever_else_the_account_publishes_with() {
    let stack = Stack::builder().responders(1).start().await;
    // A server for dynamic updates that is not there.
    let query = "INSERT INTO presenter_configs (account_id, kind, settings, secret) VALUES (1, 'rfc2136',
                 '{\"kind\": \"rfc2136\", \"server\": \"127.0.0.1:1\", \"key_name\": \"key.\"}', 'a2V5')";
    sqlx::query(query).execute(stack.pool()).await.unwrap();
    // Verified by hand, and delegated only then: nobody has noticed yet.
    let domain = stack.verified_domain("shop.example.com").await;
    stack.dns().clear_txt("_acme-challenge.shop.example.com").await.unwrap();
    stack.delegate(&domain).await;
    stack.api().issue(&domain.id).await;
    let active = stack.becomes_active(&domain.id).await;
    assert!(active.more["delegation"]["seen_at"].is_string(), "{:?}", active.more);
    let presenters: Vec<String> = query_scalar("SELECT presenter FROM orders").fetch_all(stack.pool()).await.unwrap();
    assert_eq!(presenters, ["rfc2136"], "as it was when the order was made");
    // Clean-up does not wait for that server either.
    is_cleaned_up(&stack, &domain.id).await;
}
