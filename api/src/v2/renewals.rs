//! Renewals of certificates: a successor with the same names is ordered, then issued in the background. The old one stays.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::OrderOrigin;
use countersign_shared::model::scope::Scope;
use countersign_shared::store::domains;
use countersign_shared::store::renewals::{self, NewRenewal, Renewable};
use utoipa::ToSchema;

use super::V2;
use super::auth::Authorized;
use super::certificates::{accept, auto_renew, find_in, may_be_ordered, signature_algorithm, subject};
use super::domains::find as find_domain;
use super::error::{Error, FieldErrors};
use super::input::{self, Path};
use super::wire::{CertificateEntry, Data, RenewalEntry};
use crate::idempotency::Idempotency;
use crate::limits::Received;
use crate::openapi::AnyV2Call;
use crate::request_id::RequestId;

/// Body of a renewal. Everything may be left out; unknown fields are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct RenewalInput {
    /// Of the successor, whatever the old certificate says.
    #[schema(default = false)]
    auto_renew: Option<bool>,
    /// `ECDSA` (P-256) or `RSA` (2048 bits), whatever the old certificate has.
    #[schema(default = "ECDSA")]
    signature_algorithm: Option<String>,
}

/// Order a renewal
///
/// Makes a successor with the names of the certificate, which must be issued and not expired, and of which no other renewal
/// may be under way. Nothing is asked of the CA until the renewal is issued.
#[utoipa::path(post, path = "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/renewals",
    operation_id = "order_renewal", tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    request_body = Option<RenewalInput>, responses((status = 201, body = Data<RenewalEntry>), AnyV2Call))]
pub(crate) async fn order(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named, certificate)): Path<(String, String, String)>,
    request_id: RequestId,
    idempotency: Idempotency,
    body: Received,
) -> Result<(StatusCode, Json<Data<RenewalEntry>>), Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::CertificatesWrite)?;
    let mut tx = v2.pool.begin().await?;
    let domain = find_domain(&mut tx, account, &named).await?;
    // Two orders at once come one after the other.
    let domain = domains::lock_live(&mut tx, domain.id).await?.ok_or_else(|| Error::no_domain(&named))?;
    let old = find_in(&mut tx, domain.id, &certificate).await?;
    let fields = input::fields(&body)?;
    let mut errors = FieldErrors::default();
    let (auto_renew, algorithm) = (auto_renew(&fields, &mut errors), signature_algorithm(&fields, &mut errors));
    errors.none_or_invalid()?;
    may_be_ordered(&v2, &mut tx, &domain).await?;
    let refused = match renewals::renewable(&mut tx, old.id).await? {
        Renewable::Yes => None,
        Renewable::NotIssued => Some(format!("its state is {}", old.state)),
        Renewable::Expired => Some("it has expired".to_owned()),
        Renewable::Underway => Some("a renewal of it is under way".to_owned()),
    };
    if let Some(why) = refused {
        return Err(Error::BadRequest(format!("Certificate cannot be renewed: {why}")));
    }
    let public_id = PublicId::from_random(rand::random());
    let new = NewRenewal {
        old_certificate_id: old.id,
        public_id: &public_id,
        algorithm: Some(algorithm),
        auto_renew,
        is_automatic: false,
    };
    let renewal = renewals::insert(&mut tx, &new).await?;
    let renewal_id = renewal.id;
    let about = format!("renewal {renewal_id} of {}", subject(&old));
    caller.audit(&mut tx, "renewal.order", &about, &request_id).await?;
    let answer = Data { data: RenewalEntry::from(renewal) };
    idempotency.keep(&mut tx, StatusCode::CREATED, &answer).await?;
    tx.commit().await?;
    tracing::info!(account.id = account, certificate.id = old.id, renewal.id = renewal_id, domain.name = %domain.name, "renewal ordered");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Issue an ordered renewal
///
/// Only once. Answers with the successor: ask for it until its state is `issued` or `failed`. The old certificate stays as it is.
#[utoipa::path(post, path = "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/renewals/{renewal}/issue",
    operation_id = "issue_renewal", tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path), ("renewal" = i64, Path)),
    responses((status = 202, body = Data<CertificateEntry>), AnyV2Call))]
pub(crate) async fn issue(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named, certificate, renewal)): Path<(String, String, String, String)>,
    request_id: RequestId,
    idempotency: Idempotency,
) -> Result<(StatusCode, Json<Data<CertificateEntry>>), Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::CertificatesWrite)?;
    let mut tx = v2.pool.begin().await?;
    let domain = find_domain(&mut tx, account, &named).await?;
    let domain = domains::lock_live(&mut tx, domain.id).await?.ok_or_else(|| Error::no_domain(&named))?;
    let old = find_in(&mut tx, domain.id, &certificate).await?;
    let found = match input::id(&renewal) {
        Some(id) => renewals::find(&mut tx, old.id, id).await?,
        None => None,
    };
    let found = found.ok_or_else(|| Error::no_renewal(&renewal))?;
    if !renewals::start(&mut tx, found.id).await? {
        return Err(Error::BadRequest(format!("Certificate renewal cannot be issued: its state is {}", found.state)));
    }
    let order_id = accept(&mut tx, domain.id, found.new_certificate_id, OrderOrigin::Renewal, &request_id).await?;
    let successor = find_in(&mut tx, domain.id, &found.new_certificate_id.to_string()).await?;
    let successor_id = successor.id;
    let about = format!("renewal {} by {}", found.id, subject(&successor));
    caller.audit(&mut tx, "renewal.issue", &about, &request_id).await?;
    let answer = Data { data: successor.entry(account) };
    idempotency.keep(&mut tx, StatusCode::ACCEPTED, &answer).await?;
    tx.commit().await?;
    tracing::info!(account.id = account, certificate.id = successor_id, renewal.id = found.id, order.id = %order_id, domain.name = %domain.name, "order accepted");
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
