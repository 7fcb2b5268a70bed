//! What arrives: the payloads, field by field, the headers, and the signature.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_tests::acme_front::Kind;
use countersign_tests::receiver::{Received, Receiver};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::failures::{fronted, refusal};
use crate::renewals::automatic::{is_due, job_runs};

use super::{Account, ctl, event, holds, hooked, sql, until};

/// RFC 2104, by hand: nothing of what is tested.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    assert!(key.len() <= 64);
    let pad = |byte: u8| -> Vec<u8> {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block.to_vec()
    };
    let inner = Sha256::digest([pad(0x36).as_slice(), message].concat());
    Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).into()
}

fn is_signed(received: &Received, key: &[u8]) -> bool {
    let (id, at) = (received.header("webhook-id"), received.header("webhook-timestamp"));
    let message = [format!("{id}.{at}.").as_bytes(), &received.body].concat();
    received.header("webhook-signature") == format!("v1,{}", BASE64_STANDARD.encode(hmac_sha256(key, &message)))
}

/// Field by field; the request identifier is a UUID of its own.
fn is_event(received: &Received, name: &str, data: &Value, actor: &Value) {
    let body = received.json();
    let id = body["request_identifier"].as_str().unwrap();
    assert!(id.len() == 36 && id.bytes().filter(|&byte| byte == b'-').count() == 4, "{id}");
    let account = json!({ "id": 1, "display": "Shop", "identifier": "ops@shop.example" });
    let expected = json!({
        "name": name, "api_version": "v2", "request_identifier": id, "data": data, "account": account, "actor": actor,
    });
    assert_eq!(body, expected);
    assert_eq!((&received.method, received.header("content-type")), (&Method::POST, "application/json"));
    assert!(received.header("user-agent").starts_with("countersign-webhooks/"));
    let request_id = received.header("x-request-id");
    assert!(!request_id.is_empty() && request_id != id);
}

#[tokio::test]
async fn every_event_arrives_as_the_contract_says_and_is_signed_where_there_is_a_secret() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    sql(&stack, "UPDATE accounts SET name = 'Shop', email = 'ops@shop.example' WHERE id = 1").await;
    ctl(&stack, &["accounts", "presenter", "1", "test-dns"]);
    let shop = Account::of(&stack, 1);
    let key = [7; 32];
    let secret = format!("whsec_{}", BASE64_STANDARD.encode(key));
    let created = shop.post("/webhooks", json!({ "url": receiver.url("/signed?key=1"), "secret": secret })).await;
    let webhook = created.expect(201)["data"].clone();
    let system = json!({ "id": "system", "entity": "dnsimple", "pretty": "Countersign" });
    let account = json!({ "id": "1", "entity": "account", "pretty": "ops@shop.example" });
    let heard = event(&stack, &receiver, "/signed", "webhook.create").await;
    is_event(&heard, "webhook.create", &json!({ "webhook": webhook }), &account);
    let plain = shop.webhook(&receiver.url("/plain")).await;

    let domain = shop.domain("shop.example.com").await;
    let heard = event(&stack, &receiver, "/signed", "domain.create").await;
    is_event(&heard, "domain.create", &json!({ "domain": domain }), &account);

    let certificates = "/domains/shop.example.com/certificates";
    let ordered = shop.post(&format!("{certificates}/letsencrypt"), json!({})).await.expect(201);
    let id = ordered["data"]["id"].as_i64().unwrap();
    shop.call(Method::POST, &format!("{certificates}/letsencrypt/{id}/issue"), None).await.expect(202);
    let heard = event(&stack, &receiver, "/signed", "certificate.issue").await;
    let certificate = shop.show(&format!("{certificates}/{id}")).await;
    assert_eq!((&certificate["state"], &certificate["alternate_names"]), (&json!("issued"), &json!([])));
    is_event(&heard, "certificate.issue", &json!({ "certificate": certificate }), &system);
    assert!(!String::from_utf8_lossy(&heard.body).contains("PRIVATE KEY"));
    assert!(is_signed(&heard, &key) && !is_signed(&heard, &[8; 32]));
    assert_eq!(heard.header("webhook-id"), heard.json()["request_identifier"]);
    let at: i64 = heard.header("webhook-timestamp").parse().unwrap();
    assert!(holds(&stack, &format!("SELECT abs(extract(epoch FROM now()) - {at}) < 120")).await);
    let unsigned = event(&stack, &receiver, "/plain", "certificate.issue").await;
    assert_eq!(unsigned.json(), heard.json());
    assert!(
        ["webhook-id", "webhook-timestamp", "webhook-signature"].iter().all(|name| unsigned.header(name).is_empty())
    );

    // The other API's domains are this account's, too.
    let active = stack.active_domain("other.example.com").await;
    let of_other = |received: &&Received| received.json()["data"]["certificate"]["common_name"] == "other.example.com";
    let issued = async || receiver.received("/signed").iter().find(of_other).cloned();
    let heard = stack.wait_until("the certificate of /domains is told of", super::SOON, issued).await;
    let data = &heard.json()["data"]["certificate"];
    let path = format!("/domains/other.example.com/certificates/{}", data["id"]);
    assert_eq!(data, &shop.show(&path).await);
    stack.api().delete(&active.id).await;
    let heard = event(&stack, &receiver, "/signed", "domain.delete").await;
    assert_eq!(heard.json()["data"]["domain"]["name"], "other.example.com");
    assert_eq!(heard.json()["actor"], account);

    shop.delete(&format!("/webhooks/{plain}")).await.expect(204);
    let heard = event(&stack, &receiver, "/signed", "webhook.delete").await;
    let gone = json!({ "id": plain, "url": receiver.url("/plain"), "suppressed_at": null });
    is_event(&heard, "webhook.delete", &json!({ "webhook": gone }), &account);
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) FROM deliveries").await;
    until(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await;
    let names: Vec<_> =
        receiver.received("/signed").iter().map(|heard| heard.json()["request_identifier"].clone()).collect();
    assert!(names.iter().enumerate().all(|(index, name)| !names[..index].contains(name)), "each came once");
}

