//! Nobody gets a certificate for a name that only somebody else has proved: all accounts share one account at the CA, which
//! knows proofs, but not whose they are.

use countersign_tests::acme_front::OrderReuse;
use countersign_tests::stack::{Stack, StackBuilder};
use serde_json::json;

use super::Caller;
use super::client::check_certificate;
use crate::facts::SOON;

/// What a worker logs when the CA offers a proof that the domain did not earn.
const REFUSED: &str = "this domain did not earn";

/// A CA that gives every valid authorization to whoever orders next.
fn reusing_ca() -> StackBuilder {
    Stack::builder().pebble("PEBBLE_AUTHZREUSE", "100").setting("POLL_TIMEOUT", "4s")
}

/// Issues with whatever is published for other orders, waits for the failure; then publishes what is asked for, and has it.
async fn must_prove_itself(caller: &Caller<'_>, domain: &str, label: &str, known: &[(String, String)]) {
    let name = if label.is_empty() { domain.to_owned() } else { format!("{label}.{domain}") };
    let at_ca = || async { caller.stack.ca().certificates_issued_for(&name).await.unwrap() };
    let before = at_ca().await;
    let id = caller.requested(domain, json!({ "name": label })).await;
    let asked = caller.challenges(domain, id).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(known.iter().all(|(_, value)| *value != asked[0].1), "the value is somebody else's");
    let failed = caller.becomes(domain, id, "failed", SOON).await;
    assert!(failed["failure_reason"].is_string(), "{failed}");
    caller.get(&format!("domains/{domain}/certificates/{id}/download")).await.expect(428);
    caller.get(&format!("domains/{domain}/certificates/{id}/private_key")).await.expect(428);
    assert_eq!(at_ca().await, before, "certificates at the CA");

    let id = caller.requested(domain, json!({ "name": label })).await;
    caller.publish(&caller.challenges(domain, id).await).await;
    caller.issued(domain, id).await;
    let (chain, key) = (caller.chain(domain, id).await, caller.private_key(domain, id).await);
    check_certificate(caller.stack, &chain, &key, &[name.as_str()], "ECDSA 256 bits");
}

/// A proves a name below its domain, and that name is the domain of B.
#[tokio::test]
async fn a_name_that_the_parent_s_owner_proved_is_not_proved_for_the_owner_of_the_name() {
    let stack = reusing_ca().start().await;
    let (a, b) = (Caller::new(&stack, "a", "manual"), Caller::new(&stack, "b", "manual"));
    a.domain("shop.example.com").await;
    b.domain("www.shop.example.com").await;
    let id = a.requested("shop.example.com", json!({})).await;
    let records = a.challenges("shop.example.com", id).await;
    assert_eq!(records.len(), 2);
    a.publish(&records).await;
    a.issued("shop.example.com", id).await;

    must_prove_itself(&b, "www.shop.example.com", "", &records).await;
    assert!(stack.log("worker-1").contains(REFUSED), "the CA did not offer the proof");
}

/// And the other way round: B proves its domain, and A, whose domain is above it, asks for that name.
#[tokio::test]
async fn a_name_that_its_owner_proved_is_not_proved_for_the_owner_of_the_parent() {
    let stack = reusing_ca().start().await;
    let (a, b) = (Caller::new(&stack, "a", "manual"), Caller::new(&stack, "b", "manual"));
    a.domain("shop.example.com").await;
    b.domain("api.shop.example.com").await;
    let id = b.requested("api.shop.example.com", json!({"name": ""})).await;
    let records = b.challenges("api.shop.example.com", id).await;
    b.publish(&records).await;
    b.issued("api.shop.example.com", id).await;

    must_prove_itself(&a, "shop.example.com", "api", &records).await;
    assert!(stack.log("worker-1").contains(REFUSED), "the CA did not offer the proof");
}

/// A domain that changes hands brings no proof with it.
#[tokio::test]
async fn a_domain_that_another_account_deleted_must_be_proved_anew() {
    let stack = reusing_ca().start().await;
    let (a, b) = (Caller::new(&stack, "a", "manual"), Caller::new(&stack, "b", "manual"));
    let name = "shop.example.com";
    a.domain(name).await;
    let id = a.requested(name, json!({"name": ""})).await;
    let records = a.challenges(name, id).await;
    a.publish(&records).await;
    a.issued(name, id).await;
    a.delete(&format!("domains/{name}")).await.expect(204);
    b.domain(name).await;
    must_prove_itself(&b, name, "", &records).await;
}

/// The same names make the same order at the CA as long as it is open: of two accounts only one may have it, and what it proves
/// is its own.
#[tokio::test]
async fn two_accounts_never_share_an_order_of_the_ca() {
    let stack = reusing_ca().setting("POLL_TIMEOUT", "6s").acme_front().start().await;
    stack.front().habit(OrderReuse::default());
    let (a, b) = (Caller::new(&stack, "a", "manual"), Caller::new(&stack, "b", "manual"));
    let (parent, name) = ("shop.example.com", "api.shop.example.com");
    a.domain(parent).await;
    b.domain(name).await;
    let of_a = a.requested(parent, json!({"name": "api"})).await;
    let records = a.challenges(parent, of_a).await;
    let of_b = b.requested(name, json!({"name": ""})).await;
    a.publish(&records).await;
    a.issued(parent, of_a).await;
    // B's waits until the order is free, gets one of its own, and nobody publishes its value.
    let asked = b.challenges(name, of_b).await;
    assert_ne!(asked, records);
    b.becomes(name, of_b, "failed", SOON).await;
    assert_eq!(stack.ca().certificates_issued_for(name).await.unwrap(), 1, "A's and no other");

    must_prove_itself(&b, name, "", &records).await;
    for (url, order) in stack.front().orders() {
        assert!(order.finalizes_accepted <= 1, "{url}");
    }
}
