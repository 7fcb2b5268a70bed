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

use crate::serve::{self, Until};
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

#[derive(Clone)]
struct Probed {
    pool: PgPool,
    started: Started,
    leaving: CancellationToken,
}

/// `GET /healthz` (the process answers) and `GET /readyz` (it has started, is not `leaving`, and the database answers
/// and has the right schema).
pub fn router(pool: PgPool, started: Started, leaving: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .route("/readyz", get(ready))
        .with_state(Probed { pool, started, leaving })
}

/// Serves until it is dropped: probes are answered as long as the process has something to finish.
pub async fn serve(listener: TcpListener, router: Router) {
    let never = CancellationToken::new();
    let until = Until { leaving: never.clone(), stop: never, grace: READY_TIMEOUT };
    serve::serve(listener, router, MAX_CONNECTIONS, until).await;
}

async fn ready(State(Probed { pool, started, leaving }): State<Probed>) -> (StatusCode, Json<Value>) {
    let check = async {
        if leaving.is_cancelled() {
            return Err("stopping".to_owned());
        }
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
