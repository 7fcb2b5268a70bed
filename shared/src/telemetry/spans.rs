//! Spans: one for each request that the API answers, one for each run of a job that did something, with its steps and requests to
//! the CA as children. A run is a trace of its own, linked to the request that enqueued or last woke its job.
//!
//! A run that found nothing to do is no span: there are thousands of those for each that did something. So a run is put down while
//! it goes on, and becomes spans at its end. What goes into one is named here and nowhere else: never a message, never a secret.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    FutureExt as _, Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::labels::{AcmeResource, JobOutcome, http_method};
use crate::store::jobs::Cause;

const SCOPE: &str = "countersign";
/// W3C Trace Context, section 3.2.
const TRACEPARENT: &str = "traceparent";
/// Of one run; what goes beyond is counted in the metrics all the same.
const MOST_PARTS: usize = 64;

static IS_ON: AtomicBool = AtomicBool::new(false);

tokio::task_local! {
    static RUN: Arc<Mutex<Run>>;
}

/// From here on spans are exported.
pub(super) fn install(provider: SdkTracerProvider) {
    global::set_tracer_provider(provider);
    IS_ON.store(true, Ordering::Release);
}

fn is_on() -> bool {
    IS_ON.load(Ordering::Acquire)
}

/// What a job that is enqueued or woken here shall be linked to: the request that is being answered.
pub fn cause(request_id: &str) -> Cause<'_> {
    let mut carrier = HashMap::new();
    if is_on() {
        TraceContextPropagator::new().inject_context(&Context::current(), &mut carrier);
    }
    Cause { request_id, traceparent: carrier.remove(TRACEPARENT) }
}

/// The span that a `traceparent` names; None where it is not one.
fn named_by(traceparent: &str) -> Option<SpanContext> {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

fn links(traceparent: Option<&str>) -> Vec<Link> {
    traceparent.and_then(named_by).map(|span| Link::new(span, Vec::new(), 0)).into_iter().collect()
}

/// A request as it came.
pub struct Asked<'a> {
    pub method: &'a str,
    /// A template, such as `/domains/{id}`.
    pub route: &'a str,
    pub request_id: &'a str,
    /// The caller's own span. It is linked, not continued: whoever may call us must not decide what is traced here.
    pub traceparent: Option<&'a str>,
}

/// Answers a request in a span of its own. `status` is that of the answer.
pub async fn request<T>(asked: &Asked<'_>, answer: impl Future<Output = T>, status: impl FnOnce(&T) -> u16) -> T {
    if !is_on() {
        return answer.await;
    }
    let tracer = global::tracer(SCOPE);
    let method = http_method(asked.method);
    let span = tracer
        .span_builder(format!("{method} {}", asked.route))
        .with_kind(SpanKind::Server)
        .with_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", asked.route.to_owned()),
            KeyValue::new("request.id", asked.request_id.to_owned()),
        ])
        .with_links(links(asked.traceparent))
        .start_with_context(&tracer, &Context::new());
    let context = Context::new().with_span(span);
    let answer = answer.with_context(context.clone()).await;
    let status = status(&answer);
    let span = context.span();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
    span.end();
    answer
}

/// A run as it goes on.
struct Run {
    started: SystemTime,
    attributes: Vec<KeyValue>,
    parts: Vec<Part>,
    /// Whether it did something.
    is_told: bool,
    has_failed: bool,
}

/// What a run did on its way.
struct Part {
    name: String,
    kind: SpanKind,
    started: SystemTime,
    ended: SystemTime,
    attributes: Vec<KeyValue>,
    has_failed: bool,
}

/// A job as it was claimed.
pub struct Claimed<'a> {
    pub kind: &'static str,
    pub id: i64,
    pub attempts: i32,
    pub request_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

/// Runs a job. It becomes a span if something in it was worth it ([`tell`]), or if it ended otherwise than by waiting.
pub async fn run<T>(job: &Claimed<'_>, work: impl Future<Output = T>) -> T {
    if !is_on() {
        return work.await;
    }
    let run = Arc::new(Mutex::new(Run {
        started: SystemTime::now(),
        attributes: Vec::new(),
        parts: Vec::new(),
        is_told: false,
        has_failed: false,
    }));
    let result = RUN.scope(Arc::clone(&run), work).await;
    locked(&run).export(job);
    result
}

