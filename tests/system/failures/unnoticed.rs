//! Faults of the CA that fail no order.

use std::time::Duration;

use countersign_tests::acme_front::{Fault, Kind, Reply};

use super::{CA_SAYS, fronted, publish_alone, refusal};
use crate::facts::{SOON, all, events, has_one_certificate_each, verified_domains};

/// Each kind of request fails `times` with what `fault` makes, and nobody notices but the worker.
async fn nobody_notices(times: usize, kinds: &[Kind], fault: Fault) {
    let stack = fronted().setting("PLACE_WAIT", "25s").start().await;
    let fail = |wanted: &[Kind]| {
        for &kind in kinds.iter().filter(|kind| wanted.contains(kind)) {
            stack.front().next(times, kind, fault.clone());
        }
    };
    fail(&[Kind::Directory, Kind::NewAccount]);
    let mut domains = vec![stack.pending_domain("first.example.com").await];
    fail(&[Kind::NewNonce, Kind::NewOrder, Kind::Authorization]);
    let names = ["second.example.com", "third.example.com"].map(ToOwned::to_owned);
    let verified = verified_domains(&stack, &names).await;
    let orders = verified.iter().map(|domain| {
        let (api, id) = (stack.api().clone(), domain.id.clone());
        async move { api.issue(&id).await }
    });
    let orders = all(orders.collect::<Vec<_>>()).await;
    domains.extend(verified.into_iter().zip(orders));
    fail(&[Kind::Challenge, Kind::Order, Kind::Finalize, Kind::Certificate]);
    for (_, order) in &domains {
        publish_alone(&stack, order).await;
    }
    for (domain, order) in &domains {
        stack.becomes(&domain.id, "active", 2 * SOON).await;
        assert!(!events(&stack, &order.order_id).await.contains(&"gave_up".to_owned()));
    }
    assert!(stack.front().unused().is_empty(), "never asked for: {:?}", stack.front().unused());
    assert!(!stack.log("worker-1").contains(r#""counted":true"#), "an order was blamed for the CA's fault");
    assert_eq!(stack.ca().accounts().unwrap(), 1);
    has_one_certificate_each(&stack, &domains).await;
}

const SIGNED: [Kind; 7] = [
    Kind::NewAccount,
    Kind::NewOrder,
    Kind::Authorization,
    Kind::Challenge,
    Kind::Order,
    Kind::Finalize,
    Kind::Certificate,
];
const ALL: [Kind; 9] = Kind::OF_ONE_CERTIFICATE;

#[tokio::test]
async fn a_busy_ca_fails_no_order() {
    nobody_notices(1, &ALL, Fault::html(503)).await;
}

#[tokio::test]
async fn a_ca_that_breaks_down_fails_no_order() {
    nobody_notices(1, &ALL, Fault::html(500)).await;
}

#[tokio::test]
async fn a_proxy_without_its_ca_fails_no_order() {
    nobody_notices(1, &ALL, Fault::html(502)).await;
}

#[tokio::test]
async fn a_slow_ca_fails_no_order() {
    nobody_notices(1, &ALL, Fault::late(Duration::from_secs(2))).await;
}

#[tokio::test]
async fn a_cut_connection_fails_no_order() {
    nobody_notices(1, &ALL, Fault::HangUp).await;
}

#[tokio::test]
async fn a_lost_answer_fails_no_order() {
    nobody_notices(1, &ALL, Fault::lose_answer()).await;
}

#[tokio::test]
async fn a_short_rate_limit_fails_no_order() {
    let limit = Reply::problem(429, "rateLimited", CA_SAYS).header("retry-after", "1");
    nobody_notices(1, &ALL, Fault::Answer(limit)).await;
}

/// As many as one call of ours bears, on every call.
#[tokio::test]
async fn a_storm_of_bad_nonces_fails_no_order() {
    nobody_notices(8, &SIGNED, refusal(400, "badNonce")).await;
}
