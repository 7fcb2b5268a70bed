//! `deliveries`: one event to one webhook, and what became of it.

use sqlx::PgConnection;

use super::{StoreError, webhooks};
use crate::model::secret::{AtRest, Secret};
use crate::model::webhook::ATTEMPTS_WITHIN;
use crate::sealed::{KeyRing, Place};

/// A delivery that is still to be made. No `Debug`: it holds a secret.
pub struct Delivery {
    pub id: i64,
    pub account_id: i64,
    pub webhook_id: i64,
    pub url: String,
    pub secret: Option<Secret>,
    /// Neither deleted nor suppressed.
    pub is_wanted: bool,
    /// The time for further attempts is over.
    pub is_late: bool,
    pub event_name: String,
    pub request_identifier: String,
    /// The body.
    pub payload: serde_json::Value,
}

/// None when it has ended.
pub async fn load(conn: &mut PgConnection, ring: &KeyRing, id: i64) -> Result<Option<Delivery>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT y.id, w.account_id, w.id AS webhook_id, w.url, w.secret, w.secret_sealed,
               w.deleted_at IS NULL AND w.suppressed_at IS NULL AS "is_wanted!",
               e.created_at < now() - make_interval(secs => $2) AS "is_late!", e.name AS event_name,
               e.request_identifier::text AS "request_identifier!", e.payload
           FROM deliveries y JOIN webhooks w ON w.id = y.webhook_id JOIN events e ON e.id = y.event_id
           WHERE y.id = $1 AND y.delivered_at IS NULL AND y.failed_at IS NULL"#,
        id,
        ATTEMPTS_WITHIN.as_secs_f64()
    );
    let Some(row) = row.fetch_optional(conn).await? else {
        return Ok(None);
    };
    let secret = AtRest::of_columns(row.secret, row.secret_sealed);
    Ok(Some(Delivery {
        id: row.id,
        account_id: row.account_id,
        webhook_id: row.webhook_id,
        url: row.url,
        secret: secret.map(|secret| ring.open(Place::WebhookSecret(row.webhook_id), &secret)).transpose()?,
        is_wanted: row.is_wanted,
        is_late: row.is_late,
        event_name: row.event_name,
        request_identifier: row.request_identifier,
        payload: row.payload,
    }))
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// From 1.
    pub number: i32,
    pub acknowledged: bool,
    /// HTTP status, where there was an answer.
    pub status: Option<i32>,
    /// Why there was none; nothing of what the receiver said.
    pub error: Option<String>,
    /// No other follows.
    pub is_last: bool,
}

/// What an attempt leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Delivered, or given up.
    pub has_ended: bool,
    /// The receiver has failed too often and gets nothing any more.
    pub is_suppressed: bool,
}

/// Records an attempt with its receiver and its delivery; the caller goes on with the job row.
pub async fn record(conn: &mut PgConnection, delivery: &Delivery, attempt: &Attempt) -> Result<Recorded, StoreError> {
    let is_suppressed = webhooks::count_attempt(conn, delivery.webhook_id, attempt.acknowledged).await?;
    let is_given_up = !attempt.acknowledged && (attempt.is_last || is_suppressed);
    sqlx::query!(
        "UPDATE deliveries SET attempts = $2, last_attempt_at = now(), last_status = $3, last_error = $4,
             delivered_at = CASE WHEN $5 THEN now() END, failed_at = CASE WHEN $6 THEN now() END
         WHERE id = $1",
        delivery.id,
        attempt.number,
        attempt.status,
        attempt.error,
        attempt.acknowledged,
        is_given_up
    )
    .execute(conn)
    .await?;
    Ok(Recorded { has_ended: attempt.acknowledged || is_given_up, is_suppressed })
}

/// Gives a delivery up without another attempt, after so many.
pub async fn give_up(conn: &mut PgConnection, id: i64, attempts: i32, why: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE deliveries SET failed_at = now(), attempts = $2, last_error = $3
         WHERE id = $1 AND delivered_at IS NULL AND failed_at IS NULL",
        id,
        attempts,
        why
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes at most `limit` events older than 30 days, with their deliveries, and deleted webhooks that no delivery names any
/// more. An event that somebody is still to be told of stays. Returns how many events.
pub async fn purge(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let events = sqlx::query!(
        "DELETE FROM events WHERE id = ANY(ARRAY(
             SELECT e.id FROM events e
             WHERE e.created_at < now() - interval '30 days' AND NOT EXISTS (
                 SELECT FROM deliveries y JOIN jobs j ON j.delivery_id = y.id WHERE y.event_id = e.id)
             ORDER BY e.created_at LIMIT $1 FOR UPDATE OF e SKIP LOCKED))",
        limit
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM webhooks WHERE id = ANY(ARRAY(
             SELECT w.id FROM webhooks w
             WHERE w.deleted_at IS NOT NULL AND NOT EXISTS (SELECT FROM deliveries y WHERE y.webhook_id = w.id)
             ORDER BY w.deleted_at LIMIT $1 FOR UPDATE OF w SKIP LOCKED))",
        limit
    )
    .execute(conn)
    .await?;
    Ok(events.rows_affected())
}
