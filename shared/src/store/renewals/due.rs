//! Which certificates are to be renewed of their own accord, and when: `renew_at` and what it follows from.
//!
//! Every question reads the beginning of a partial index, however many certificates there are.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::super::{StoreError, presenter_configs};
use crate::model::order::OrderOrigin;
use crate::model::presenter::PublishedBy;

/// A certificate without a time for its renewal.
#[derive(Clone, Copy, Debug)]
pub struct Unplanned {
    pub id: i64,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// At most `limit`: those that were issued since the last look.
pub async fn unplanned(conn: &mut PgConnection, limit: i64) -> Result<Vec<Unplanned>, StoreError> {
    let unplanned = sqlx::query_as!(
        Unplanned,
        r#"SELECT id, not_before AS "not_before!", not_after AS "not_after!" FROM certificates
           WHERE auto_renew AND state = 'issued' AND renewal_ended_at IS NULL AND renew_at IS NULL LIMIT $1"#,
        limit
    );
    Ok(unplanned.fetch_all(conn).await?)
}

/// When each is to be renewed, as long as its CA suggests no other time; the CA is asked at once.
pub async fn plan(conn: &mut PgConnection, times: &[(i64, OffsetDateTime)]) -> Result<(), StoreError> {
    let (ids, times): (Vec<i64>, Vec<OffsetDateTime>) = times.iter().copied().unzip();
    sqlx::query!(
        "UPDATE certificates c SET renew_at = planned.renew_at, ari_check_due = now()
         FROM unnest($1::bigint[], $2::timestamptz[]) AS planned (id, renew_at)
         WHERE c.id = planned.id AND c.renew_at IS NULL",
        &ids,
        &times
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A certificate whose time has come, and its domain.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub id: i64,
    pub domain_id: i64,
}

/// At most `limit`, the longest due first.
pub async fn due(conn: &mut PgConnection, limit: i64) -> Result<Vec<Due>, StoreError> {
    let due = sqlx::query_as!(
        Due,
        "SELECT id, domain_id FROM certificates
         WHERE auto_renew AND state = 'issued' AND renewal_ended_at IS NULL AND renew_at <= now()
         ORDER BY renew_at LIMIT $1",
        limit
    );
    Ok(due.fetch_all(conn).await?)
}

/// A domain whose customer publishes its records, as far as anybody has seen.
#[derive(Clone, Debug)]
pub struct PublishedByHand {
    pub id: i64,
    pub name: String,
    pub delegation_label: String,
}

/// Those of these domains.
pub async fn published_by_hand(conn: &mut PgConnection, domains: &[i64]) -> Result<Vec<PublishedByHand>, StoreError> {
    let by_hand = sqlx::query_as!(
        PublishedByHand,
        "SELECT d.id, d.name, d.delegation_label FROM domains d JOIN domain_presenters p ON p.domain_id = d.id
         WHERE d.id = ANY ($1) AND d.deleted_at IS NULL AND d.delegated_at IS NULL AND p.presenter = 'manual'",
        domains
    );
    Ok(by_hand.fetch_all(conn).await?)
}

/// What is known of a certificate under its domain's lock.
#[derive(Clone, Copy, Debug)]
pub struct StillDue {
    /// Who would publish the records of an order that was made now.
    pub published_by: PublishedBy,
    pub auto_renew: bool,
    /// Whether it was due before.
    pub was_tried: bool,
    pub not_after: OffsetDateTime,
    /// The database's time.
    pub now: OffsetDateTime,
}

/// None when somebody has renewed or postponed it meanwhile.
pub async fn still_due(conn: &mut PgConnection, id: i64) -> Result<Option<StillDue>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT c.domain_id, c.auto_renew, c.renewal_tried_at IS NOT NULL AS "was_tried!", c.not_after AS "not_after!", now() AS "now!" FROM certificates c
           WHERE c.id = $1 AND c.auto_renew AND c.state = 'issued' AND c.renewal_ended_at IS NULL AND c.renew_at <= now()"#,
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let published_by = presenter_configs::of_domain(conn, row.domain_id, OrderOrigin::Renewal).await?;
    Ok(Some(StillDue {
        published_by,
        auto_renew: row.auto_renew,
        was_tried: row.was_tried,
        not_after: row.not_after,
        now: row.now,
    }))
}

/// A successor was ordered; if that fails, `next` is when another one is.
pub async fn mark_tried(conn: &mut PgConnection, id: i64, next: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query!("UPDATE certificates SET renewal_tried_at = now(), renew_at = $2 WHERE id = $1", id, next)
        .execute(conn)
        .await?;
    Ok(())
}

/// Not now: look at it again in so many seconds.
pub async fn postpone(conn: &mut PgConnection, id: i64, secs: f64) -> Result<(), StoreError> {
    sqlx::query!("UPDATE certificates SET renew_at = now() + make_interval(secs => $2) WHERE id = $1", id, secs)
        .execute(conn)
        .await?;
    Ok(())
}

/// A domain has another certificate of its own issuance: the line before it ends.
pub async fn supersede(conn: &mut PgConnection, domain_id: i64, by: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH RECURSIVE line AS (
             SELECT id FROM certificates WHERE domain_id = $1 AND origin = 'challenge' AND id <> $2
             UNION ALL
             SELECT successor.id FROM certificates successor JOIN line ON successor.successor_of = line.id)
         UPDATE certificates SET renewal_ended_at = now() WHERE id IN (SELECT id FROM line) AND renewal_ended_at IS NULL",
        domain_id,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// It is never renewed of its own accord any more.
pub async fn end(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("UPDATE certificates SET renewal_ended_at = now() WHERE id = $1 AND renewal_ended_at IS NULL", id)
        .execute(conn)
        .await?;
    Ok(())
}

/// A certificate whose CA is to be asked when to renew it.
#[derive(Clone, Debug)]
pub struct ToAsk {
    pub id: i64,
    /// Whether an order that was made now would need nobody to publish its records.
    pub is_automatic: bool,
    pub chain_pem: String,
    /// Where it was issued; None when that order is deleted.
    pub directory: Option<String>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// When the last successor was ordered that was not issued.
    pub tried_at: Option<OffsetDateTime>,
    /// What the CA suggested last.
    pub window: Option<(OffsetDateTime, OffsetDateTime)>,
}

/// At most `limit`, the longest due first.
pub async fn to_ask(conn: &mut PgConnection, limit: i64) -> Result<Vec<ToAsk>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT c.id, p.presenter <> 'manual' AS "is_automatic!", c.certificate_pem AS "chain_pem!", c.not_before AS "not_before!", c.not_after AS "not_after!",
               c.renewal_tried_at, c.ari_window_start, c.ari_window_end,
               (SELECT o.directory FROM orders o WHERE o.certificate_id = c.id AND o.state = 'issued' LIMIT 1) AS directory
           FROM certificates c JOIN domain_presenters p ON p.domain_id = c.domain_id
           WHERE c.auto_renew AND c.state = 'issued' AND c.renewal_ended_at IS NULL AND c.ari_check_due <= now()
           ORDER BY c.ari_check_due LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await?;
    let ask = rows.into_iter().map(|row| ToAsk {
        id: row.id,
        is_automatic: row.is_automatic,
        chain_pem: row.chain_pem,
        directory: row.directory,
        not_before: row.not_before,
        not_after: row.not_after,
        tried_at: row.renewal_tried_at,
        window: row.ari_window_start.zip(row.ari_window_end),
    });
    Ok(ask.collect())
}

/// The CA suggests another window than before: `renew_at` was chosen inside it.
pub async fn suggest(
    conn: &mut PgConnection,
    id: i64,
    window: (OffsetDateTime, OffsetDateTime),
    renew_at: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE certificates SET ari_window_start = $2, ari_window_end = $3, renew_at = $4 WHERE id = $1",
        id,
        window.0,
        window.1,
        renew_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// When the CA is to be asked next.
pub async fn ask_again(conn: &mut PgConnection, id: i64, secs: f64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE certificates SET ari_checked_at = now(), ari_check_due = now() + make_interval(secs => $2) WHERE id = $1",
        id,
        secs
    )
    .execute(conn)
    .await?;
    Ok(())
}
