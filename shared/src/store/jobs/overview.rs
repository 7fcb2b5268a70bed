//! Jobs as operators see them, and what an operator does to them.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::super::StoreError;
use crate::model::filter::JobFilter;

#[derive(Clone, Debug, Serialize)]
pub struct JobLine {
    pub id: i64,
    pub kind: String,
    /// Public id of its order; a scheduled job has none.
    pub order_id: Option<String>,
    pub order_state: Option<String>,
    pub domain_name: Option<String>,
    pub lane: i16,
    /// due, waiting, leased, lost or parked.
    pub state: String,
    /// While leased: when the lease ends.
    #[serde(with = "rfc3339")]
    pub due_at: OffsetDateTime,
    /// How long it has been due; negative for one whose time has not come.
    pub overdue_secs: f64,
    pub leased_by: Option<String>,
    /// How often it was claimed.
    pub lease: i64,
    /// Counted failures since the order last advanced.
    pub attempts: i32,
    /// What the last run saw or why it failed.
    pub last_result: Option<serde_json::Value>,
    #[serde(with = "rfc3339::option")]
    pub parked_at: Option<OffsetDateTime>,
    /// The request that enqueued it.
    pub request_id: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// In the order of their ids, at most `limit`.
pub async fn list(conn: &mut PgConnection, filter: &JobFilter, limit: u16) -> Result<Vec<JobLine>, StoreError> {
    let states: Vec<String> = filter.state.iter().map(|&state| <&str>::from(state).to_owned()).collect();
    let lines = sqlx::query_as!(
        JobLine,
        r#"SELECT * FROM (
               SELECT j.id, j.kind, o.public_id AS "order_id?", o.state AS "order_state?", d.name AS "domain_name?", j.lane,
                   CASE WHEN j.parked_at IS NOT NULL THEN 'parked'
                        WHEN j.leased_by IS NOT NULL THEN CASE WHEN j.due_at > now() THEN 'leased' ELSE 'lost' END
                        WHEN j.due_at > now() THEN 'waiting' ELSE 'due' END AS "state!",
                   j.due_at, extract(epoch FROM now() - j.due_at)::float8 AS "overdue_secs!", j.leased_by, j.lease,
                   j.attempts, j.last_result, j.parked_at, j.trace_context ->> 'request_id' AS request_id, j.created_at
               FROM jobs j LEFT JOIN orders o ON o.id = j.order_id LEFT JOIN domains d ON d.id = o.domain_id) AS job
           WHERE (cardinality($1::text[]) = 0 OR "state!" = ANY($1))
             AND ($2::text IS NULL OR kind = $2)
             AND ($3::smallint IS NULL OR lane = $3)
             AND ($4::text IS NULL OR leased_by = $4)
             AND ($5::text IS NULL OR "domain_name?" = lower($5))
             AND (NOT $6 OR last_result ? 'failure')
             AND id > $7
           ORDER BY id LIMIT $8"#,
        &states,
        filter.kind,
        filter.lane,
        filter.worker,
        filter.domain,
        filter.failing,
        filter.after,
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    Ok(lines)
}

pub async fn find(conn: &mut PgConnection, id: i64) -> Result<Option<JobLine>, StoreError> {
    // The one above the id before it.
    let filter = JobFilter { after: id.saturating_sub(1), ..JobFilter::default() };
    let line = list(conn, &filter, 1).await?.pop();
    Ok(line.filter(|line| line.id == id))
}

/// The job of an order, by the order's internal key.
pub async fn of_order(conn: &mut PgConnection, order_id: i64) -> Result<Option<JobLine>, StoreError> {
    let id =
        sqlx::query_scalar!("SELECT id FROM jobs WHERE order_id = $1", order_id).fetch_optional(&mut *conn).await?;
    match id {
        Some(id) => find(conn, id).await,
        None => Ok(None),
    }
}

/// Makes jobs due now, parked ones too, with all attempts before them. Returns the ids of those that exist.
pub async fn retry(conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<i64>, StoreError> {
    let retried = sqlx::query_scalar!(
        "UPDATE jobs SET parked_at = NULL, attempts = 0, woken = woken OR leased_by IS NOT NULL,
             due_at = CASE WHEN leased_by IS NULL THEN least(due_at, now()) ELSE due_at END
         WHERE id = ANY($1) RETURNING id",
        ids
    )
    .fetch_all(conn)
    .await?;
    Ok(retried)
}

/// Stops a job until somebody retries it. As a claim does, it takes the lease: a run that is under way loses its outcome.
/// False when there is no such job, or it is parked already.
pub async fn park(conn: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let parked = sqlx::query!(
        r#"UPDATE jobs SET parked_at = now(), lease = lease + 1, leased_by = NULL, woken = false,
               last_result = coalesce(last_result, '{}') || '{"parked": "by an operator"}'
           WHERE id = $1 AND parked_at IS NULL"#,
        id
    )
    .execute(conn)
    .await?;
    Ok(parked.rows_affected() == 1)
}

/// How many jobs stand where.
#[derive(Clone, Debug, Serialize)]
pub struct JobCount {
    pub kind: String,
    pub lane: i16,
    pub due: i64,
    pub waiting: i64,
    pub leased: i64,
    pub lost: i64,
    pub parked: i64,
    /// Jobs whose last run failed.
    pub failing: i64,
    /// How long the oldest due one has been due.
    pub lag_secs: Option<f64>,
}

/// By kind and lane.
pub async fn counts(conn: &mut PgConnection) -> Result<Vec<JobCount>, StoreError> {
    let counts = sqlx::query_as!(
        JobCount,
        r#"SELECT kind, lane,
               count(*) FILTER (WHERE parked_at IS NULL AND leased_by IS NULL AND due_at <= now()) AS "due!",
               count(*) FILTER (WHERE parked_at IS NULL AND leased_by IS NULL AND due_at > now()) AS "waiting!",
               count(*) FILTER (WHERE leased_by IS NOT NULL AND due_at > now()) AS "leased!",
               count(*) FILTER (WHERE leased_by IS NOT NULL AND due_at <= now()) AS "lost!",
               count(*) FILTER (WHERE parked_at IS NOT NULL) AS "parked!",
               count(*) FILTER (WHERE last_result ? 'failure') AS "failing!",
               extract(epoch FROM now() - min(due_at) FILTER (WHERE parked_at IS NULL AND due_at <= now()))::float8 AS lag_secs
           FROM jobs GROUP BY kind, lane ORDER BY kind, lane"#
    )
    .fetch_all(conn)
    .await?;
    Ok(counts)
}
