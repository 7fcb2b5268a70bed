//! JSON bodies, read strictly: a doubled key, trailing text or a wrong type is an error; unknown fields are ignored.

use std::collections::HashSet;
use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::lifecycle::error::ApiError;
use crate::limits::Received;

/// Errors, all 400 but a body that is too large (413), say where the fault is and never quote the body.
pub(crate) fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &Received) -> Result<T, ApiError> {
    parse(headers, body)?.map_err(|error| {
        let what = if error.is_data() { "a field is missing, doubled or of the wrong type" } else { "malformed JSON" };
        ApiError::BadRequest(format!("{what}, at line {} column {}", error.line(), error.column()))
    })
}

/// As [`read`], for operators: the error also says what was expected, and may quote the body.
pub(crate) fn read_explained<T: DeserializeOwned>(headers: &HeaderMap, body: &Received) -> Result<T, ApiError> {
    parse(headers, body)?.map_err(|error| ApiError::BadRequest(error.to_string()))
}

fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &Received) -> Result<serde_json::Result<T>, ApiError> {
    if !is_json(headers) {
        return Err(ApiError::BadRequest("the body must come with Content-Type: application/json".to_owned()));
    }
    let bytes = body.bytes()?;
    // serde would take an array of the fields' values for the object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::BadRequest("the body must be a JSON object".to_owned()));
    }
    Ok(serde_json::from_slice::<NoDoubledKeys>(bytes).and_then(|_| serde_json::from_slice(bytes)))
}

/// A strictly read object, whatever the headers say; None when it is none.
pub(crate) fn object(bytes: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_slice::<NoDoubledKeys>(bytes).ok()?;
    serde_json::from_slice(bytes).ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// Any JSON in which no object has a key twice. serde sees doubled keys only of fields it knows.
struct NoDoubledKeys;

impl<'de> Deserialize<'de> for NoDoubledKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NoDoubledKeys)
    }
}

impl<'de> Visitor<'de> for NoDoubledKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("doubled key"));
            }
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_keys_are_found_at_any_depth() {
        let good = |text: &str| serde_json::from_str::<NoDoubledKeys>(text).is_ok();
        assert!(good(r#"{"a": 1, "b": [{"a": null}, {"a": -1.5}], "c": "x"}"#));
        for bad in
            [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#, r#"{"a":1} x"#, "", "nul", &"[".repeat(100_000)]
        {
            assert!(!good(bad), "{}", &bad[..bad.len().min(40)]);
        }
    }

    #[test]
    fn the_media_type_may_have_parameters() {
        let json = |text: &'static str| {
            is_json(&HeaderMap::from_iter([(CONTENT_TYPE, axum::http::HeaderValue::from_static(text))]))
        };
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        assert!(!json("text/plain") && !json("application/jsonp") && !json("") && !is_json(&HeaderMap::new()));
    }
}
