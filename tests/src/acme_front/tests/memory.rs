//! What the front remembers of the CA's orders, and the habits that follow from it.

use hyper::header::LOCATION;
use sha2::{Digest as _, Sha256};

use super::super::{Limits, OrderReuse, Rule};
use super::*;

/// An order as a CA that is always the same describes it.
fn order(pair: &Pair, number: usize, status: &str) -> Reply {
    let url = |path: &str| pair.url(&format!("/{path}/{number}"));
    let order = json!({
        "status": status,
        "identifiers": [{"type": "dns", "value": "shop.example.com"}],
        "authorizations": [url("authZ")],
        "finalize": url("finalize-order"),
        "certificate": url("certZ"),
    });
    Reply::new(201, "application/json", order.to_string()).header(LOCATION.as_str(), &url("my-order"))
}

async fn new_order(pair: &Pair, account: &str, name: &str) -> (u16, HeaderMap, Value) {
    pair.post_as(account, "/order-plz", &json!({"identifiers": [{"type": "dns", "value": name}]})).await
}

#[tokio::test]
async fn the_orders_of_the_ca_are_known_with_their_csrs_and_who_asked_when() {
    let pair = Pair::start();
    pair.ca.always(Kind::NewOrder, Fault::Answer(order(&pair, 7, "pending")));
    let authorization = json!({"status": "pending", "challenges": [{"url": pair.url("/chalZ/7")}]});
    pair.ca.always(Kind::Authorization, answer(200, &authorization));
    pair.ca.next(1, Kind::Finalize, Fault::order_not_ready());
    pair.ca.always(Kind::Finalize, Fault::Answer(order(&pair, 7, "processing")));
    for kind in [Kind::Challenge, Kind::Certificate] {
        pair.ca.always(kind, Fault::html(500));
    }
    new_order(&pair, "me", "Shop.example.com").await;
    let csr = json!({"csr": BASE64_URL_SAFE_NO_PAD.encode("a CSR")});
    for path in ["authZ", "chalZ", "finalize-order", "finalize-order", "certZ"] {
        let payload = if path == "finalize-order" { csr.clone() } else { json!({}) };
        pair.post_as("me", &format!("/{path}/7"), &payload).await;
    }
    pair.post_as("me", "/certZ/8", &Value::Null).await;

    let orders = pair.front.orders();
    let url = pair.url("/my-order/7");
    let of_order = &orders[&url];
    let hash: String = Sha256::digest("a CSR").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((of_order.csrs_sha256.as_slice(), of_order.finalizes_accepted), (&[hash.clone(), hash][..], 1));
    assert_eq!((of_order.names.as_slice(), orders.len()), (&["shop.example.com".to_owned()][..], 1));
    let arrivals = pair.front.arrivals();
    let about: Vec<bool> = arrivals.iter().map(|arrival| arrival.order.as_ref() == Some(&url)).collect();
    assert_eq!(about, [false, true, true, true, true, true, false]);
    let answered: Vec<Option<u16>> = arrivals.iter().map(|arrival| arrival.answered).collect();
    assert_eq!(answered, [201, 200, 500, 403, 201, 500, 500].map(Some));
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
}

#[tokio::test]
async fn the_same_names_get_the_same_order_while_it_is_pending_or_ready() {
    let pair = Pair::start();
    for number in 1..=4 {
        pair.ca.next(1, Kind::NewOrder, Fault::Answer(order(&pair, number, "pending")));
    }
    pair.ca.always(Kind::Order, Fault::Answer(order(&pair, 1, "ready")));
    pair.ca.always(Kind::Finalize, Fault::Answer(order(&pair, 1, "processing")));
    pair.ca.always(Kind::Deactivation, answer(200, &json!({"status": "deactivated"})));
    pair.front.habit(OrderReuse::default());
    let ordered = async |account: &str| {
        let (status, headers, order) = new_order(&pair, account, "SHOP.example.com").await;
        let number = headers["location"].to_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (status, number, order["status"].as_str().unwrap().to_owned())
    };
    let made = |number: &str, status: &str| (201, number.to_owned(), status.to_owned());

    assert_eq!(ordered("me").await, made("1", "pending"));
    assert_eq!(ordered("me").await, made("1", "pending"));
    assert_eq!(ordered("you").await, made("2", "pending"));
    pair.post_as("me", "/my-order/1", &Value::Null).await;
    assert_eq!(ordered("me").await, made("1", "ready"));
    pair.post_as("me", "/finalize-order/1", &json!({"csr": ""})).await;
    assert_eq!(ordered("me").await, made("3", "pending"));
    pair.post_as("me", "/authZ/3", &json!({"status": "deactivated"})).await;
    assert_eq!(ordered("me").await, made("4", "pending"));
    assert_eq!((pair.front.arrived(Kind::NewOrder), pair.ca.arrived(Kind::NewOrder)), (6, 4));
}

#[tokio::test]
async fn limits_are_those_of_lets_encrypt_and_end() {
    const WINDOW: Duration = Duration::from_secs(2);
    let pair = Pair::start();
    pair.ca.always(Kind::NewOrder, Fault::Answer(order(&pair, 1, "pending")));
    pair.ca.always(Kind::Finalize, Fault::Answer(order(&pair, 1, "processing")));
    let dead = json!({"status": "invalid", "identifier": {"type": "dns", "value": "bad.example.org"}});
    pair.ca.always(Kind::Authorization, answer(200, &dead));

    let refused = async |limits: Limits, account: &str, name: &str| {
        pair.front.drop_habits();
        pair.front.habit(limits);
        assert_eq!(new_order(&pair, "me", "shop.example.com").await.0, 201);
        pair.post_as("me", "/finalize-order/1", &json!({"csr": ""})).await;
        pair.post_as("me", "/authZ/1", &Value::Null).await;
        assert_eq!(new_order(&pair, "you", "shop.example.net").await.0, 201, "somebody else is not limited");
        let (status, headers, problem) = new_order(&pair, account, name).await;
        assert_eq!((status, &problem["type"]), (429, &json!("urn:ietf:params:acme:error:rateLimited")));
        let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=WINDOW.as_secs()).contains(&seconds), "{seconds}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    let cases = [
        (
            Rule::NewOrdersPerAccount,
            "me",
            "new.example.net",
            "too many new orders (1) from this account in the last 0h0m2s",
        ),
        (
            Rule::CertificatesPerExactNames,
            "other",
            "shop.example.com",
            "too many certificates (1) already issued for this exact set of identifiers in the last",
        ),
        (
            Rule::CertificatesPerRegisteredDomain,
            "other",
            "new.example.com",
            r#"too many certificates (1) already issued for "example.com" in the last"#,
        ),
        (
            Rule::FailedAuthorizationsPerName,
            "other",
            "bad.example.org",
            r#"too many failed authorizations (1) for "bad.example.org" in the last"#,
        ),
    ];
    for (rule, account, name, text) in cases {
        let detail = refused(Limits::within(WINDOW).at_most(1, rule), account, name).await;
        assert!(detail.starts_with(text), "{detail}");
        assert!(detail.contains("UTC: see https://letsencrypt.org/docs/rate-limits/#"), "{detail}");
    }
    let over = async || (new_order(&pair, "me", "bad.example.org").await.0 == 201).then_some(());
    assert!(waiting::poll(3 * WINDOW, over).await.is_some(), "the limit does not end");
}
