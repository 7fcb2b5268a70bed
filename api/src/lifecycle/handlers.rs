//! One handler per call of this surface. Parse, one transaction, answer. The comments on them are the API's documentation.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use countersign_shared::model::challenge::verification_instructions;
use countersign_shared::model::diagnosis::Diagnosis;
use countersign_shared::model::domain::{DomainStatus, verification_token};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::store::domains::{self, NewDomain};
use countersign_shared::store::events::{self, EventName};
use countersign_shared::store::{accounts, certificates, delegations, jobs, orders};

use super::error::ApiError;
use super::issue::{self as issuance, Issuance};
use super::wire::{
    CertificateView, CheckPromised, Cursor, Delegation, DomainId, DomainList, DomainView, IssuanceStarted, ListQuery,
    RegisterInput, Registered, either,
};
use super::{App, deletion, verify as verification, view};
use crate::idempotency::Idempotency;
use crate::json;
use crate::limits::Received;
use crate::openapi::{AnyCall, Error};
use crate::request_id::RequestId;

/// Register a domain
///
/// The answer says which TXT record proves ownership. A name can be registered once; delete the domain to register it
/// again.
#[utoipa::path(post, path = "/domains", operation_id = "register_domain", tag = "Domains", request_body = RegisterInput, responses(
    (status = 201, body = Registered, description = "Registered; the token awaits verification"),
    (status = 400, body = Error, description = "Malformed body, or a name that no public CA certifies"),
    (status = 413, body = Error, description = "The body is larger than 64 KiB"),
    AnyCall,
))]
pub(crate) async fn register(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    idempotency: Idempotency,
    body: Received,
) -> Result<(StatusCode, Json<Registered>), ApiError> {
    let input: RegisterInput = json::read(&headers, &body)?;
    let name = DnsName::parse(&input.domain_name, app.allow_special_use_names)
        .map_err(|error| ApiError::BadRequest(format!("domain_name {error}")))?;
    let token = verification_token(rand::random());
    let new = NewDomain {
        account_id: accounts::DEFAULT,
        public_id: &PublicId::from_random(rand::random()),
        name: &name,
        supplied_name: &input.domain_name,
        verification_token: &token,
    };
    let mut tx = app.pool.begin().await?;
    let domain = match domains::insert(&mut tx, &new).await {
        Err(error) if error.is_conflict_on(domains::NAME_KEY) => {
            tracing::info!(domain.name = %name, "refused: the domain is registered already");
            return Err(ApiError::Internal("the domain is already registered".to_owned()));
        }
        inserted => inserted?,
    };
    let zone = app.challenge_zone.as_ref();
    if zone.is_some() {
        delegations::notify(&mut tx, &domain.delegation_label).await?;
    }
    events::domain(&mut tx, EventName::DomainCreate, domain.id).await?;
    let public_id = domain.public_id.clone();
    let delegation = zone.map(|zone| Delegation::new(zone, &name, &domain.delegation_label, None));
    let registered = Registered {
        id: domain.public_id.to_string(),
        status: domain.status.into(),
        instructions: either(verification_instructions(&name, &token), delegation.as_ref()),
        delegation,
        domain_name: domain.supplied_name,
        verification_token: token,
    };
    idempotency.keep(&mut tx, StatusCode::CREATED, &registered).await?;
    tx.commit().await?;
    tracing::info!(domain.id = %public_id, domain.name = %name, "domain registered");
    Ok((StatusCode::CREATED, Json(registered)))
}

