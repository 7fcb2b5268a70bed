//! Who publishes the TXT records besides the customer, for both APIs: a DNS provider's service by HTTP (`httpreq`).

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::receiver::{Manner, Receiver};
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT, ctl};
use countersign_tests::stack::{Stack, StackBuilder};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::facts::{SOON, events, is_cleaned_up};
use crate::failures::{a_retry_leads_to_a_certificate, fails};

fn hooked(receiver: &Receiver) -> StackBuilder {
    Stack::builder()
        .setting("WEBHOOK_ALLOW_PRIVATE", "true")
        .setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string())
}

/// From now on a service below this path publishes for the domain; what works is tried elsewhere.
fn set_webhook(stack: &Stack, domain: &str, receiver: &Receiver, path: &str) {
    let url = receiver.url(path);
    ctl(stack.plan(), &["dns", "set", "--domain", domain, "--without-trial", "webhook", "--url", &url]).unwrap();
}

/// Failures counted so far, and what went wrong last, of the one order that is under way at a domain.
async fn troubled(stack: &Stack, domain: &str) -> (i32, String) {
    let query = "SELECT j.attempts, j.last_result ->> 'failure' FROM jobs j JOIN orders o ON o.id = j.order_id
                 JOIN domains d ON d.id = o.domain_id WHERE d.name = $1 AND j.last_result ->> 'failure' IS NOT NULL";
    let row = async || {
        let row: Option<(i32, String)> = sqlx::query_as(query).bind(domain).fetch_optional(stack.pool()).await.unwrap();
        row
    };
    stack.wait_until(&format!("{domain} is in trouble"), SOON, row).await
}

async fn sql(stack: &Stack, text: &str) {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(stack.pool()).await.unwrap();
}

/// What the service was told so far: owner names and values.
fn told(receiver: &Receiver, path: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let requests = receiver.received(path).into_iter().map(|request| request.json());
    requests.map(|body| (text(&body["fqdn"]), text(&body["value"]))).collect()
}

#[tokio::test]
async fn a_service_that_is_in_trouble_is_tried_again_and_the_order_does_not_pay_for_it() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let cases = [
        ("angry", Manner::Answer(500, "a secret of the service".to_owned()), "the DNS webhook answered 500"),
        ("away", Manner::Redirect(receiver.url("/angry/present")), "the DNS webhook answered 307"),
        ("silent", Manner::Hang, "the DNS webhook does not answer within 10 s"),
        ("flood", Manner::Flood(503, 1 << 30), "the DNS webhook answered 503"),
    ];
    let mut domains = Vec::new();
    for (name, manner, _) in &cases {
        receiver.behave(&format!("/{name}/present"), manner.clone());
        let domain = stack.verified_domain(&format!("{name}.example.com")).await;
        set_webhook(&stack, &domain.domain_name, &receiver, &format!("/{name}"));
        stack.api().issue(&domain.id).await;
        domains.push(domain);
    }
    for (name, _, expected) in &cases {
        let (attempts, said) = troubled(&stack, &format!("{name}.example.com")).await;
        assert_eq!(attempts, 0, "{said}");
        let log = async || stack.log("worker-1").contains(expected).then_some(());
        stack.wait_until(&format!("the log says: {expected}"), SOON, log).await;
    }
    assert!(!stack.log("worker-1").contains("a secret of the service"));
    // Of each answer, what a connection's buffers take and no more; it was tried several times.
    let (read, tries) = (receiver.flooded(), receiver.received("/flood/present").len() as u64);
    assert!(read < tries * (16 << 20), "{read} bytes were read in {tries} tries");
    for (name, ..) in &cases {
        receiver.publish_at(stack.dns(), &format!("/{name}"));
    }
    sql(&stack, "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL").await;
    for domain in &domains {
        stack.becomes_active(&domain.id).await;
    }
    stack.finish().await;
    for (name, ..) in &cases {
        let removed = told(&receiver, &format!("/{name}/cleanup"));
        assert_eq!(removed.len(), 1, "{name}");
        assert!(told(&receiver, &format!("/{name}/present")).contains(&removed[0]));
    }
}