#[tokio::test]
async fn an_account_is_told_of_a_renewal_that_nobody_asked_for_and_that_failed() {
    let receiver = Receiver::start().unwrap();
    let stack = fronted().setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string());
    let stack = stack.setting("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    sql(&stack, "UPDATE accounts SET name = 'Shop', email = 'ops@shop.example' WHERE id = 1").await;
    ctl(&stack, &["accounts", "presenter", "1", "test-dns"]);
    let shop = Account::of(&stack, 1);
    shop.webhook(&receiver.url("/hook")).await;
    shop.domain("shop.example.com").await;
    let certificates = "/domains/shop.example.com/certificates";
    let ordered = shop.post(&format!("{certificates}/letsencrypt"), json!({ "auto_renew": true })).await.expect(201);
    let id = ordered["data"]["id"].as_i64().unwrap();
    shop.call(Method::POST, &format!("{certificates}/letsencrypt/{id}/issue"), None).await.expect(202);
    event(&stack, &receiver, "/hook", "certificate.issue").await;

    job_runs(&stack).await;
    stack.front().always(Kind::NewOrder, refusal(403, "rejectedIdentifier"));
    is_due(&stack, id).await;
    job_runs(&stack).await;
    let heard = event(&stack, &receiver, "/hook", "certificate.auto_renewal_failed").await;
    let system = json!({ "id": "system", "entity": "dnsimple", "pretty": "Countersign" });
    let certificate = shop.show(&format!("{certificates}/{id}")).await;
    assert_eq!(certificate["state"], "issued");
    is_event(&heard, "certificate.auto_renewal_failed", &json!({ "certificate": certificate }), &system);
    // A renewal by call that fails is its caller's to see.
    let renewal = shop.post(&format!("{certificates}/letsencrypt/{id}/renewals"), json!({})).await.expect(201);
    let path = format!("{certificates}/letsencrypt/{id}/renewals/{}/issue", renewal["data"]["id"]);
    shop.call(Method::POST, &path, None).await.expect(202);
    let failed = "SELECT count(*) = 2 FROM renewals WHERE state = 'failed'";
    until(&stack, failed).await;
    assert!(holds(&stack, "SELECT count(*) = 1 FROM events WHERE name = 'certificate.auto_renewal_failed'").await);
}
