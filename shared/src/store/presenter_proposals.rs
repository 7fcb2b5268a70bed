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
    /// False: only what a trial wrote is to be removed.
    pub is_wanted: bool,
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
        Lane::Deliveries as i16,
        cause.request_id,
        cause.traceparent
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("SELECT pg_notify($1, '')", notifications::JOBS).execute(conn).await?;
    Ok(())
}

/// Takes a scope's proposal back, with its job; one whose trial has begun stays until what that wrote is removed. False
/// when there is none.
pub async fn withdraw(conn: &mut PgConnection, scope: Scope) -> Result<bool, StoreError> {
    presenter_configs::lock_account(conn, scope.account_id).await?;
    let found = sqlx::query_scalar!(
        "SELECT id FROM presenter_proposals
         WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2 AND withdrawn_at IS NULL FOR UPDATE",
        scope.account_id,
        scope.domain_id
    );
    let Some(id) = found.fetch_optional(&mut *conn).await? else { return Ok(false) };
    // Locked, so that nobody claims it meanwhile.
    let begun =
        sqlx::query_scalar!(r#"SELECT lease > 0 AS "has_begun!" FROM jobs WHERE proposal_id = $1 FOR UPDATE"#, id);
    if begun.fetch_optional(&mut *conn).await? != Some(true) {
        forget(conn, id).await?;
        return Ok(true);
    }
    sqlx::query!(
        "UPDATE presenter_proposals SET withdrawn_at = now(), refused_at = now(), refused_because = 'withdrawn' WHERE id = $1",
        id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE jobs SET woken = true, due_at = CASE WHEN leased_by IS NULL THEN now() ELSE due_at END WHERE proposal_id = $1",
        id
    )
    .execute(conn)
    .await?;
    Ok(true)
}

pub async fn find(conn: &mut PgConnection, scope: Scope) -> Result<Option<Proposal>, StoreError> {
    let proposal = sqlx::query_as!(
        Proposal,
        r#"SELECT settings, num_nonnulls(secret, secret_sealed) > 0 AS "has_secret!", proposed_at, refused_at,
               refused_because
           FROM presenter_proposals
           WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2 AND withdrawn_at IS NULL"#,
        scope.account_id,
        scope.domain_id
    );
    Ok(proposal.fetch_optional(conn).await?)
}

/// None when nothing is to be done about it.
pub async fn load(conn: &mut PgConnection, ring: &KeyRing, id: i64) -> Result<Option<ToTry>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT p.id, p.account_id, p.domain_id, p.settings, p.secret, p.secret_sealed, d.name,
               p.withdrawn_at IS NULL AND d.deleted_at IS NULL AS "is_wanted!"
           FROM presenter_proposals p JOIN domains d ON d.id = p.trial_domain_id
           WHERE p.id = $1 AND (p.refused_at IS NULL OR p.withdrawn_at IS NOT NULL)"#,
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
            is_wanted: row.is_wanted,
        })
    })
    .transpose()
}

/// Locks it, before its job's outcome is written: whether it is still wanted. None when it is gone.
pub async fn lock(conn: &mut PgConnection, proposal: &ToTry) -> Result<Option<bool>, StoreError> {
    presenter_configs::lock_account(conn, proposal.scope.account_id).await?;
    let is_wanted = sqlx::query_scalar!(
        r#"SELECT withdrawn_at IS NULL AS "is_wanted!" FROM presenter_proposals WHERE id = $1 FOR UPDATE"#,
        proposal.id
    );
    Ok(is_wanted.fetch_optional(conn).await?.map(|is_wanted| is_wanted && proposal.is_wanted))
}

/// The trial succeeded: in force from now on, and no proposal any more. Its job has ended.
pub async fn accept(conn: &mut PgConnection, ring: &KeyRing, proposal: &ToTry) -> Result<(), StoreError> {
    let ToTry { id, scope, settings, secret, .. } = proposal;
    presenter_configs::replace(conn, ring, *scope, settings, secret.as_ref()).await?;
    forget(conn, *id).await
}

/// Nothing of it is left to do.
pub async fn forget(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
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
