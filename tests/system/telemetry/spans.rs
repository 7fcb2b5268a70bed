//! An order in a collector: the request, the runs that advanced it, the links between them, and nothing else.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use countersign_tests::stack::{Stack, StackBuilder};

use super::Scrape;
use super::collector::{Collector, Got};
use crate::facts::SOON;

const TOKEN: &str = "canary-token-8hQ2vXw4ZrTn6YcB";
const PASSWORD: &str = "canary-password-Lk3mNs9dGf5pJt7a";
const KEY: &str = "canary-key-Wb4xRe2uVq8z";

/// Kinds of spans in OTLP.
const SERVER: i32 = 2;
const CONSUMER: i32 = 5;

/// A stack that pushes to an address, the spans soon.
fn pushing(url: &str) -> StackBuilder {
    let builder = Stack::builder().setting("OTEL_EXPORTER_OTLP_ENDPOINT", url);
    builder.setting("OTEL_BSP_SCHEDULE_DELAY", "100")
}

/// The runs of an order's job, with the names of their steps and requests to the CA.
fn runs(spans: &[Got], order_id: &str) -> Vec<(Got, Vec<String>)> {
    let of_order = |got: &&Got| {
        got.span.name == "run poll-challenge" && got.attributes().get("order.id").is_some_and(|id| id == order_id)
    };
    let parts = |run: &Got| {
        let below = spans.iter().filter(|got| got.span.parent_span_id == run.span.span_id);
        let below = below.inspect(|part| assert_eq!(part.span.trace_id, run.span.trace_id));
        below.map(|part| part.span.name.clone()).collect()
    };
    spans.iter().filter(of_order).map(|run| (run.clone(), parts(run))).collect()
}

#[tokio::test]
async fn a_collector_gets_the_request_and_the_runs_that_advanced_the_order_linked_to_it() {
    let collector = Collector::start().await;
    let stack = pushing(&collector.url())
        .setting("OTEL_EXPORTER_OTLP_HEADERS", format!("api-key={KEY}"))
        .setting("AUTH_TOKEN", TOKEN)
        .database_password(PASSWORD)
        .setting("LOG_LEVEL", "trace")
        .start()
        .await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    // Polls that find nothing.
    let waited = [("kind", "poll-challenge"), ("outcome", "waited")];
    let has_waited = async || {
        let scrape = Scrape::of(&stack, "worker-1").await;
        (scrape.value("countersign_job_outcomes_total", &waited)? >= 5.0).then_some(())
    };
    stack.wait_until("the worker has looked five times", SOON, has_waited).await;
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    stack.finish().await;
    let is_cleaned_up = async || {
        let runs = runs(&collector.spans(), &order.order_id);
        runs.iter().any(|(_, parts)| parts.contains(&"clean_up".to_owned())).then_some(runs)
    };
    let runs = stack.wait_until("the collector has the last run", SOON, is_cleaned_up).await;

    let spans = collector.spans();
    let requests: Vec<_> = spans.iter().filter(|got| got.span.name == "POST /domains/{id}/issue-certificate").collect();
    let [request] = requests[..] else { stack.fail(&format!("not one request: {requests:?}")) };
    assert_eq!((request.service.as_str(), request.span.kind), ("countersign-api", SERVER));
    assert_eq!(request.attributes()["http.response.status_code"], "202");
    let mut steps = BTreeSet::new();
    for (run, parts) in &runs {
        assert_eq!((run.service.as_str(), run.span.kind), ("countersign-worker", CONSUMER));
        assert_eq!(run.span.parent_span_id, Vec::<u8>::new(), "a run is a trace of its own");
        let [link] = &run.span.links[..] else { stack.fail(&format!("not one link: {run:?}")) };
        assert_eq!((&link.trace_id, &link.span_id), (&request.span.trace_id, &request.span.span_id));
        assert_eq!(run.attributes()["request.id"], request.attributes()["request.id"]);
        // Whoever waits after a step that led on has begun another one; a poll that found nothing is one step.
        let begun = parts.iter().filter(|part| !part.contains(' ')).count();
        let has_waited = run.attributes()["job.outcome"] == "waited";
        assert!(!has_waited || begun >= 2, "a poll that found nothing: {run:?} {parts:?}");
        steps.extend(parts.iter().cloned());
    }
    for step in [
        "place",
        "confirm",
        "respond",
        "authorize",
        "prepare",
        "finalize",
        "download",
        "clean_up",
        "POST new_order",
        "POST challenge",
        "POST finalize",
        "POST certificate",
    ] {
        assert!(steps.contains(step), "{step} is not among {steps:?}");
    }
    // What is left is pushed before a process ends.
    for replica in ["api-1", "worker-1"] {
        assert!(stack.terminate(replica, SOON).await.success());
    }
    let metrics = collector.metrics();
    for (name, service) in [
        ("countersign.orders.ended", "countersign-worker"),
        ("countersign.job.outcomes", "countersign-worker"),
        ("http.server.request.duration", "countersign-api"),
    ] {
        assert!(metrics.contains(&(name.to_owned(), service.to_owned())), "{name} of {service}: {metrics:?}");
    }
    let pushes = collector.pushes();
    assert!(pushes.iter().all(|(_, key)| key == KEY), "{pushes:?}");

    let everything = collector.everything();
    assert!(everything.contains("issue-certificate"), "what is looked for would be found");
    let values: Vec<String> =
        sqlx::query_scalar("SELECT private_key_pem FROM certificates").fetch_all(stack.pool()).await.unwrap();
    assert_eq!(values.len(), 1);
    let block = values[0].lines().nth(3).unwrap();
    for secret in [TOKEN, PASSWORD, KEY, "PRIVATE KEY", block, order.expected_txt_value.as_str()] {
        assert!(!everything.contains(secret), "{secret} is pushed");
    }
    for process in ["api-1", "worker-1"] {
        assert!(!stack.log(process).contains(KEY), "{process} logs the collector's key");
    }
}

