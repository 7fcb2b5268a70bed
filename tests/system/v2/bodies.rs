//! What orders and issue calls accept as their bodies, and what they say about each field that is wrong.

use countersign_tests::api_client::Answer;
use countersign_tests::stack::Stack;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::Caller;

const DOMAIN: &str = "shop.example.com";

/// As clients send it: with or without a content type, with or without a body.
async fn post(caller: &Caller<'_>, of_account: &str, media: Option<&str>, body: Option<&str>) -> Answer {
    let mut request = caller.api.request(Method::POST, &caller.path(of_account));
    if let Some(media) = media {
        request = request.header(CONTENT_TYPE, media);
    }
    caller
        .send(match body {
            Some(body) => request.body(body.to_owned()),
            None => request.header("content-length", "0"),
        })
        .await
}

fn orders() -> String {
    format!("domains/{DOMAIN}/certificates/letsencrypt")
}

#[tokio::test]
async fn an_issue_call_may_come_with_any_body_or_none() {
    let stack = Stack::builder().workers(0).leftovers_allowed().start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    for (media, body) in [
        (Some("application/json"), None),
        (None, None),
        (Some("application/json"), Some("null")),
        (None, Some("null")),
        (Some("application/json"), Some("{}")),
        (Some("application/json; charset=utf-8"), Some(r#"{"whatever": [1]}"#)),
        (Some("application/x-www-form-urlencoded"), Some("a=b")),
        (Some("application/json"), Some("{not json")),
    ] {
        let id = caller.order(DOMAIN, json!({})).await;
        let answer = post(&caller, &format!("{}/{id}/issue", orders()), media, body).await;
        let started = answer.expect(202);
        assert_eq!((&started["data"]["id"], &started["data"]["state"]), (&json!(id), &json!("requesting")), "{body:?}");
        assert_eq!(caller.certificate(DOMAIN, id).await["state"], "requesting");
    }
}

#[tokio::test]
async fn an_order_without_a_body_is_one_with_every_default() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    for (media, body) in [
        (Some("application/json"), None),
        (None, None),
        (Some("application/json"), Some("null")),
        (None, Some(" null\n")),
        (Some("application/json"), Some("{}")),
        (Some("text/plain"), Some("{}")),
        (None, Some(r#"{"contact_id": "x", "years": 5, "name": null, "alternate_names": null, "auto_renew": null}"#)),
    ] {
        let ordered = post(&caller, &orders(), media, body).await.expect(201);
        let shown = caller.certificate(DOMAIN, ordered["data"]["id"].as_i64().unwrap()).await;
        for (field, value) in [
            ("name", json!("www")),
            ("common_name", json!("www.shop.example.com")),
            ("alternate_names", json!([])),
            ("auto_renew", json!(false)),
            ("state", json!("new")),
            ("csr", Value::Null),
            ("expires_at", Value::Null),
            ("expires_on", Value::Null),
            ("years", json!(1)),
            ("contact_id", json!(caller.account.id)),
            ("authority_identifier", json!("letsencrypt")),
        ] {
            assert_eq!(shown.get(field), Some(&value), "{field} after {body:?}");
        }
        assert_eq!(shown["created_at"], ordered["data"]["created_at"]);
    }
    let algorithm: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT algorithm FROM certificates").fetch_all(stack.pool()).await.unwrap();
    assert_eq!(algorithm.len(), 1, "{algorithm:?}");
}

#[tokio::test]
async fn every_wrong_field_is_named_and_nothing_is_ordered() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let long_label = "a".repeat(64);
    let long_name = ["a"; 120].join(".");
    let many: Vec<String> = (0..100).map(|number| format!("n{number}.{DOMAIN}")).collect();
    let cases = [
        ("auto_renew", json!({"auto_renew": "true"})),
        ("auto_renew", json!({"auto_renew": 1})),
        ("signature_algorithm", json!({"signature_algorithm": "ecdsa"})),
        ("signature_algorithm", json!({"signature_algorithm": "ED25519"})),
        ("signature_algorithm", json!({"signature_algorithm": ""})),
        ("signature_algorithm", json!({"signature_algorithm": 2048})),
        ("name", json!({"name": 5})),
        ("name", json!({"name": ["www"]})),
        ("name", json!({"name": " "})),
        ("name", json!({"name": "-a"})),
        ("name", json!({"name": "a_b"})),
        ("name", json!({"name": "a..b"})),
        ("name", json!({"name": "."})),
        ("name", json!({"name": "a."})),
        ("name", json!({"name": "a.*"})),
        ("name", json!({"name": "*.*"})),
        ("name", json!({"name": "w*"})),
        ("name", json!({"name": "ü"})),
        ("name", json!({"name": "a\u{0}b"})),
        ("name", json!({"name": long_label})),
        ("name", json!({"name": long_name})),
        ("alternate_names", json!({"alternate_names": "docs.shop.example.com"})),
        ("alternate_names", json!({"alternate_names": {"0": "docs.shop.example.com"}})),
        ("alternate_names", json!({"alternate_names": [1]})),
        ("alternate_names", json!({"alternate_names": [null]})),
        ("alternate_names", json!({"alternate_names": [""]})),
        ("alternate_names", json!({"alternate_names": ["docs"]})),
        ("alternate_names", json!({"alternate_names": ["example.com"]})),
        ("alternate_names", json!({"alternate_names": ["other.example.com"]})),
        ("alternate_names", json!({"alternate_names": ["evilshop.example.com"]})),
        ("alternate_names", json!({"alternate_names": ["*.example.com"]})),
        ("alternate_names", json!({"alternate_names": ["docs.shop.example.com."]})),
        ("alternate_names", json!({"alternate_names": ["a.*.shop.example.com"]})),
        ("alternate_names", json!({"name": "", "alternate_names": many})),
        // As Let's Encrypt would refuse it.
        ("alternate_names", json!({"name": "www", "alternate_names": ["*.shop.example.com"]})),
        ("alternate_names", json!({"name": "*", "alternate_names": ["docs.shop.example.com"]})),
        ("alternate_names", json!({"name": "*.eu", "alternate_names": ["docs.eu.shop.example.com"]})),
    ];
    for (field, input) in cases {
        let refused = caller.post(&orders(), &input).await.expect(400);
        assert_eq!(refused["message"], "Validation failed");
        let errors = refused["errors"].as_object().unwrap();
        assert_eq!(errors.keys().collect::<Vec<_>>(), [field], "{input}: {refused}");
        let text = errors[field][0].as_str().unwrap();
        assert!((5..200).contains(&text.len()) && !text.contains('\u{0}'), "{text}");
    }
    // All at once.
    let input = json!({"auto_renew": 0, "name": "-", "alternate_names": "x", "signature_algorithm": "X"});
    let refused = caller.post(&orders(), &input).await.expect(400);
    let fields: Vec<&String> = refused["errors"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["alternate_names", "auto_renew", "name", "signature_algorithm"]);

    for body in ["{", "[]", "\"www\"", "5", "{\"name\":\"a\",\"name\":\"b\"}", "{} {}", "nul", "a=b", "\u{feff}{}"] {
        for media in [Some("application/json"), None, Some("text/xml")] {
            let refused = post(&caller, &orders(), media, Some(body)).await.expect(400);
            assert_eq!(refused, json!({"message": "The body must be a JSON object"}), "{body}");
        }
    }
    let huge = format!("{{\"name\": \"{}\"}}", "a".repeat(70_000));
    post(&caller, &orders(), None, Some(&huge)).await.expect(400);

    let listed = caller.get(&format!("domains/{DOMAIN}/certificates")).await.expect(200);
    assert_eq!(listed["pagination"]["total_entries"], 0);
}

#[tokio::test]
async fn a_domain_needs_a_name_that_is_free_and_fit_for_certificates() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    for (name, why) in [
        (json!({}), "can't be blank"),
        (json!({"name": ""}), "can't be blank"),
        (json!({"name": "  "}), "can't be blank"),
        (json!({"name": null}), "can't be blank"),
        (json!({"name": 5}), "must be a string"),
        (json!({"name": "*.example.com"}), "wildcard"),
        (json!({"name": "localhost"}), "two labels"),
        (json!({"name": "192.0.2.1"}), "IP address"),
        (json!({"name": "co.uk"}), "public suffix"),
        (json!({"name": "a\u{0}.example.com"}), "letters"),
    ] {
        let refused = caller.post("domains", &name).await.expect(400);
        assert!(refused["errors"]["name"][0].as_str().unwrap().contains(why), "{name}: {refused}");
    }
    post(&caller, "domains", None, None).await.expect(400);
    let created = caller.post("domains", &json!({"name": "Shop.Example.COM."})).await.expect(201);
    let domain = &created["data"];
    for (field, value) in [
        ("account_id", json!(caller.account.id)),
        ("registrant_id", Value::Null),
        ("name", json!(DOMAIN)),
        ("unicode_name", json!(DOMAIN)),
        ("state", json!("hosted")),
        ("auto_renew", json!(false)),
        ("private_whois", json!(false)),
        ("trustee", json!(false)),
        ("expires_on", Value::Null),
        ("expires_at", Value::Null),
    ] {
        assert_eq!(domain.get(field), Some(&value), "{field}");
    }
    for again in [DOMAIN, "SHOP.example.com", "shop.example.com."] {
        let refused = caller.post("domains", &json!({ "name": again })).await.expect(400);
        assert_eq!(refused["errors"], json!({"name": ["has already been taken"]}));
    }
    // By name however it is written, or by id.
    let id = domain["id"].to_string();
    for named in [DOMAIN, "SHOP.Example.com", "shop.example.com.", "Shop.Example.COM.", &id] {
        assert_eq!(&caller.get(&format!("domains/{named}")).await.expect(200)["data"], domain, "{named}");
        caller.get(&format!("domains/{named}/certificates")).await.expect(200);
    }
    for named in ["shop", "example.com", "-1", "+1", "1.0", "99999999999999999999", "x_y", "%20", "%C3%BC", "%00"] {
        caller.get(&format!("domains/{named}")).await.expect(404);
        caller.get(&format!("domains/{named}/certificates")).await.expect(404);
    }
}
