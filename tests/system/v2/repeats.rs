//! Requests that come twice with an `Idempotency-Key`, on both surfaces; and the audit log, which tells of every effect once.

use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::receiver::Receiver;
use countersign_tests::stack::Stack;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{Caller, message};
use crate::facts::all;
use crate::webhooks::hooked;

async fn post(api: &ApiClient, path: &str, key: &str, body: &Value) -> Answer {
    api.send(api.request(Method::POST, path).header("idempotency-key", key).json(body)).await.unwrap()
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.contains_key("idempotency-replayed")
}

async fn count(stack: &Stack, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(stack.pool()).await.unwrap()
}

#[tokio::test]
async fn the_same_key_and_body_get_the_first_answer_again_and_have_one_effect() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).apis(2).leftovers_allowed().start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    caller.domain("shop.example.com").await;
    let old = caller.requested("shop.example.com", json!({"name": "old"})).await;
    caller.issued("shop.example.com", old).await;
    let orders = caller.path("domains/shop.example.com/certificates/letsencrypt");
    let renewals = format!("{orders}/{old}/renewals");
    for (api, path, body, status) in [
        (stack.api(), "/domains", json!({"domain_name": "one.example.com"}), 201),
        (&caller.api, caller.path("domains").as_str(), json!({"name": "two.example.com"}), 201),
        (&caller.api, &orders, json!({"name": "api"}), 201),
        (&caller.api, &format!("{orders}/{}/issue", old + 1), json!({}), 202),
        (&caller.api, &renewals, json!({}), 201),
        (&caller.api, &format!("{renewals}/1/issue"), json!({}), 202),
        (&caller.api, &caller.path("webhooks"), json!({"url": receiver.url("/")}), 201),
    ] {
        let first = post(api, path, "key", &body).await;
        assert!(first.status == status && !is_replayed(&first), "{path}: {first:?}");
        let again = post(api, path, "key", &body).await;
        assert!(again.status == status && is_replayed(&again) && again.body == first.body, "{path}: {again:?}");
        let other = post(api, path, "key", &json!({"name": "other", "domain_name": "other.example.com"})).await;
        assert_eq!(other.status, 422, "{path}: {other:?}");
    }
    for (table, rows) in [("certificates", 3), ("domains", 3), ("orders", 3), ("renewals", 1), ("webhooks", 1)] {
        assert_eq!(count(&stack, &format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }
}

#[tokio::test]
async fn a_key_is_a_token_s_own_on_one_path_whatever_the_path_and_the_body_are() {
    let stack = Stack::builder().workers(0).leftovers_allowed().start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain("shop.example.com").await;
    let orders = caller.path("domains/shop.example.com/certificates/letsencrypt");
    let first = post(&caller.api, &orders, "key", &json!({})).await;
    let reader = Caller::of(&stack, caller.account, "certificates:read");
    let refused = message(post(&reader.api, &orders, "key", &json!({})).await, 403);
    assert_eq!(refused, "Permission Denied. Required Scope: certificates:write");
    let writer = Caller::of(&stack, caller.account, "certificates:write");
    let second = post(&writer.api, &orders, "key", &json!({})).await;
    assert!(second.status == 201 && second.body["data"]["id"] != first.body["data"]["id"], "{second:?}");

    // Not to be compressed.
    let long: String = (1..400u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let no_domain = caller.path(&format!("domains/{long}/certificates/letsencrypt"));
    message(post(&caller.api, &no_domain, "key", &json!({})).await, 404);
    post(stack.api(), &format!("/domains/{long}/issue-certificate"), "key", &json!({})).await.expect(404);

    // What is sent there is not looked at, even if it cannot be read.
    let issue = format!("{orders}/{}/issue", first.body["data"]["id"]);
    let too_large = json!("x".repeat(70_000));
    let issued = post(&caller.api, &issue, "key", &too_large).await;
    let again = post(&caller.api, &issue, "key", &too_large).await;
    assert!(issued.status == 202 && again.status == 202 && is_replayed(&again), "{issued:?} {again:?}");
    assert_eq!(post(&caller.api, &issue, "key", &json!({})).await.status, 422);
}

#[tokio::test]
async fn a_key_belongs_to_its_caller_and_path_and_is_free_again_after_a_refusal_or_a_day() {
    let stack = Stack::builder().workers(0).start().await;
    let [one, two] = ["one", "two"].map(|name| Caller::new(&stack, name, "manual"));
    for (caller, name) in [(&one, "one.example.com"), (&two, "two.example.com")] {
        post(&caller.api, &caller.path("domains"), "key", &json!({"name": name})).await.expect(201);
        let orders = caller.path(&format!("domains/{name}/certificates/letsencrypt"));
        post(&caller.api, &orders, "key", &json!({})).await.expect(201);
    }
    let orders = one.path("domains/one.example.com/certificates/letsencrypt");
    post(&one.api, &orders, "refused", &json!({"name": 7})).await.expect(400);
    let good = post(&one.api, &orders, "refused", &json!({})).await;
    assert!(good.status == 201 && !is_replayed(&good), "{good:?}");

    sqlx::query("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
        .execute(stack.pool())
        .await
        .unwrap();
    let anew = post(&one.api, &orders, "refused", &json!({})).await;
    assert!(
        anew.status == 201 && !is_replayed(&anew) && anew.body["data"]["id"] != good.body["data"]["id"],
        "{anew:?}"
    );
    for bad in ["", &"x".repeat(256)] {
        post(&one.api, &orders, bad, &json!({})).await.expect(400);
    }
    post(&one.api, &orders, &"x".repeat(255), &json!({})).await.expect(201);
    // A key on what is no POST means nothing.
    let read = one.api.request(Method::GET, &one.path("domains")).header("idempotency-key", "");
    one.send(read).await.expect(200);
}

#[tokio::test]
async fn of_calls_that_wait_for_a_worker_under_one_key_one_runs_and_the_others_hear_of_it() {
    let stack = Stack::builder().apis(2).start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    let path = format!("/domains/{}/issue-certificate", domain.id);
    let calls = [1, 2, 1, 2].map(|number| {
        let (api, path) = (stack.api_replica(number).clone(), path.clone());
        async move { post(&api, &path, "key", &json!({})).await }
    });
    let answers = all(calls).await;
    let order_ids: Vec<&Value> =
        answers.iter().filter(|answer| answer.status == 202).map(|answer| &answer.body["order_id"]).collect();
    assert!(!order_ids.is_empty() && order_ids.iter().all(|id| *id == order_ids[0]), "{answers:?}");
    assert!(answers.iter().all(|answer| [202, 409].contains(&answer.status)), "{answers:?}");
    let again = post(stack.api(), &path, "key", &json!({})).await;
    assert!(again.status == 202 && is_replayed(&again) && again.body["order_id"] == *order_ids[0], "{again:?}");
    assert_eq!(count(&stack, "SELECT count(*) FROM orders").await, 1);
    stack.api().delete(&domain.id).await;
}

#[tokio::test]
async fn every_change_made_with_a_token_and_every_read_of_a_key_leaves_one_row() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    let domain = caller.domain("shop.example.com").await;
    let id = caller.order("shop.example.com", json!({"name": "api"})).await;
    let certificate = format!("domains/shop.example.com/certificates/letsencrypt/{id}");
    caller.get(&format!("domains/shop.example.com/certificates/{id}/private_key")).await.expect(428);
    caller.post(&format!("{certificate}/issue"), &json!({})).await.expect(202);
    caller.post(&format!("{certificate}/issue"), &json!({})).await.expect(400);
    let issued = async || (caller.certificate("shop.example.com", id).await["state"] == "issued").then_some(());
    stack.wait_until("it is issued", crate::facts::SOON, issued).await;
    for _ in 0..2 {
        caller.get(&format!("domains/shop.example.com/certificates/{id}/private_key")).await.expect(200);
    }
    let renewals = format!("{certificate}/renewals");
    let renewal = caller.post(&renewals, &json!({})).await.expect(201)["data"]["id"].to_string();
    caller.post(&renewals, &json!({})).await.expect(400);
    caller.post(&format!("{renewals}/{renewal}/issue"), &json!({})).await.expect(202);
    caller.post(&format!("{renewals}/{renewal}/issue"), &json!({})).await.expect(400);
    let webhook =
        caller.post("webhooks", &json!({"url": receiver.url("/")})).await.expect(201)["data"]["id"].to_string();
    caller.post("webhooks", &json!({"url": "http://shop.example.com/"})).await.expect(400);
    caller.delete(&format!("webhooks/{webhook}")).await.expect(204);
    caller.delete(&format!("webhooks/{webhook}")).await.expect(404);
    caller.delete("domains/shop.example.com").await.expect(204);

    let log = "SELECT string_agg(action, ' ' ORDER BY id) FROM audit_entries";
    let told: String = sqlx::query_scalar(log).fetch_one(stack.pool()).await.unwrap();
    assert_eq!(
        told,
        "domain.create certificate.order certificate.issue private_key.read private_key.read renewal.order renewal.issue \
         webhook.create webhook.delete domain.delete"
    );
    let said = countersign_tests::stack::accounts::ctl(stack.plan(), &["audit", "list", "--json"]).unwrap();
    let entries: Value = serde_json::from_str(&said).unwrap();
    let newest = &entries["entries"][0];
    assert_eq!(newest["action"], "domain.delete");
    assert_eq!(newest["subject"], format!("domain {domain} shop.example.com"));
    assert!(
        newest["request_id"].as_str().is_some_and(|id| !id.is_empty()) && newest["account_id"] == caller.account.id
    );
    assert!(!said.contains("PRIVATE KEY"));
}
