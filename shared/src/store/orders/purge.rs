//! The end of old orders and of deleted domains: the rows go, once nothing is left to do for them.
//!
//! A certificate that was issued stays as long as its domain does.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::super::StoreError;

/// Where a batch ended: what has to stay must not be read again by the next one.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    ended_at: OffsetDateTime,
    id: i64,
}

impl Default for Cursor {
    /// Before everything.
    fn default() -> Self {
        Self { ended_at: OffsetDateTime::UNIX_EPOCH, id: 0 }
    }
}

/// Looks at `limit` orders that ended longer than `retain_secs` ago, after the cursor, and deletes them, with their events and
/// authorizations and the certificate rows that they left unissued. Returns how many went, and where the next batch begins.
///
/// What a failed domain shows as its failure stays: without it nobody could retry.
pub async fn orders(
    conn: &mut PgConnection,
    retain_secs: f64,
    after: Cursor,
    limit: i64,
) -> Result<(u64, Option<Cursor>), StoreError> {
    let old = sqlx::query!(
        r#"SELECT o.id, o.certificate_id, o.ended_at AS "ended_at!",
               NOT EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id)
               AND NOT (d.status = 'failed' AND d.deleted_at IS NULL AND o.id = (
                   SELECT max(shown.id) FROM orders shown
                   WHERE shown.domain_id = o.domain_id AND shown.origin = 'challenge'
                     AND shown.state IN ('failed', 'cancelled') AND shown.placed_at IS NOT NULL)) AS "may_go!"
           FROM orders o JOIN domains d ON d.id = o.domain_id
           WHERE o.cleaned_up_at IS NOT NULL AND o.ended_at < now() - make_interval(secs => $1)
             AND (o.ended_at, o.id) > ($2, $3)
           ORDER BY o.ended_at, o.id LIMIT $4 FOR UPDATE OF o SKIP LOCKED"#,
        retain_secs,
        after.ended_at,
        after.id,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let next =
        old.last().filter(|_| old.len() as i64 == limit).map(|row| Cursor { ended_at: row.ended_at, id: row.id });
    let (ids, certificates): (Vec<i64>, Vec<i64>) =
        old.iter().filter(|row| row.may_go).map(|row| (row.id, row.certificate_id)).unzip();
    let deleted = sqlx::query!("DELETE FROM orders WHERE id = ANY($1)", &ids).execute(&mut *conn).await?;
    sqlx::query!(
        "DELETE FROM certificates c WHERE c.id = ANY($1) AND c.state IN ('failed', 'cancelled')
           AND NOT EXISTS (SELECT FROM orders o WHERE o.certificate_id = c.id)",
        &certificates
    )
    .execute(conn)
    .await?;
    Ok((deleted.rows_affected(), next))
}

/// Deletes at most `limit` deleted domains whose orders are all cleaned up, with everything that belongs to them. Returns how
/// many.
///
/// Where clean-up left something at the CA, the domain stays for as long as that may live, 90 days: its authorizations are
/// how they are known again when the CA offers them to the next owner of the name.
pub async fn domains(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT d.id FROM domains d
         WHERE d.deleted_at IS NOT NULL AND NOT EXISTS (
             SELECT FROM orders o
             WHERE o.domain_id = d.id
               AND (o.cleaned_up_at IS NULL OR EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id)
                   OR o.cleaned_up_at > now() - interval '90 days' AND EXISTS (
                       SELECT FROM order_events e WHERE e.order_id = o.id AND e.event = 'cleaned_up' AND e.detail ? 'finding')))
         ORDER BY d.deleted_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM orders WHERE domain_id = ANY($1)", &ids).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM certificates WHERE domain_id = ANY($1)", &ids).execute(&mut *conn).await?;
    let deleted = sqlx::query!("DELETE FROM domains WHERE id = ANY($1)", &ids).execute(conn).await?;
    Ok(deleted.rows_affected())
}
