//! The table of routes, and what every request passes through. Read this first.

use std::any::Any;
use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use countersign_shared::config::Secret;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{self, BearerToken};
use crate::lifecycle::{App, error::ApiError, handlers};
use crate::request_id;

pub(crate) fn router(app: Arc<App>, auth_token: Option<Secret>) -> Router {
    let token = auth_token.map(|token| Arc::new(BearerToken::new(&token)));
    // On each method rather than on the router, so that an unknown path is 404 and a wrong method 405 without a token.
    let guarded = |methods: MethodRouter<Arc<App>>| match &token {
        Some(token) => methods.route_layer(middleware::from_fn_with_state(Arc::clone(token), auth::require)),
        None => methods,
    };
    Router::new()
        .route("/domains", guarded(post(handlers::register)))
        .route("/domains/{id}", guarded(get(handlers::fetch).delete(handlers::delete)))
        .route("/domains/{id}/verify", guarded(post(handlers::verify)))
        .route("/domains/{id}/issue-certificate", guarded(post(handlers::issue)))
        .route("/domains/{id}/check", guarded(post(handlers::check)))
        .route("/domains/{id}/certificate", guarded(get(handlers::certificate)))
        .fallback(async || ApiError::NotFound("no such route"))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(request_id::assign_and_log))
        .with_state(app)
}

/// The panic itself is logged by the hook in `telemetry`.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::Internal("an internal error".to_owned()).into_response()
}
