//! The one error body of this surface, `{"error": "text"}`, and its statuses.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_shared::store::StoreError;
use countersign_shared::telemetry::chain;
use serde_json::json;

use crate::diagnosis::Refused;

/// The texts are ours and meant for the caller: never SQL, a path or a library's words.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// 400: the request is wrong, or the status does not allow it.
    BadRequest(String),
    /// 401
    Unauthorized,
    /// 403: not from a browser's page.
    Forbidden(&'static str),
    /// 404
    NotFound(&'static str),
    /// 405; axum adds `Allow`.
    MethodNotAllowed,
    /// 409: what is there does not allow it.
    Conflict(String),
    /// 422: an Idempotency-Key that belongs to another request.
    Unprocessable(String),
    /// 413
    TooLarge,
    /// 424: DNS did not answer.
    LookupFailed(String),
    /// 500
    Internal(String),
    /// 503 with `Retry-After`
    Unavailable(&'static str),
}

impl ApiError {
    pub(crate) const UNKNOWN_DOMAIN: Self = Self::NotFound("domain not found");
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "a valid bearer token is needed".to_owned()),
            Self::Forbidden(text) => (StatusCode::FORBIDDEN, text.to_owned()),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text.to_owned()),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed".to_owned()),
            Self::Conflict(text) => (StatusCode::CONFLICT, text),
            Self::Unprocessable(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB".to_owned()),
            Self::LookupFailed(text) => (StatusCode::FAILED_DEPENDENCY, text),
            Self::Internal(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
            Self::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, text.to_owned()),
        };
        let mut response = (status, Json(json!({ "error": text }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::Unavailable(Refused::BUSY),
            Refused::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_outage() {
            tracing::warn!(error = chain(&error), "the database cannot be reached");
            return Self::Unavailable("the database cannot be reached; try again");
        }
        tracing::error!(error = chain(&error), "the database refused a statement");
        Self::Internal("the request could not be stored".to_owned())
    }
}
