//! The JSON of this surface.

use std::fmt;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use countersign_shared::model::challenge::{
    LookupResult, Observation, challenge_domain, issuance_instructions, verification_instructions,
};
use countersign_shared::model::delegation::ChallengeZone;
use countersign_shared::model::diagnosis::Finding;
use countersign_shared::model::domain::DomainStatus;
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::{Authorization, Order};
use countersign_shared::store::certificates::CertificateSummary;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::orders::of_domains::{Failure, PendingOrder};
use serde::{Deserialize, Serialize};
use time::macros::format_description;
use time::{Duration, OffsetDateTime, UtcOffset};
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;

const NOTHING_TO_DO: &str = "Nothing needs to be set: the TXT record is published automatically";

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

/// `2026-11-21T09:30:00Z`: UTC, whole seconds.
fn timestamp(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC)
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        .expect("years of stored times have four digits")
}

/// Body of `POST /domains`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct RegisterInput {
    /// A DNS name that a public CA could certify; Unicode labels are converted to A-labels.
    #[schema(example = "shop.example.com", max_length = 948)]
    pub(crate) domain_name: String,
}

/// Answer of `POST /domains`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Registered {
    /// 32 lower-case hex characters.
    pub(crate) id: String,
    /// As supplied.
    pub(crate) domain_name: String,
    /// What the TXT record must show to prove ownership.
    pub(crate) verification_token: String,
    #[schema(inline)]
    pub(crate) status: Status,
    /// The record to set, in a sentence.
    pub(crate) instructions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delegation: Option<Delegation>,
}

/// The one CNAME record that makes all later TXT records needless. Only where the service has a zone for it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Delegation {
    /// Owner name of the CNAME record, with the trailing dot.
    #[schema(example = "_acme-challenge.shop.example.com.")]
    record_name: String,
    /// Its target, with the trailing dot.
    #[schema(example = "0b8f2b8e5d3c4a7f9e1d2c3b4a5f6e7d.acme.example.net.")]
    cname_target: String,
    /// When it was last seen in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    seen_at: Option<String>,
    #[serde(skip)]
    sentence: String,
}

impl Delegation {
    pub(crate) fn new(zone: &ChallengeZone, name: &DnsName, label: &str, seen_at: Option<OffsetDateTime>) -> Self {
        Self {
            record_name: challenge_domain(name),
            cname_target: zone.target(label),
            seen_at: seen_at.map(timestamp),
            sentence: zone.instructions(name, label),
        }
    }
}

/// What a customer can do now, or once and for all.
pub(crate) fn either(now: String, delegation: Option<&Delegation>) -> String {
    match delegation {
        Some(delegation) => format!("{now}. Or, once for this and all renewals: {}", delegation.sentence),
        None => now,
    }
}

/// Answer of `POST …/issue-certificate` and `POST …/retry`.
#[derive(Serialize, ToSchema)]
pub(crate) struct IssuanceStarted {
    order_id: String,
    #[schema(inline)]
    status: Status,
    /// Owner name of the TXT record, with the trailing dot.
    #[schema(example = "_acme-challenge.shop.example.com.")]
    challenge_domain: String,
    /// What the TXT record must show: 43 characters of base64url.
    expected_txt_value: String,
    instructions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation: Option<Delegation>,
}

impl IssuanceStarted {
    pub(crate) fn new(order: &Order, authorization: &Authorization, zone: Option<&ChallengeZone>) -> Self {
        let value = &authorization.txt_value;
        let delegation = zone.map(|zone| Delegation::new(zone, &order.domain_name, &order.delegation_label, None));
        let instructions = if order.published_by.presenter.is_automatic() {
            NOTHING_TO_DO.to_owned()
        } else {
            either(issuance_instructions(&order.domain_name, value), delegation.as_ref())
        };
        Self {
            order_id: order.public_id.to_string(),
            status: Status::CertificatePending,
            challenge_domain: challenge_domain(&order.domain_name),
            expected_txt_value: value.clone(),
            instructions,
            delegation,
        }
    }
}

/// Answer of `POST …/check`.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckPromised {
    #[schema(inline)]
    status: Status,
    #[schema(format = DateTime)]
    next_check_at: String,
}

impl CheckPromised {
    pub(crate) fn at(next_check_at: OffsetDateTime) -> Self {
        Self { status: Status::CertificatePending, next_check_at: timestamp(next_check_at) }
    }
}

/// Where a domain stands.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Pending,
    Verified,
    CertificatePending,
    Active,
    Failed,
}

impl From<DomainStatus> for Status {
    fn from(status: DomainStatus) -> Self {
        match status {
            DomainStatus::Pending => Self::Pending,
            DomainStatus::Verified => Self::Verified,
            DomainStatus::CertificatePending => Self::CertificatePending,
            DomainStatus::Active => Self::Active,
            DomainStatus::Failed => Self::Failed,
        }
    }
}

impl From<Status> for DomainStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Verified => Self::Verified,
            Status::CertificatePending => Self::CertificatePending,
            Status::Active => Self::Active,
            Status::Failed => Self::Failed,
        }
    }
}

/// Query of `GET /domains`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only domains in this status.
    #[param(inline)]
    pub(crate) status: Option<Status>,
    /// Domains per page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub(crate) limit: Option<u16>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// A place in the list: the internal key of the last domain shown, opaque to callers.
pub(crate) struct Cursor(pub(crate) i64);

