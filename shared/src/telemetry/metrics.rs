//! Every metric: its name, unit, labels, and the function that records it. deploy/operating.md has the table for operators.
//!
//! Names and units are OpenTelemetry's; Prometheus sees `countersign.orders.ended` as `countersign_orders_ended_total`. Lengths are in
//! seconds. Before `Telemetry::start`, and in tests, nothing is recorded.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use opentelemetry::metrics::{AsyncInstrument, Counter, Gauge, Histogram, Meter, MeterProvider as _};
use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use strum::IntoEnumIterator as _;

use super::labels::{
    AcmeResource, DeliveryOutcome, DnsTransport, JobOutcome, LookupOutcome, OrderOutcome, PlaceOutcome, Rcode,
    Resolver, http_method,
};
use super::spans;
use crate::model::order::{Order, OrderEvent};
use crate::model::problem::ProblemCode;
use crate::store::Pool;
use crate::store::gauges::{EXPIRING_WITHIN_DAYS, Expiring, Gauges};
use crate::store::jobs::{JobKind, Lane};

const SCOPE: &str = "countersign";

/// Bounds of what takes milliseconds to seconds: those that OpenTelemetry gives for HTTP, and the deadline of an answer.
const REQUEST_SECS: [f64; 15] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0];
/// Bounds of what takes seconds to hours: people, DNS, the CA.
const ORDER_SECS: [f64; 12] = [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 86_400.0];

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

struct Instruments {
    orders_ended: Counter<u64>,
    order_seen: Histogram<f64>,
    order_issuance: Histogram<f64>,
    order_place: Histogram<f64>,
    place_outcomes: Counter<u64>,
    job_claim_lag: Histogram<f64>,
    job_outcomes: Counter<u64>,
    leases_lost: Counter<u64>,
    acme_request: Histogram<f64>,
    account_problems: Counter<u64>,
    dns_lookup: Histogram<f64>,
    webhook_deliveries: Counter<u64>,
    questions: Counter<u64>,
    ready: Gauge<u64>,
    schema_matches: Gauge<u64>,
    http_request: Histogram<f64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, says: &'static str| meter.u64_counter(name).with_description(says).build();
        let gauge = |name: &'static str, says: &'static str| meter.u64_gauge(name).with_description(says).build();
        let histogram = |name: &'static str, says: &'static str, bounds: &[f64]| {
            let builder = meter.f64_histogram(name).with_description(says).with_unit("s");
            builder.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            orders_ended: counter("countersign.orders.ended", "Orders that have ended, by outcome and failure code"),
            order_seen: histogram(
                "countersign.order.seen.duration",
                "From the answer that names the TXT value until it is seen",
                &ORDER_SECS,
            ),
            order_issuance: histogram(
                "countersign.order.issuance.duration",
                "From the TXT value being seen until the certificate is stored",
                &ORDER_SECS,
            ),
            order_place: histogram(
                "countersign.order.place.duration",
                "How long a caller waited for its order to be placed, by what came of it",
                &REQUEST_SECS,
            ),
            place_outcomes: counter("countersign.order.place.outcomes", "Waits of callers, by what came of them"),
            job_claim_lag: histogram(
                "countersign.job.claim.lag",
                "From a job being due until a worker has it",
                &REQUEST_SECS,
            ),
            job_outcomes: counter("countersign.job.outcomes", "Runs of jobs, by how they ended"),
            leases_lost: counter(
                "countersign.job.leases.lost",
                "Leases lost: an outcome refused, or a job taken over from a worker that was lost",
            ),
            acme_request: histogram(
                "countersign.acme.request.duration",
                "Requests to the CA, by resource and HTTP status",
                &REQUEST_SECS,
            ),
            account_problems: counter(
                "countersign.acme.account.problems",
                "Refusals of the CA that are about our account",
            ),
            dns_lookup: histogram(
                "countersign.dns.lookup.duration",
                "DNS look-ups, by who was asked and what came of it",
                &REQUEST_SECS,
            ),
            webhook_deliveries: counter("countersign.webhook.deliveries", "Attempts to deliver events"),
            questions: counter("countersign.responder.questions", "Questions that the name server answered"),
            ready: gauge("countersign.ready", "Whether /readyz says ready"),
            schema_matches: gauge(
                "countersign.schema.matches",
                "Whether the schema was one this program can work with when the database last answered",
            ),
            http_request: histogram(
                "http.server.request.duration",
                "Requests answered, by route and status",
                &REQUEST_SECS,
            ),
        }
    }
}