#[tokio::test]
async fn record_not_published() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    receiver.behave("/shop/present", Manner::Answer(500, String::new()));
    receiver.behave("/shop/cleanup", Manner::Answer(500, String::new()));
    let shop = stack.verified_domain("shop.example.com").await;
    set_webhook(&stack, "shop.example.com", &receiver, "/shop");
    let order = stack.api().issue(&shop.id).await;
    troubled(&stack, "shop.example.com").await;

    // Its deadline alone is not the end: the service may be away an hour longer.
    let overdue = "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL";
    let age = |minutes| {
        format!(
            "UPDATE orders SET placed_at = placed_at - interval '1 day', deadline_at = now() - interval '{minutes} minutes'"
        )
    };
    sql(&stack, &age(55)).await;
    let tried = receiver.received("/shop/present").len();
    sql(&stack, overdue).await;
    let again = async || (receiver.received("/shop/present").len() > tried).then_some(());
    stack.wait_until("it is tried after the deadline", SOON, again).await;
    assert_eq!(stack.api().fetch(&shop.id).await.status, "certificate_pending");

    sql(&stack, &age(61)).await;
    sql(&stack, overdue).await;
    stack.becomes(&shop.id, "failed", SOON).await;
    // Its record cannot be removed either: after an hour that ends with a finding.
    troubled(&stack, "shop.example.com").await;
    sql(&stack, "UPDATE orders SET updated_at = now() - interval '61 minutes'").await;
    sql(&stack, overdue).await;
    let (detail, _) = fails(&stack, &shop, ProblemCode::RecordNotPublished).await;
    for part in ["_acme-challenge.shop.example.com.", "could not be published automatically", "answered 500"] {
        assert!(detail.contains(part), "{part} is not in {detail:?}");
    }
    let finding = "SELECT detail ->> 'finding' FROM order_events WHERE event = 'cleaned_up'";
    let finding: Option<String> = sqlx::query_scalar(finding).fetch_one(stack.pool()).await.unwrap();
    assert!(finding.as_deref().unwrap_or_default().contains("the TXT records could not be written"), "{finding:?}");

    receiver.publish_at(stack.dns(), "/shop");
    let retried = stack.api().retry(&shop.id).await;
    assert_ne!(retried.order_id, order.order_id);
    stack.becomes_active(&shop.id).await;
    stack.finish().await;
}

#[tokio::test]
async fn a_service_inside_our_network_is_not_called() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("WEBHOOK_ALLOW_PRIVATE", "false").start().await;
    let shop = stack.verified_domain("shop.example.com").await;
    set_webhook(&stack, "shop.example.com", &receiver, "/shop");
    let order = stack.api().issue(&shop.id).await;
    let (attempts, said) = troubled(&stack, "shop.example.com").await;
    assert_eq!(attempts, 0, "{said}");
    assert!(stack.log("worker-1").contains("the DNS webhook cannot be reached: not a public address"));
    assert!(receiver.received("/shop/present").is_empty());

    // Retried with nobody's help, once the customer publishes again.
    ctl(stack.plan(), &["dns", "remove", "--domain", "shop.example.com"]).unwrap();
    ctl(stack.plan(), &["orders", "cancel", &order.order_id]).unwrap();
    stack.becomes(&shop.id, "failed", SOON).await;
    sql(&stack, "UPDATE orders SET updated_at = now() - interval '61 minutes'").await;
    sql(&stack, "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL").await;
    let cleaned_up = async || {
        let query = "SELECT bool_and(cleaned_up_at IS NOT NULL) FROM orders";
        let done: Option<bool> = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        done.unwrap_or_default().then_some(())
    };
    stack.wait_until("the order is cleaned up", SOON, cleaned_up).await;
    a_retry_leads_to_a_certificate(&stack, &shop, &order).await;
    stack.finish().await;
}

