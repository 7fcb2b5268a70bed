//! What comes in: the parts of a path, and bodies, which are one JSON object or nothing. Clients send them with and without a
//! content type.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::Error;
use crate::json;
use crate::limits::Received;

/// The parts of a path, refused in the words of this surface: what is not UTF-8 names nothing.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let parts = axum::extract::Path::from_request_parts(parts, state).await;
        parts.map(|axum::extract::Path(parts)| Self(parts)).map_err(|_| Error::not_found())
    }
}

/// An id as a path names it: digits and nothing else.
pub(super) fn id(named: &str) -> Option<i64> {
    let is_number = named.bytes().all(|byte| byte.is_ascii_digit());
    named.parse().ok().filter(|_| is_number)
}

/// The fields of a body; no body, `null` and blanks are an object without fields.
pub(super) fn fields(body: &Received) -> Result<Map<String, Value>, Error> {
    let bytes = body.bytes().map_err(|_| Error::BadRequest("The body cannot be read, or is too large".to_owned()))?;
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() || bytes == b"null" {
        return Ok(Map::new());
    }
    match json::object(bytes) {
        Some(fields) => Ok(fields),
        None => Err(Error::BadRequest("The body must be a JSON object".to_owned())),
    }
}
