//! The operators' listener that every process has: is it alive, is it ready, and its metrics. Never on the public listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve::{self, Until};
use crate::store::Pool;
use crate::store::schema::{self, SchemaError};
use crate::telemetry::{Exposition, chain, metrics};

const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Operators, their scripts, and probes.
const MAX_CONNECTIONS: usize = 256;
/// How old `countersign.ready` becomes.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
    pool: Pool,
    started: Started,
    leaving: CancellationToken,
}

/// `GET /healthz` (the process answers), `GET /readyz` (it has started, is not `leaving`, and the database answers and has the right
/// schema) and `GET /metrics`, which asks nobody. All without a token: they say nothing of customers.
pub fn router(pool: Pool, started: Started, leaving: CancellationToken, exposition: Exposition) -> Router {
    let text = [(CONTENT_TYPE, Exposition::CONTENT_TYPE)];
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .route("/readyz", get(ready))
        .route("/metrics", get(async move || (text, exposition.text())))
        .with_state(Probed { pool, started, leaving })
}

/// Serves until it is dropped: probes are answered as long as the process has something to finish.
pub async fn serve(listener: TcpListener, router: Router) {
    let never = CancellationToken::new();
    let until = Until { leaving: never.clone(), stop: never, grace: READY_TIMEOUT };
    serve::serve(listener, router, MAX_CONNECTIONS, until).await;
}

/// Keeps the metrics of readiness true until the process is `leaving`: a scrape must not wait for the database.
pub async fn watch(pool: Pool, started: Started, leaving: CancellationToken) {
    let probed = Probed { pool, started, leaving };
    // Once more when it leaves: the last word is that it is not ready.
    while why_not_ready(&probed).await.is_none() || !probed.leaving.is_cancelled() {
        probed.leaving.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
    }
}

async fn ready(State(probed): State<Probed>) -> (StatusCode, Json<Value>) {
    match why_not_ready(&probed).await {
        None => (StatusCode::OK, Json(json!({ "status": "ready" }))),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason }))),
    }
}

/// Recorded as metrics, too.
async fn why_not_ready(Probed { pool, started, leaving }: &Probed) -> Option<String> {
    let check = async {
        let mut conn = pool.acquire().await.map_err(SchemaError::Unreadable)?;
        schema::check_while_running(&mut conn).await
    };
    let checked = tokio::time::timeout(READY_TIMEOUT, check).await;
    let schema_matches = match &checked {
        Ok(Ok(())) => Some(true),
        Ok(Err(SchemaError::Unreadable(_))) | Err(_) => None,
        Ok(Err(_)) => Some(false),
    };
    let reason = match checked {
        _ if leaving.is_cancelled() => Some("stopping".to_owned()),
        Ok(Ok(())) if started.is_set() => None,
        Ok(Ok(())) => Some("still starting".to_owned()),
        Ok(Err(SchemaError::Unreadable(error))) => Some(chain(&error)),
        Ok(Err(error)) => Some(chain(&error)),
        Err(_) => Some("the database does not answer in time".to_owned()),
    };
    metrics::readiness(reason.is_none(), schema_matches);
    reason
}
