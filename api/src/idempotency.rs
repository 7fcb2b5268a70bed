//! `Idempotency-Key`: a request that comes again with the same key is answered as it was the first time, and has no second
//! effect.
//!
//! Handlers keep their answer in the transaction of their effect ([`Idempotency::keep`]). An answer that waits for a worker is
//! kept here, with the answer: an API that dies before leaves the key to be freed by time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use countersign_shared::model::ids::hex;
use countersign_shared::store::api_tokens::Caller;
use countersign_shared::store::idempotency_keys::{self, Begun, KeyOf};
use countersign_shared::store::{PgConnection, Pool, StoreError, in_time};
use countersign_shared::telemetry::chain;
use http_body_util::BodyExt as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::lifecycle::error::ApiError;
use crate::limits::{Received, Say};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Stands for a body that could not be read: no body has this digest.
const UNREADABLE: [u8; 32] = [0; 32];
/// A little longer than any answer takes.
const RUNS_FOR_SECS: f64 = 35.0;

/// The key that a request came with, if any.
#[derive(Clone)]
pub(crate) struct Idempotency(Option<Arc<Run>>);

struct Run {
    caller: String,
    /// As digest: a path may be longer than what an index holds.
    path: String,
    key: String,
    number: i64,
    is_kept: AtomicBool,
}

impl Run {
    fn of(&self) -> KeyOf<'_> {
        KeyOf { caller: &self.caller, path: &self.path, key: &self.key }
    }
}

impl Idempotency {
    /// Keeps the answer, in the transaction of its effect.
    pub(crate) async fn keep(
        &self,
        conn: &mut PgConnection,
        status: StatusCode,
        answer: &impl Serialize,
    ) -> Result<(), ApiError> {
        let Some(run) = &self.0 else { return Ok(()) };
        let body = serde_json::to_vec(answer).map_err(|_| ApiError::Internal("an internal error".to_owned()))?;
        if !idempotency_keys::keep(conn, &run.of(), run.number, status.as_u16(), &body).await? {
            return Err(ApiError::Conflict("another request with this Idempotency-Key came in between".to_owned()));
        }
        run.is_kept.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for Idempotency {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self(None)))
    }
}

pub(crate) async fn apply(State((pool, say)): State<(Pool, Say)>, mut request: Request, next: Next) -> Response {
    let run = match begin(&pool, &request).await {
        Ok(First::Run(run)) => run,
        Ok(First::NoKey) => return next.run(request).await,
        Ok(First::Answered(response)) => return response,
        Err(error) => return say(error),
    };
    request.extensions_mut().insert(Idempotency(Some(Arc::clone(&run))));
    let response = next.run(request).await;
    if run.is_kept.load(Ordering::Relaxed) && response.status().is_success() {
        return response;
    }
    end(&pool, &run, response).await
}

enum First {
    NoKey,
    Run(Arc<Run>),
    Answered(Response),
}

fn begin<'a>(pool: &'a Pool, request: &Request) -> impl Future<Output = Result<First, ApiError>> + Send + use<'a> {
    // A request's body may not be shared between threads: all that is needed of it is taken before anything is awaited.
    let key = match request.headers().get(KEY) {
        Some(key) if request.method() == Method::POST => Some(key.clone()),
        _ => None,
    };
    let caller = match request.extensions().get::<Caller>() {
        // Not the account: another token of it may have no right to the answer.
        Some(caller) => format!("token {}", caller.token_id),
        None => "domains".to_owned(),
    };
    let path = hex(&Sha256::digest(request.uri().path()));
    // A body that cannot be read is the handler's to refuse, or to ignore.
    let body = request.extensions().get::<Received>().and_then(|body| body.bytes().ok());
    let digest: [u8; 32] = body.map_or(UNREADABLE, |bytes| Sha256::digest(bytes).into());
    async move {
        let Some(key) = key else { return Ok(First::NoKey) };
        let key = match key.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => key.to_owned(),
            _ => {
                let text = "Idempotency-Key must be 1 to 255 printable ASCII characters";
                return Err(ApiError::BadRequest(text.to_owned()));
            }
        };
        let of = KeyOf { caller: &caller, path: &path, key: &key };
        let begun =
            in_time(async { idempotency_keys::begin(&mut *pool.acquire().await?, &of, &digest, RUNS_FOR_SECS).await });
        match begun.await? {
            Begun::Run(number) => {
                Ok(First::Run(Arc::new(Run { caller, path, key, number, is_kept: AtomicBool::new(false) })))
            }
            Begun::Answered { status, body } => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(First::Answered(response))
            }
            Begun::Running => {
                let text = "the first request with this Idempotency-Key is still being answered";
                Err(ApiError::Conflict(text.to_owned()))
            }
            Begun::OtherBody => {
                let text = "this Idempotency-Key came with another body before";
                Err(ApiError::Unprocessable(text.to_owned()))
            }
        }
    }
}

/// Keeps an answer that went well, with the answer; frees the key of any other.
async fn end(pool: &Pool, run: &Run, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(bytes) => bytes.to_bytes(),
        Err(_) => return Response::from_parts(parts, Body::empty()),
    };
    let ended = in_time(async {
        let mut conn = pool.acquire().await?;
        if parts.status.is_success() {
            idempotency_keys::keep(&mut conn, &run.of(), run.number, parts.status.as_u16(), &bytes).await.map(drop)
        } else {
            idempotency_keys::free(&mut conn, &run.of(), run.number).await
        }
    });
    let ended: Result<(), StoreError> = ended.await;
    if let Err(error) = ended {
        tracing::warn!(error = chain(&error), "an Idempotency-Key is freed by time only");
    }
    Response::from_parts(parts, Body::from(bytes))
}