#[tokio::test]
async fn a_callers_span_is_linked_and_not_continued() {
    let collector = Collector::start().await;
    let stack = pushing(&collector.url()).workers(0).start().await;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = stack.api().request(reqwest::Method::GET, "/domains");
    stack.api().send(request.header("traceparent", format!("00-{trace}-{span}-00"))).await.unwrap().expect(200);
    let found = async || collector.spans().into_iter().find(|got| got.span.name == "GET /domains");
    let got = stack.wait_until("the collector has the request", SOON, found).await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_ne!(hex(&got.span.trace_id), trace);
    let [link] = &got.span.links[..] else { panic!("{got:?}") };
    assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (trace.to_owned(), span.to_owned()));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_warning_and_no_time() {
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let stack = pushing(&format!("http://127.0.0.1:{port}")).start().await;
    stack.active_domain("shop.example.com").await;
    stack.finish().await;
    let lost = |replica: &str| stack.log(replica).matches("telemetry is lost").count();
    let both_warn = async || (lost("api-1") > 0 && lost("worker-1") > 0).then_some(());
    stack.wait_until("both processes warn", SOON, both_warn).await;
    for replica in ["api-1", "worker-1"] {
        let began = Instant::now();
        assert!(stack.terminate(replica, SOON).await.success());
        assert!(began.elapsed() < Duration::from_secs(8), "{replica} took {:?} to stop", began.elapsed());
        assert_eq!(lost(replica), 1, "{replica} warns once a minute");
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_no_stop() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stack = pushing(&format!("http://{}", silent.local_addr().unwrap())).start().await;
    stack.active_domain("shop.example.com").await;
    stack.finish().await;
    for replica in ["api-1", "worker-1"] {
        let began = Instant::now();
        assert!(stack.terminate(replica, SOON).await.success());
        assert!(began.elapsed() < Duration::from_secs(8), "{replica} took {:?} to stop", began.elapsed());
    }
}
