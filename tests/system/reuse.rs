//! A CA that re-uses valid authorizations: they count for the domain row that earned them, and for no other.

use countersign_tests::api_client::Domain;
use countersign_tests::stack::Stack;

use crate::facts::{SOON, certificates_stored, events, is_cleaned_up, order_is};

const NAME: &str = "shop.example.com";
const RECORD: &str = "_acme-challenge.shop.example.com";
/// What a worker logs when the CA offers a proof that the domain did not earn.
const REFUSED: &str = "this domain did not earn";

#[tokio::test]
async fn a_domain_deleted_and_registered_again_must_show_a_new_record() {
    let stack = Stack::builder().pebble("PEBBLE_AUTHZREUSE", "100").setting("POLL_TIMEOUT", "3s").start().await;
    let former = stack.active_domain(NAME).await;
    stack.api().delete(&former.id).await;
    is_cleaned_up(&stack, &former.id).await;

    a_new_registration_proves_itself(&stack, &former).await;
    assert!(!stack.log("worker-1").contains(REFUSED), "clean-up had left a valid authorization at the CA");
}

#[tokio::test]
async fn the_proof_of_a_deleted_domain_counts_for_nobody_even_if_it_is_still_valid_at_the_ca() {
    let stack = Stack::builder().pebble("PEBBLE_AUTHZREUSE", "100").setting("POLL_TIMEOUT", "3s").start().await;
    let former = stack.active_domain(NAME).await;
    stack.finish().await;
    // As if clean-up had never reached the CA.
    stack.kill("worker-1");
    stack.api().delete(&former.id).await;
    for statement in ["DELETE FROM jobs WHERE kind = 'poll-challenge'", "UPDATE orders SET cleaned_up_at = now()"] {
        sqlx::query(statement).execute(stack.pool()).await.unwrap();
    }
    stack.restart("worker-1").await;

    a_new_registration_proves_itself(&stack, &former).await;
    assert!(stack.log("worker-1").contains(REFUSED), "the CA did not offer the former proof");
}

/// The value that the former registration was issued for is still published.
async fn a_new_registration_proves_itself(stack: &Stack, former: &Domain) {
    let old = "SELECT txt_value FROM authorizations a JOIN domains d ON d.id = a.domain_id WHERE d.public_id = $1";
    let old: String = sqlx::query_scalar(old).bind(&former.id).fetch_one(stack.pool()).await.unwrap();
    // Alone: Pebble reads answers of 512 octets and no more.
    stack.dns().clear_txt(RECORD).await.unwrap();
    stack.dns().set_txt(RECORD, &old).await.unwrap();

    let (domain, order) = stack.pending_domain(NAME).await;
    assert_eq!(order.status, "certificate_pending");
    assert_ne!(order.expected_txt_value, old);
    let failed = stack.becomes(&domain.id, "failed", SOON).await;
    assert_eq!(failed.more["failure"]["code"], "record_not_seen");
    assert_eq!(certificates_stored(stack, &domain.id).await, 0);

    stack.api().verify(&domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    assert!(order_is(stack, &order.order_id, "o.seen_at IS NOT NULL").await);
}

#[tokio::test]
async fn a_domain_verified_again_with_a_proof_of_its_own_is_issued_without_a_record() {
    let stack = Stack::builder().pebble("PEBBLE_AUTHZREUSE", "100").start().await;
    let domain = stack.active_domain(NAME).await;
    stack.api().verify(&domain.id).await;
    stack.dns().clear_txt(RECORD).await.unwrap();

    let order = stack.api().issue(&domain.id).await;
    assert_eq!((order.status.as_str(), order.expected_txt_value.len()), ("certificate_pending", 43));
    stack.becomes_active(&domain.id).await;
    assert!(!events(&stack, &order.order_id).await.contains(&"seen".to_owned()));
    assert_eq!(certificates_stored(&stack, &domain.id).await, 2);
}