/// From here on everything is recorded; to be called once, before anything else here.
pub(super) fn install(provider: SdkMeterProvider) {
    // A second call would find the instruments of the first.
    let _ = INSTRUMENTS.set(Instruments::new(&provider.meter(SCOPE)));
    global::set_meter_provider(provider);
}

fn record(what: impl FnOnce(&Instruments)) {
    if let Some(instruments) = INSTRUMENTS.get() {
        what(instruments);
    }
}

fn label(name: &'static str, value: impl Into<&'static str>) -> KeyValue {
    KeyValue::new(name, value.into())
}

/// Begins the series that alert rules take the increase of: one that is not there before its first event shows none.
pub fn begin_worker_series() {
    count_ended(OrderOutcome::Issued, None, 0);
    for code in ProblemCode::iter() {
        count_ended(OrderOutcome::Failed, Some(code), 0);
    }
    count_ended(OrderOutcome::Cancelled, Some(ProblemCode::NotPlacedInTime), 0);
    record(|instruments| {
        instruments.leases_lost.add(0, &[]);
        instruments.account_problems.add(0, &[]);
        for outcome in DeliveryOutcome::iter() {
            instruments.webhook_deliveries.add(0, &[label("outcome", outcome)]);
        }
    });
}

/// The same for what the API counts.
pub fn begin_api_series() {
    for code in [ProblemCode::NotPlacedInTime, ProblemCode::DomainDeleted] {
        count_ended(OrderOutcome::Cancelled, Some(code), 0);
    }
    for outcome in PlaceOutcome::iter() {
        count_place(outcome, 0);
    }
}

/// What an event that was stored means for the metrics of orders; `after` is the order after it.
pub fn order_moved(after: &Order, event: &OrderEvent) {
    let since = |then: Option<time::OffsetDateTime>, at: &time::OffsetDateTime| {
        then.map(|then| (*at - then).as_seconds_f64().max(0.0))
    };
    match event {
        OrderEvent::Seen { at, .. } => {
            if let Some(secs) = since(after.placement.as_ref().map(|placement| placement.placed_at), at) {
                record(|instruments| instruments.order_seen.record(secs, &[]));
            }
        }
        OrderEvent::Issued { at, .. } => {
            if let Some(secs) = since(after.seen_at, at) {
                record(|instruments| instruments.order_issuance.record(secs, &[]));
            }
            count_ended(OrderOutcome::Issued, None, 1);
        }
        OrderEvent::GaveUp { problem, .. } => count_ended(OrderOutcome::Failed, Some(problem.code), 1),
        OrderEvent::Cancelled { problem, .. } => orders_cancelled(problem.code, 1),
        _ => {}
    }
}

/// So many orders were cancelled, and that is committed.
pub fn orders_cancelled(code: ProblemCode, count: usize) {
    count_ended(OrderOutcome::Cancelled, Some(code), count as u64);
}

fn count_ended(outcome: OrderOutcome, code: Option<ProblemCode>, count: u64) {
    let code = KeyValue::new("code", code.map_or("none", ProblemCode::as_str));
    record(|instruments| instruments.orders_ended.add(count, &[label("outcome", outcome), code]));
}

/// A caller has waited so long for its order to be placed.
pub fn order_place_wait(outcome: PlaceOutcome, waited: Duration) {
    record(|instruments| instruments.order_place.record(waited.as_secs_f64(), &[label("outcome", outcome)]));
    count_place(outcome, 1);
}

