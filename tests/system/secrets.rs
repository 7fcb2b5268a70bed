//! No secret ever appears in a log, at any level; or in an answer or row that is not for it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_shared::sealed::{AtRest, KeyRing, Place};
use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::receiver::{Manner, Receiver};
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use countersign_tests::stack::{Shutdown, Stack};
use reqwest::Method;
use serde_json::json;

use crate::facts::SOON;
use crate::sealed::key;
use crate::webhooks::{hooked, until};

const TOKEN: &str = "canary-token-5uIRaHb6dNvUk0eT";
const PASSWORD: &str = "canary-password-Tz8vDqGm3wYb1sLx";
const PRESENTER_SECRET: &str = "canary-presenter-q8ZxWn4hRt2vJc6P";
const WEBHOOK_SECRET: &str = "whsec_Y2FuYXJ5LXdlYmhvb2stN0dwMk1zOVhrNFFk";
const ADMIN_TOKEN: &str = "canary-operator-W2kq7Hd0vXe9RbLc";
const WEBHOOK_QUERY: &str = "canary-query-n8Fz3QyT6mKj1UaP";
const REQUEST_ID: &str = "canary-request-7Kp2";
const LOGS: [&str; 6] = ["api-1", "worker-1", "migrate", "postgres", "pebble", "dns"];

#[tokio::test]
async fn a_full_run_at_the_loudest_level_logs_no_token_password_or_key() {
    let (first, second) = (key("k1"), key("k2"));
    let ring = format!("{first},{second}");
    let stack = Stack::builder()
        .setting("AUTH_TOKEN", TOKEN)
        .database_password(PASSWORD)
        .setting("ENCRYPTION_KEYS", &ring)
        .setting("LOG_LEVEL", "trace")
        .setting("POLL_TIMEOUT", "6s")
        .start()
        .await;
    let (shop, order) = pending(&stack, "shop.example.com").await;
    let (late, _) = pending(&stack, "late.example.com").await;
    propose_and_hook(&stack).await;
    stack.api().with_token(Some("wrong")).try_fetch(&shop).await.unwrap().expect(401);
    // Errors are where secrets slip out: a restart of everything, the database away for a moment.
    for name in ["api-1", "worker-1"] {
        stack.kill(name);
        stack.restart(name).await;
    }
    stack.stop_postgres(Shutdown::Immediate).await;
    stack.api().try_fetch(&shop).await.unwrap().expect(503);
    stack.restart("postgres").await;
    stack
        .dns()
        .set_txt("_acme-challenge.shop.example.com", order["expected_txt_value"].as_str().unwrap())
        .await
        .unwrap();
    stack.becomes(&shop, "active", SOON).await;
    stack.becomes(&late, "failed", SOON).await;
    stack.finish().await;

    let opened = KeyRing::parse(&ring).unwrap();
    let account = "SELECT directory, private_key_sealed FROM acme_accounts";
    let (directory, account): (String, Vec<u8>) = sqlx::query_as(account).fetch_one(stack.pool()).await.unwrap();
    let certificate = "SELECT id, private_key_sealed FROM certificates WHERE csr IS NOT NULL";
    let (id, certificate): (i64, Vec<u8>) = sqlx::query_as(certificate).fetch_one(stack.pool()).await.unwrap();
    let keys = [(Place::AccountKey(&directory), account), (Place::CertificateKey(id), certificate)];
    let keys = keys.map(|(place, sealed)| opened.open(place, &AtRest::Sealed(sealed)).unwrap());
    let mut secrets: Vec<String> = keys.iter().flat_map(|key| blocks(key.expose())).collect();
    assert!(secrets.len() > 2 * 50, "{} blocks", secrets.len());
    secrets.extend([&first, &second].iter().flat_map(|entry| blocks(&entry[3..])));
    secrets.extend([PRESENTER_SECRET, WEBHOOK_SECRET].map(ToOwned::to_owned));
    for name in LOGS {
        let log = stack.log(name);
        println!("{name}: {} bytes", log.len());
        assert!(!log.contains(TOKEN), "{name} logs AUTH_TOKEN");
        assert!(!log.contains(PASSWORD), "{name} logs the database's password");
        assert!(!log.contains("PRIVATE KEY"), "{name} logs a key");
        assert!(!secrets.iter().any(|secret| log.contains(secret)), "{name} logs a part of a key, or a secret");
    }
    // What is looked for would be found.
    for name in ["api-1", "worker-1"] {
        assert!(stack.log(name).contains(REQUEST_ID), "{name} logs no request id");
        assert!(stack.log(name).contains("TRACE"), "{name} does not log all it could");
    }
}

