//! Domains as callers see them: the row, and its open order, failure and certificate as far as its status has any.

use countersign_shared::model::delegation::ChallengeZone;
use countersign_shared::model::domain::DomainStatus;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::orders::of_domains;
use countersign_shared::store::{PgConnection, StoreError, certificates};

use super::wire::{Circumstances, DomainView};

pub(super) async fn one(
    conn: &mut PgConnection,
    domain: Domain,
    zone: Option<&ChallengeZone>,
) -> Result<DomainView, StoreError> {
    let mut views = several(conn, vec![domain], zone, false).await?;
    Ok(views.pop().expect("one domain makes one view"))
}

/// At most three statements, however many domains.
pub(super) async fn several(
    conn: &mut PgConnection,
    domains: Vec<Domain>,
    zone: Option<&ChallengeZone>,
    without_last_check: bool,
) -> Result<Vec<DomainView>, StoreError> {
    let ids_in = |status: DomainStatus| -> Vec<i64> {
        domains.iter().filter(|domain| domain.status == status).map(|domain| domain.id).collect()
    };
    let all: Vec<i64> = domains.iter().map(|domain| domain.id).collect();
    let mut pending = of_domains::pending(conn, &ids_in(DomainStatus::CertificatePending)).await?;
    let mut failures = of_domains::failures(conn, &ids_in(DomainStatus::Failed)).await?;
    let mut certificates = certificates::newest_issued(conn, &all).await?;
    let view = |domain: Domain| {
        let circumstances = Circumstances {
            order: pending.remove(&domain.id),
            failure: failures.remove(&domain.id),
            certificate: certificates.remove(&domain.id),
            zone,
            without_last_check,
        };
        DomainView::new(domain, circumstances)
    };
    Ok(domains.into_iter().map(view).collect())
}
