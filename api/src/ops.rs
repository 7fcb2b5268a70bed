//! The API's part of the operators' listener: orders and jobs, seen and retried. Never on the public listener.

mod jobs;
mod orders;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use countersign_shared::config::Secret;
use countersign_shared::operator::Deed;
use countersign_shared::store::Pool;
use serde::Serialize;

use crate::lifecycle::error::ApiError;
use crate::limits::Places;
use crate::routes;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Few: their connections are those that customers' requests need.
const MAX_REQUESTS: usize = 4;

pub(crate) fn router(pool: Pool, token: Option<Secret>) -> Router {
    let asks_for_token = token.is_some();
    let guarded = routes::guard(token);
    let routes = Router::new()
        .route("/orders", guarded(get(orders::list)))
        .route("/orders/{id}", guarded(get(orders::show)))
        .route("/orders/{id}/retry", guarded(post(orders::retry)))
        .route("/jobs", guarded(get(jobs::list)))
        .route("/jobs/{id}/retry", guarded(post(jobs::retry)))
        .route("/jobs/retry", guarded(post(jobs::retry_many)))
        .layer(middleware::from_fn_with_state(asks_for_token, refuse_pages))
        .fallback(async || ApiError::NotFound("no such route"))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(Arc::new(pool));
    routes::layered(routes, Places::new(MAX_REQUESTS), IntoResponse::into_response)
}

/// A page that an operator's browser shows must not retry or read anything here: neither by a request across sites, nor, where
/// no token is asked for, under a name of its own that leads to this address.
async fn refuse_pages(State(asks_for_token): State<bool>, request: Request, next: Next) -> Result<Response, ApiError> {
    match why_refused(request.headers(), asks_for_token) {
        Some(why) => Err(ApiError::Forbidden(why)),
        None => Ok(next.run(request).await),
    }
}

fn why_refused(headers: &HeaderMap, asks_for_token: bool) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_cross_site = text(SEC_FETCH_SITE).is_some_and(|site| !["none", "same-origin"].contains(&site));
    if text(ORIGIN).is_some() || is_cross_site {
        return Some("requests of web pages are refused");
    }
    if !asks_for_token && !text(HOST).is_none_or(is_address_or_localhost) {
        return Some("without ADMIN_TOKEN only an IP address or localhost may be asked for");
    }
    None
}

fn is_address_or_localhost(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// What became of one order or job: 202 `{"id", "result", …}`, 404 or 409.
#[derive(Serialize)]
struct Done<T> {
    id: T,
    #[serde(flatten)]
    deed: Deed,
}

fn answer<T>(id: T, deed: Deed, unknown: &'static str) -> Result<(StatusCode, Json<Done<T>>), ApiError> {
    match deed {
        Deed::Refused { reason } => Err(ApiError::Conflict(reason)),
        Deed::NotFound => Err(ApiError::NotFound(unknown)),
        deed => Ok((StatusCode::ACCEPTED, Json(Done { id, deed }))),
    }
}

fn bad_query(rejection: &QueryRejection) -> ApiError {
    ApiError::BadRequest(rejection.body_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_refused_and_so_is_a_name_where_no_token_is_asked_for() {
        let why = |name: &'static str, value: &'static str, asks_for_token| {
            let header = (HeaderName::from_static(name), axum::http::HeaderValue::from_static(value));
            why_refused(&HeaderMap::from_iter([header]), asks_for_token).is_some()
        };
        assert!(why("origin", "https://page.example", true) && why("origin", "null", false));
        assert!(why("sec-fetch-site", "cross-site", true) && !why("sec-fetch-site", "none", false));
        assert!(why("host", "page.example:9180", false) && !why("host", "admin.example.com", true));
        assert!(!why("host", "127.0.0.1:9180", false) && !why("accept", "*/*", false));
    }

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for good in ["127.0.0.1:9180", "127.0.0.1", "[::1]:9180", "[::1]", "localhost:9180", "192.0.2.1"] {
            assert!(is_address_or_localhost(good), "{good}");
        }
        for bad in ["attacker.example:9180", "localhost.attacker.example", "127.0.0.1.nip.io:9180", ""] {
            assert!(!is_address_or_localhost(bad), "{bad}");
        }
    }
}