#[tokio::test]
async fn the_secrets_of_operators_and_accounts_are_in_no_log_and_in_no_other_answer_or_row() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("ADMIN_TOKEN", ADMIN_TOKEN).setting("LOG_LEVEL", "trace").start().await;
    let token = stack.token(DEFAULT, ALL_SCOPES).secret;
    let secret = format!("whsec_{}", BASE64_STANDARD.encode(b"canary-signature-Yb4Gs9Nw5RtEo2"));
    let account = stack.api().with_token(Some(&token));
    let call = async |method: Method, path: &str, body: serde_json::Value| {
        account.send(account.request(method, &format!("/v2/1/{path}")).json(&body)).await.unwrap()
    };
    let url = format!("{}?key={WEBHOOK_QUERY}", receiver.url("/hook"));
    let mut answers = vec![call(Method::POST, "webhooks", json!({"url": url, "secret": secret})).await];
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) FROM deliveries").await;
    assert!(!receiver.received("/hook")[0].header("webhook-signature").is_empty());
    answers.push(call(Method::POST, "webhooks", json!({"url": "https://", "secret": secret})).await);
    answers.push(call(Method::POST, "webhooks", json!({"url": url, "secret": format!("{secret}!")})).await);
    answers.push(call(Method::GET, "webhooks", json!({})).await);
    // Failures are where secrets slip out.
    receiver.behave("/hook", Manner::Answer(500, String::new()));
    let domain = stack.active_domain("shop.example.com").await;
    until(&stack, "SELECT count(*) > 0 FROM deliveries WHERE attempts > 0 AND last_status = 500").await;
    answers.push(stack.api().try_certificate(&domain.id).await.unwrap());
    let certificates = call(Method::GET, "domains/shop.example.com/certificates", json!({})).await;
    let path = format!("domains/shop.example.com/certificates/{}", certificates.body["data"][0]["id"]);
    answers.push(certificates);
    for part in ["", "/download", "/challenges"] {
        answers.push(call(Method::GET, &format!("{path}{part}"), json!({})).await);
    }
    let key = call(Method::GET, &format!("{path}/private_key"), json!({})).await.expect(200);
    let operators = ApiClient::new(&stack.admin_url("api-1"), None).unwrap();
    for (given, status) in [(Some("wrong"), 401), (Some(&*token), 401), (Some(ADMIN_TOKEN), 200)] {
        let operators = operators.with_token(given);
        for path in ["/orders", "/jobs"] {
            let answer = operators.send(operators.request(Method::GET, path)).await.unwrap();
            assert_eq!(answer.status, status, "{path} with {given:?}");
            answers.push(answer);
        }
    }
    stack.api().with_token(Some(&format!("{token}0"))).try_list("").await.unwrap();

    let key = blocks(key["data"]["private_key"].as_str().unwrap());
    let mut secrets = vec![&*token, ADMIN_TOKEN, &*secret, "canary-signature"];
    assert!(key.len() > 50);
    // The modulus comes first, which the certificate has too.
    secrets.extend(key[key.len() / 2..].iter().map(String::as_str));
    for answer in answers {
        let text = answer.body.to_string();
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "shown: {text}");
    }
    let rows = "SELECT row FROM (SELECT a::text AS row FROM audit_entries a UNION ALL SELECT e::text FROM events e
        UNION ALL SELECT y::text FROM deliveries y UNION ALL SELECT j::text FROM jobs j UNION ALL SELECT o::text FROM orders o
        UNION ALL SELECT v::text FROM order_events v UNION ALL SELECT k::text FROM idempotency_keys k
        UNION ALL SELECT t::text FROM api_tokens t) AS t";
    let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(stack.pool()).await.unwrap();
    assert!(rows.iter().any(|row| row.contains("private_key.read")), "reading the key was not noted: {rows:?}");
    for row in rows {
        assert!(!secrets.iter().any(|secret| row.contains(secret)), "stored: {row}");
    }
    secrets.push(WEBHOOK_QUERY);
    for name in LOGS {
        let log = stack.log(name);
        let logged: Vec<&&str> = secrets.iter().filter(|secret| log.contains(**secret)).collect();
        assert!(logged.is_empty(), "{name} logs {logged:?}");
    }
    assert!(stack.log("worker-1").contains("TRACE"));
    stack.abandon();
}

/// Registered, verified and ordered, with a request id of our own; returns the domain's id and the answer.
async fn pending(stack: &Stack, name: &str) -> (String, serde_json::Value) {
    let api = stack.api();
    let registered = sent(api, Method::POST, "/domains", Some(name)).await.expect(201);
    let token = registered["verification_token"].as_str().unwrap();
    stack.dns().set_txt(&format!("_acme-challenge.{name}"), token).await.unwrap();
    let id = registered["id"].as_str().unwrap();
    sent(api, Method::POST, &format!("/domains/{id}/verify"), None).await.expect(200);
    let order = sent(api, Method::POST, &format!("/domains/{id}/issue-certificate"), None).await.expect(202);
    (id.to_owned(), order)
}

/// A webhook that is told of events, and a presenter that a worker tries and refuses, each with its secret.
async fn propose_and_hook(stack: &Stack) {
    let token = stack.token(DEFAULT, ALL_SCOPES).secret;
    let api = stack.api().with_token(Some(&token));
    let hook = json!({ "url": "https://hook.invalid/", "secret": WEBHOOK_SECRET });
    api.send(api.request(Method::POST, "/v2/1/webhooks").json(&hook)).await.unwrap().expect(201);
    let path = "/v2/1/domains/late.example.com/presenter";
    let presenter = json!({ "kind": "webhook", "url": "https://bridge.invalid/", "secret": PRESENTER_SECRET });
    api.send(api.request(Method::PUT, path).json(&presenter)).await.unwrap().expect(202);
    let refused = async || {
        let shown = api.send(api.request(Method::GET, path)).await.unwrap().expect(200);
        (!shown["data"]["proposed"]["refused_at"].is_null()).then_some(())
    };
    stack.wait_until("the presenter is refused", SOON, refused).await;
}

async fn sent(api: &ApiClient, method: Method, path: &str, name: Option<&str>) -> Answer {
    let request = api.request(method, path).header("X-Request-Id", REQUEST_ID);
    let request = match name {
        Some(name) => request.json(&json!({"domain_name": name})),
        None => request,
    };
    api.send(request).await.unwrap()
}

/// A key's body in pieces of 20 characters: whatever shows 40 characters in a row shows a whole piece.
fn blocks(pem: &str) -> Vec<String> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    body.as_bytes().chunks_exact(20).map(|block| String::from_utf8_lossy(block).into_owned()).collect()
}
