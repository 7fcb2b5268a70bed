//! The operators' listener that every process has: is it alive, is it ready. Never on the public listener.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::store::PgPool;
use crate::store::schema;
use crate::telemetry::chain;

const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /healthz` (the process answers) and `GET /readyz` (the database answers and has the right schema).
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .route("/readyz", get(ready))
        .with_state(pool)
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(pool): State<PgPool>) -> (StatusCode, Json<Value>) {
    let check = async {
        let mut conn = pool.acquire().await.map_err(|error| chain(&error))?;
        schema::check(&mut conn).await.map_err(|error| chain(&error))
    };
    let reason = match tokio::time::timeout(READY_TIMEOUT, check).await {
        Ok(Ok(())) => return (StatusCode::OK, Json(json!({ "status": "ready" }))),
        Ok(Err(reason)) => reason,
        Err(_) => "the database does not answer in time".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
}
