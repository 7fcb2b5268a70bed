//! The API's part of the operators' listener: orders and jobs, seen and retried. Never on the public listener.

mod jobs;
mod orders;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use countersign_shared::config::Secret;
use countersign_shared::operator::Deed;
use countersign_shared::store::PgPool;
use serde::Serialize;

use crate::lifecycle::error::ApiError;
use crate::limits::Places;
use crate::routes;

/// Operators, their scripts, and probes.
pub(crate) const MAX_CONNECTIONS: usize = 256;
const MAX_REQUESTS: usize = 16;

pub(crate) fn router(pool: PgPool, token: Option<Secret>) -> Router {
    let guarded = routes::guard(token);
    let routes = Router::new()
        .route("/orders", guarded(get(orders::list)))
        .route("/orders/{id}", guarded(get(orders::show)))
        .route("/orders/{id}/retry", guarded(post(orders::retry)))
        .route("/jobs", guarded(get(jobs::list)))
        .route("/jobs/{id}/retry", guarded(post(jobs::retry)))
        .route("/jobs/retry", guarded(post(jobs::retry_many)))
        .with_state(Arc::new(pool));
    routes::layered(routes, Places::new(MAX_REQUESTS))
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
