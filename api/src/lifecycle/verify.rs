//! `POST /domains/{id}/verify`: looks for the ownership token in DNS.

use countersign_shared::model::challenge::{LookupResult, Observation, challenge_domain};
use countersign_shared::model::domain::DomainStatus;
use countersign_shared::model::ids::PublicId;
use countersign_shared::store::domains::{self, Domain};
use time::OffsetDateTime;

use super::App;
use super::error::ApiError;

/// The domain, `verified`. No transaction and no connection is held during the look-up; a failed attempt changes
/// nothing.
pub(super) async fn run(app: &App, id: &PublicId) -> Result<Domain, ApiError> {
    let domain = find(app, id).await?;
    if domain.status == DomainStatus::Verified {
        return Ok(domain);
    }
    if !domain.status.may_verify() {
        return Err(refused(&domain));
    }
    let owner = challenge_domain(&domain.name);
    let answer = app.lookup.txt(&owner).await.map_err(|error| {
        tracing::info!(domain.id = %domain.public_id, domain.name = %domain.name, %error, "ownership could not be looked up");
        ApiError::LookupFailed(format!("the DNS look-up for {owner} failed: {error}"))
    })?;
    let observation = Observation::of_values(OffsetDateTime::UNIX_EPOCH, answer.values, &domain.verification_token);
    if observation.result != LookupResult::Seen {
        return Err(ApiError::BadRequest(format!(
            "the verification token is not at {owner}: {}; create a TXT record with the value {}",
            observation.detail, domain.verification_token
        )));
    }
    let target = app.challenge_zone.as_ref().map(|zone| zone.target(&domain.delegation_label));
    let is_delegated = target.map(|target| answer.aliases.contains(&target));
    let mut conn = app.pool.acquire().await?;
    if let Some(verified) = domains::mark_verified(&mut conn, domain.id, is_delegated).await? {
        tracing::info!(domain.id = %verified.public_id, domain.name = %verified.name, "domain verified");
        return Ok(verified);
    }
    drop(conn);
    // Somebody was quicker: another verify, an issuance or a deletion.
    let now = find(app, id).await?;
    if now.status == DomainStatus::Verified { Ok(now) } else { Err(refused(&now)) }
}

async fn find(app: &App, id: &PublicId) -> Result<Domain, ApiError> {
    let mut conn = app.pool.acquire().await?;
    domains::find(&mut conn, id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)
}

fn refused(domain: &Domain) -> ApiError {
    ApiError::BadRequest(format!("the domain cannot be verified while its status is {}", domain.status.as_str()))
}
