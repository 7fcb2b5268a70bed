//! Delegated domains whose CNAME record is removed: it is noticed, and their customers are told what to do, until it is back.

use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::receiver::Receiver;
use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::target;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::facts::{SOON, events};
use crate::renewals::automatic::{is_due, job_runs};
use crate::renewals::renewals_become;
use crate::webhooks::hooked;

const OWNER: &str = "_acme-challenge.shop.example.com.";

async fn sql(stack: &Stack, text: &str) {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(stack.pool()).await.unwrap();
}

/// How often the account was told that a renewal failed.
async fn told(stack: &Stack) -> i64 {
    let query = "SELECT count(*) FROM events WHERE name = 'certificate.auto_renewal_failed'";
    sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap()
}

/// Waits until nobody believes in the delegation any more; the domain as it is shown then.
async fn is_noticed(stack: &Stack, domain_id: &str) -> Value {
    let shown = async || {
        let shown = stack.api().try_fetch(domain_id).await.unwrap().expect(200);
        shown["delegation"].get("seen_at").is_none_or(Value::is_null).then_some(shown)
    };
    stack.wait_until("the lost delegation is noticed", SOON, shown).await
}

#[tokio::test]
async fn a_renewal_notices_that_the_cname_is_gone_and_later_that_it_is_back() {
    let receiver = Receiver::start().unwrap();
    // The CA asks for proof again.
    let stack = hooked(&receiver).responders(1).pebble("PEBBLE_AUTHZREUSE", "0").start().await;
    let query = "INSERT INTO webhooks (account_id, url) VALUES (1, $1)";
    sqlx::query(query).bind(receiver.url("/hook")).execute(stack.pool()).await.unwrap();
    let domain = stack.delegated_domain("shop.example.com").await;
    stack.api().issue(&domain.id).await;
    let active = stack.becomes_active(&domain.id).await;
    assert!(active.more["delegation"]["seen_at"].is_string());
    let certificate: i64 = sqlx::query_scalar("SELECT id FROM certificates").fetch_one(stack.pool()).await.unwrap();
    job_runs(&stack).await;
    // At 0 Pebble still offers an old proof once in a hundred times. One that is not known to be ours is asked for anew.
    sql(&stack, "UPDATE authorizations SET proved_at = NULL").await;

    stack.dns().clear_cname(OWNER).await.unwrap();
    is_due(&stack, certificate).await;
    job_runs(&stack).await;
    // Long before the renewal fails.
    let shown = is_noticed(&stack, &domain.id).await;
    assert_eq!((&shown["status"], told(&stack).await), (&"active".into(), 0), "{shown}");
    assert!(shown["certificate"]["act_by"].is_string() && shown["certificate"].get("renews_at").is_none(), "{shown}");
    assert_eq!(shown["delegation"]["cname_target"], target(&domain));
    sql(&stack, "UPDATE orders SET deadline_at = now() WHERE origin = 'renewal'").await;
    sql(&stack, "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL").await;
    renewals_become(&stack, certificate, &["failed"]).await;
    assert_eq!(told(&stack).await, 1);

    // From now on it is a person's: no order is made, and nobody is told again.
    is_due(&stack, certificate).await;
    job_runs(&stack).await;
    renewals_become(&stack, certificate, &["failed"]).await;
    assert_eq!(told(&stack).await, 1);
    let heard = async || receiver.received("/hook").iter().any(|heard| told_of(&heard.json())).then_some(());
    stack.wait_until("the account has heard of it", SOON, heard).await;

    // Nobody calls: the look at what is due notices that the CNAME is back.
    stack.delegate(&domain).await;
    is_due(&stack, certificate).await;
    job_runs(&stack).await;
    renewals_become(&stack, certificate, &["failed", "renewed"]).await;
    let renewed = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    assert!(renewed["delegation"]["seen_at"].is_string(), "{renewed}");
    assert!(renewed["certificate"].get("act_by").is_none_or(Value::is_null), "{renewed}");
    assert_eq!(told(&stack).await, 1);
}

fn told_of(event: &Value) -> bool {
    event["name"] == "certificate.auto_renewal_failed"
}

#[tokio::test]
async fn an_order_without_its_cname_asks_for_a_record_and_takes_one_set_by_hand() {
    let stack = Stack::builder().responders(1).start().await;
    let domain = stack.delegated_domain("shop.example.com").await;
    stack.dns().clear_cname(OWNER).await.unwrap();
    let order = stack.api().issue(&domain.id).await;
    let shown = is_noticed(&stack, &domain.id).await;
    let instructions = shown["instructions"].as_str().unwrap();
    assert!(instructions.contains(&order.expected_txt_value) && instructions.contains(target(&domain)), "{shown}");
    stack.publish_value(&order).await;
    let active = stack.becomes_active(&domain.id).await;
    assert!(active.more["certificate"]["act_by"].is_string(), "{:?}", active.more);
    let lost = events(&stack, &order.order_id).await.iter().filter(|event| *event == "delegation_lost").count();
    assert_eq!(lost, 1);
}

#[tokio::test]
async fn a_cname_that_vanishes_while_the_ca_looks_is_noticed_when_the_order_fails_and_again_when_it_is_back() {
    let stack = Stack::builder().responders(1).acme_front().start().await;
    let domain = stack.delegated_domain("shop.example.com").await;
    stack.front().hold(Kind::Challenge);
    let order = stack.api().issue(&domain.id).await;
    let held = async || (stack.front().held(Kind::Challenge, Moment::Before) == 1).then_some(());
    stack.wait_until("the challenge is about to be answered", SOON, held).await;
    stack.dns().clear_cname(OWNER).await.unwrap();
    stack.front().release();
    let failed = stack.becomes(&domain.id, "failed", SOON).await;
    // In the order's own commits: who sees that it failed sees this.
    assert!(failed.more["delegation"].get("seen_at").is_none_or(Value::is_null), "{:?}", failed.more);
    let happened = events(&stack, &order.order_id).await;
    let lost = happened.iter().position(|event| event == "delegation_lost");
    assert!(lost.is_some() && lost < happened.iter().position(|event| event == "gave_up"), "{happened:?}");

    stack.delegate(&domain).await;
    let retryable = async || {
        let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
        (shown["failure"]["retryable"] == true).then_some(())
    };
    stack.wait_until("the order is cleaned up", SOON, retryable).await;
    stack.api().retry(&domain.id).await;
    let active = stack.becomes_active(&domain.id).await;
    assert!(active.more["delegation"]["seen_at"].is_string(), "{:?}", active.more);
}
