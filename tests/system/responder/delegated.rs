//! Delegated domains, from the one CNAME record to their certificates, also while a name server is lost.

use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::{ZONE, target};
use serde_json::Value;
use sqlx::query_scalar;

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
    let active = stack.becomes_active(&domain.id).await;
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
