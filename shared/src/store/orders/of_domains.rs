//! What `/domains` shows of the orders behind a domain: the open one, or why the last one failed.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::super::StoreError;
use super::parse_problem;
use crate::model::ids::PublicId;
use crate::model::problem::OrderProblem;

/// What a customer sees of the open order of a `certificate_pending` domain.
#[derive(Clone, Debug)]
pub struct PendingOrder {
    pub public_id: PublicId,
    pub txt_value: String,
    /// Whether we publish it ourselves, and nobody has to set anything.
    pub is_automatic: bool,
    pub deadline_at: OffsetDateTime,
    /// When the value was first seen.
    pub seen_at: Option<OffsetDateTime>,
    /// When the job is due; in the past or now while a worker is at it.
    pub next_check_at: OffsetDateTime,
    pub last_result: Option<serde_json::Value>,
}

/// The placed open order of each domain, by the domain's internal key.
pub async fn pending(conn: &mut PgConnection, domain_ids: &[i64]) -> Result<HashMap<i64, PendingOrder>, StoreError> {
    if domain_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT o.domain_id AS "domain_id!", o.public_id AS "public_id!", a.txt_value AS "txt_value!", o.presenter <> 'manual' AND (o.presenter <> 'delegated' OR d.delegated_at IS NOT NULL) AS "is_automatic!", o.deadline_at AS "deadline_at!", o.seen_at, j.last_result AS "last_result?",
               CASE WHEN j.leased_by IS NULL THEN greatest(j.due_at, now()) ELSE now() END AS "next_check_at!"
           FROM orders o JOIN domains d ON d.id = o.domain_id JOIN authorizations a ON a.order_id = o.id
               LEFT JOIN jobs j ON j.order_id = o.id
           WHERE o.domain_id = ANY((SELECT $1::bigint[])::bigint[]) AND o.origin = 'challenge' AND o.ended_at IS NULL AND o.deadline_at IS NOT NULL"#,
        domain_ids
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok((
                row.domain_id,
                PendingOrder {
                    public_id: PublicId::parse(&row.public_id)
                        .ok_or(StoreError::Corrupt { column: "orders.public_id" })?,
                    txt_value: row.txt_value,
                    is_automatic: row.is_automatic,
                    deadline_at: row.deadline_at,
                    seen_at: row.seen_at,
                    next_check_at: row.next_check_at,
                    last_result: row.last_result,
                },
            ))
        })
        .collect()
}

/// The newest order of a domain that was placed at the CA, whatever asked for it: its internal key.
pub async fn newest_placed(conn: &mut PgConnection, domain_id: i64) -> Result<Option<i64>, StoreError> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM orders WHERE domain_id = $1 AND placed_at IS NOT NULL ORDER BY id DESC LIMIT 1",
        domain_id
    );
    Ok(id.fetch_optional(conn).await?)
}

/// Why the domain is `failed`.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Internal key of the order that failed.
    pub order_id: i64,
    pub problem: OrderProblem,
    pub at: OffsetDateTime,
    pub cleaned_up: bool,
}

impl Failure {
    /// Whether a customer's retry is accepted now: only once nothing of the failed order is left to tidy.
    pub fn is_retryable(&self) -> bool {
        self.cleaned_up && self.problem.code.retryable()
    }
}

/// The newest failure of each domain, by the domain's internal key. An order that ended before it was placed is none.
pub async fn failures(conn: &mut PgConnection, domain_ids: &[i64]) -> Result<HashMap<i64, Failure>, StoreError> {
    if domain_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT wanted.domain_id AS "domain_id!", o.id, o.problem AS "problem!", o.ended_at AS "ended_at!",
               o.cleaned_up_at IS NOT NULL AS "cleaned_up!"
           FROM unnest((SELECT $1::bigint[])) AS wanted (domain_id) CROSS JOIN LATERAL (
               SELECT * FROM orders
               WHERE domain_id = wanted.domain_id AND origin = 'challenge' AND state IN ('failed', 'cancelled')
                 AND placed_at IS NOT NULL
               ORDER BY id DESC LIMIT 1) AS o"#,
        domain_ids
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let problem = parse_problem(row.problem)?;
            Ok((row.domain_id, Failure { order_id: row.id, problem, at: row.ended_at, cleaned_up: row.cleaned_up }))
        })
        .collect()
}
