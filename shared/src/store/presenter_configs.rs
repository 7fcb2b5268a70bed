//! `presenter_configs`: who publishes the TXT records of an account's domains, or of one of them.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use crate::model::order::OrderOrigin;
use crate::model::presenter::{PresenterSettings, PublishedBy};
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place, SealedError};

/// An account's, or one domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    pub account_id: i64,
    /// None: every domain of the account that has none of its own.
    pub domain_id: Option<i64>,
}

/// Settings in force. No `Debug`: there may be a secret.
#[derive(Clone)]
pub struct PresenterConfig {
    pub id: i64,
    pub settings: PresenterSettings,
    secret: Option<AtRest>,
    pub created_at: OffsetDateTime,
}

impl PresenterConfig {
    pub fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    pub fn secret(&self, ring: &KeyRing) -> Result<Option<Secret>, SealedError> {
        self.secret.as_ref().map(|secret| ring.open(Place::PresenterSecret(self.id), secret)).transpose()
    }
}

/// One in force, as an operator sees it: whether there is a secret, and never which.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigLine {
    pub id: i64,
    pub account_id: i64,
    /// None: every domain of the account that has none of its own.
    pub domain: Option<String>,
    /// With its kind.
    pub settings: serde_json::Value,
    pub has_secret: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// At most `limit` of those in force: of one account or all, of one domain (and those of its account) or all.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Option<i64>,
    domain_id: Option<i64>,
    limit: i64,
) -> Result<Vec<ConfigLine>, StoreError> {
    let lines = sqlx::query_as!(
        ConfigLine,
        r#"SELECT c.id, c.account_id, d.name AS "domain?", c.settings,
               num_nonnulls(c.secret, c.secret_sealed) > 0 AS "has_secret!", c.created_at
           FROM presenter_configs c LEFT JOIN domains d ON d.id = c.domain_id
           WHERE c.replaced_at IS NULL AND d.deleted_at IS NULL AND ($1::bigint IS NULL OR c.account_id = $1)
               AND ($2::bigint IS NULL OR c.domain_id IS NULL OR c.domain_id = $2)
           ORDER BY c.account_id, d.name NULLS FIRST LIMIT $3"#,
        account_id,
        domain_id,
        limit
    );
    Ok(lines.fetch_all(conn).await?)
}

/// Who would publish the records of an order that was made now: as the domain says, or by delegation if its challenge name
/// was seen to be ours, or as the account says.
pub async fn of_domain(
    conn: &mut PgConnection,
    domain_id: i64,
    origin: OrderOrigin,
) -> Result<PublishedBy, StoreError> {
    let row = sqlx::query!(
        r#"SELECT presenter AS "presenter!", presenter_config_id, is_fallback AS "is_fallback!"
           FROM domain_presenters WHERE domain_id = $1"#,
        domain_id
    )
    .fetch_one(conn)
    .await?;
    // For trials of /v2, whose clients know nothing of challenges; those of /domains do.
    if row.is_fallback && origin == OrderOrigin::Challenge {
        return Ok(PublishedBy::CUSTOMER);
    }
    let presenter = row.presenter.parse().map_err(|_| StoreError::Corrupt { column: "domain_presenters.presenter" })?;
    Ok(PublishedBy { presenter, config_id: row.presenter_config_id })
}

/// What is configured for exactly this scope.
pub async fn find(conn: &mut PgConnection, scope: Scope) -> Result<Option<PresenterConfig>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, settings, secret, secret_sealed, created_at FROM presenter_configs
         WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2 AND replaced_at IS NULL",
        scope.account_id,
        scope.domain_id
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| config(row.id, row.settings, AtRest::of_columns(row.secret, row.secret_sealed), row.created_at))
        .transpose()
}

/// The settings that an order began with, also once they are replaced.
pub async fn load(conn: &mut PgConnection, id: i64) -> Result<Option<PresenterConfig>, StoreError> {
    let row =
        sqlx::query!("SELECT id, settings, secret, secret_sealed, created_at FROM presenter_configs WHERE id = $1", id)
            .fetch_optional(conn)
            .await?;
    row.map(|row| config(row.id, row.settings, AtRest::of_columns(row.secret, row.secret_sealed), row.created_at))
        .transpose()
}

/// Lets one change of an account's presenters happen after the other.
pub async fn lock_account(conn: &mut PgConnection, account_id: i64) -> Result<(), StoreError> {
    sqlx::query!("SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE", account_id).fetch_optional(conn).await?;
    Ok(())
}

/// Puts settings in force for a scope, in place of those before. Orders under way go on with what they began with.
pub async fn replace(
    conn: &mut PgConnection,
    ring: &KeyRing,
    scope: Scope,
    settings: &PresenterSettings,
    secret: Option<&Secret>,
) -> Result<i64, StoreError> {
    lock_account(conn, scope.account_id).await?;
    remove(conn, scope).await?;
    let stored =
        serde_json::to_value(settings).map_err(|_| StoreError::Corrupt { column: "presenter_configs.settings" })?;
    // Before the row: what is sealed for it names it.
    let id = sqlx::query_scalar!(r#"SELECT nextval(pg_get_serial_sequence('presenter_configs', 'id')) AS "id!""#)
        .fetch_one(&mut *conn)
        .await?;
    let secret = secret.map(|secret| ring.seal(Place::PresenterSecret(id), secret)).transpose()?;
    sqlx::query!(
        "INSERT INTO presenter_configs (id, account_id, domain_id, kind, settings, secret, secret_sealed)
         OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id,
        scope.account_id,
        scope.domain_id,
        settings.presenter().as_str(),
        stored,
        secret.as_ref().and_then(AtRest::plain),
        secret.as_ref().and_then(AtRest::sealed)
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// False when nothing was configured.
pub async fn remove(conn: &mut PgConnection, scope: Scope) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "UPDATE presenter_configs SET replaced_at = now()
         WHERE account_id = $1 AND domain_id IS NOT DISTINCT FROM $2 AND replaced_at IS NULL",
        scope.account_id,
        scope.domain_id
    );
    Ok(removed.execute(conn).await?.rows_affected() > 0)
}

/// Deletes at most `limit` that were replaced and that no order needs any more.
pub async fn purge(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let purged = sqlx::query!(
        "DELETE FROM presenter_configs WHERE id IN (
             SELECT c.id FROM presenter_configs c
             WHERE c.replaced_at < now() - interval '1 day'
               AND NOT EXISTS (SELECT FROM orders o WHERE o.presenter_config_id = c.id)
             LIMIT $1)",
        limit
    );
    Ok(purged.execute(conn).await?.rows_affected())
}

fn config(
    id: i64,
    settings: serde_json::Value,
    secret: Option<AtRest>,
    created_at: OffsetDateTime,
) -> Result<PresenterConfig, StoreError> {
    let settings =
        serde_json::from_value(settings).map_err(|_| StoreError::Corrupt { column: "presenter_configs.settings" })?;
    Ok(PresenterConfig { id, settings, secret, created_at })
}
