//! Orders as operators see them: one line each, or one with all that is known of it. Never a key, never a chain.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::super::StoreError;
use super::super::jobs::overview::{self as jobs, JobLine};
use crate::model::filter::OrderFilter;
use crate::model::ids::PublicId;

#[derive(Clone, Debug, Serialize)]
pub struct OrderLine {
    /// Public id.
    pub id: String,
    pub domain_id: String,
    pub domain_name: String,
    pub state: String,
    /// `failure.code`, of a failed or cancelled order.
    pub code: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Of its job, which is gone once nothing is left to do.
    #[serde(with = "rfc3339::option")]
    pub due_at: Option<OffsetDateTime>,
    pub leased_by: Option<String>,
    pub attempts: Option<i32>,
    #[serde(with = "rfc3339::option")]
    pub parked_at: Option<OffsetDateTime>,
}

/// Newest first, at most `limit`. An unknown `before` selects nothing.
pub async fn list(conn: &mut PgConnection, filter: &OrderFilter, limit: u16) -> Result<Vec<OrderLine>, StoreError> {
    let states: Vec<String> = filter.state.iter().map(|state| state.as_str().to_owned()).collect();
    let lines = sqlx::query_as!(
        OrderLine,
        r#"SELECT o.public_id AS id, d.public_id AS domain_id, d.name AS domain_name, o.state,
               o.problem ->> 'code' AS code, o.created_at, o.updated_at,
               j.due_at AS "due_at?", j.leased_by, j.attempts AS "attempts?", j.parked_at
           FROM orders o JOIN domains d ON d.id = o.domain_id LEFT JOIN jobs j ON j.order_id = o.id
           WHERE (cardinality($1::text[]) = 0 OR o.state = ANY($1))
             AND ($2::text IS NULL OR o.problem ->> 'code' = $2)
             AND ($3::text IS NULL OR d.name = lower($3))
             AND ($4::float8 IS NULL OR o.updated_at >= now() - make_interval(secs => $4))
             AND (NOT $5 OR j.parked_at IS NOT NULL)
             AND (NOT $6 OR NOT EXISTS (SELECT FROM orders newer WHERE newer.domain_id = o.domain_id AND newer.origin = o.origin AND newer.id > o.id))
             AND ($7::text IS NULL OR o.id < (SELECT id FROM orders WHERE public_id = $7))
           ORDER BY o.id DESC LIMIT $8"#,
        &states,
        filter.code.map(|code| code.as_str()),
        filter.domain,
        filter.since.map(|since| since.as_secs_f64()),
        filter.parked,
        filter.newest,
        filter.before,
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    Ok(lines)
}

/// All that is known of one order.
#[derive(Clone, Debug, Serialize)]
pub struct OrderStory {
    pub id: String,
    pub domain_id: String,
    pub domain_name: String,
    pub domain_status: String,
    pub state: String,
    pub directory: Option<String>,
    /// The CA's order.
    pub acme_url: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    #[serde(with = "rfc3339::option")]
    pub deadline_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub seen_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub cleaned_up_at: Option<OffsetDateTime>,
    /// Why it ended: `code`, `detail` as the customer reads it, and `acme`, the CA's problem document.
    pub problem: Option<serde_json::Value>,
    /// The order that this one stands in for.
    pub retry_of: Option<String>,
    /// The order that stands in for this one.
    pub retried_by: Option<String>,
    pub certificate: CertificateLine,
    pub authorizations: Vec<AuthorizationLine>,
    pub job: Option<JobLine>,
    pub events: Vec<EventLine>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CertificateLine {
    pub id: String,
    pub state: String,
    pub algorithm: String,
    pub serial_number: Option<String>,
    pub fingerprint_sha256: Option<String>,
    #[serde(with = "rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AuthorizationLine {
    pub identifier: String,
    pub wildcard: bool,
    pub url: String,
    pub txt_value: String,
    #[serde(with = "rfc3339::option")]
    pub proved_at: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, Serialize)]
pub struct EventLine {
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    pub event: String,
    /// The order's state after it.
    pub state: String,
    /// A worker's name, `api` or `operator`.
    pub actor: String,
    pub detail: Option<serde_json::Value>,
}

/// None when there is no such order, or no longer.
pub async fn story(conn: &mut PgConnection, public_id: &PublicId) -> Result<Option<OrderStory>, StoreError> {
    let Some(row) = sqlx::query!(
        r#"SELECT o.id, d.public_id AS domain_id, d.name AS domain_name,
               CASE WHEN d.deleted_at IS NULL THEN d.status ELSE 'deleted' END AS "domain_status!", o.state,
               o.directory, o.acme_url, o.created_at, o.updated_at, o.deadline_at, o.seen_at, o.ended_at, o.cleaned_up_at,
               o.problem, (SELECT public_id FROM orders WHERE id = o.retry_of) AS retry_of,
               (SELECT public_id FROM orders WHERE retry_of = o.id ORDER BY id DESC LIMIT 1) AS retried_by,
               c.public_id AS certificate_id, c.state AS certificate_state, c.algorithm, c.serial_number,
               c.fingerprint_sha256, c.not_after
           FROM orders o JOIN domains d ON d.id = o.domain_id JOIN certificates c ON c.id = o.certificate_id
           WHERE o.public_id = $1"#,
        public_id.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(None);
    };
    let authorizations = sqlx::query_as!(
        AuthorizationLine,
        "SELECT identifier, wildcard, url, txt_value, proved_at FROM authorizations
         WHERE order_id = $1 ORDER BY identifier, wildcard",
        row.id
    )
    .fetch_all(&mut *conn)
    .await?;
    let events = sqlx::query_as!(
        EventLine,
        "SELECT at, event, state, actor, detail FROM order_events WHERE order_id = $1 ORDER BY id",
        row.id
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(Some(OrderStory {
        id: public_id.to_string(),
        domain_id: row.domain_id,
        domain_name: row.domain_name,
        domain_status: row.domain_status,
        state: row.state,
        directory: row.directory,
        acme_url: row.acme_url,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deadline_at: row.deadline_at,
        seen_at: row.seen_at,
        ended_at: row.ended_at,
        cleaned_up_at: row.cleaned_up_at,
        problem: row.problem,
        retry_of: row.retry_of,
        retried_by: row.retried_by,
        certificate: CertificateLine {
            id: row.certificate_id,
            state: row.certificate_state,
            algorithm: row.algorithm,
            serial_number: row.serial_number,
            fingerprint_sha256: row.fingerprint_sha256,
            not_after: row.not_after,
        },
        authorizations,
        job: jobs::of_order(conn, row.id).await?,
        events,
    }))
}
