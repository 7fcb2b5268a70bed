//! Dynamic updates to BIND and to Knot (RFC 2136): a wildcard and its apex need two values at one name, beside the customer's own.

use countersign_tests::dns_front::DnsFault;
use countersign_tests::dns_software::{KEY_NAME, Software};
use countersign_tests::primary::{NameServer, Zone};
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ctl;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::Caller;
use crate::facts::SOON;

const DOMAIN: &str = "shop.example.com";
const OWNER: &str = "_acme-challenge.shop.example.com.";
const OWN: &str = "the customer's own";

async fn a_wildcard_and_its_apex(kind: Software, transport: &str) {
    let Some(kind) = kind.if_installed() else {
        return;
    };
    let records = "_acme-challenge.shop.example.com. TXT \"the customer's own\"";
    let server = NameServer::start(kind, &[Zone { name: "example.com.", records, is_dynamic: true }]).await.unwrap();
    let stack = Stack::builder().resolver(server.address()).dns_front().setting("LOG_LEVEL", "trace").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let (account, address, secret) =
        (caller.account.id.to_string(), server.address().to_string(), server.secret_file().display().to_string());
    let whose = ["dns", "set", "--account", &account, "--trial-name", DOMAIN];
    let server_is = ["rfc2136", "--server", &address, "--key-name", KEY_NAME, "--secret-file", &secret];
    ctl(stack.plan(), &[&whose[..], &server_is, &["--transport", transport]].concat()).unwrap();

    // Both are published, and stay unseen by us for now.
    stack.dns_front().fault(OWNER, DnsFault::NxDomain);
    let id = caller.requested(DOMAIN, json!({"name": "*", "alternate_names": [DOMAIN]})).await;
    let waits = async || {
        let query = "SELECT state = 'presented' FROM orders WHERE cleaned_up_at IS NULL";
        let is_so: Option<bool> = sqlx::query_scalar(query).fetch_optional(stack.pool()).await.unwrap();
        is_so.unwrap_or_default().then_some(())
    };
    stack.wait_until("the values are published", SOON, waits).await;
    let published = server.values(OWNER).await.unwrap();
    assert_eq!(published.len(), 3, "{published:?}");
    assert!(published.contains(&OWN.to_owned()));
    // As after a crash between the effect and its commit: the same once more.
    for text in [
        "UPDATE orders SET state = 'placed', revision = revision + 1",
        "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL",
    ] {
        sqlx::query(AssertSqlSafe(text.to_owned())).execute(stack.pool()).await.unwrap();
    }
    stack.wait_until("the values are published again", SOON, waits).await;
    assert_eq!(server.values(OWNER).await.unwrap(), published);

    stack.dns_front().heal();
    caller.issued(DOMAIN, id).await;
    stack.finish().await;
    assert_eq!(server.values(OWNER).await.unwrap(), [OWN], "only what is ours is removed");
    for log in ["worker-1", "api-1"] {
        assert!(!stack.log(log).contains(countersign_tests::dns_software::SECRET));
    }
}

#[tokio::test]
#[ignore = "needs bind9: make test-all"]
async fn a_wildcard_and_its_apex_by_tcp_at_bind() {
    a_wildcard_and_its_apex(Software::Bind, "tcp").await;
}

#[tokio::test]
#[ignore = "needs knot: make test-all"]
async fn a_wildcard_and_its_apex_by_udp_at_knot() {
    a_wildcard_and_its_apex(Software::Knot, "udp").await;
}
