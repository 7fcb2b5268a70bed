//! The end of old orders and of deleted domains: the rows go, once nothing is left to do for them.
//!
//! A certificate that was issued stays as long as its domain does.

use sqlx::PgConnection;

use super::super::StoreError;

/// Deletes at most `limit` orders that ended longer than `retain_secs` ago, with their events and authorizations, and the
/// certificate rows that they left unissued. Returns how many.
///
/// What a failed domain shows as its failure stays: without it nobody could retry.
pub async fn orders(conn: &mut PgConnection, retain_secs: f64, limit: i64) -> Result<u64, StoreError> {
    let old = sqlx::query!(
        "SELECT o.id, o.certificate_id FROM orders o JOIN domains d ON d.id = o.domain_id
         WHERE o.cleaned_up_at IS NOT NULL AND o.ended_at < now() - make_interval(secs => $1)
           AND NOT EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id)
           AND NOT (d.status = 'failed' AND d.deleted_at IS NULL AND o.id = (
               SELECT max(shown.id) FROM orders shown
               WHERE shown.domain_id = o.domain_id AND shown.state IN ('failed', 'cancelled') AND shown.placed_at IS NOT NULL))
         ORDER BY o.ended_at LIMIT $2 FOR UPDATE OF o SKIP LOCKED",
        retain_secs,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let (ids, certificates): (Vec<i64>, Vec<i64>) = old.iter().map(|row| (row.id, row.certificate_id)).unzip();
    let deleted = sqlx::query!("DELETE FROM orders WHERE id = ANY($1)", &ids).execute(&mut *conn).await?;
    sqlx::query!(
        "DELETE FROM certificates c WHERE c.id = ANY($1) AND c.state IN ('failed', 'cancelled')
           AND NOT EXISTS (SELECT FROM orders o WHERE o.certificate_id = c.id)",
        &certificates
    )
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
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
