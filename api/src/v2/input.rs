//! Bodies of this surface: one JSON object, or nothing. Clients send them with and without a content type.

use serde_json::{Map, Value};

use super::error::Error;
use crate::json;
use crate::limits::Received;

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
