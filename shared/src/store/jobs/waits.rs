//! Many runs that end by waiting, in one statement: what a poll that finds nothing costs.

use std::collections::HashSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Fence, StoreError};

/// An [`Outcome::Wait`](super::Outcome::Wait) and whose it is.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub fence: Fence,
    pub until: OffsetDateTime,
    pub saw: Option<serde_json::Value>,
}

/// Settles all of them, each as [`settle`](super::settle) does, but for rows that somebody has locked: one of those must not hold
/// up all others. Returns which were stored; for the rest it is not said whether the lease is lost, and `settle` decides.
pub async fn wait_all(conn: &mut PgConnection, waiting: &[Waiting]) -> Result<HashSet<Fence>, StoreError> {
    let column = |of: fn(&Waiting) -> i64| -> Vec<i64> { waiting.iter().map(of).collect() };
    let untils: Vec<OffsetDateTime> = waiting.iter().map(|one| one.until).collect();
    let saw: Vec<Option<&serde_json::Value>> = waiting.iter().map(|one| one.saw.as_ref()).collect();
    // One array whose length Postgres does not know is enough to have the plan kept: it takes the longest for the number of rows.
    let rows = sqlx::query!(
        "WITH held AS (
             SELECT j.id, asked.until, asked.saw
             FROM jobs j JOIN unnest((SELECT $1::bigint[]), $2::bigint[], $3::timestamptz[], $4::jsonb[]) AS asked (id, lease, until, saw)
                 USING (id, lease)
             WHERE j.leased_by IS NOT NULL FOR UPDATE OF j SKIP LOCKED
         )
         UPDATE jobs j SET leased_by = NULL, woken = false, lane = CASE lane WHEN 0 THEN 1 ELSE lane END,
             due_at = CASE WHEN woken THEN least(held.until, now() + interval '1 second') ELSE held.until END,
             attempts = CASE WHEN held.saw IS NULL THEN attempts ELSE 0 END,
             last_result = coalesce(held.saw, last_result - 'failures' - 'failure')
         FROM held WHERE j.id = held.id RETURNING j.id, j.lease",
        &column(|one| one.fence.id),
        &column(|one| one.fence.lease),
        &untils,
        saw.as_slice() as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| Fence { id: row.id, lease: row.lease }).collect())
}
