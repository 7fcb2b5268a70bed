//! `api_tokens`: by which clients of `/v2` are known. Only a token's SHA-256 is stored.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use crate::model::scope::Scope;

/// A token that is accepted now.
#[derive(Clone, Debug)]
pub struct Caller {
    pub token_id: i64,
    pub account_id: i64,
    pub scopes: Vec<Scope>,
}

/// What an operator sees of a token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenLine {
    pub id: i64,
    pub account_id: i64,
    pub name: String,
    pub scopes: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

/// Stores the digest of a new token. Returns its id; None when there is no such account.
pub async fn insert(
    conn: &mut PgConnection,
    account_id: i64,
    name: &str,
    sha256: &[u8],
    scopes: &[Scope],
    expires_in_secs: Option<f64>,
) -> Result<Option<i64>, StoreError> {
    let scopes: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let id = sqlx::query_scalar!(
        "INSERT INTO api_tokens (account_id, name, sha256, scopes, expires_at)
         SELECT id, $2, $3, $4, now() + make_interval(secs => $5) FROM accounts WHERE id = $1 RETURNING id",
        account_id,
        name,
        sha256,
        &scopes,
        expires_in_secs
    )
    .fetch_optional(conn)
    .await?;
    Ok(id)
}

/// The caller behind a token's digest, unless it is unknown, expired or revoked. Notes its use once a minute.
pub async fn caller(conn: &mut PgConnection, sha256: &[u8]) -> Result<Option<Caller>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT id, account_id, scopes, last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS "stale!"
           FROM api_tokens
           WHERE sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"#,
        sha256
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    if row.stale {
        sqlx::query!("UPDATE api_tokens SET last_used_at = now() WHERE id = $1", row.id).execute(conn).await?;
    }
    // A scope of a newer release means nothing to this one.
    let scopes = row.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
    Ok(Some(Caller { token_id: row.id, account_id: row.account_id, scopes }))
}

/// Of one account, or all.
pub async fn list(conn: &mut PgConnection, account_id: Option<i64>) -> Result<Vec<TokenLine>, StoreError> {
    let query = sqlx::query_as!(
        TokenLine,
        "SELECT id, account_id, name, scopes, created_at, expires_at, revoked_at, last_used_at FROM api_tokens
         WHERE $1::bigint IS NULL OR account_id = $1 ORDER BY account_id, id",
        account_id
    );
    Ok(query.fetch_all(conn).await?)
}

/// From now on it is refused. False when there is no such token, or it was revoked before.
pub async fn revoke(conn: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let revoked = sqlx::query!("UPDATE api_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", id)
        .execute(conn)
        .await?;
    Ok(revoked.rows_affected() == 1)
}
