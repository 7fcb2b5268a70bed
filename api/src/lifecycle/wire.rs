//! The JSON of this surface.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use countersign_shared::model::challenge::Observation;
use countersign_shared::model::ids::PublicId;
use countersign_shared::store::certificates::CertificateSummary;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::orders::{Failure, PendingOrder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, UtcOffset};

use super::error::ApiError;

const MAX_BODY: usize = 64 * 1024;
const BODY_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The `{id}` of a path. An id of any other shape than 32 lower-case hex characters is simply not found.
pub(crate) struct DomainId(pub(crate) PublicId);

impl<S: Send + Sync> FromRequestParts<S> for DomainId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|_| ApiError::UNKNOWN_DOMAIN)?;
        PublicId::parse(&text).map(Self).ok_or(ApiError::UNKNOWN_DOMAIN)
    }
}

/// Reads a JSON body of at most 64 KiB. Unknown fields are ignored.
pub(crate) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, ApiError> {
    if !headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(ApiError::BadRequest("the body must come with Content-Type: application/json".to_owned()));
    }
    let bytes = match tokio::time::timeout(BODY_WITHIN, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length_limit(&error) => return Err(ApiError::TooLarge),
        Ok(Err(_)) => return Err(ApiError::BadRequest("the body could not be read".to_owned())),
        Err(_) => return Err(ApiError::BadRequest("the body was not sent within 10 s".to_owned())),
    };
    // serde would take an array of the fields' values for the object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::BadRequest("the body must be a JSON object".to_owned()));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = if error.is_data() { "a field is missing, doubled or of the wrong type" } else { "malformed JSON" };
        ApiError::BadRequest(format!("{what}, at line {} column {}", error.line(), error.column()))
    })
}

fn is_json(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}

/// `2026-11-21T09:30:00Z`: UTC, whole seconds.
fn timestamp(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC)
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        .expect("years of stored times have four digits")
}

#[derive(Deserialize)]
pub(crate) struct RegisterInput {
    pub(crate) domain_name: String,
}

/// Answer of `POST /domains`.
#[derive(Serialize)]
pub(crate) struct Registered {
    pub(crate) id: String,
    pub(crate) domain_name: String,
    pub(crate) verification_token: String,
    pub(crate) status: &'static str,
    pub(crate) instructions: String,
}

/// Answer of `POST …/issue-certificate`.
#[derive(Serialize)]
pub(crate) struct IssuanceStarted {
    pub(crate) order_id: String,
    pub(crate) status: &'static str,
    pub(crate) challenge_domain: String,
    pub(crate) expected_txt_value: String,
    pub(crate) instructions: String,
}

/// Answer of `POST …/check`.
#[derive(Serialize)]
pub(crate) struct CheckPromised {
    status: &'static str,
    next_check_at: String,
}

impl CheckPromised {
    pub(crate) fn at(next_check_at: OffsetDateTime) -> Self {
        Self { status: "certificate_pending", next_check_at: timestamp(next_check_at) }
    }
}

/// Answer of `GET /domains/{id}` and of `verify`.
#[derive(Serialize)]
pub(crate) struct DomainView {
    id: String,
    domain_name: String,
    status: &'static str,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_at: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    order: Option<PendingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<CertificateNote>,
}

#[derive(Serialize)]
struct PendingView {
    order_id: String,
    challenge_domain: String,
    expected_txt_value: String,
    deadline_at: String,
    next_check_at: String,
    /// What the last look-up saw; null before the first.
    last_check: Option<Value>,
}

#[derive(Serialize)]
struct FailureView {
    code: &'static str,
    detail: String,
    retryable: bool,
    at: String,
}

#[derive(Serialize)]
struct CertificateNote {
    serial_number: String,
    not_after: String,
}

impl DomainView {
    pub(crate) fn new(
        domain: Domain,
        order: Option<PendingOrder>,
        failure: Option<Failure>,
        certificate: Option<CertificateSummary>,
    ) -> Self {
        Self {
            id: domain.public_id.to_string(),
            status: domain.status.as_str(),
            created_at: timestamp(domain.created_at),
            updated_at: timestamp(domain.updated_at),
            verified_at: domain.verified_at.map(timestamp),
            order: order.map(|order| PendingView {
                order_id: order.public_id.to_string(),
                challenge_domain: countersign_shared::model::challenge::challenge_domain(&domain.name),
                expected_txt_value: order.txt_value,
                deadline_at: timestamp(order.deadline_at),
                next_check_at: timestamp(order.next_check_at),
                last_check: order.last_result.and_then(last_check),
            }),
            failure: failure.map(|failure| FailureView {
                code: failure.problem.code.as_str(),
                retryable: failure.cleaned_up && failure.problem.code.retryable(),
                detail: failure.problem.detail,
                at: timestamp(failure.at),
            }),
            certificate: certificate.map(|certificate| CertificateNote {
                serial_number: certificate.serial_number,
                not_after: timestamp(certificate.not_after),
            }),
            domain_name: domain.supplied_name,
        }
    }
}

/// A job's last result, if it is a look-up's.
fn last_check(result: Value) -> Option<Value> {
    let seen: Observation = serde_json::from_value(result).ok()?;
    Some(serde_json::json!({
        "at": timestamp(seen.at), "result": seen.result, "values": seen.values, "detail": seen.detail,
    }))
}

/// Answer of `GET …/certificate`. Never any PEM.
#[derive(Serialize)]
pub(crate) struct CertificateView {
    id: String,
    domain_id: String,
    issued_at: String,
    expires_at: String,
    created_at: String,
    not_before: String,
    not_after: String,
    serial_number: String,
    fingerprint_sha256: String,
    issuer: String,
}

impl CertificateView {
    pub(crate) fn new(domain: &Domain, certificate: CertificateSummary) -> Self {
        Self {
            id: certificate.public_id.to_string(),
            domain_id: domain.public_id.to_string(),
            issued_at: timestamp(certificate.issued_at),
            // Documented so, whatever the CA's validity; not_after tells the truth.
            expires_at: timestamp(certificate.issued_at + Duration::days(90)),
            // Documented as the time of the certificate's record, never before issued_at; our row is older: it waited for
            // the certificate.
            created_at: timestamp(certificate.created_at.max(certificate.issued_at)),
            not_before: timestamp(certificate.not_before),
            not_after: timestamp(certificate.not_after),
            serial_number: certificate.serial_number,
            fingerprint_sha256: certificate.fingerprint_sha256,
            issuer: certificate.issuer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn times_are_utc_and_whole_seconds() {
        assert_eq!(timestamp(datetime!(2026-01-02 03:04:05.678 +02:00)), "2026-01-02T01:04:05Z");
    }

    #[test]
    fn the_media_type_may_have_parameters() {
        let json = |text| is_json(&HeaderValue::from_static(text));
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        assert!(!json("text/plain") && !json("application/jsonp") && !json(""));
    }
}
