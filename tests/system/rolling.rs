//! Replicas that are replaced one by one under load, the new one first: no request fails, no order is lost, none is
//! doubled.

mod customers;
mod service;

use std::time::Duration;

use countersign_tests::stack::processes::Signal;
use countersign_tests::stack::{Stack, local_http};
use reqwest::Client;
use serde_json::Value;

use crate::facts::{SOON, attempts};
use customers::Customers;
use service::Service;

/// Each that leaves, and the one that has taken its place before.
const REPLACED: [(&str, &str); 6] = [
    ("api-1", "api-3"),
    ("worker-1", "worker-3"),
    ("dns-1", "dns-3"),
    ("api-2", "api-4"),
    ("worker-2", "worker-4"),
    ("dns-2", "dns-4"),
];
/// SHUTDOWN_DELAY, SHUTDOWN_GRACE and what a worker takes to give back the rest, on a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

async fn counted(stack: &Stack, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap()
}

const ISSUED: &str = "SELECT count(*) FROM orders WHERE state = 'issued'";

#[tokio::test]
async fn replicas_are_replaced_one_by_one_under_load_and_nobody_notices() {
    let stack = Stack::builder().apis(4).workers(4).responders(4).setting("SHUTDOWN_DELAY", "3s");
    let stack = REPLACED.iter().fold(stack, |stack, (_, new)| stack.not_yet(new)).start().await;
    let service = Service::start(&stack, &["api-1", "api-2", "api-3", "api-4"]).await;
    let customers = Customers::start(&stack, service.url());

    for (old, new) in REPLACED {
        // Both halves of the fleet have had something to do.
        let before = counted(&stack, ISSUED).await;
        let busy = async || (customers.failed() || counted(&stack, ISSUED).await >= before + 2).then_some(());
        stack.wait_until("certificates are issued", 2 * SOON, busy).await;
        stack.restart(new).await;
        let status = stack.terminate(old, STOPS_WITHIN).await;
        assert!(status.success(), "{old} ended with {status}");
    }
    let before = counted(&stack, ISSUED).await;
    let busy = async || (customers.failed() || counted(&stack, ISSUED).await >= before + 2).then_some(());
    stack.wait_until("the new ones issue certificates", 2 * SOON, busy).await;

    let names = match customers.finish().await {
        Ok(names) => names,
        Err(failures) => stack.fail(&failures.join("\n")),
    };
    assert!(names.len() >= 14, "only {} domains", names.len());
    stack.finish().await;
    assert_eq!(stack.ca().certificates_issued().unwrap(), names.len(), "certificates at the CA");
    for name in &names {
        assert_eq!(stack.ca().certificates_issued_for(name).await.unwrap(), 1, "certificates for {name} at the CA");
    }
    assert_eq!(counted(&stack, "SELECT count(*) FROM orders").await, names.len() as i64);
    assert_eq!(counted(&stack, ISSUED).await, names.len() as i64);
    assert_eq!(attempts(&stack).await.unwrap(), 0);
    for (old, new) in REPLACED {
        for replica in [old, new] {
            let log = stack.log(replica);
            assert!(!log.contains("a worker that was lost") && !log.contains("SHUTDOWN_GRACE is over"), "{replica}");
        }
        assert!(stack.log(old).contains(r#""message":"stopped""#), "{old}");
    }
}

/// What `/readyz` says: status and reason.
async fn readiness(client: &Client, admin: &str) -> Option<(u16, Value)> {
    let answer = client.get(format!("{admin}/readyz")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.json::<Value>().await.ok()?["reason"].clone()))
}

/// Asked to stop, and known not to be ready for it.
async fn leaves(stack: &Stack, replica: &str) {
    let (client, admin) = (local_http::client(None).unwrap(), stack.admin_url(replica));
    assert_eq!(readiness(&client, &admin).await, Some((200, Value::Null)));
    stack.signal(replica, Signal::TERM);
    let stopping = async || (readiness(&client, &admin).await? == (503, "stopping".into())).then_some(());
    stack.wait_until(&format!("{replica} says that it is stopping"), SOON, stopping).await;
    assert_eq!(client.get(format!("{admin}/healthz")).send().await.unwrap().status(), 200, "it is alive");
}

#[tokio::test]
async fn an_api_that_leaves_still_answers_and_asks_its_clients_to_come_no_more() {
    let stack = Stack::builder().workers(0).setting_of("api-1", "SHUTDOWN_DELAY", "5m").start().await;
    let domain = stack.api().register("shop.example.com").await;
    let stays = stack.api().try_fetch(&domain.id).await.unwrap();
    assert!(!stays.headers.contains_key("connection"), "{:?}", stays.headers);
    leaves(&stack, "api-1").await;
    for path in [format!("/domains/{}", domain.id), "/v2/whoami".to_owned(), "/nowhere".to_owned()] {
        let answer = stack.api().send(stack.api().request(reqwest::Method::GET, &path)).await.unwrap();
        assert_eq!(answer.headers.get("connection").map(|value| value.as_bytes()), Some(&b"close"[..]), "{path}");
    }
    assert_eq!(stack.api().register("late.example.com").await.status, "pending");
    // Somebody who does not want to wait.
    let status = stack.terminate("api-1", SOON).await;
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn a_name_server_that_leaves_still_answers() {
    let stack = Stack::builder().responders(1).setting_of("dns-1", "SHUTDOWN_DELAY", "5m").start().await;
    leaves(&stack, "dns-1").await;
    let domain = stack.delegated_domain("shop.example.com").await;
    stack.api().issue(&domain.id).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!(stack.terminate("dns-1", SOON).await.code(), Some(130));
}

#[tokio::test]
async fn a_worker_that_stops_is_not_ready_while_its_steps_finish() {
    let stack = Stack::builder().workers(2).start().await;
    let domains = crate::facts::pending_domains(&stack, &crate::facts::names(1)).await;
    let holder = &crate::facts::hold_in_respond(&stack, &domains).await[0];
    leaves(&stack, holder).await;
    stack.resume("pebble");
    let ended = async || (!stack.is_running(holder)).then_some(());
    stack.wait_until("it has finished and ended", SOON, ended).await;
    stack.becomes_active(&domains[0].0.id).await;
}
