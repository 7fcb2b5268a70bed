//! One handler per call of this surface. Parse, one transaction, answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use countersign_shared::model::challenge::verification_instructions;
use countersign_shared::model::domain::{DomainStatus, verification_token};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::store::domains::{self, Domain, NewDomain};
use countersign_shared::store::{PgConnection, StoreError, certificates, jobs, orders};
use time::OffsetDateTime;

use super::error::ApiError;
use super::wire::{
    CertificateView, CheckPromised, DomainId, DomainView, IssuanceStarted, RegisterInput, Registered, read_json,
};
use super::{App, issue as issuance, verify as verification};
use crate::request_id::RequestId;

/// `POST /domains`
pub(crate) async fn register(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Registered>), ApiError> {
    let input: RegisterInput = read_json(&headers, body).await?;
    let name = DnsName::parse(&input.domain_name, app.allow_special_use_names)
        .map_err(|error| ApiError::BadRequest(format!("domain_name {error}")))?;
    let token = verification_token(rand::random());
    let new = NewDomain {
        public_id: &PublicId::from_random(rand::random()),
        name: &name,
        supplied_name: &input.domain_name,
        verification_token: &token,
    };
    let mut conn = app.pool.acquire().await.map_err(StoreError::from)?;
    let domain = match domains::insert(&mut conn, &new).await {
        Err(error) if error.is_conflict_on(domains::NAME_KEY) => {
            tracing::info!(name = %name, "refused: the domain is registered already");
            return Err(ApiError::Internal("the domain is already registered".to_owned()));
        }
        inserted => inserted?,
    };
    tracing::info!(domain.id = %domain.public_id, name = %name, "domain registered");
    let registered = Registered {
        id: domain.public_id.to_string(),
        status: domain.status.as_str(),
        instructions: verification_instructions(&name, &token),
        domain_name: domain.supplied_name,
        verification_token: token,
    };
    Ok((StatusCode::CREATED, Json(registered)))
}

/// `GET /domains/{id}`
pub(crate) async fn fetch(State(app): State<Arc<App>>, DomainId(id): DomainId) -> Result<Json<DomainView>, ApiError> {
    let mut conn = app.pool.acquire().await.map_err(StoreError::from)?;
    let domain = domains::find(&mut conn, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    view(&mut conn, domain).await
}

/// `POST /domains/{id}/verify`
pub(crate) async fn verify(State(app): State<Arc<App>>, DomainId(id): DomainId) -> Result<Json<DomainView>, ApiError> {
    let domain = verification::run(&app, &id).await?;
    let mut conn = app.pool.acquire().await.map_err(StoreError::from)?;
    view(&mut conn, domain).await
}

/// `POST /domains/{id}/issue-certificate`: any body is ignored.
pub(crate) async fn issue(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
    request_id: RequestId,
) -> Result<(StatusCode, Json<IssuanceStarted>), ApiError> {
    let started = issuance::run(&app, &id, &request_id).await?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// `GET /domains/{id}/certificate`
pub(crate) async fn certificate(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
) -> Result<Json<CertificateView>, ApiError> {
    let mut conn = app.pool.acquire().await.map_err(StoreError::from)?;
    let domain = domains::find(&mut conn, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    if domain.status != DomainStatus::Active {
        return Err(ApiError::NotFound("the domain has no active certificate"));
    }
    let newest = certificates::newest_issued(&mut conn, domain.id).await?;
    let newest = newest.ok_or(ApiError::NotFound("the domain has no active certificate"))?;
    Ok(Json(CertificateView::new(&domain, newest)))
}

/// `POST /domains/{id}/check`: the record is set, look now.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    DomainId(id): DomainId,
) -> Result<(StatusCode, Json<CheckPromised>), ApiError> {
    let mut tx = app.pool.begin().await.map_err(StoreError::from)?;
    let domain = domains::find(&mut tx, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    let nothing_pending = || ApiError::BadRequest("no certificate is pending for this domain".to_owned());
    if domain.status != DomainStatus::CertificatePending {
        return Err(nothing_pending());
    }
    let order_id = orders::lock_open_of_domain(&mut tx, domain.id).await?.ok_or_else(nothing_pending)?;
    let next_check_at = jobs::wake_for_check(&mut tx, order_id).await?.ok_or_else(nothing_pending)?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok((StatusCode::ACCEPTED, Json(CheckPromised::at(next_check_at))))
}

/// `DELETE /domains/{id}`: the name is free at once; workers tidy up at the CA.
pub(crate) async fn delete(State(app): State<Arc<App>>, DomainId(id): DomainId) -> Result<StatusCode, ApiError> {
    let mut tx = app.pool.begin().await.map_err(StoreError::from)?;
    let domain = domains::lock(&mut tx, &id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    domains::mark_deleted(&mut tx, domain.id).await?;
    let mut to_clean_up = Vec::new();
    if let Some(order_id) = orders::lock_open_of_domain(&mut tx, domain.id).await? {
        cancel(&mut tx, order_id, |at, name| OrderEvent::Cancelled {
            at,
            problem: OrderProblem::new(ProblemCode::DomainDeleted, name),
        })
        .await?;
        to_clean_up.push(order_id);
    }
    to_clean_up.extend(orders::reopen_clean_up(&mut tx, domain.id).await?);
    for order_id in to_clean_up {
        jobs::wake_for_clean_up(&mut tx, order_id).await?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(domain.id = %domain.public_id, name = %domain.name, "domain deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Ends an order whose row is locked. The caller wakes its job for clean-up.
pub(super) async fn cancel(
    conn: &mut PgConnection,
    order_id: i64,
    event: impl FnOnce(OffsetDateTime, &DnsName) -> OrderEvent,
) -> Result<(), ApiError> {
    let unstorable = || ApiError::Internal("the order could not be cancelled".to_owned());
    let order = orders::load(conn, order_id).await?.ok_or_else(unstorable)?;
    let event = event(orders::now(conn).await?, &order.domain_name);
    let after = order.apply(&event).map_err(|_| unstorable())?;
    if orders::record(conn, &after, &event, "api").await? { Ok(()) } else { Err(unstorable()) }
}

async fn view(conn: &mut PgConnection, domain: Domain) -> Result<Json<DomainView>, ApiError> {
    let order = match domain.status {
        DomainStatus::CertificatePending => orders::pending_of_domain(conn, domain.id).await?,
        _ => None,
    };
    let failure = match domain.status {
        DomainStatus::Failed => orders::failure_of_domain(conn, domain.id).await?,
        _ => None,
    };
    let certificate = certificates::newest_issued(conn, domain.id).await?;
    Ok(Json(DomainView::new(domain, order, failure, certificate)))
}
