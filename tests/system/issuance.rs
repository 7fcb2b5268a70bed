//! From a registered domain to its certificate, and what a caller sees when a worker or the CA is away, or the domain is deleted midway.

use countersign_tests::certificate::{self, Description};
use countersign_tests::stack::Stack;
use rcgen::{KeyPair, PublicKeyData as _};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use x509_parser::pem::parse_x509_pem;

use crate::facts::{certificates_stored, events, hold_in_respond, is_cleaned_up};

#[tokio::test]
async fn a_registered_domain_becomes_active_with_a_certificate_that_fits() {
    let stack = Stack::builder().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.publish_value(&order).await;
    let domain = stack.becomes_active(&domain.id).await;

    let query = "SELECT public_id, certificate_pem, private_key_pem FROM certificates WHERE state = 'issued'";
    let (id, chain, key): (String, String, String) = sqlx::query_as(query).fetch_one(stack.pool()).await.unwrap();
    let leaf = Description::of_leaf(&chain).unwrap();
    assert_eq!((leaf.names.as_slice(), leaf.key.as_str()), (&["shop.example.com".to_owned()][..], "RSA 2048 bits"));
    let root = std::fs::read_to_string(stack.ca().issued_root_file()).unwrap();
    assert!(certificate::verify(&chain, &root).unwrap() >= 2, "leaf and intermediate");
    let (_, pem) = parse_x509_pem(chain.as_bytes()).unwrap();
    let stored_key = KeyPair::from_pem(&key).unwrap().subject_public_key_info();
    assert_eq!(pem.parse_x509().unwrap().public_key().raw, stored_key, "the stored key is the leaf's");

    let shown = stack.api().certificate(&domain.id).await;
    assert_eq!((&shown.id, &shown.domain_id), (&id, &domain.id));
    assert_eq!(shown.more["serial_number"], leaf.serial_number);
    assert_eq!(shown.more["fingerprint_sha256"], leaf.fingerprint_sha256);
    assert_eq!(shown.more["not_before"], leaf.not_before);
    assert_eq!(shown.more["not_after"], leaf.not_after);
    assert_eq!(format!("CN={}", shown.more["issuer"].as_str().unwrap()), leaf.issuer);
    let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
    assert_eq!(at(&shown.expires_at), at(&shown.issued_at) + Duration::days(90));
    assert_eq!(domain.more["certificate"]["serial_number"], leaf.serial_number);

    stack.finish().await;
    let story = [
        "accepted",
        "placed",
        "presented",
        "seen",
        "confirmed",
        "responded",
        "authorized",
        "prepared",
        "finalizing",
        "issued",
        "cleaned_up",
    ];
    assert_eq!(events(&stack, &order.order_id).await, story);
    let query = "SELECT count(DISTINCT at) = 1 FROM order_events e JOIN orders o ON o.id = e.order_id
                 WHERE o.public_id = $1 AND event IN ('placed', 'presented')";
    let in_one = sqlx::query_scalar::<_, bool>(query).bind(&order.order_id).fetch_one(stack.pool()).await.unwrap();
    assert!(in_one, "what nobody has to publish takes no commit of its own");
}

#[tokio::test]
async fn a_domain_verified_again_gets_a_second_certificate() {
    let stack = Stack::builder().start().await;
    let domain = stack.active_domain("shop.example.com").await;
    let first = stack.api().certificate(&domain.id).await;

    assert_eq!(stack.api().verify(&domain.id).await.status, "verified");
    stack.api().try_certificate(&domain.id).await.unwrap().expect(404);
    let order = stack.api().issue(&domain.id).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;

    let second = stack.api().certificate(&domain.id).await;
    assert_ne!(first.id, second.id);
    assert_ne!(first.more["serial_number"], second.more["serial_number"]);
    assert_eq!(certificates_stored(&stack, &domain.id).await, 2);
    assert_eq!(stack.ca().certificates_issued_for("shop.example.com").await.unwrap(), 2);
}

#[tokio::test]
async fn without_a_worker_issuing_says_so_and_the_domain_stays_verified() {
    let stack = Stack::builder().apis(2).setting_of("api-1", "PLACE_WAIT", "1s").not_yet("worker-1").start().await;
    let domain = stack.verified_domain("shop.example.com").await;

    let refused = stack.api().try_issue(&domain.id).await.unwrap();
    assert!(refused.error().is_some_and(|error| error.contains("no worker took it")), "{refused:?}");
    refused.expect(500);
    assert_eq!(stack.api().fetch(&domain.id).await.status, "verified");

    stack.restart("worker-1").await;
    let order = stack.api_replica(2).issue(&domain.id).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!(stack.ca().orders_placed().unwrap(), 1, "the order that nobody took was never placed");
}

#[tokio::test]
async fn without_the_ca_issuing_says_so_and_works_once_it_is_back_as_a_stranger() {
    let stack = Stack::builder().apis(2).setting_of("api-1", "PLACE_WAIT", "4s").start().await;
    stack.active_domain("first.example.com").await;
    let domain = stack.verified_domain("shop.example.com").await;

    stack.kill("pebble");
    let refused = stack.api().try_issue(&domain.id).await.unwrap();
    assert!(
        refused.error().is_some_and(|error| error.contains("certificate authority cannot be reached")),
        "{refused:?}"
    );
    refused.expect(500);
    assert_eq!(stack.api().fetch(&domain.id).await.status, "verified");

    // The new Pebble knows no account of ours.
    stack.restart("pebble").await;
    let order = stack.api_replica(2).issue(&domain.id).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!(stack.ca().accounts().unwrap(), 1);
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM acme_accounts").fetch_one(stack.pool()).await.unwrap();
    assert_eq!(accounts, 1, "the same key was registered again");
}

#[tokio::test]
async fn a_domain_deleted_during_issuance_is_gone_at_once_and_leaves_no_certificate() {
    let stack = Stack::builder().start().await;
    let waiting = stack.pending_domain("waiting.example.com").await;
    let answering = stack.pending_domain("answering.example.com").await;
    hold_in_respond(&stack, std::slice::from_ref(&answering)).await;

    for (domain, _) in [&waiting, &answering] {
        stack.api().delete(&domain.id).await;
        stack.api().try_fetch(&domain.id).await.unwrap().expect(404);
        stack.api().register(&domain.domain_name).await;
    }
    stack.resume("pebble");
    for (domain, order) in [&waiting, &answering] {
        is_cleaned_up(&stack, &domain.id).await;
        let events = events(&stack, &order.order_id).await;
        assert!(events.ends_with(&["cancelled".to_owned(), "cleaned_up".to_owned()]), "{events:?}");
        assert_eq!(certificates_stored(&stack, &domain.id).await, 0);
    }
    // Clean-up that could not deactivate an authorization would end with a finding.
    let query = "SELECT count(*) FROM order_events WHERE detail ? 'finding'";
    let findings: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    assert_eq!((findings, stack.ca().certificates_issued().unwrap()), (0, 0));
    let handled = stack.log("pebble").matches("POST /authZ/ -> calling handler()").count();
    // Each was read when it was placed; looked at and deactivated in clean-up. A refused nonce adds more.
    assert!(handled >= 6, "the CA was asked about authorizations {handled} times only");
}
