//! What pushes spans and metrics to a collector: OTLP over HTTP, protobuf.
//!
//! The exporters run on threads of their own, with bounded queues. A collector that is away costs one warning a minute and what
//! finds no place in the queue; it never holds up work.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::MeterProviderBuilder;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;

use super::chain;
use crate::config::{Collector, ConfigError};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const WARN_EVERY: Duration = Duration::from_secs(60);
/// An answer says nothing that is read.
const LARGEST_ANSWER: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Setting(#[from] ConfigError),
    #[error("the client for OTEL_EXPORTER_OTLP_ENDPOINT cannot be made")]
    Client(#[source] reqwest::Error),
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used")]
    Exporter(#[from] ExporterBuildError),
}

/// Adds the push to what is scraped, and makes what exports spans.
pub(super) fn push(
    collector: &Collector,
    resource: &Resource,
    meters: MeterProviderBuilder,
) -> Result<(MeterProviderBuilder, SdkTracerProvider), SetupError> {
    let sender: Arc<dyn HttpClient> = Arc::new(Sender::new()?);
    let metrics = MetricExporter::builder()
        .with_http()
        .with_shared_http_client(Arc::clone(&sender))
        .with_endpoint(collector.url("v1/metrics"))
        .with_protocol(Protocol::HttpBinary)
        .with_headers(collector.headers())
        .with_timeout(ANSWER_WITHIN)
        .build()?;
    let spans = SpanExporter::builder()
        .with_http()
        .with_shared_http_client(sender)
        .with_endpoint(collector.url("v1/traces"))
        .with_protocol(Protocol::HttpBinary)
        .with_headers(collector.headers())
        .with_timeout(ANSWER_WITHIN)
        .build()?;
    let tracers = SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build();
    Ok((meters.with_periodic_exporter(metrics), tracers))
}

/// The HTTP client of the exporters. Its requests run in the runtime, whatever thread sends them.
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
    silence: Mutex<Silence>,
}

/// What is kept back of the warnings.
#[derive(Default)]
struct Silence {
    warned_at: Option<Instant>,
    is_failing: bool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    fn new() -> Result<Self, SetupError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            // Its headers are the collector's alone.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(SetupError::Client)?;
        Ok(Self { http, runtime: Handle::current(), silence: Mutex::default() })
    }

    fn report(&self, failure: Option<&str>) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = failure else {
            if std::mem::take(&mut silence.is_failing) {
                tracing::info!("the collector takes telemetry again");
            }
            return;
        };
        silence.is_failing = true;
        if silence.warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            silence.warned_at = Some(Instant::now());
            tracing::warn!(error = failure, "telemetry is lost: OTEL_EXPORTER_OTLP_ENDPOINT does not take it");
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(send(http, request)).await.map_err(HttpError::from).and_then(|sent| sent);
        match &sent {
            Ok(answer) if answer.status().is_success() => self.report(None),
            Ok(answer) => self.report(Some(&format!("HTTP {}", answer.status().as_u16()))),
            Err(error) => self.report(Some(&chain(&**error))),
        }
        sent
    }
}

async fn send(http: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = request.into_parts();
    let request = http.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
    // Without the URL: it may hold a password.
    let mut answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let mut read = 0;
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        read += chunk.len() as u64;
        if read > LARGEST_ANSWER {
            break;
        }
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_collector_that_is_away_is_warned_of_once_a_minute() {
        let sender = Sender::new().unwrap();
        let warned_at = || sender.silence.lock().unwrap().warned_at;
        sender.report(Some("connection refused"));
        let first = warned_at();
        assert!(first.is_some());
        sender.report(Some("connection refused"));
        assert_eq!(warned_at(), first);
        sender.report(None);
        assert!(!sender.silence.lock().unwrap().is_failing);
        sender.report(Some("connection refused"));
        assert_eq!(warned_at(), first, "coming and going is not told each time");
    }
}
