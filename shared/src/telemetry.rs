//! What a process says of itself: logs, metrics, spans, and its last words.
//!
//! Logs are one line an event on standard error, JSON for machines, plain text on a terminal. Metrics are scraped, and pushed with
//! the spans where a collector is set.

pub mod labels;
pub mod metrics;
mod otlp;
pub mod spans;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SdkTracerProvider};
use prometheus::{Registry, TextEncoder};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{CollectorArgs, LogArgs, LogFormat};

pub use otlp::SetupError as PushError;

/// For what is not pushed yet when a process stops. A collector that is away must not delay that.
const PUSH_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("LOG_LEVEL cannot be understood")]
    Log(#[from] ParseError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("metrics cannot be collected")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// The metrics and spans of this process.
pub struct Telemetry {
    registry: Registry,
    meters: SdkMeterProvider,
    /// None where no collector is set.
    tracers: Option<SdkTracerProvider>,
}

/// The metrics as Prometheus reads them. Cheap to clone.
#[derive(Clone)]
pub struct Exposition(Registry);

impl Exposition {
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    /// Asks nobody.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics cannot be written; this is a bug");
            String::new()
        })
    }
}

impl Telemetry {
    /// Starts logs, metrics and spans for this process, in the runtime; `program` is what it is called where nothing else is set.
    pub fn start(program: &'static str, log: &LogArgs, collector: &CollectorArgs) -> Result<Self, StartError> {
        start_logging(log)?;
        let registry = Registry::new();
        // Without what the scrape itself adds as job and instance.
        let scraped = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()?;
        let resource = Resource::builder()
            .with_service_name(collector.otel_service_name.clone().unwrap_or_else(|| program.to_owned()))
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                // Replicas push under one name.
                KeyValue::new("service.instance.id", RandomIdGenerator::default().new_trace_id().to_string()),
            ])
            .build();
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(scraped);
        let mut tracers = None;
        if let Some(collector) = collector.collector().map_err(PushError::from)? {
            let (with_push, pushes) = otlp::push(&collector, &resource, meters)?;
            meters = with_push;
            spans::install(pushes.clone());
            tracers = Some(pushes);
        }
        let meters = meters.build();
        metrics::install(meters.clone());
        Ok(Self { registry, meters, tracers })
    }

    pub fn exposition(&self) -> Exposition {
        Exposition(self.registry.clone())
    }

    /// Pushes what is left, at most for 3 s.
    pub async fn finish(self) {
        let Some(tracers) = self.tracers else { return };
        let (done, finished) = oneshot::channel();
        // Not in the runtime, which would wait for it however long it takes.
        std::thread::spawn(move || {
            // Whatever fails has been warned of.
            let _ = tracers.shutdown_with_timeout(PUSH_WITHIN / 2);
            let _ = self.meters.shutdown();
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(PUSH_WITHIN, finished).await;
    }
}

fn start_logging(args: &LogArgs) -> Result<(), ParseError> {
    // What OpenTelemetry says of itself is said by `otlp`, less often.
    let filter = EnvFilter::builder().parse(format!("opentelemetry=off,{}", args.log_level))?;
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    // A log that cannot be written, on a full disk for example, must not end the process.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(true).init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
    log_panics();
    Ok(())
}

/// A panic becomes a log line like any other, with its place but without its message: a message may quote what was
/// being worked on.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked; this is a bug");
    }));
}

/// The last words of a process that cannot start or go on: a line of log, or plain text where logging has not begun.
pub fn report_fatal(program: &str, error: &(dyn std::error::Error + 'static)) {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{program} ends: {}", chain(error));
    } else {
        eprintln!("{program}: {}", chain(error));
    }
}

/// The chain of an error's causes in one line, for the place where it is handled.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some libraries repeat their source.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
