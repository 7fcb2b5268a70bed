//! Every request has an id: on its answer, on every log line, and on the jobs it enqueued.

use std::convert::Infallible;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use countersign_shared::model::ids::hex;
use countersign_shared::store::jobs::Cause;
use countersign_shared::telemetry::{metrics, spans};
use tracing::Instrument as _;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// 1–128 characters of `A–Z a–z 0–9 . _ -`, taken from the request or made here.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(String);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// For the jobs that the request enqueues or wakes.
    pub(crate) fn cause(&self) -> Cause<'_> {
        spans::cause(&self.0)
    }

    fn of(request: &Request) -> Self {
        let inbound = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        Self(inbound.map_or_else(|| hex(&rand::random::<[u8; 16]>()), ToOwned::to_owned))
    }
}

fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().expect("assign_and_log runs before every handler"))
    }
}

/// Gives the request its id and its span, writes its one line of log, and counts it.
pub(crate) async fn assign_and_log(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    request.extensions_mut().insert(id.clone());

    let span = tracing::info_span!("request", request.id = id.as_str());
    let asked = spans::Asked {
        method: method.as_str(),
        route: &route,
        request_id: id.as_str(),
        traceparent: traceparent.as_deref(),
    };
    let answer = next.run(request).instrument(span.clone());
    let mut response = spans::request(&asked, answer, |response: &Response| response.status().as_u16()).await;

    let took = started.elapsed();
    metrics::http_request(method.as_str(), &route, response.status().as_u16(), took);
    let duration_ms = took.as_millis() as u64;
    span.in_scope(|| {
        tracing::info!(%method, route, status = response.status().as_u16(), duration_ms, "answered");
    });
    let header = HeaderValue::from_str(id.as_str()).expect("a sane id is a valid header value");
    response.headers_mut().insert(HEADER, header);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_sane_inbound_id_is_kept_and_any_other_replaced() {
        let id_of = |inbound: &str| {
            let request = Request::builder().header(HEADER, inbound).body(Body::empty()).unwrap();
            RequestId::of(&request).0
        };
        assert_eq!(id_of("Trace_1.a-b"), "Trace_1.a-b");
        for insane in ["", "a b", "a\tb", "ü", &"x".repeat(129), "<script>"] {
            assert_eq!(id_of(insane).len(), 32, "{insane}");
        }
    }
}
