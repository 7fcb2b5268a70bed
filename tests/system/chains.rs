//! Chains that cannot be read: they are fetched again before the order fails.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind, Reply};

use crate::failures::{fails, fronted};

#[tokio::test]
async fn a_chain_that_cannot_be_read_is_fetched_again_and_refused_when_that_does_not_help() {
    let stack = fronted().start().await;
    let pem = |text: &'static str| Fault::Answer(Reply::new(200, "application/pem-certificate-chain", text));
    let faults = [
        ("truncated", Fault::truncated_chain()),
        ("empty", pem("")),
        ("rubbish", pem("no PEM")),
        ("nonsense", pem("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")),
    ];
    for (label, fault) in faults {
        for (name, times) in [("passes", 2), ("stays", 3)] {
            let (domain, order) = stack.pending_domain(&format!("{name}-{label}.example.com")).await;
            stack.front().next(times, Kind::Certificate, fault.clone());
            stack.publish_value(&order).await;
            if name == "passes" {
                stack.becomes_active(&domain.id).await;
            } else {
                fails(&stack, &domain, ProblemCode::ChainRefused).await;
            }
            assert!(stack.front().unused().is_empty(), "{name} {label}: {:?}", stack.front().unused());
        }
    }
    // The same CSR made each of them, once.
    for (url, order) in stack.front().orders() {
        assert_eq!(order.finalizes_accepted, 1, "{url}: {order:?}");
    }
}
