//! What `orders show` tells of an order in trouble: the words of the last failure, who met it, and who was lost with it.

use countersign_tests::acme_front::{Fault, Kind};
use countersign_tests::stack::Stack;
use serde_json::{Value, json};

use super::ctl_on;
use crate::facts::SOON;
use crate::failures::{CA_SAYS, arrives, fronted, refusal};

/// The events of this name in an order's timeline: who tells it, and what.
async fn told(stack: &Stack, order_id: &str, event: &str) -> Vec<(Value, Value)> {
    let shown = ctl_on(stack, &["orders", "show", order_id, "--json"]).await.ended(0).json();
    let events = shown["events"].as_array().unwrap().iter().filter(|told| told["event"] == event);
    events.map(|told| (told["actor"].clone(), told["detail"].clone())).collect()
}

#[tokio::test]
async fn an_order_in_trouble_shows_the_cas_own_words_each_failure_that_counts_and_each_worker_that_was_lost() {
    let stack = fronted().setting("LEASE_FOR", "2s").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let id = order.order_id.as_str();

    // A worker that is lost stays in the timeline.
    stack.front().hold(Kind::Challenge);
    stack.publish_value(&order).await;
    arrives(&stack, Kind::Challenge, 1).await;
    stack.kill("worker-1");
    // Nobody is to blame for this one: shown while it lasts, and no line in the timeline.
    stack.front().always(Kind::Challenge, Fault::html(503));
    stack.front().release();
    stack.restart("worker-1").await;
    let fails = async || {
        let text = ctl_on(&stack, &["orders", "show", id]).await.ended(0).out;
        text.contains("last failure").then_some(text)
    };
    let text = stack.wait_until("a failure is shown", SOON, fails).await;
    for part in ["cannot be reached (by worker-1)", "its cause", "ACME challenge failed with HTTP 503"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(told(&stack, id, "worker_lost").await, [(json!("worker-1"), json!({"worker": "worker-1"}))]);
    assert_eq!(told(&stack, id, "step_failed").await, []);

    // One that counts stays there, too.
    stack.front().heal();
    stack.front().next(1, Kind::Finalize, refusal(403, "orderNotReady"));
    stack.becomes_active(&domain.id).await;
    assert!(stack.front().unused().is_empty());
    let failed = told(&stack, id, "step_failed").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    let (by, failure) = &failed[0];
    assert_eq!((by, &failure["detail"]), (&json!("worker-1"), &json!("the certificate authority is not ready")));
    assert!(failure["cause"].as_str().is_some_and(|cause| cause.contains(CA_SAYS)), "{failure}");
    // Customers read none of it.
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().body.to_string();
    assert!(!shown.contains(CA_SAYS) && !shown.contains("worker-1"), "{shown}");
}