/// Beside the histogram, because that cannot begin at 0.
fn count_place(outcome: PlaceOutcome, count: u64) {
    record(|instruments| instruments.place_outcomes.add(count, &[label("outcome", outcome)]));
}

/// A job was claimed so many seconds after it was due.
pub fn job_claimed(lane: Lane, lag_secs: f64) {
    record(|instruments| instruments.job_claim_lag.record(lag_secs.max(0.0), &[label("lane", lane)]));
}

/// A run has ended; also told to its span.
pub fn job_ended(kind: JobKind, outcome: JobOutcome) {
    spans::ended(outcome);
    record(|instruments| instruments.job_outcomes.add(1, &[label("kind", kind), label("outcome", outcome)]));
}

/// A lease was lost, by us or by somebody else.
pub fn lease_lost() {
    record(|instruments| instruments.leases_lost.add(1, &[]));
}

/// One HTTP request to the CA; no status where no whole answer came.
pub fn acme_request(resource: AcmeResource, status: Option<u16>, took: Duration) {
    let status = match status.filter(|status| (100..600).contains(status)) {
        Some(status) => KeyValue::new("status", i64::from(status)),
        None => KeyValue::new("status", "error"),
    };
    record(|instruments| instruments.acme_request.record(took.as_secs_f64(), &[label("kind", resource), status]));
}

/// The CA does not accept our account.
pub fn account_problem() {
    record(|instruments| instruments.account_problems.add(1, &[]));
}

pub fn dns_lookup(resolver: Resolver, outcome: LookupOutcome, took: Duration) {
    record(|instruments| {
        instruments.dns_lookup.record(took.as_secs_f64(), &[label("resolver", resolver), label("outcome", outcome)])
    });
}

pub fn webhook_delivery(outcome: DeliveryOutcome) {
    record(|instruments| instruments.webhook_deliveries.add(1, &[label("outcome", outcome)]));
}

pub fn question_answered(rcode: Rcode, transport: DnsTransport) {
    record(|instruments| instruments.questions.add(1, &[label("rcode", rcode), label("transport", transport)]));
}

/// What `/readyz` says; `schema_matches` where the database has answered.
pub fn readiness(is_ready: bool, schema_matches: Option<bool>) {
    record(|instruments| instruments.ready.record(is_ready.into(), &[]));
    if let Some(matches) = schema_matches {
        record(|instruments| instruments.schema_matches.record(matches.into(), &[]));
    }
}

