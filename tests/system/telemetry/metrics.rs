//! `/metrics` of every program, after an order has gone all its way, and while the database is away.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::dns_wire::{Transport, ask};
use countersign_tests::stack::{Shutdown, Stack};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use reqwest::Method;

use super::Scrape;
use crate::facts::SOON;
use crate::failures::{fronted, is_refused, refusal};

/// What every worker shows of the whole installation.
const OF_ALL: [&str; 7] = [
    "countersign_orders_open",
    "countersign_jobs",
    "countersign_jobs_lag_seconds",
    "countersign_certificates_expiring",
    "countersign_renewals_overdue",
    "countersign_scheduled_last_success_timestamp_seconds",
    "countersign_acme_hold_seconds",
];
/// What every program shows.
const OF_EACH: [&str; 4] =
    ["countersign_ready", "countersign_schema_matches", "db_client_connection_count", "db_client_connection_max"];

fn has_all(scrape: &Scrape, names: &[&str]) -> bool {
    let found: BTreeSet<&str> = scrape.names().collect();
    names.iter().all(|name| found.contains(name))
}

#[tokio::test]
async fn after_an_order_every_metric_that_it_moved_says_so() {
    let stack = Stack::builder().responders(1).setting("ADMIN_TOKEN", "operators-only").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    stack.finish().await;
    let unknown = stack.api().request(Method::GET, "/nobody/serves/shop.example.com");
    stack.api().send(unknown).await.unwrap().expect(404);
    stack.api().send(stack.api().request(Method::GET, "/v2/whoami")).await.unwrap().expect(401);
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("shop.example.com.").unwrap(), RecordType::TXT));
    let packet = question.to_vec().unwrap();
    for by in [Transport::Udp, Transport::Tcp] {
        ask(stack.responder(1), &packet, by).await.unwrap();
    }

    let is_measured = async || {
        let scrape = Scrape::of(&stack, "worker-1").await;
        // The scheduled jobs have run once, and the gauges were measured since.
        let scheduled =
            |kind| scrape.value("countersign_scheduled_last_success_timestamp_seconds", &[("kind", kind)]).is_some();
        let is_over = scrape.value("countersign_jobs", &[("lane", "orders"), ("state", "waiting")]) == Some(0.0)
            && scrape.value("countersign_orders_open", &[("state", "presented")]) == Some(0.0);
        (is_over && ["sweep", "purge", "renew-due"].into_iter().all(scheduled)).then_some(scrape)
    };
    let worker = stack.wait_until("the worker has measured what there is", SOON, is_measured).await;
    for (name, labels, value) in [
        ("countersign_orders_ended_total", [("outcome", "issued"), ("code", "none")].as_slice(), 1.0),
        ("countersign_orders_ended_total", &[("outcome", "failed"), ("code", "record_not_seen")], 0.0),
        ("countersign_order_seen_duration_seconds_count", &[], 1.0),
        ("countersign_order_issuance_duration_seconds_count", &[], 1.0),
        ("countersign_job_outcomes_total", &[("kind", "poll-challenge"), ("outcome", "done")], 1.0),
        ("countersign_job_leases_lost_total", &[], 0.0),
        ("countersign_acme_account_problems_total", &[], 0.0),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "new_order"), ("status", "201")], 1.0),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "new_account"), ("status", "201")], 1.0),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "challenge"), ("status", "200")], 1.0),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "finalize"), ("status", "200")], 1.0),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "certificate"), ("status", "200")], 1.0),
        ("countersign_acme_hold_seconds", &[], 0.0),
        ("countersign_jobs", &[("lane", "scheduled"), ("state", "parked")], 0.0),
        ("countersign_certificates_expiring", &[("within", "7d"), ("renewal", "by_hand")], 0.0),
        ("countersign_renewals_overdue", &[], 0.0),
        ("countersign_webhook_deliveries_total", &[("outcome", "acknowledged")], 0.0),
        ("countersign_ready", &[], 1.0),
        ("countersign_schema_matches", &[], 1.0),
    ] {
        let found = worker.value(name, labels);
        if found != Some(value) {
            stack.fail(&format!("{name} {labels:?} is {found:?} and not {value}: {worker:?}"));
        }
    }
    for (name, labels) in [
        ("countersign_acme_request_duration_seconds_count", [("kind", "directory"), ("status", "200")].as_slice()),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "new_nonce"), ("status", "200")]),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "authorization"), ("status", "200")]),
        ("countersign_acme_request_duration_seconds_count", &[("kind", "order"), ("status", "200")]),
        ("countersign_dns_lookup_duration_seconds_count", &[("resolver", "recursive"), ("outcome", "found")]),
        ("countersign_job_claim_lag_seconds_count", &[("lane", "caller")]),
    ] {
        assert!(worker.sum(name, labels) >= 1.0, "{name} {labels:?}: {worker:?}");
    }
    assert!(has_all(&worker, &OF_ALL) && has_all(&worker, &OF_EACH), "{worker:?}");
    assert_eq!(worker.sum("countersign_acme_request_duration_seconds_count", &[("kind", "other")]), 0.0, "{worker:?}");

    let api = Scrape::of(&stack, "api-1").await;
    let issued = [("http_route", "/domains/{id}/issue-certificate"), ("http_response_status_code", "202")];
    assert_eq!(api.value("http_server_request_duration_seconds_count", &issued), Some(1.0), "{api:?}");
    let nowhere = [("http_route", "unknown"), ("http_response_status_code", "404")];
    assert_eq!(api.value("http_server_request_duration_seconds_count", &nowhere), Some(1.0), "{api:?}");
    let of_v2 = [("http_route", "/v2/whoami"), ("http_response_status_code", "401")];
    assert_eq!(api.value("http_server_request_duration_seconds_count", &of_v2), Some(1.0), "{api:?}");
    let placed = [("outcome", "placed")];
    assert_eq!(api.value("countersign_order_place_duration_seconds_count", &placed), Some(1.0), "{api:?}");
    for (name, labels, value) in [
        ("countersign_order_place_outcomes_total", [("outcome", "placed")].as_slice(), 1.0),
        ("countersign_order_place_outcomes_total", &[("outcome", "timed_out")], 0.0),
        ("countersign_orders_ended_total", &[("outcome", "cancelled"), ("code", "not_placed_in_time")], 0.0),
    ] {
        assert_eq!(api.value(name, labels), Some(value), "{name} {labels:?}: {api:?}");
    }
    assert!(has_all(&api, &OF_EACH), "{api:?}");

    let dns = Scrape::of(&stack, "dns-1").await;
    for transport in ["udp", "tcp"] {
        let refused = [("rcode", "REFUSED"), ("transport", transport)];
        assert_eq!(dns.value("countersign_responder_questions_total", &refused), Some(1.0), "{dns:?}");
    }
    assert!(has_all(&dns, &OF_EACH), "{dns:?}");

    for scrape in [&worker, &api, &dns] {
        for state in ["idle", "used"] {
            let connections = scrape.value("db_client_connection_count", &[("db_client_connection_state", state)]);
            assert!(connections.is_some(), "{state}: {scrape:?}");
        }
        for sample in &scrape.0 {
            for value in sample.labels.values() {
                let is_foreign =
                    value.contains("shop") || value.contains(&domain.id) || value.contains(&order.order_id);
                assert!(!is_foreign, "a name or an id is a label: {sample:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_order_that_fails_is_counted_with_its_code() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "1s").start().await;
    let (domain, _) = stack.pending_domain("shop.example.com").await;
    stack.becomes(&domain.id, "failed", SOON).await;
    let failed = [("outcome", "failed"), ("code", "record_not_seen")];
    let is_counted = async || {
        let scrape = Scrape::of(&stack, "worker-1").await;
        (scrape.value("countersign_orders_ended_total", &failed) == Some(1.0)).then_some(())
    };
    stack.wait_until("the failure is counted", SOON, is_counted).await;
    let (deleted, _) = stack.pending_domain("late.example.com").await;
    stack.api().delete(&deleted.id).await;
    let api = Scrape::of(&stack, "api-1").await;
    let cancelled = [("outcome", "cancelled"), ("code", "domain_deleted")];
    assert_eq!(api.value("countersign_orders_ended_total", &cancelled), Some(1.0), "{api:?}");
    stack.finish().await;
}

#[tokio::test]
async fn an_account_that_the_ca_refuses_and_a_worker_that_dies_are_counted() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    stack.front().next(1, Kind::NewOrder, refusal(403, "userActionRequired"));
    is_refused(&stack, &domain, ProblemCode::CaAccount, "account").await;
    let [one, other] = [Scrape::of(&stack, "worker-1").await, Scrape::of(&stack, "worker-2").await];
    let both = |name: &str, labels: &[(&str, &str)]| one.sum(name, labels) + other.sum(name, labels);
    let failed = [("outcome", "failed"), ("code", "ca_account")];
    assert_eq!(both("countersign_orders_ended_total", &failed), 1.0);
    assert_eq!(both("countersign_acme_account_problems_total", &[]), 1.0);
    let refused = [("kind", "new_order"), ("status", "403")];
    assert_eq!(both("countersign_acme_request_duration_seconds_count", &refused), 1.0);
    let api = Scrape::of(&stack, "api-1").await;
    let failed = [("outcome", "failed")];
    assert_eq!(api.value("countersign_order_place_duration_seconds_count", &failed), Some(1.0), "{api:?}");

    let order = stack.api().issue(&domain.id).await;
    stack.front().hold(Kind::Finalize);
    stack.publish_value(&order).await;
    let is_held = async || (stack.front().held(Kind::Finalize, Moment::Before) > 0).then_some(());
    stack.wait_until("a worker sends the CSR", SOON, is_held).await;
    let holder = "SELECT leased_by FROM jobs WHERE order_id IS NOT NULL";
    let holder: String = sqlx::query_scalar(holder).fetch_one(stack.pool()).await.unwrap();
    stack.kill(&holder);
    stack.front().release();
    stack.becomes_active(&domain.id).await;
    stack.finish().await;
    let survivor = if holder == "worker-1" { "worker-2" } else { "worker-1" };
    let survivor = Scrape::of(&stack, survivor).await;
    assert_eq!(survivor.value("countersign_job_leases_lost_total", &[]), Some(1.0), "{survivor:?}");
}

#[tokio::test]
async fn a_scrape_is_answered_at_once_while_the_database_is_away() {
    let stack = Stack::builder().responders(1).start().await;
    let worker_is = async |ready: f64, shows: bool| {
        let scrape = Scrape::of(&stack, "worker-1").await;
        let is_so = scrape.value("countersign_ready", &[]) == Some(ready) && has_all(&scrape, &OF_ALL[..2]) == shows;
        is_so.then_some(())
    };
    stack.wait_until("the worker is ready and has measured", SOON, async || worker_is(1.0, true).await).await;
    stack.stop_postgres(Shutdown::Immediate).await;
    let is_away = async || {
        for replica in ["api-1", "worker-1", "dns-1"] {
            let began = Instant::now();
            Scrape::of(&stack, replica).await;
            assert!(began.elapsed() < Duration::from_secs(1), "{replica} took {:?}", began.elapsed());
        }
        worker_is(0.0, false).await
    };
    stack.wait_until("the worker shows that it knows nothing", 2 * SOON, is_away).await;
    let worker = Scrape::of(&stack, "worker-1").await;
    assert_eq!(worker.value("countersign_schema_matches", &[]), Some(1.0), "it did when the database last answered");
    stack.restart("postgres").await;
    stack.wait_until("it knows again", 2 * SOON, async || worker_is(1.0, true).await).await;
}
