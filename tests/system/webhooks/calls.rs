//! The calls: what they answer, whom they refuse, and whose webhooks they show.

use countersign_tests::receiver::Receiver;
use countersign_tests::stack::Stack;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Account, ctl, event, holds, hooked, sql, until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn webhooks_are_created_shown_listed_and_deleted_each_account_its_own() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let shop = Account::of(&stack, 1);
    assert_eq!(shop.show("/webhooks").await, json!([]));
    shop.domain("unheard.example.com").await;
    assert!(holds(&stack, "NOT EXISTS (SELECT FROM events) AND NOT EXISTS (SELECT FROM deliveries)").await);

    let created = shop.post("/webhooks", json!({ "url": receiver.url("/a"), "secret": SECRET })).await;
    assert!(created.headers.contains_key("x-ratelimit-remaining"));
    let created = created.expect(201);
    let first = created["data"]["id"].as_i64().unwrap();
    let entry = json!({ "id": first, "url": receiver.url("/a"), "suppressed_at": null });
    assert_eq!(created, json!({ "data": entry }));
    assert_eq!(shop.call(Method::GET, &format!("/webhooks/{first}"), None).await.expect(200), json!({ "data": entry }));
    let second = shop.webhook(&receiver.url("/b")).await;
    let listed = shop.call(Method::GET, "/webhooks", None).await.expect(200);
    assert_eq!(listed.as_object().unwrap().keys().collect::<Vec<_>>(), ["data"], "there are no pages");
    for (query, ids) in [("", [first, second]), ("?sort=id:asc", [first, second]), ("?sort=id%3Adesc", [second, first])]
    {
        let listed = shop.show(&format!("/webhooks{query}")).await;
        let shown: Vec<&Value> = listed.as_array().unwrap().iter().map(|webhook| &webhook["id"]).collect();
        assert_eq!(shown, [&json!(ids[0]), &json!(ids[1])], "{query}");
    }
    let refused = shop.call(Method::GET, "/webhooks?sort=url:asc", None).await.expect(400);
    assert_eq!(refused["message"], "Invalid sorting parameter: url:asc");

    for (body, field) in [
        (json!({}), "url"),
        (json!({ "url": null }), "url"),
        (json!({ "url": "  " }), "url"),
        (json!({ "url": "http://shop.example/" }), "url"),
        (json!({ "url": "shop.example" }), "url"),
        (json!({ "url": "https://user:password@shop.example/" }), "url"),
        (json!({ "url": 5 }), "url"),
        (json!({ "url": receiver.url("/a"), "secret": "short" }), "secret"),
        (json!({ "url": receiver.url("/a"), "secret": "whsec_AAAA" }), "secret"),
    ] {
        let refused = shop.post("/webhooks", body.clone()).await.expect(400);
        assert_eq!(refused["message"], "Validation failed", "{body}");
        let errors = refused["errors"].as_object().unwrap();
        assert_eq!(errors.keys().collect::<Vec<_>>(), [field], "{body}");
        assert!(errors[field][0].is_string(), "{body}");
    }

    let other = Account::new(&stack, "other").await;
    for path in [format!("/webhooks/{first}"), "/webhooks/0".to_owned(), "/webhooks/x".to_owned()] {
        let named = path.rsplit('/').next().unwrap();
        for method in [Method::GET, Method::DELETE] {
            let answer = other.call(method, &path, None).await.expect(404);
            assert_eq!(answer, json!({ "message": format!("Webhook `{named}` not found") }));
        }
    }
    assert_eq!(other.show("/webhooks").await, json!([]));
    other.webhook(&receiver.url("/other")).await;
    other.domain("other.example.com").await;
    let heard = event(&stack, &receiver, "/other", "domain.create").await.json();
    assert_eq!(heard["account"], json!({ "id": other.id, "display": "other", "identifier": "other@shop.example" }));
    assert_eq!(heard["data"]["domain"]["name"], "other.example.com");
    assert!(receiver.received("/a").iter().all(|received| received.json()["account"]["id"] == 1));

    let narrow = ctl(&stack, &["tokens", "create", "1", "--scopes", "domains:*"]);
    let narrow = Account { api: stack.api().with_token(Some(&narrow)), id: 1 };
    let refused = narrow.call(Method::GET, "/webhooks", None).await.expect(403);
    assert_eq!(refused["message"], "Permission Denied. Required Scope: webhooks:*");

    assert_eq!(shop.delete(&format!("/webhooks/{first}")).await.expect(204), Value::Null);
    let gone = shop.call(Method::GET, &format!("/webhooks/{first}"), None).await.expect(404);
    assert_eq!(gone["message"], format!("Webhook `{first}` not found"));
    assert_eq!(shop.delete(&format!("/webhooks/{first}")).await.status, 404);
    let heard = event(&stack, &receiver, "/b", "webhook.delete").await.json();
    assert_eq!(heard["data"]["webhook"], entry);
    let logs = stack.log("api-1") + &stack.log("worker-1");
    assert!(!logs.contains(SECRET) && !logs.contains(&receiver.url("/a")), "a secret or a URL is in a log");
}

