//! A collector: takes what is pushed to it by OTLP over HTTP, and shows what it got.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) type Attributes = BTreeMap<String, String>;

/// A span and the process that it is of.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) service: String,
    pub(super) span: Span,
}

impl Got {
    pub(super) fn attributes(&self) -> Attributes {
        attributes(&self.span.attributes)
    }
}

#[derive(Clone, Default)]
struct State {
    spans: Vec<Got>,
    /// Name, and the process that it is of.
    metrics: Vec<(String, String)>,
    /// Of each push: path, and the header `api-key`.
    pushes: Vec<(String, String)>,
    /// All that came, as text that a search finds things in.
    everything: String,
}

/// A running collector. It ends when it is dropped.
pub(super) struct Collector {
    port: u16,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Arc<Mutex<State>> = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&state)));
        Self { port, state, _serving: serving }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn spans(&self) -> Vec<Got> {
        self.state().spans
    }

    pub(super) fn metrics(&self) -> Vec<(String, String)> {
        self.state().metrics
    }

    pub(super) fn pushes(&self) -> Vec<(String, String)> {
        self.state().pushes
    }

    pub(super) fn everything(&self) -> String {
        self.state().everything
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| take(request, Arc::clone(&state)));
            // An error is what hanging up looks like from here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn take(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(Response::default()) };
    let path = head.uri.path().to_owned();
    let key = head.headers.get("api-key").map(|key| key.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.pushes.push((path.clone(), key));
    match path.as_str() {
        "/v1/traces" => {
            let pushed = ExportTraceServiceRequest::decode(body.to_bytes()).unwrap();
            state.everything.push_str(&format!("{pushed:?}\n"));
            for of_resource in pushed.resource_spans {
                let service = service(&of_resource.resource.unwrap_or_default().attributes);
                let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
                state.spans.extend(spans.map(|span| Got { service: service.clone(), span }));
            }
        }
        "/v1/metrics" => {
            let pushed = ExportMetricsServiceRequest::decode(body.to_bytes()).unwrap();
            state.everything.push_str(&format!("{pushed:?}\n"));
            for of_resource in pushed.resource_metrics {
                let service = service(&of_resource.resource.unwrap_or_default().attributes);
                let metrics = of_resource.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics);
                state.metrics.extend(metrics.map(|metric| (metric.name, service.clone())));
            }
        }
        other => panic!("nothing is pushed to {other}"),
    }
    Ok(Response::default())
}

fn service(resource: &[KeyValue]) -> String {
    let attributes = attributes(resource);
    assert!(attributes.contains_key("service.instance.id"), "{attributes:?}");
    attributes["service.name"].clone()
}

fn attributes(attributes: &[KeyValue]) -> Attributes {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}
