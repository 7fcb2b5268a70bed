//! The table of routes, and what every request passes through. Read this first.

use std::sync::Arc;

use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use countersign_shared::config::Secret;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{self, BearerToken};
use crate::lifecycle::{App, error::ApiError, handlers};
use crate::limits::{self, Places, Say};
use crate::settings::PublicApi;
use crate::v2::{self, V2};
use crate::{idempotency, openapi, request_id};

/// The public listener's: `/domains` and `/v2`, each with its own errors, as far as they are wanted.
pub(crate) fn public(
    wanted: &[PublicApi],
    app: Arc<App>,
    auth_token: Option<Secret>,
    v2: Arc<V2>,
    places: Places,
) -> Router {
    let mut routes = Router::new().route("/openapi.json", get(openapi::json)).route("/docs", get(openapi::page));
    if wanted.contains(&PublicApi::Domains) {
        routes = routes.merge(domains(app, auth_token));
    }
    let routes = routes
        .fallback(async || ApiError::NotFound("no such route"))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let routes = layered(routes, places.clone(), IntoResponse::into_response);
    if wanted.contains(&PublicApi::V2) { routes.nest_service("/v2", v2::router(v2, places)) } else { routes }
}

fn domains(app: Arc<App>, auth_token: Option<Secret>) -> Router {
    let guarded = guard(auth_token);
    let keyed = (app.pool.clone(), IntoResponse::into_response as Say);
    let idempotent = |methods: MethodRouter<Arc<App>>| {
        methods.route_layer(middleware::from_fn_with_state(keyed.clone(), idempotency::apply))
    };
    Router::new()
        .route("/domains", guarded(idempotent(get(handlers::list).post(handlers::register))))
        .route("/domains/{id}", guarded(get(handlers::fetch).delete(handlers::delete)))
        .route("/domains/{id}/verify", guarded(post(handlers::verify)))
        .route("/domains/{id}/issue-certificate", guarded(idempotent(post(handlers::issue))))
        .route("/domains/{id}/check", guarded(post(handlers::check)))
        .route("/domains/{id}/retry", guarded(idempotent(post(handlers::retry))))
        .route("/domains/{id}/diagnosis", guarded(get(handlers::diagnosis)))
        .route("/domains/{id}/certificate", guarded(get(handlers::certificate)))
        .with_state(app)
}

/// Asks for the token, if there is one: on each method rather than on the router, so that an unknown path is 404 and a wrong
/// method 405 without it.
pub(crate) fn guard<S: Clone + Send + Sync + 'static>(
    token: Option<Secret>,
) -> impl Fn(MethodRouter<S>) -> MethodRouter<S> {
    let token = token.map(|token| Arc::new(BearerToken::new(&token)));
    move |methods| match &token {
        Some(token) => methods.route_layer(middleware::from_fn_with_state(Arc::clone(token), auth::require)),
        None => methods,
    }
}

/// What every request passes through, from the last line to the first. `say`: an error of these layers, in the words of the
/// surface.
pub(crate) fn layered(routes: Router, places: Places, say: Say) -> Router {
    routes
        // The panic itself is logged by the hook in `telemetry`.
        .layer(CatchPanicLayer::custom(move |_| say(ApiError::Internal("an internal error".to_owned()))))
        .layer(middleware::from_fn_with_state((places, say), limits::hold))
        .layer(middleware::from_fn(request_id::assign_and_log))
}
