//! When a value can be seen: on every replica soon after its commit, until its order is cleaned up, and never at another's label.

use std::time::{Duration, Instant};

use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::target;
use reqwest::Method;
use serde_json::{Value, json};

use super::{answers, registered, token};
use crate::facts::SOON;
use crate::renewals::{client, presented_by};

/// A second is what is promised; the machine may be busy.
const VISIBLE_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_value_is_on_every_replica_within_a_second_of_its_commit() {
    let stack = Stack::builder().responders(2).leftovers_allowed().start().await;
    let (other, other_target) = registered(&stack, "other.example.org").await;
    for number in [1, 2] {
        answers(&stack, number, &other_target, &[token(&other)], VISIBLE_WITHIN).await;
    }
    // Asked for before there is anything but the token, so that an answer is remembered everywhere.
    let domain = stack.api().register("shop.example.com").await;
    let (target, token) = (target(&domain).to_owned(), token(&domain).to_owned());
    for number in [1, 2] {
        answers(&stack, number, &target, &[&token], VISIBLE_WITHIN).await;
    }
    stack.dns().set_txt("_acme-challenge.shop.example.com", &token).await.unwrap();
    stack.api().verify(&domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    let placed = Instant::now();
    for number in [1, 2] {
        answers(&stack, number, &target, &[&token, &order.expected_txt_value], VISIBLE_WITHIN).await;
    }
    println!("an order's value was on both replicas {:?} after the answer to its call", placed.elapsed());

    // And so it is where the notification was lost: this one is never sent.
    stack.kill("worker-1");
    let unannounced = "UPDATE authorizations SET txt_value = lpad('', 43, 'x')";
    for number in [1, 2] {
        assert!(stack.txt_at(number, &target).await.unwrap().contains(&order.expected_txt_value));
    }
    sqlx::query(unannounced).execute(stack.pool()).await.unwrap();
    let committed = Instant::now();
    for number in [1, 2] {
        answers(&stack, number, &target, &[&token, &"x".repeat(43)], VISIBLE_WITHIN).await;
    }
    println!("an unannounced value was on both replicas {:?} after its commit", committed.elapsed());
    for number in [1, 2] {
        answers(&stack, number, &other_target, &[super::token(&other)], VISIBLE_WITHIN).await;
    }
}

#[tokio::test]
async fn the_values_of_several_orders_are_there_together_and_each_goes_with_its_clean_up() {
    let stack = Stack::builder().responders(1).leftovers_allowed().start().await;
    let api = client(&stack).await;
    presented_by(&stack, "manual").await;
    let domain = stack.verified_domain("shop.example.com").await;
    let target = target(&domain).to_owned();
    let token: String =
        sqlx::query_scalar("SELECT verification_token FROM domains").fetch_one(stack.pool()).await.unwrap();
    answers(&stack, 1, &target, &[&token], VISIBLE_WITHIN).await;
    let first = stack.api().issue(&domain.id).await;
    answers(&stack, 1, &target, &[&token, &first.expected_txt_value], VISIBLE_WITHIN).await;

    // Apex and wildcard need two values at one name.
    let key: i64 = sqlx::query_scalar("SELECT id FROM domains").fetch_one(stack.pool()).await.unwrap();
    let certificates = format!("/v2/1/domains/{key}/certificates/letsencrypt");
    let input = json!({"name": "", "alternate_names": ["*.shop.example.com"]});
    let ordered = api.send(api.request(Method::POST, &certificates).json(&input)).await.unwrap().expect(201);
    let issue = format!("{certificates}/{}/issue", ordered["data"]["id"]);
    api.send(api.request(Method::POST, &issue).json(&Value::Null)).await.unwrap().expect(202);
    let of_second = "SELECT a.txt_value FROM authorizations a JOIN orders o ON o.id = a.order_id
                     WHERE o.public_id <> $1 AND a.proved_at IS NULL";
    let second = async || {
        let values: Vec<String> =
            sqlx::query_scalar(of_second).bind(&first.order_id).fetch_all(stack.pool()).await.unwrap();
        (values.len() == 2).then_some(values)
    };
    let second = stack.wait_until("the second order is placed", SOON, second).await;
    let all = [token.as_str(), &first.expected_txt_value, &second[0], &second[1]];
    answers(&stack, 1, &target, &all, VISIBLE_WITHIN).await;

    // The first comes to its end; those of the second stay.
    stack.publish_value(&first).await;
    stack.becomes_active(&domain.id).await;
    answers(&stack, 1, &target, &[&token, &second[0], &second[1]], SOON).await;

    // A cancelled order is not cleaned up while nobody works: the CA may be looking at that moment.
    stack.kill("worker-1");
    stack.api().delete(&domain.id).await;
    let ended = "SELECT every(state IN ('issued', 'cancelled') AND cleaned_up_at IS NULL) FROM orders";
    assert!(sqlx::query_scalar::<_, bool>(ended).fetch_one(stack.pool()).await.unwrap());
    answers(&stack, 1, &target, &[&first.expected_txt_value, &second[0], &second[1]], VISIBLE_WITHIN).await;
    stack.restart("worker-1").await;
    answers(&stack, 1, &target, &[], SOON).await;
    let again = stack.api().register("shop.example.com").await;
    assert_ne!(countersign_tests::stack::delegation::target(&again), target, "a label is never used again");
}