/// List domains
///
/// Newest first, in pages.
#[utoipa::path(get, path = "/domains", operation_id = "list_domains", tag = "Domains", params(ListQuery), responses(
    (status = 200, body = DomainList, description = "One page"),
    (status = 400, body = Error, description = "Bad parameters"),
    AnyCall,
))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DomainList>, ApiError> {
    let bad_query = || {
        let text = "the query may have status (pending, verified, certificate_pending, active or failed), limit (1 to \
                    200) and cursor (next_cursor of the page before), each once";
        ApiError::BadRequest(text.to_owned())
    };
    let Query(query) = query.map_err(|_| bad_query())?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(bad_query());
    }
    let before = query.cursor.map(|cursor| Cursor::parse(&cursor).ok_or_else(bad_query)).transpose()?;
    let mut now = app.pool.begin_snapshot().await?;
    // One more than the page holds tells whether another page follows.
    let status = query.status.map(Into::into);
    let mut page = domains::page(&mut now, status, before.map(|cursor| cursor.0), i64::from(limit) + 1).await?;
    let is_last = page.len() <= usize::from(limit);
    page.truncate(limit.into());
    let next_cursor = page.last().filter(|_| !is_last).map(|last| Cursor(last.id).to_string());
    Ok(Json(DomainList {
        domains: view::several(&mut now, page, app.challenge_zone.as_ref(), true).await?,
        next_cursor,
    }))
}

/// Where a domain stands
///
/// While a TXT record is awaited: the record, until when, and what the last look-up saw. After a failure: what to change.
#[utoipa::path(get, path = "/domains/{id}", operation_id = "fetch_domain", tag = "Domains", params(("id" = String, Path)), responses(
    (status = 200, body = DomainView, description = "The domain"),
    (status = 404, body = Error, description = "No such domain"),
    AnyCall,
))]
pub(crate) async fn fetch(State(app): State<Arc<App>>, DomainId(id): DomainId) -> Result<Json<DomainView>, ApiError> {
    let mut now = app.pool.begin_snapshot().await?;
    let domain = domains::find(&mut now, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    Ok(Json(view::one(&mut now, domain, app.challenge_zone.as_ref()).await?))
}

/// Delete a domain
///
/// The name is free at once. An open order is cancelled, and what the certificate authority remembers of it is withdrawn.
#[utoipa::path(delete, path = "/domains/{id}", operation_id = "delete_domain", tag = "Domains", params(("id" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, body = Error, description = "No such domain"),
    AnyCall,
))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
    request_id: RequestId,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.pool.begin().await?;
    let domain = domains::lock(&mut tx, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    let cancelled = deletion::delete(&mut tx, &domain, &request_id).await?;
    tx.commit().await?;
    deletion::count(cancelled);
    tracing::info!(domain.id = %domain.public_id, domain.name = %domain.name, "domain deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Verify ownership
///
/// Looks for the token in DNS, now and uncached. Also the way to issue again from `active` or `failed`.
#[utoipa::path(post, path = "/domains/{id}/verify", operation_id = "verify_domain", tag = "Domains", params(("id" = String, Path)), responses(
    (status = 200, body = DomainView, description = "Verified"),
    (status = 400, body = Error, description = "The token is not there, or the status does not allow it"),
    (status = 404, body = Error, description = "No such domain"),
    (status = 424, body = Error, description = "DNS did not answer"),
    AnyCall,
))]
pub(crate) async fn verify(State(app): State<Arc<App>>, DomainId(id): DomainId) -> Result<Json<DomainView>, ApiError> {
    let domain = verification::run(&app, &id).await?;
    let mut conn = app.pool.acquire().await?;
    Ok(Json(view::one(&mut conn, domain, app.challenge_zone.as_ref()).await?))
}

/// Start the issuance of a certificate
///
/// Only from `verified`. The answer says which TXT value the certificate authority wants to see; set it before the deadline
/// that `GET /domains/{id}` shows. A body is ignored.
#[utoipa::path(post, path = "/domains/{id}/issue-certificate", operation_id = "issue_certificate", tag = "Certificates", params(("id" = String, Path)),
    responses(
        (status = 202, body = IssuanceStarted, description = "The order awaits its TXT record"),
        (status = 400, body = Error, description = "The domain is not verified"),
        (status = 404, body = Error, description = "No such domain"),
        AnyCall,
    ))]
