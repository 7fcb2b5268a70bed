//! `presenter_proposals`: what an account wants its TXT records to be published by, until a worker has tried it.
//!
//! Locks: account, then proposal, then job.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::jobs::{Cause, Lane};
use super::presenter_configs::{self, Scope};
use super::{StoreError, notifications};
use crate::model::presenter::PresenterSettings;
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place};

/// One that is not in force, as its account sees it.
pub struct Proposal {
    pub settings: serde_json::Value,
    pub has_secret: bool,
    pub proposed_at: OffsetDateTime,
    /// None: not tried yet.
    pub refused_at: Option<OffsetDateTime>,
    pub refused_because: Option<String>,
}

/// One to try. No `Debug`: there may be a secret.
pub struct ToTry {
    pub id: i64,
    pub scope: Scope,
    pub settings: PresenterSettings,
    pub secret: Option<Secret>,
    /// The domain at whose challenge name it is tried.
    pub domain: String,
}

/// In place of the scope's proposal before, whose trial is no longer of interest; enqueues the trial.
pub async fn propose(
    conn: &mut PgConnection,
    ring: &KeyRing,
    scope: Scope,
    trial_domain_id: i64,
    settings: &PresenterSettings,
    secret: Option<&Secret>,
    cause: &Cause<'_>,
) -> Result<(), StoreError> {
    withdraw(conn, scope).await?;
    let stored =
        serde_json::to_value(settings).map_err(|_| StoreError::Corrupt { column: "presenter_proposals.settings" })?;
    // Before the row: what is sealed for it names it.
    let id = sqlx::query_scalar!(r#"SELECT nextval(pg_get_serial_sequence('presenter_proposals', 'id')) AS "id!""#)
        .fetch_one(&mut *conn)
        .await?;
    let secret = secret.map(|secret| ring.seal(Place::ProposalSecret(id), secret)).transpose()?;
    sqlx::query!(
        "WITH proposal AS (
             INSERT INTO presenter_proposals (id, account_id, domain_id, trial_domain_id, settings, secret, secret_sealed)
             OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id)
         INSERT INTO jobs (kind, proposal_id, lane, trace_context)
         SELECT 'try-presenter', id, $8, jsonb_strip_nulls(jsonb_build_object('request_id', $9::text, 'traceparent', $10::text))
         FROM proposal",
        id,
        scope.account_id,
        scope.domain_id,
        trial_domain_id,
        stored,
        secret.as_ref().and_then(AtRest::plain),
        secret.as_ref().and_then(AtRest::sealed),
        Lane::Housekeeping as i16,
        cause.request_id,
        cause.traceparent
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("SELECT pg_notify($1, '')", notifications::JOBS).execute(conn).await?;
    Ok(())
}

/// Forgets a scope's proposal, and its job. False when there is none.
pub async fn withdraw(conn: &mut PgConnection, scope: Scope) -> Result<bool, StoreError> {
    presenter_configs::lock_account(conn, scope.account_id).await?;
    let withdrawn = sqlx::query!(
        "DELETE FROM presenter_proposals WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2",
        scope.account_id,
        scope.domain_id
    );
    Ok(withdrawn.execute(conn).await?.rows_affected() > 0)
}

pub async fn find(conn: &mut PgConnection, scope: Scope) -> Result<Option<Proposal>, StoreError> {
    let proposal = sqlx::query_as!(
        Proposal,
        r#"SELECT settings, num_nonnulls(secret, secret_sealed) > 0 AS "has_secret!", proposed_at, refused_at,
               refused_because
           FROM presenter_proposals WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2"#,
        scope.account_id,
        scope.domain_id
    );
    Ok(proposal.fetch_optional(conn).await?)
}

/// None when it is withdrawn or refused, or its domain deleted.
pub async fn load(conn: &mut PgConnection, ring: &KeyRing, id: i64) -> Result<Option<ToTry>, StoreError> {
    let row = sqlx::query!(
        "SELECT p.id, p.account_id, p.domain_id, p.settings, p.secret, p.secret_sealed, d.name
         FROM presenter_proposals p JOIN domains d ON d.id = p.trial_domain_id
         WHERE p.id = $1 AND p.refused_at IS NULL AND d.deleted_at IS NULL",
        id
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let secret = AtRest::of_columns(row.secret, row.secret_sealed);
        Ok(ToTry {
            id: row.id,
            scope: Scope { account_id: row.account_id, domain_id: row.domain_id },
            settings: serde_json::from_value(row.settings)
                .map_err(|_| StoreError::Corrupt { column: "presenter_proposals.settings" })?,
            secret: secret.map(|secret| ring.open(Place::ProposalSecret(id), &secret)).transpose()?,
            domain: row.name,
        })
    })
    .transpose()
}

/// Locks it, before its job's outcome is written. False when it is withdrawn.
pub async fn lock(conn: &mut PgConnection, proposal: &ToTry) -> Result<bool, StoreError> {
    presenter_configs::lock_account(conn, proposal.scope.account_id).await?;
    let locked = sqlx::query!("SELECT id FROM presenter_proposals WHERE id = $1 FOR UPDATE", proposal.id);
    Ok(locked.fetch_optional(conn).await?.is_some())
}

/// The trial succeeded: in force from now on, and no proposal any more. Its job has ended.
pub async fn accept(conn: &mut PgConnection, ring: &KeyRing, proposal: &ToTry) -> Result<(), StoreError> {
    let ToTry { id, scope, settings, secret, .. } = proposal;
    presenter_configs::replace(conn, ring, *scope, settings, secret.as_ref()).await?;
    sqlx::query!("DELETE FROM presenter_proposals WHERE id = $1", id).execute(conn).await?;
    Ok(())
}

/// The trial failed: what is in force stays.
pub async fn refuse(conn: &mut PgConnection, id: i64, because: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE presenter_proposals SET refused_at = now(), refused_because = $2, secret = NULL, secret_sealed = NULL
         WHERE id = $1",
        id,
        because
    )
    .execute(conn)
    .await?;
    Ok(())
}