impl Run {
    fn export(&mut self, job: &Claimed<'_>) {
        if !self.is_told {
            return;
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.extend([
            KeyValue::new("job.kind", job.kind),
            KeyValue::new("job.id", job.id),
            KeyValue::new("job.attempt", i64::from(job.attempts)),
        ]);
        attributes.extend(job.request_id.map(|id| KeyValue::new("request.id", id.to_owned())));
        let tracer = global::tracer(SCOPE);
        let span = tracer
            .span_builder(format!("run {}", job.kind))
            .with_kind(SpanKind::Consumer)
            .with_start_time(self.started)
            .with_attributes(attributes)
            .with_links(links(job.traceparent))
            .start_with_context(&tracer, &Context::new());
        let context = Context::new().with_span(span);
        for part in self.parts.drain(..) {
            let builder = tracer.span_builder(part.name).with_kind(part.kind).with_start_time(part.started);
            let mut span = builder.with_attributes(part.attributes).start_with_context(&tracer, &context);
            if part.has_failed {
                span.set_status(Status::error(""));
            }
            span.end_with_timestamp(part.ended);
        }
        if self.has_failed {
            context.span().set_status(Status::error(""));
        }
        context.span().end();
    }
}

fn locked(run: &Mutex<Run>) -> MutexGuard<'_, Run> {
    // Telemetry only: whatever a panic may have left there.
    run.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_run(change: impl FnOnce(&mut Run)) {
    // Outside of a run, or with nobody to tell, there is nothing to do.
    let _ = RUN.try_with(|run| change(&mut locked(run)));
}

/// The run did something that is worth a span.
pub fn tell() {
    in_run(|run| run.is_told = true);
}

/// What the run is about.
pub fn about(name: &'static str, value: &str) {
    in_run(|run| run.attributes.push(KeyValue::new(name, value.to_owned())));
}

/// How the run ended.
pub(super) fn ended(outcome: JobOutcome) {
    in_run(|run| {
        run.attributes.push(KeyValue::new("job.outcome", <&'static str>::from(outcome)));
        run.is_told |= !matches!(outcome, JobOutcome::Waited | JobOutcome::Released);
        run.has_failed |=
            matches!(outcome, JobOutcome::Retried | JobOutcome::Parked | JobOutcome::Panicked | JobOutcome::Lost);
    });
}

/// The moment at which something begins that may become a part of the run.
#[derive(Clone, Copy)]
pub struct Began(SystemTime);

pub fn now() -> Began {
    Began(SystemTime::now())
}

/// A step of an order.
pub fn step(name: &'static str, began: Began, has_failed: bool) {
    part(Part {
        name: name.to_owned(),
        kind: SpanKind::Internal,
        started: began.0,
        ended: SystemTime::now(),
        attributes: Vec::new(),
        has_failed,
    });
}

/// One HTTP request to the CA; no status where no answer came.
pub fn acme_request(method: &str, resource: AcmeResource, status: Option<u16>, began: Began) {
    let name: &'static str = resource.into();
    let mut attributes =
        vec![KeyValue::new("http.request.method", http_method(method)), KeyValue::new("acme.resource", name)];
    attributes.extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
    part(Part {
        name: format!("{} {name}", http_method(method)),
        kind: SpanKind::Client,
        started: began.0,
        ended: SystemTime::now(),
        attributes,
        has_failed: status.is_none_or(|status| status >= 400),
    });
}

fn part(part: Part) {
    in_run(|run| {
        if run.parts.len() < MOST_PARTS {
            run.parts.push(part);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_names_a_span_and_anything_else_names_none() {
        let span = named_by("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.span_id().to_string(), "b7ad6b7169203331");
        for strange in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "\u{0}", "é"]
        {
            assert!(named_by(strange).is_none(), "{strange:?}");
            assert!(links(Some(strange)).is_empty());
        }
    }

    #[test]
    fn without_a_collector_nothing_is_traced() {
        assert_eq!(cause("request-1").traceparent, None);
    }
}
