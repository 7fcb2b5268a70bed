//! How long a TXT record is awaited, and what a customer is told meanwhile and afterwards.

use countersign_tests::stack::{Stack, StackBuilder};

use crate::facts::{SOON, order_is, wait_until_order};

const OVER: &str = "now() > o.deadline_at";

fn window(timeout: &str) -> StackBuilder {
    Stack::builder().setting("POLL_INTERVAL", "1s").setting("POLL_TIMEOUT", timeout)
}

#[tokio::test]
async fn a_record_set_at_nine_tenths_of_the_window_is_in_time() {
    let stack = window("10s").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    wait_until_order(&stack, &order.order_id, "now() >= o.placed_at + (o.deadline_at - o.placed_at) * 0.9").await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    assert!(order_is(&stack, &order.order_id, "o.seen_at >= o.placed_at + (o.deadline_at - o.placed_at) * 0.9").await);
}

#[tokio::test]
async fn a_record_never_set_fails_after_the_deadline_and_the_failure_tells_what_was_there_instead() {
    let stack = window("3s").start().await;
    let (empty, empty_order) = stack.pending_domain("empty.example.com").await;
    stack.dns().clear_txt("_acme-challenge.empty.example.com").await.unwrap();
    let (stale, stale_order) = stack.pending_domain("stale.example.com").await;
    stack.dns().clear_txt("_acme-challenge.stale.example.com").await.unwrap();
    stack.dns().set_txt("_acme-challenge.stale.example.com", "last-year's value").await.unwrap();

    for (domain, order, seen) in [(&empty, &empty_order, "no TXT record"), (&stale, &stale_order, "last-year's value")]
    {
        let failed = stack.becomes(&domain.id, "failed", SOON).await;
        let failure = &failed.more["failure"];
        assert_eq!(failure["code"], "record_not_seen");
        let detail = failure["detail"].as_str().unwrap();
        assert!(detail.contains(&order.challenge_domain) && detail.contains(seen), "{detail}");
        assert!(
            order_is(&stack, &order.order_id, "o.ended_at >= o.deadline_at").await,
            "it failed before its deadline"
        );
    }
    assert_eq!(stack.ca().certificates_issued().unwrap(), 0);
}

#[tokio::test]
async fn an_outage_of_all_workers_fails_no_order_before_somebody_has_looked_again() {
    let stack = window("3s").setting("LEASE_FOR", "2s").start().await;
    let (set, set_order) = stack.pending_domain("set.example.com").await;
    let (unset, unset_order) = stack.pending_domain("unset.example.com").await;
    stack.kill("worker-1");
    stack.publish_value(&set_order).await;

    wait_until_order(&stack, &set_order.order_id, OVER).await;
    wait_until_order(&stack, &unset_order.order_id, OVER).await;
    let record = &unset_order.challenge_domain;
    let asked_before = stack.dns().questions_about(record).await.unwrap();
    for domain in [&set, &unset] {
        assert_eq!(stack.api().fetch(&domain.id).await.status, "certificate_pending");
    }
    stack.restart("worker-1").await;
    stack.becomes_active(&set.id).await;
    stack.becomes(&unset.id, "failed", SOON).await;
    assert!(stack.dns().questions_about(record).await.unwrap() > asked_before, "it failed without a look");
}

#[tokio::test]
async fn a_failing_look_up_is_shown_and_forgiven() {
    let stack = Stack::builder().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.dns().set_servfail(&order.challenge_domain).await.unwrap();
    let shown = async || {
        let check = stack.api().fetch(&domain.id).await.more["last_check"].clone();
        (check["result"] == "lookup_failed").then_some(check)
    };
    let check = stack.wait_until("last_check shows the failed look-up", SOON, shown).await;
    assert!(check["detail"].as_str().is_some_and(|detail| detail.contains("SERVFAIL")), "{check}");

    stack.publish_value(&order).await;
    stack.dns().clear_servfail(&order.challenge_domain).await.unwrap();
    stack.becomes_active(&domain.id).await;
}

#[tokio::test]
async fn check_finds_the_record_without_waiting_for_the_next_poll() {
    let stack = Stack::builder().setting("POLL_INTERVAL", "10m").setting("POLL_TIMEOUT", "1h").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    // The first look is over, the next one minutes away.
    let far =
        "(SELECT leased_by IS NULL AND due_at > now() + interval '5 minutes' FROM jobs j WHERE j.order_id = o.id)";
    wait_until_order(&stack, &order.order_id, far).await;
    stack.publish_value(&order).await;
    stack.api().check(&domain.id).await;
    stack.becomes_active(&domain.id).await;
}
