//! `webhooks`: where accounts are told of their events.

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use strum::EnumString;
use time::OffsetDateTime;

use super::StoreError;
use super::sorting::{Column, SortBy, order_by};
use crate::model::entries::{WebhookEntry, timestamp};
use crate::model::secret::{AtRest, Secret};
use crate::model::webhook::SUPPRESS_AFTER;
use crate::sealed::{KeyRing, Place};

/// Without its secret, which is for signing only.
#[derive(Clone, Debug, FromRow)]
pub struct Webhook {
    pub id: i64,
    pub url: String,
    pub suppressed_at: Option<OffsetDateTime>,
}

impl From<Webhook> for WebhookEntry {
    fn from(webhook: Webhook) -> Self {
        Self { id: webhook.id, url: webhook.url, suppressed_at: webhook.suppressed_at.map(timestamp) }
    }
}

/// What the list can be sorted by, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum WebhookColumn {
    Id,
}

impl WebhookColumn {
    fn stands(self) -> Column {
        match self {
            Self::Id => Column { sql: "-id", is_nullable: false, is_negated: true },
        }
    }
}

pub async fn insert(
    conn: &mut PgConnection,
    ring: &KeyRing,
    account_id: i64,
    url: &str,
    secret: Option<&Secret>,
) -> Result<Webhook, StoreError> {
    // Before the row: what is sealed for it names it.
    let id = sqlx::query_scalar!(r#"SELECT nextval(pg_get_serial_sequence('webhooks', 'id')) AS "id!""#)
        .fetch_one(&mut *conn)
        .await?;
    let secret = secret.map(|secret| ring.seal(Place::WebhookSecret(id), secret)).transpose()?;
    let webhook = sqlx::query_as!(
        Webhook,
        "INSERT INTO webhooks (id, account_id, url, secret, secret_sealed) OVERRIDING SYSTEM VALUE
         VALUES ($1, $2, $3, $4, $5) RETURNING id, url, suppressed_at",
        id,
        account_id,
        url,
        secret.as_ref().and_then(AtRest::plain),
        secret.as_ref().and_then(AtRest::sealed)
    );
    Ok(webhook.fetch_one(conn).await?)
}

/// All of an account, suppressed ones too.
pub async fn list(
    conn: &mut PgConnection,
    account_id: i64,
    sort: &[SortBy<WebhookColumn>],
) -> Result<Vec<Webhook>, StoreError> {
    let text = format!(
        "SELECT id, url, suppressed_at FROM webhooks WHERE account_id = $1 AND deleted_at IS NULL ORDER BY {}",
        order_by(sort, WebhookColumn::stands, "-id")
    );
    Ok(sqlx::query_as(AssertSqlSafe(text)).bind(account_id).fetch_all(conn).await?)
}

pub async fn count(conn: &mut PgConnection, account_id: i64) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM webhooks WHERE account_id = $1 AND deleted_at IS NULL"#,
        account_id
    );
    Ok(count.fetch_one(conn).await?)
}

pub async fn find(conn: &mut PgConnection, account_id: i64, id: i64) -> Result<Option<Webhook>, StoreError> {
    let webhook = sqlx::query_as!(
        Webhook,
        "SELECT id, url, suppressed_at FROM webhooks WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL",
        account_id,
        id
    );
    Ok(webhook.fetch_optional(conn).await?)
}

/// Nothing is sent there from the commit on; None when there is no such webhook.
pub async fn mark_deleted(conn: &mut PgConnection, account_id: i64, id: i64) -> Result<Option<Webhook>, StoreError> {
    let webhook = sqlx::query_as!(
        Webhook,
        "UPDATE webhooks SET deleted_at = now(), secret = NULL, secret_sealed = NULL
         WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL
         RETURNING id, url, suppressed_at",
        account_id,
        id
    );
    Ok(webhook.fetch_optional(conn).await?)
}

/// How an attempt ended. True when it was one failure too many: nothing is sent there any more.
pub async fn count_attempt(conn: &mut PgConnection, id: i64, acknowledged: bool) -> Result<bool, StoreError> {
    if acknowledged {
        // A healthy receiver's row is not written at every delivery.
        sqlx::query!("UPDATE webhooks SET consecutive_failures = 0 WHERE id = $1 AND consecutive_failures > 0", id)
            .execute(conn)
            .await?;
        return Ok(false);
    }
    let suppressed = sqlx::query_scalar!(
        r#"UPDATE webhooks SET consecutive_failures = consecutive_failures + 1,
               suppressed_at = CASE WHEN consecutive_failures + 1 >= $2 THEN coalesce(suppressed_at, now())
                                    ELSE suppressed_at END
           WHERE id = $1 RETURNING suppressed_at IS NOT NULL AS "is_suppressed!""#,
        id,
        SUPPRESS_AFTER
    );
    Ok(suppressed.fetch_optional(conn).await?.unwrap_or(true))
}