/// `route` is a template, such as `/domains/{id}`.
pub fn http_request(method: &str, route: &str, status: u16, took: Duration) {
    let labels = [
        KeyValue::new("http.request.method", http_method(method)),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    record(|instruments| instruments.http_request.record(took.as_secs_f64(), &labels));
}

/// From here on the connections of this pool are shown.
pub fn observe_pool(pool: &Pool) {
    let meter = global::meter(SCOPE);
    let name = || KeyValue::new("db.client.connection.pool.name", "postgres");
    let counted = pool.clone();
    meter
        .i64_observable_up_down_counter("db.client.connection.count")
        .with_unit("{connection}")
        .with_description("Connections to Postgres but the one that listens, by whether somebody uses them")
        .with_callback(move |observer| {
            let size = i64::from(counted.size());
            // The two are not read at once.
            let idle = i64::try_from(counted.num_idle()).unwrap_or(size).min(size);
            let used = size - idle;
            for (state, count) in [("idle", idle), ("used", used)] {
                observer.observe(count, &[KeyValue::new("db.client.connection.state", state), name()]);
            }
        })
        .build();
    let most = i64::from(pool.max_connections());
    meter
        .i64_observable_up_down_counter("db.client.connection.max")
        .with_unit("{connection}")
        .with_description("Connections to Postgres that may be open besides the one that listens")
        .with_callback(move |observer| observer.observe(most, &[name()]))
        .build();
}

/// What was last measured in the database, for the whole installation. None: nothing is known, and nothing is shown.
#[derive(Clone, Default)]
pub struct Measured(Arc<Mutex<Option<Gauges>>>);

impl Measured {
    pub fn set(&self, gauges: Option<Gauges>) {
        *self.locked() = gauges;
    }

    fn locked(&self) -> MutexGuard<'_, Option<Gauges>> {
        // A single assignment: no panic can leave it half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on it is shown.
    pub fn observe(&self) {
        let meter = &global::meter(SCOPE);
        self.gauge(meter, "countersign.orders.open", "Open orders, by state", |gauges, observer| {
            for &(state, count) in &gauges.open_orders {
                observer.observe(count, &[label("state", state)]);
            }
        });
        self.gauge(meter, "countersign.jobs", "Jobs, by lane and state", |gauges, observer| {
            for (lane, of_lane) in Lane::ALL.into_iter().zip(&gauges.lanes) {
                let counts = [
                    ("due", of_lane.due),
                    ("waiting", of_lane.waiting),
                    ("leased", of_lane.leased),
                    ("lost", of_lane.lost),
                    ("parked", of_lane.parked),
                ];
                for (state, count) in counts {
                    observer.observe(count, &[label("lane", lane), KeyValue::new("state", state)]);
                }
            }
        });
        self.seconds(meter, "countersign.jobs.lag", "Age of the oldest due job", |gauges, observer| {
            for (lane, of_lane) in Lane::ALL.into_iter().zip(&gauges.lanes) {
                observer.observe(of_lane.lag_secs, &[label("lane", lane)]);
            }
        });
        let says = "Issued certificates without a successor that expire within so long; 0d: that have expired";
        self.gauge(meter, "countersign.certificates.expiring", says, |gauges, observer| {
            let Expiring { automatic, by_hand } = &gauges.expiring;
            for (renewal, counts) in [("automatic", automatic), ("by_hand", by_hand)] {
                for (days, &count) in EXPIRING_WITHIN_DAYS.into_iter().zip(counts) {
                    let within = KeyValue::new("within", format!("{days}d"));
                    observer.observe(count, &[within, KeyValue::new("renewal", renewal)]);
                }
            }
        });
        let says = "Certificates due for renewal for more than an hour, with nothing under way";
        self.gauge(meter, "countersign.renewals.overdue", says, |gauges, observer| {
            observer.observe(gauges.overdue_renewals, &[]);
        });
        let says = "When a scheduled job last succeeded, in seconds since 1970";
        self.seconds(meter, "countersign.scheduled.last_success.timestamp", says, |gauges, observer| {
            // The kinds are a closed set by the CHECK of `jobs.kind`.
            for (kind, at) in &gauges.last_successes {
                observer.observe(*at, &[KeyValue::new("kind", kind.clone())]);
            }
        });
        let says = "For how long the CA must not be called, because it limits our rate; 0: it may be";
        self.seconds(meter, "countersign.acme.hold", says, |gauges, observer| {
            observer.observe(gauges.held_secs, &[]);
        });
    }

    fn gauge(
        &self,
        meter: &Meter,
        name: &'static str,
        says: &'static str,
        show: impl Fn(&Gauges, &dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        let measured = self.clone();
        let builder = meter.u64_observable_gauge(name).with_description(says);
        builder
            .with_callback(move |observer| {
                if let Some(gauges) = &*measured.locked() {
                    show(gauges, observer);
                }
            })
            .build();
    }

    fn seconds(
        &self,
        meter: &Meter,
        name: &'static str,
        says: &'static str,
        show: impl Fn(&Gauges, &dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        let measured = self.clone();
        let builder = meter.f64_observable_gauge(name).with_description(says).with_unit("s");
        builder
            .with_callback(move |observer| {
                if let Some(gauges) = &*measured.locked() {
                    show(gauges, observer);
                }
            })
            .build();
    }
}

#[cfg(test)]
mod tests;
