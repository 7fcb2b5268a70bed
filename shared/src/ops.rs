//! The operators' listener that every process has: is it alive, is it ready. Never on the public listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve;
use crate::store::PgPool;
use crate::store::schema;
use crate::telemetry::chain;

const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Operators, their scripts, and probes.
pub const MAX_CONNECTIONS: usize = 256;

/// Set once the process has started: before that it is alive, but not ready.
#[derive(Clone, Default)]
pub struct Started(Arc<AtomicBool>);

impl Started {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// `GET /healthz` (the process answers) and `GET /readyz` (it has started, and the database answers and has the right
/// schema).
pub fn router(pool: PgPool, started: Started) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .route("/readyz", get(ready))
        .with_state((pool, started))
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    serve::serve(listener, router, MAX_CONNECTIONS, stop, READY_TIMEOUT).await;
    Ok(())
}

async fn ready(State((pool, started)): State<(PgPool, Started)>) -> (StatusCode, Json<Value>) {
    let check = async {
        let mut conn = pool.acquire().await.map_err(|error| chain(&error))?;
        schema::check_while_running(&mut conn).await.map_err(|error| chain(&error))
    };
    let reason = match tokio::time::timeout(READY_TIMEOUT, check).await {
        Ok(Ok(())) if started.is_set() => return (StatusCode::OK, Json(json!({ "status": "ready" }))),
        Ok(Ok(())) => "still starting".to_owned(),
        Ok(Err(reason)) => reason,
        Err(_) => "the database does not answer in time".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
}
