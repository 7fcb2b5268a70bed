//! Who publishes the TXT records: the customer, who is told them, or a test DNS server.

use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::stack::Stack;
use serde_json::{Value, json};

use super::Caller;
use crate::facts::{SOON, published};

const DOMAIN: &str = "shop.example.com";

#[tokio::test]
async fn the_customer_is_told_what_to_publish_and_has_the_certificate_for_it() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "10m").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let id = caller.order(DOMAIN, json!({"name": "*", "alternate_names": [DOMAIN, "docs.eu.shop.example.com"]})).await;
    let path = format!("domains/{DOMAIN}/certificates/{id}/challenges");
    assert_eq!(caller.get(&path).await.expect(200), json!({"data": []}), "nothing is awaited before it is issued");
    caller.issue(DOMAIN, id).await.expect(202);

    let records = caller.challenges(DOMAIN, id).await;
    let owners: Vec<&str> = records.iter().map(|(owner, _)| owner.as_str()).collect();
    let (apex, docs) = ("_acme-challenge.shop.example.com.", "_acme-challenge.docs.eu.shop.example.com.");
    assert_eq!(owners, [docs, apex, apex]);
    assert_ne!(records[1].1, records[2].1, "the wildcard and the domain have a value each");
    for entry in caller.get(&path).await.expect(200)["data"].as_array().unwrap() {
        assert_eq!((&entry["record_type"], &entry["seen_at"]), (&json!("TXT"), &Value::Null));
        assert!(entry["deadline_at"].as_str().unwrap().ends_with('Z'), "{entry}");
    }
    // Until all are there, nothing happens.
    caller.publish(&records[..2]).await;
    let looked = async || {
        let query = "SELECT last_result ->> 'detail' FROM jobs WHERE order_id IS NOT NULL AND last_result IS NOT NULL";
        let detail: Option<String> = sqlx::query_scalar(query).fetch_optional(stack.pool()).await.unwrap();
        detail.filter(|detail| detail.contains(apex))
    };
    stack.wait_until("the one that is missing is named", SOON, looked).await;
    assert_eq!(caller.certificate(DOMAIN, id).await["state"], "requesting");
    caller.publish(&records[2..]).await;
    caller.issued(DOMAIN, id).await;
    assert_eq!(caller.get(&path).await.expect(200), json!({"data": []}));
    stack.finish().await;
    // What the customer published is the customer's.
    assert_eq!(published(&stack, apex).await.len(), 2);
}

#[tokio::test]
async fn records_that_we_published_are_removed_and_those_of_another_certificate_stay() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "10m").acme_front().start().await;
    let (a, b) = (Caller::new(&stack, "a", "test-dns"), Caller::new(&stack, "b", "test-dns"));
    a.domain(DOMAIN).await;
    b.domain("example.com").await;
    let owner = "_acme-challenge.shop.example.com.";

    // B's order for the same name is at the CA, which is to look for its value.
    stack.front().hold(Kind::Challenge);
    let of_b = b.requested("example.com", json!({"name": "shop"})).await;
    let held = async || (stack.front().held(Kind::Challenge, Moment::Before) == 1).then_some(());
    stack.wait_until("the answer to B's challenge is held", SOON, held).await;
    let value = b.challenges("example.com", of_b).await.remove(0).1;
    assert_eq!(published(&stack, owner).await, [value.as_str()]);

    // A's order never sees its second name, and ends.
    stack.dns().set_servfail("_acme-challenge.x.shop.example.com").await.unwrap();
    let of_a = a.requested(DOMAIN, json!({"name": "", "alternate_names": ["x.shop.example.com"]})).await;
    a.challenges(DOMAIN, of_a).await;
    let both = async || (published(&stack, owner).await.len() == 2).then_some(());
    stack.wait_until("both values are published", SOON, both).await;
    let domain: i64 = sqlx::query_scalar("SELECT id FROM domains WHERE name = $1")
        .bind(DOMAIN)
        .fetch_one(stack.pool())
        .await
        .unwrap();
    a.delete(&format!("domains/{DOMAIN}")).await.expect(204);
    let cleaned_up = async || {
        let query = "SELECT bool_and(cleaned_up_at IS NOT NULL) FROM orders WHERE domain_id = $1";
        let done: Option<bool> = sqlx::query_scalar(query).bind(domain).fetch_one(stack.pool()).await.unwrap();
        assert!(published(&stack, owner).await.contains(&value), "B's value is gone");
        done.unwrap_or_default().then_some(())
    };
    stack.wait_until("A's order is cleaned up", SOON, cleaned_up).await;
    assert!(published(&stack, owner).await.contains(&value), "B's value is gone");

    stack.front().release();
    b.issued("example.com", of_b).await;
    stack.finish().await;
    assert!(published(&stack, owner).await.is_empty(), "records stay behind");
}

#[tokio::test]
async fn certificates_of_one_name_at_the_same_time_do_not_take_each_other_s_records() {
    let stack = Stack::builder().workers(2).start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    caller.domain(DOMAIN).await;
    let mut ids = Vec::new();
    // No more: Pebble reads answers of 512 octets.
    for name in ["", "*", "", "*"] {
        ids.push(caller.requested(DOMAIN, json!({"name": name})).await);
    }
    for id in ids {
        caller.issued(DOMAIN, id).await;
    }
    stack.finish().await;
    assert!(published(&stack, "_acme-challenge.shop.example.com.").await.is_empty(), "records stay behind");
}

#[tokio::test]
async fn a_test_dns_server_elsewhere_is_refused_by_a_worker_that_does_not_start() {
    for url in ["http://192.0.2.1:8055", "http://dns.example.com:8055", "http://[2001:db8::1]:8055", "http://10.0.0.1"]
    {
        let stack = Stack::builder().apis(0).setting("TEST_DNS_MANAGEMENT_URL", url).try_start().await;
        let error = format!("{:#}", stack.err().expect("the worker starts"));
        assert!(error.contains("TEST_DNS_MANAGEMENT_URL must have a loopback address"), "{error}");
    }
}

#[tokio::test]
async fn a_worker_without_a_test_dns_server_leaves_the_order_waiting_uncounted_and_says_so() {
    let mut stack = Stack::builder().setting_of("worker-1", "TEST_DNS_MANAGEMENT_URL", "").start().await;
    let caller_account = stack.account("shop", "test-dns");
    let url = stack.plan().dns.management_url();
    let id = {
        let caller = Caller::of(&stack, caller_account, super::ALL_SCOPES);
        caller.domain(DOMAIN).await;
        let id = caller.requested(DOMAIN, json!({"name": ""})).await;
        let said = async || {
            let query =
                "SELECT attempts, last_result::text FROM jobs WHERE order_id IS NOT NULL AND last_result IS NOT NULL";
            let row: Option<(i32, String)> = sqlx::query_as(query).fetch_optional(stack.pool()).await.unwrap();
            row
        };
        let (attempts, said) = stack.wait_until("the worker has said what is missing", SOON, said).await;
        assert_eq!(attempts, 0, "{said}");
        assert!(said.contains("not set up to publish TXT records by test-dns"), "{said}");
        assert_eq!(caller.certificate(DOMAIN, id).await["state"], "requesting");
        id
    };
    // A worker that has one goes on.
    stack.restart_with("worker-1", "TEST_DNS_MANAGEMENT_URL", url).await;
    sqlx::query("UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL").execute(stack.pool()).await.unwrap();
    Caller::of(&stack, caller_account, super::ALL_SCOPES).issued(DOMAIN, id).await;
}