#[tokio::test]
async fn an_order_is_cleaned_up_where_it_published_whatever_was_set_since() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).dns_front().start().await;
    let shop = stack.verified_domain("shop.example.com").await;
    receiver.publish_at(stack.dns(), "/old");
    receiver.publish_at(stack.dns(), "/new");
    set_webhook(&stack, "shop.example.com", &receiver, "/old");
    // The value stays unseen until the other service is set.
    stack.dns_front().fault("_acme-challenge.shop.example.com", countersign_tests::dns_front::DnsFault::NxDomain);
    let order = stack.api().issue(&shop.id).await;
    let published = async || told(&receiver, "/old/present").pop();
    let record = stack.wait_until("the value is published", SOON, published).await;
    assert_eq!(record, (order.challenge_domain.clone(), order.expected_txt_value.clone()));
    set_webhook(&stack, "shop.example.com", &receiver, "/new");
    // A worker that knows neither reads what the order began with.
    stack.terminate("worker-1", SOON).await;
    stack.restart("worker-1").await;
    stack.dns_front().heal();
    stack.becomes_active(&shop.id).await;
    stack.finish().await;
    assert_eq!(told(&receiver, "/old/cleanup"), [record]);
    assert!(receiver.received("/new/present").is_empty() && receiver.received("/new/cleanup").is_empty());
}

#[tokio::test]
async fn a_value_that_two_orders_share_is_removed_by_the_last_of_them_wherever_it_was_written() {
    let receiver = Receiver::start().unwrap();
    // Both take what they are sent, and publish nothing: the orders wait.
    let stack = hooked(&receiver).setting("POLL_TIMEOUT", "10m").start().await;
    let shop = stack.verified_domain("shop.example.com").await;
    let written = async |path: &str| {
        let written = async || told(&receiver, path).pop();
        stack.wait_until(&format!("something has come to {path}"), SOON, written).await
    };
    set_webhook(&stack, "shop.example.com", &receiver, "/old");
    let first = stack.api().issue(&shop.id).await.order_id;
    let record = written("/old/present").await;
    set_webhook(&stack, "shop.example.com", &receiver, "/new");
    let api = stack.api().with_token(Some(&stack.token(DEFAULT, ALL_SCOPES).secret));
    let certificates = "/v2/1/domains/shop.example.com/certificates/letsencrypt";
    let order = api.request(Method::POST, certificates).json(&json!({ "name": "" }));
    let id = api.send(order).await.unwrap().expect(201)["data"]["id"].clone();
    let issue = api.request(Method::POST, &format!("{certificates}/{id}/issue"));
    api.send(issue).await.unwrap().expect(202);
    written("/new/present").await;
    let query = "SELECT public_id FROM orders WHERE origin = 'order'";
    let second: String = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    // As a CA does that gives out an authorization again while it is pending.
    let same = "UPDATE authorizations SET txt_value = $1 WHERE order_id = (SELECT id FROM orders WHERE public_id = $2)";
    sqlx::query(same).bind(&record.1).bind(&second).execute(stack.pool()).await.unwrap();

    ctl(stack.plan(), &["orders", "cancel", &first]).unwrap();
    let cleaned_up = async || events(&stack, &first).await.contains(&"cleaned_up".to_owned()).then_some(());
    stack.wait_until("the first is cleaned up", SOON, cleaned_up).await;
    assert!(told(&receiver, "/old/cleanup").is_empty(), "the other one needs it");
    ctl(stack.plan(), &["orders", "cancel", &second]).unwrap();
    is_cleaned_up(&stack, &shop.id).await;
    for path in ["/old/cleanup", "/new/cleanup"] {
        assert_eq!(told(&receiver, path), std::slice::from_ref(&record), "{path}");
    }
    stack.finish().await;
}
