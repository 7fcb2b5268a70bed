//! `request_counts`: how much an account asks for, as far as the API's processes have told each other.

use sqlx::PgConnection;

use super::StoreError;

/// Forgets hours that are over.
pub async fn purge(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM request_counts WHERE hour < now() - interval '2 hours'").execute(conn).await?;
    Ok(())
}

/// Adds what a process has counted for accounts in this hour (seconds since the epoch, at its start), and returns the
/// totals of the same accounts.
pub async fn add(conn: &mut PgConnection, hour: i64, counts: &[(i64, i64)]) -> Result<Vec<(i64, i64)>, StoreError> {
    let (accounts, requests): (Vec<i64>, Vec<i64>) = counts.iter().copied().unzip();
    let rows = sqlx::query!(
        "INSERT INTO request_counts (account_id, hour, requests)
         SELECT account, to_timestamp($3::float8), counted
         FROM unnest($1::bigint[], $2::bigint[]) AS added (account, counted) ORDER BY account
         ON CONFLICT (account_id, hour) DO UPDATE SET requests = request_counts.requests + excluded.requests
         RETURNING account_id, requests",
        &accounts,
        &requests,
        hour as f64
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.account_id, row.requests)).collect())
}
