//! The error body of this surface, `{"message": "text"}`, with `errors` by field where a request is wrong.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_shared::model::scope::Scope;
use countersign_shared::store::StoreError;
use serde_json::json;

use crate::diagnosis::Refused;
use crate::lifecycle::error::ApiError;

/// The texts are ours and meant for the caller.
#[derive(Debug)]
pub(crate) enum Error {
    /// 400: the state does not allow it, or the request cannot be read.
    BadRequest(String),
    /// 400 with what is wrong about each field.
    Invalid(FieldErrors),
    /// 401
    Unauthorized,
    /// 403: which scope is missing.
    Forbidden(Scope),
    /// 404
    NotFound(String),
    /// 409: an Idempotency-Key whose request still runs.
    Conflict(String),
    /// 422: an Idempotency-Key that belongs to another request.
    Unprocessable(String),
    /// 428: not yet.
    NotYet(&'static str),
    /// 429
    TooMany,
    /// 500
    Internal,
    /// 503 with `Retry-After`
    Unavailable(&'static str),
}

/// What is wrong about each field of a body.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(BTreeMap<&'static str, Vec<String>>);

impl FieldErrors {
    pub(crate) fn add(&mut self, field: &'static str, what: impl Into<String>) {
        self.0.entry(field).or_default().push(what.into());
    }

    pub(crate) fn none_or_invalid(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self)) }
    }
}

impl Error {
    /// A domain as the path named it.
    pub(crate) fn no_domain(named: &str) -> Self {
        Self::NotFound(format!("Domain `{named}` not found"))
    }

    /// A certificate as the path named it.
    pub(crate) fn no_certificate(named: &str) -> Self {
        Self::NotFound(format!("Certificate `{named}` not found"))
    }

    /// A renewal as the path named it.
    pub(crate) fn no_renewal(named: &str) -> Self {
        Self::NotFound(format!("Certificate renewal `{named}` not found"))
    }

    /// A webhook as the path named it.
    pub(crate) fn no_webhook(named: &str) -> Self {
        Self::NotFound(format!("Webhook `{named}` not found"))
    }

    pub(crate) fn not_found() -> Self {
        Self::NotFound("Not Found".to_owned())
    }

    pub(crate) fn invalid(field: &'static str, what: impl Into<String>) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(field, what);
        Self::Invalid(errors)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::Unavailable(Refused::BUSY),
            Refused::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Invalid(FieldErrors(errors)) => {
                let body = json!({ "message": "Validation failed", "errors": errors });
                return (StatusCode::BAD_REQUEST, Json(body)).into_response();
            }
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, message),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Authentication failed".to_owned()),
            Self::Forbidden(scope) => {
                (StatusCode::FORBIDDEN, format!("Permission Denied. Required Scope: {}", scope.as_str()))
            }
            Self::NotFound(message) => (StatusCode::NOT_FOUND, message),
            Self::Conflict(message) => (StatusCode::CONFLICT, message),
            Self::Unprocessable(message) => (StatusCode::UNPROCESSABLE_ENTITY, message),
            Self::NotYet(message) => (StatusCode::PRECONDITION_REQUIRED, message.to_owned()),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "quota exceeded".to_owned()),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error".to_owned()),
            Self::Unavailable(message) => (StatusCode::SERVICE_UNAVAILABLE, message.to_owned()),
        };
        let mut response = (status, Json(json!({ "message": message }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        ApiError::from(error).into()
    }
}

/// What both surfaces share says it in the words of the other one.
impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unavailable(text) => Self::Unavailable(text),
            ApiError::BadRequest(text) => Self::BadRequest(text),
            ApiError::Conflict(text) => Self::Conflict(text),
            ApiError::Unprocessable(text) => Self::Unprocessable(text),
            _ => Self::Internal,
        }
    }
}

/// What the layers around the handlers say.
pub(super) fn of_surroundings(error: ApiError) -> Response {
    Error::from(error).into_response()
}

pub(super) async fn unknown_route() -> Error {
    Error::not_found()
}

/// 405 without a body, as recorded; axum adds `Allow`.
pub(super) async fn method_not_allowed() -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}
