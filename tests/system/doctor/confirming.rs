//! A value that was seen must be at every server that answers, before the CA is told to look.

use std::time::{Duration, Instant};

use countersign_tests::api_client::{Domain, Order};
use countersign_tests::dns_software::Software;
use countersign_tests::name_servers::NameServers;
use countersign_tests::stack::{Stack, StackBuilder};

use crate::facts::{SOON, order_is};

const NAME: &str = "shop.test";
const APEX: &str = "shop.test.";

/// Our processes ask the name servers, the CA asks the stack's own.
fn builder(servers: &NameServers) -> StackBuilder {
    let settings = [("DNS_RESOLVERS", servers.resolver()), ("DNS_AUTHORITATIVE_CHECK", "on".to_owned())];
    settings.into_iter().fold(Stack::builder().setting("POLL_TIMEOUT", "5m"), |builder, (name, value)| {
        builder.setting_of("worker-1", name, value.clone()).setting_of("api-1", name, value)
    })
}

/// `shop.test.`, delegated to these servers, with TXT values at its challenge name.
fn zone(servers: &NameServers, of: &[u8], values: &[&str]) -> String {
    let records: String = values.iter().map(|value| format!("_acme-challenge TXT \"{value}\"\n")).collect();
    servers.zone(APEX, of, &records)
}

/// The domain, ordered. Server 2 has `test.` and a copy of the zone; the CA sees the value already.
async fn ordered(stack: &Stack, servers: &NameServers, of: &[u8], others: &[(u8, Software)]) -> (Domain, Order) {
    let domain = stack.api().register(NAME).await;
    let token = domain.verification_token.clone().unwrap();
    let above = servers.zone("test.", &[2], &servers.delegation("shop", of));
    let text = zone(servers, of, &[&token]);
    servers.start(2, Software::Knot, &[("test.", above), (APEX, text.clone())]).await.unwrap();
    for &(server, software) in others {
        servers.start(server, software, &[(APEX, text.clone())]).await.unwrap();
    }
    servers.start_resolver(&[]).await.unwrap();
    stack.api().verify(&domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    stack.publish_value(&order).await;
    (domain, order)
}

#[tokio::test]
#[ignore = "needs BIND and Knot: make test-all"]
async fn a_server_that_is_behind_is_waited_for() {
    let Some(servers) = NameServers::new().unwrap() else { return };
    let stack = builder(&servers).setting("CONFIRM_GRACE", "5m").start().await;
    let (domain, order) = ordered(&stack, &servers, &[2, 3], &[(3, Software::Bind)]).await;
    let current = zone(&servers, &[2, 3], &[&order.expected_txt_value]);
    servers.change(2, APEX, &current).await.unwrap();
    let query = "SELECT j.last_result->>'detail' FROM jobs j JOIN orders o ON o.id = j.order_id
                 WHERE o.public_id = $1 AND o.seen_at IS NOT NULL AND j.last_result->>'detail' LIKE '%does not show it'";
    let waits = async || -> Option<String> {
        sqlx::query_scalar(query).bind(&order.order_id).fetch_optional(stack.pool()).await.unwrap()
    };
    let detail = stack.wait_until("the stale server is named", SOON, waits).await;
    assert!(detail.contains(&format!("ns3.shop.test. ({})", servers.address(3))), "{detail}");
    assert!(order_is(&stack, &order.order_id, "o.state = 'presented'").await, "the CA was told before all agreed");
    servers.change(3, APEX, &current).await.unwrap();
    stack.becomes_active(&domain.id).await;
}

#[tokio::test]
#[ignore = "needs BIND and Knot: make test-all"]
async fn a_server_that_stays_behind_is_waited_for_no_longer_than_the_grace() {
    let Some(servers) = NameServers::new().unwrap() else { return };
    let stack = builder(&servers).setting("CONFIRM_GRACE", "3s").start().await;
    let (domain, order) = ordered(&stack, &servers, &[2, 3], &[(3, Software::Bind)]).await;
    let current = zone(&servers, &[2, 3], &[&order.expected_txt_value]);
    servers.change(2, APEX, &current).await.unwrap();
    stack.becomes_active(&domain.id).await;
    let waited = "SELECT extract(epoch FROM e.at - o.seen_at)::float8 FROM orders o
                  JOIN order_events e ON e.order_id = o.id AND e.event = 'confirmed' WHERE o.public_id = $1";
    let waited: f64 = sqlx::query_scalar(waited).bind(&order.order_id).fetch_one(stack.pool()).await.unwrap();
    assert!(waited >= 3.0, "confirmed {waited} s after the value was seen");
}

#[tokio::test]
#[ignore = "needs BIND and Knot: make test-all"]
async fn servers_that_do_not_answer_are_no_veto() {
    let Some(servers) = NameServers::new().unwrap() else { return };
    let stack = builder(&servers).setting("CONFIRM_GRACE", "10m").start().await;
    // Server 3 knows nothing of the zone, and nobody listens at 4.
    let of = [2, 3, 4];
    let domain_and_order = ordered(&stack, &servers, &of, &[]);
    let (domain, order) = domain_and_order.await;
    servers.start(3, Software::Bind, &[]).await.unwrap();
    let began = Instant::now();
    servers.change(2, APEX, &zone(&servers, &of, &[&order.expected_txt_value])).await.unwrap();
    stack.becomes_active(&domain.id).await;
    assert!(began.elapsed() < Duration::from_secs(60), "active after {:?}", began.elapsed());
}
