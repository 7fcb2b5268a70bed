//! `audit_entries`: who did what with a token of `/v2`, and what an operator did to certificates.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;

pub struct NewEntry<'a> {
    pub account_id: i64,
    pub token_id: i64,
    /// `certificate.order`, `private_key.read`, …
    pub action: &'a str,
    /// Never a secret.
    pub subject: &'a str,
    pub request_id: &'a str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub account_id: i64,
    /// None: an operator, by `countersignctl`.
    pub token_id: Option<i64>,
    /// The token's name.
    pub token: Option<String>,
    pub action: String,
    pub subject: String,
    pub request_id: String,
}

/// Written in the transaction of the change.
pub async fn record(conn: &mut PgConnection, entry: &NewEntry<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO audit_entries (account_id, token_id, action, subject, request_id) VALUES ($1, $2, $3, $4, $5)",
        entry.account_id,
        entry.token_id,
        entry.action,
        entry.subject,
        entry.request_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What an operator did, without a token. Written in the transaction of the change, or before what is taken out comes out.
pub async fn record_operator(
    conn: &mut PgConnection,
    account_id: i64,
    action: &str,
    subject: &str,
    request_id: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO audit_entries (account_id, action, subject, request_id) VALUES ($1, $2, $3, $4)",
        account_id,
        action,
        subject,
        request_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest first, at most `limit`: of one account or all, one action or any, older than the entry `before`.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Option<i64>,
    action: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let query = sqlx::query_as!(
        Entry,
        r#"SELECT e.id, e.at, e.account_id, e.token_id, t.name AS "token?", e.action, e.subject, e.request_id
           FROM audit_entries e LEFT JOIN api_tokens t ON t.id = e.token_id
           WHERE ($1::bigint IS NULL OR e.account_id = $1) AND ($2::text IS NULL OR e.action = $2)
             AND ($3::bigint IS NULL OR e.id < $3)
           ORDER BY e.id DESC LIMIT $4"#,
        account_id,
        action,
        before,
        limit
    );
    Ok(query.fetch_all(conn).await?)
}
