//! What every answer carries, whichever layer made it: how much of the hour is left, how long it took, and the character set of
//! its JSON.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::{V2, rates};

const RUNTIME: HeaderName = HeaderName::from_static("x-runtime");

pub(super) async fn add(State(v2): State<Arc<V2>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut response = next.run(request).await;
    // What was refused before its caller was known. Clients fail over an answer without these headers.
    if !response.headers().contains_key(rates::LIMIT) {
        response = v2.rates.nobodys().on(response);
    }
    let headers = response.headers_mut();
    if headers.get(CONTENT_TYPE).is_some_and(|media| media == "application/json") {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    let seconds = format!("{:.6}", started.elapsed().as_secs_f64());
    headers.insert(RUNTIME, HeaderValue::from_str(&seconds).expect("digits and a dot are a header value"));
    response
}
