//! What an operator can switch: which APIs are served, and what may be ordered through `/v2`.

use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use reqwest::Method;
use serde_json::json;

use super::{Caller, message};

#[tokio::test]
async fn either_api_can_be_switched_off() {
    let stack = Stack::builder().workers(0).setting("PUBLIC_APIS", "domains").start().await;
    let answer = stack.api().send(stack.api().request(Method::GET, "/v2/whoami")).await.unwrap();
    assert_eq!(answer.expect(404), json!({ "error": "no such route" }));
    stack.api().register("shop.example.com").await;
    for path in ["/openapi.json", "/docs"] {
        stack.api().send(stack.api().request(Method::GET, path)).await.unwrap().expect(200);
    }
    stack.finish().await;

    let stack = Stack::builder().workers(0).setting("PUBLIC_APIS", "v2").start().await;
    for (method, path) in [(Method::GET, "/domains"), (Method::POST, "/domains"), (Method::GET, "/domains/0")] {
        let answer = stack.api().send(stack.api().request(method, path)).await.unwrap();
        assert_eq!(answer.expect(404), json!({ "error": "no such route" }));
    }
    Caller::new(&stack, "shop", "manual").get("domains").await.expect(200);
}

#[tokio::test]
async fn orders_whose_records_a_customer_would_publish_can_be_refused() {
    let stack = Stack::builder().setting("ALLOW_MANUAL", "false").start().await;
    let (by_hand, by_itself) = (Caller::new(&stack, "hand", "manual"), Caller::new(&stack, "robot", "test-dns"));
    by_hand.domain("hand.example.com").await;
    by_itself.domain("robot.example.com").await;
    let refused = by_hand.post("domains/hand.example.com/certificates/letsencrypt", &json!({})).await;
    assert_eq!(message(refused, 400), "No presenter is configured that publishes the TXT records");
    // What is wrong with the request comes first.
    let wrong = by_hand.post("domains/hand.example.com/certificates/letsencrypt", &json!({"name": 1})).await;
    assert_eq!(message(wrong, 400), "Validation failed");

    let certificate = by_itself.requested("robot.example.com", json!({})).await;
    by_itself.issued("robot.example.com", certificate).await;
    let renewals = format!("domains/robot.example.com/certificates/letsencrypt/{certificate}/renewals");
    let query = sqlx::query("UPDATE accounts SET presenter = 'manual' WHERE id = $1").bind(by_itself.account.id);
    query.execute(stack.pool()).await.unwrap();
    let refused = by_itself.post(&renewals, &json!({})).await;
    assert_eq!(message(refused, 400), "No presenter is configured that publishes the TXT records");
}

#[tokio::test]
async fn orders_for_domains_that_were_never_verified_can_be_refused() {
    let stack = Stack::builder().setting("REQUIRE_VERIFIED", "true").start().await;
    // The account that both APIs show.
    let caller = Caller::of(&stack, DEFAULT, ALL_SCOPES);
    caller.domain("new.example.com").await;
    let refused = caller.post("domains/new.example.com/certificates/letsencrypt", &json!({})).await;
    assert_eq!(message(refused, 400), "Domain `new.example.com` is not verified");
    stack.verified_domain("shop.example.com").await;
    caller.order("shop.example.com", json!({})).await;
}
