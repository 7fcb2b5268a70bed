//! What Prometheus reads of every metric.

use std::collections::BTreeSet;

use opentelemetry_sdk::metrics::SdkMeterProvider;
use time::OffsetDateTime;

use super::*;
use crate::model::certificate::KeyAlgorithm;
use crate::model::identifier::DnsName;
use crate::model::ids::PublicId;
use crate::model::order::{OrderOrigin, OrderState, Placement};
use crate::model::presenter::{Presenter, PublishedBy};
use crate::model::problem::OrderProblem;
use crate::store::gauges::LaneGauges;
use crate::telemetry::Exposition;

const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn order() -> Order {
    let placement = Placement { directory: String::new(), acme_url: String::new(), placed_at: AT, deadline_at: AT };
    Order {
        id: 1,
        public_id: PublicId::from_random([1; 16]),
        domain_id: 1,
        domain_name: DnsName::parse("shop.example.com", false).unwrap(),
        domain_is_deleted: false,
        certificate_id: 1,
        origin: OrderOrigin::Challenge,
        retry_of: None,
        published_by: PublishedBy { presenter: Presenter::Manual, config_id: None },
        delegation_label: String::new(),
        domain_is_delegated: false,
        algorithm: KeyAlgorithm::Rsa2048,
        names: Vec::new(),
        state: OrderState::Presented,
        revision: 1,
        place_by: None,
        placement: Some(placement),
        seen_at: Some(AT),
        changed_at: AT,
        ended_at: None,
        cleaned_up_at: None,
        problem: None,
        authorizations: Vec::new(),
    }
}

/// The one test that installs the instruments, which are the process's.
#[test]
fn every_metric_has_its_name_its_unit_and_a_closed_set_of_labels() {
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
    let exporter = exporter.scope_info_enabled(false).without_target_info().build().unwrap();
    install(SdkMeterProvider::builder().with_reader(exporter).build());

    begin_worker_series();
    begin_api_series();
    let (order, at) = (order(), AT + time::Duration::seconds(90));
    order_moved(&order, &OrderEvent::Seen { at, is_delegated: None });
    let problem = OrderProblem::new(ProblemCode::CaaForbids, &order.domain_name);
    order_moved(&order, &OrderEvent::GaveUp { at, problem });
    order_place_wait(PlaceOutcome::TimedOut, Duration::from_secs(10));
    job_claimed(Lane::Waiting, 0.02);
    job_ended(JobKind::DeliverEvent { delivery_id: 7 }, JobOutcome::Retried);
    lease_lost();
    acme_request(AcmeResource::NewOrder, Some(429), Duration::from_millis(80));
    acme_request(AcmeResource::Order, None, Duration::from_secs(30));
    acme_request(AcmeResource::Order, Some(999), Duration::from_secs(30));
    account_problem();
    dns_lookup(Resolver::Authoritative, LookupOutcome::TimedOut, Duration::from_secs(3));
    webhook_delivery(DeliveryOutcome::GivenUp);
    question_answered(Rcode::NxDomain, DnsTransport::Tcp);
    readiness(false, Some(false));
    http_request("BREW", "/domains/{id}", 404, Duration::from_millis(3));
    let measured = Measured::default();
    measured.observe();

    let unmeasured = Exposition(registry.clone()).text();
    assert!(!unmeasured.contains("countersign_jobs{"), "{unmeasured}");
    let open_orders = vec![(OrderState::Presented, 3)];
    let lanes = [LaneGauges { due: 2, parked: 1, lag_secs: 4.5, ..LaneGauges::default() }; 4];
    let last_successes = vec![("sweep".to_owned(), 1000.5)];
    measured.set(Some(Gauges {
        open_orders,
        lanes,
        expiring: Expiring { automatic: [1, 2, 3, 4], by_hand: [0; 4] },
        overdue_renewals: 5,
        last_successes,
        held_secs: 60.0,
    }));
    let text = Exposition(registry.clone()).text();
    for line in [
        "countersign_orders_open{state=\"presented\"} 3",
        "countersign_orders_ended_total{code=\"none\",outcome=\"issued\"} 0",
        "countersign_orders_ended_total{code=\"caa_forbids\",outcome=\"failed\"} 1",
        "countersign_order_seen_duration_seconds_sum 90",
        "countersign_orders_ended_total{code=\"not_placed_in_time\",outcome=\"cancelled\"} 0",
        "countersign_orders_ended_total{code=\"domain_deleted\",outcome=\"cancelled\"} 0",
        "countersign_order_place_duration_seconds_count{outcome=\"timed_out\"} 1",
        "countersign_order_place_outcomes_total{outcome=\"timed_out\"} 1",
        "countersign_order_place_outcomes_total{outcome=\"placed\"} 0",
        "countersign_jobs{lane=\"caller\",state=\"due\"} 2",
        "countersign_jobs{lane=\"scheduled\",state=\"parked\"} 1",
        "countersign_jobs_lag_seconds{lane=\"deliveries\"} 4.5",
        "countersign_job_claim_lag_seconds_count{lane=\"caller\"} 1",
        "countersign_job_outcomes_total{kind=\"deliver-event\",outcome=\"retried\"} 1",
        "countersign_job_leases_lost_total 1",
        "countersign_acme_request_duration_seconds_count{kind=\"new_order\",status=\"429\"} 1",
        "countersign_acme_request_duration_seconds_count{kind=\"order\",status=\"error\"} 2",
        "countersign_acme_hold_seconds 60",
        "countersign_acme_account_problems_total 1",
        "countersign_dns_lookup_duration_seconds_count{outcome=\"timed_out\",resolver=\"authoritative\"} 1",
        "countersign_certificates_expiring{renewal=\"automatic\",within=\"7d\"} 2",
        "countersign_renewals_overdue 5",
        "countersign_scheduled_last_success_timestamp_seconds{kind=\"sweep\"} 1000.5",
        "countersign_webhook_deliveries_total{outcome=\"acknowledged\"} 0",
        "countersign_webhook_deliveries_total{outcome=\"given_up\"} 1",
        "countersign_responder_questions_total{rcode=\"NXDOMAIN\",transport=\"tcp\"} 1",
        "countersign_ready 0",
        "countersign_schema_matches 0",
        "http_server_request_duration_seconds_count{http_request_method=\"_OTHER\",http_response_status_code=\"404\",http_route=\"/domains/{id}\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("example"), "a name: {text}");
    let described: BTreeSet<_> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
    let typed = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(described.len(), typed, "every metric says what it is");

    // The database is away: what is not known is not shown.
    measured.set(None);
    let text = Exposition(registry).text();
    assert!(!text.contains("countersign_orders_open") && !text.contains("countersign_jobs{"), "{text}");
}