#[tokio::test]
async fn an_account_has_at_most_100_webhooks_however_many_calls_come_at_once() {
    let stack = Stack::builder().apis(2).workers(0).start().await;
    let shop = Account::of(&stack, 1);
    let query = "INSERT INTO webhooks (account_id, url) SELECT 1, 'https://shop.invalid/' || n FROM generate_series(1, 99) AS n";
    sql(&stack, query).await;
    // Until all have counted, or wait for one who has.
    let mut gate = stack.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE webhooks IN SHARE MODE").execute(&mut *gate).await.unwrap();
    let create = || shop.post("/webhooks", json!({ "url": "https://shop.invalid/" }));
    let open = async {
        let waiting = "SELECT count(*) = 4 FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until(&stack, waiting).await;
        gate.rollback().await.unwrap();
    };
    let (one, two, three, four, ()) = tokio::join!(create(), create(), create(), create(), open);
    let mut statuses = [one, two, three, four].map(|answer| answer.status);
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400, 400, 400]);
    assert!(holds(&stack, "SELECT count(*) = 100 FROM webhooks").await);
}

#[tokio::test]
async fn what_leads_into_our_own_network_is_refused_at_creation_and_at_delivery() {
    let receiver = Receiver::start().unwrap();
    let root = receiver.root_file().display().to_string();
    let stack = Stack::builder().setting("WEBHOOK_CA_FILE", root).start().await;
    let shop = Account::of(&stack, 1);
    let of_localhost = receiver.url("/by-name").replace("127.0.0.1", "localhost");
    for url in [
        &receiver.url("/"),
        &of_localhost,
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://10.0.0.1/",
        "https://100.64.0.1/",
        "https://[fd00::1]/",
        "https://0.0.0.0/",
        "https://2130706433/",
        "https://224.0.0.1/",
    ] {
        let refused = shop.post("/webhooks", json!({ "url": url })).await.expect(400);
        assert_eq!(refused["errors"]["url"], json!(["must lead to a public address"]), "{url}");
    }
    shop.webhook("https://no-such-name.invalid/").await;

    let urls = [receiver.url("/by-address"), of_localhost, "https://169.254.169.254/".to_owned()];
    for url in &urls {
        sql(&stack, &format!("INSERT INTO webhooks (account_id, url) VALUES (1, '{url}')")).await;
    }
    shop.domain("shop.example.com").await;
    let refused = "SELECT count(*) = 3 FROM deliveries y JOIN webhooks w ON w.id = y.webhook_id
                   WHERE y.attempts = 1 AND y.last_status IS NULL AND y.last_error = 'not a public address'";
    until(&stack, refused).await;
    assert!(receiver.received("/by-address").is_empty() && receiver.received("/by-name").is_empty());
}