impl Cursor {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_ours =
            text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        is_ours.then(|| i64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Answer of `GET /domains`: newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct DomainList {
    pub(crate) domains: Vec<DomainView>,
    /// Null at the end.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

/// Answer of `GET /domains/{id}` and of `verify`.
#[derive(Serialize, ToSchema)]
pub(crate) struct DomainView {
    id: String,
    /// As supplied at registration.
    domain_name: String,
    #[schema(inline)]
    status: Status,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// When the token was last seen in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    verified_at: Option<String>,
    /// The record to set now, while one is awaited.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    /// The open order, while `certificate_pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    /// Owner name of the awaited TXT record, while `certificate_pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge_domain: Option<String>,
    /// What it must show, while `certificate_pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_txt_value: Option<String>,
    /// Until when it may appear, while `certificate_pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    deadline_at: Option<String>,
    /// When it is looked for next, while `certificate_pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    next_check_at: Option<String>,
    /// What the last look-up saw, while `certificate_pending`; null before the first; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check: Option<Option<LastCheck>>,
    /// Why, while `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView>,
    /// The newest certificate, whenever there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<CertificateNote>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation: Option<Delegation>,
}

/// What the last DNS look-up saw.
#[derive(Serialize, ToSchema)]
struct LastCheck {
    #[schema(format = DateTime)]
    at: String,
    #[schema(value_type = String, example = "other_value")]
    result: LookupResult,
    /// At most 10 of the values seen.
    values: Vec<String>,
    detail: String,
}

#[derive(Serialize, ToSchema)]
struct FailureView {
    /// One of the documented failure codes.
    code: &'static str,
    /// What to change.
    detail: String,
    /// Whether `retry` is accepted now.
    retryable: bool,
    #[schema(format = DateTime)]
    at: String,
    /// What was wrong with the domain's DNS then, where that may be the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
}

#[derive(Serialize, ToSchema)]
struct CertificateNote {
    serial_number: String,
    #[schema(format = DateTime)]
    not_after: String,
    /// When it is renewed, where that needs nobody: the TXT records are published automatically.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    renews_at: Option<String>,
    /// Until when somebody must verify the domain again and have another certificate issued, where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    act_by: Option<String>,
}

/// What is known of a domain besides its row.
pub(crate) struct Circumstances<'a> {
    pub(crate) order: Option<PendingOrder>,
    pub(crate) failure: Option<Failure>,
    pub(crate) certificate: Option<CertificateSummary>,
    pub(crate) zone: Option<&'a ChallengeZone>,
    /// A list leaves out what the last look-up saw.
    pub(crate) without_last_check: bool,
}

impl DomainView {
    pub(crate) fn new(domain: Domain, circumstances: Circumstances<'_>) -> Self {
        let order = circumstances.order.as_ref();
        let delegation = circumstances
            .zone
            .map(|zone| Delegation::new(zone, &domain.name, &domain.delegation_label, domain.delegated_at));
        let instructions = match (domain.status, order) {
            (DomainStatus::Pending, _) => {
                Some(either(verification_instructions(&domain.name, &domain.verification_token), delegation.as_ref()))
            }
            (_, Some(order)) if order.is_automatic => Some(NOTHING_TO_DO.to_owned()),
            (_, Some(order)) if order.seen_at.is_none() => {
                Some(either(issuance_instructions(&domain.name, &order.txt_value), delegation.as_ref()))
            }
            (_, Some(_)) => Some("The TXT record was seen; leave it until the domain is active".to_owned()),
            _ => None,
        };
        Self {
            id: domain.public_id.to_string(),
            status: domain.status.into(),
            created_at: timestamp(domain.created_at),
            updated_at: timestamp(domain.updated_at),
            verified_at: domain.verified_at.map(timestamp),
            instructions,
            order_id: order.map(|order| order.public_id.to_string()),
            challenge_domain: order.map(|_| challenge_domain(&domain.name)),
            expected_txt_value: order.map(|order| order.txt_value.clone()),
            deadline_at: order.map(|order| timestamp(order.deadline_at)),
            next_check_at: order.map(|order| timestamp(order.next_check_at)),
            last_check: order.filter(|_| !circumstances.without_last_check).map(LastCheck::of),
            failure: circumstances.failure.map(|failure| FailureView {
                code: failure.problem.code.as_str(),
                retryable: failure.is_retryable(),
                detail: failure.problem.detail,
                at: timestamp(failure.at),
                findings: failure.problem.findings,
            }),
            certificate: circumstances.certificate.map(|certificate| CertificateNote {
                serial_number: certificate.serial_number,
                not_after: timestamp(certificate.not_after),
                renews_at: certificate.renew_at.filter(|_| certificate.is_automatic).map(timestamp),
                act_by: (!certificate.is_automatic).then(|| timestamp(certificate.not_after)),
            }),
            delegation,
            domain_name: domain.supplied_name,
        }
    }
}

impl LastCheck {
    /// The sight of the value, once there was one; before, what the job's last look-up saw.
    fn of(order: &PendingOrder) -> Option<Self> {
        let seen = match order.seen_at {
            Some(at) => Observation::of_values(at, vec![order.txt_value.clone()], &order.txt_value),
            None => serde_json::from_value(order.last_result.clone()?).ok()?,
        };
        Some(Self { at: timestamp(seen.at), result: seen.result, values: seen.values, detail: seen.detail })
    }
}

/// Answer of `GET …/certificate`. Never any PEM.
#[derive(Serialize, ToSchema)]
pub(crate) struct CertificateView {
    id: String,
    domain_id: String,
    /// When the chain was fetched and stored.
    #[schema(format = DateTime)]
    issued_at: String,
    /// Exactly `issued_at` + 90 × 24 h; `not_after` is what the certificate says.
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    not_before: String,
    #[schema(format = DateTime)]
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
}
