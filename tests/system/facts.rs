//! What the tests read behind the API, in the database and at the CA, and the moments that several of them wait for.

use std::net::SocketAddr;
use std::time::Duration;

use countersign_shared::dns::TxtLookup;
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::Stack;
use tokio::task::JoinSet;

/// Long enough for anything that should happen soon, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Everything at once; the outputs come in the order of the futures.
pub(crate) async fn all<T: Send + 'static>(
    futures: impl IntoIterator<Item: Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for (index, future) in futures.into_iter().enumerate() {
        tasks.spawn(async move { (index, future.await) });
    }
    let mut outputs = tasks.join_all().await;
    outputs.sort_by_key(|(index, _)| *index);
    outputs.into_iter().map(|(_, output)| output).collect()
}

pub(crate) async fn verified_domains(stack: &Stack, names: &[String]) -> Vec<Domain> {
    let all_of_them = names.iter().map(|name| {
        let (api, dns, name) = (stack.api().clone(), stack.dns().clone(), name.clone());
        async move {
            let domain = api.register(&name).await;
            let token = domain.verification_token.expect("a new domain has a token");
            dns.set_txt(&format!("_acme-challenge.{name}"), &token).await.unwrap();
            api.verify(&domain.id).await
        }
    });
    all(all_of_them).await
}

/// Ordered, one after the other; no TXT value is published.
pub(crate) async fn pending_domains(stack: &Stack, names: &[String]) -> Vec<(Domain, Order)> {
    let mut pending = Vec::new();
    for domain in verified_domains(stack, names).await {
        let order = stack.api().issue(&domain.id).await;
        pending.push((domain, order));
    }
    pending
}

/// `shop-1.example.com` and so on.
pub(crate) fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("shop-{number}.example.com")).collect()
}

pub(crate) async fn all_become_active(stack: &Stack, domains: &[(Domain, Order)]) {
    for (domain, _) in domains {
        stack.becomes(&domain.id, "active", 2 * SOON).await;
    }
}

/// Exactly one certificate for each name, at the CA and in our table, and none besides.
pub(crate) async fn has_one_certificate_each(stack: &Stack, domains: &[(Domain, Order)]) {
    assert_eq!(stack.ca().certificates_issued().unwrap(), domains.len(), "certificates at the CA");
    for (domain, _) in domains {
        let name = &domain.domain_name;
        assert_eq!(stack.ca().certificates_issued_for(name).await.unwrap(), 1, "certificates for {name} at the CA");
        assert_eq!(certificates_stored(stack, &domain.id).await, 1, "certificates stored for {name}");
    }
}

/// Issued certificates of a domain in our table, whether it was deleted since or not.
pub(crate) async fn certificates_stored(stack: &Stack, domain_id: &str) -> i64 {
    let query = "SELECT count(*) FROM certificates c JOIN domains d ON d.id = c.domain_id
                 WHERE d.public_id = $1 AND c.state = 'issued'";
    sqlx::query_scalar(query).bind(domain_id).fetch_one(stack.pool()).await.unwrap()
}

/// What happened to an order so far, in order; not what its workers met with.
pub(crate) async fn events(stack: &Stack, order_id: &str) -> Vec<String> {
    let query = "SELECT event FROM order_events WHERE order_id = (SELECT id FROM orders WHERE public_id = $1)
                 AND event NOT IN ('step_failed', 'worker_lost') ORDER BY id";
    sqlx::query_scalar(query).bind(order_id).fetch_all(stack.pool()).await.unwrap()
}

/// Whether `condition`, in SQL over the order `o`, holds now.
pub(crate) async fn order_is(stack: &Stack, order_id: &str, condition: &'static str) -> bool {
    let query = sqlx::AssertSqlSafe(format!("SELECT coalesce({condition}, false) FROM orders o WHERE public_id = $1"));
    sqlx::query_scalar(query).bind(order_id).fetch_one(stack.pool()).await.unwrap()
}

pub(crate) async fn wait_until_order(stack: &Stack, order_id: &str, condition: &'static str) {
    let holds = async || order_is(stack, order_id, condition).await.then_some(());
    stack.wait_until(&format!("order {order_id} is one with {condition}"), SOON, holds).await;
}

/// Stops the CA and publishes the values: whoever sees them is held, with a lease, in the call that answers the challenge, until
/// `stack.resume("pebble")`. Returns the worker that holds each order.
pub(crate) async fn hold_in_respond(stack: &Stack, domains: &[(Domain, Order)]) -> Vec<String> {
    stack.pause("pebble");
    for (_, order) in domains {
        stack.publish_value(order).await;
    }
    let mut holders = Vec::new();
    for (_, order) in domains {
        let query = "SELECT j.leased_by FROM jobs j JOIN orders o ON o.id = j.order_id
                     WHERE o.public_id = $1 AND o.state = 'confirmed' AND j.leased_by IS NOT NULL";
        let held = async || {
            let holder = sqlx::query_scalar(query).bind(&order.order_id).fetch_optional(stack.pool()).await;
            holder.unwrap()
        };
        holders.push(stack.wait_until("a worker answers the challenge", SOON, held).await);
    }
    holders
}

pub(crate) async fn leases_of(stack: &Stack, worker: &str) -> i64 {
    let query = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE leased_by = $1").bind(worker);
    query.fetch_one(stack.pool()).await.unwrap()
}

/// The most attempts that any job has burnt; a parked one counts as beyond all.
pub(crate) async fn attempts(stack: &Stack) -> Result<i32, sqlx::Error> {
    let query = "SELECT coalesce(max(CASE WHEN parked_at IS NULL THEN attempts ELSE 1000 END), 0) FROM jobs";
    sqlx::query_scalar(query).fetch_one(stack.pool()).await
}

/// Waits until nothing is left to do for a domain's orders, also a deleted one's.
pub(crate) async fn is_cleaned_up(stack: &Stack, domain_id: &str) {
    let query = "SELECT bool_and(cleaned_up_at IS NOT NULL) FROM orders o JOIN domains d ON d.id = o.domain_id WHERE d.public_id = $1";
    let cleaned_up = async || {
        let cleaned_up: Option<bool> = sqlx::query_scalar(query).bind(domain_id).fetch_one(stack.pool()).await.unwrap();
        cleaned_up.unwrap_or(false).then_some(())
    };
    stack.wait_until("the domain's orders are cleaned up", SOON, cleaned_up).await;
}

/// What DNS shows at an owner name.
pub(crate) async fn published(stack: &Stack, owner: &str) -> Vec<String> {
    let server: SocketAddr = stack.plan().dns.address().parse().unwrap();
    TxtLookup::new(&[server]).unwrap().txt(owner).await.unwrap().values
}