pub(crate) async fn issue(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
    request_id: RequestId,
) -> Result<(StatusCode, Json<IssuanceStarted>), ApiError> {
    let started = issuance::run(&app, &id, &request_id, Issuance::First).await?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// Try a failed issuance again
///
/// Only from `failed`, once `failure.retryable` is true. The TXT value stays the same if the certificate authority still
/// waits for it.
#[utoipa::path(post, path = "/domains/{id}/retry", operation_id = "retry_order", tag = "Certificates", params(("id" = String, Path)), responses(
    (status = 202, body = IssuanceStarted, description = "A new order awaits its TXT record"),
    (status = 400, body = Error, description = "Nothing has failed, or a retry cannot help now"),
    (status = 404, body = Error, description = "No such domain"),
    AnyCall,
))]
pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
    request_id: RequestId,
) -> Result<(StatusCode, Json<IssuanceStarted>), ApiError> {
    let started = issuance::run(&app, &id, &request_id, Issuance::Retry).await?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// Look for the TXT record now
///
/// "I have set the record": the next look-up happens at once, at most one a second.
#[utoipa::path(post, path = "/domains/{id}/check", operation_id = "check_record", tag = "Certificates", params(("id" = String, Path)), responses(
    (status = 202, body = CheckPromised, description = "A look-up is on its way"),
    (status = 400, body = Error, description = "No certificate is pending"),
    (status = 404, body = Error, description = "No such domain"),
    AnyCall,
))]
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
) -> Result<(StatusCode, Json<CheckPromised>), ApiError> {
    let mut tx = app.pool.begin().await?;
    let domain = domains::find(&mut tx, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    let nothing_pending = || ApiError::BadRequest("no certificate is pending for this domain".to_owned());
    if domain.status != DomainStatus::CertificatePending {
        return Err(nothing_pending());
    }
    let order_id = orders::lock_open_of_domain(&mut tx, domain.id).await?.ok_or_else(nothing_pending)?;
    let next_check_at = jobs::wake_for_check(&mut tx, order_id).await?.ok_or_else(nothing_pending)?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(CheckPromised::at(next_check_at))))
}

/// What is wrong with the domain's DNS
///
/// Asks every name server of the zone, and follows aliases. Each finding has the record to set, where one helps. Looks for up to
/// 20 s where servers do not answer; 503 while another diagnosis of the domain is under way.
#[utoipa::path(get, path = "/domains/{id}/diagnosis", operation_id = "diagnose_domain", tag = "Domains", params(("id" = String, Path)), responses(
    (status = 200, body = Diagnosis, description = "What was found, the worst first"),
    (status = 404, body = Error, description = "No such domain"),
    AnyCall,
))]
pub(crate) async fn diagnosis(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
) -> Result<Json<Diagnosis>, ApiError> {
    let domain = {
        let mut conn = app.pool.acquire().await?;
        domains::find(&mut conn, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?
    };
    Ok(Json(app.practice.diagnose(&app.pool, accounts::DEFAULT, &domain).await?))
}

/// What is known of the certificate
///
/// Never any PEM. Only while the domain is `active`.
#[utoipa::path(get, path = "/domains/{id}/certificate", operation_id = "describe_certificate", tag = "Certificates", params(("id" = String, Path)), responses(
    (status = 200, body = CertificateView, description = "The newest certificate"),
    (status = 404, body = Error, description = "No such domain, or no active certificate"),
    AnyCall,
))]
pub(crate) async fn certificate(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
) -> Result<Json<CertificateView>, ApiError> {
    let mut conn = app.pool.acquire().await?;
    let domain = domains::find(&mut conn, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    let no_certificate = ApiError::NotFound("the domain has no active certificate");
    if domain.status != DomainStatus::Active {
        return Err(no_certificate);
    }
    let newest = certificates::newest_issued(&mut conn, &[domain.id]).await?.remove(&domain.id);
    Ok(Json(CertificateView::new(&domain, newest.ok_or(no_certificate)?)))
}
