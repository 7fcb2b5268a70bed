//! Certificates as an operator sees them, and their revocation.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::super::StoreError;

/// One certificate, without chain and key.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateLine {
    pub id: i64,
    pub public_id: String,
    pub account_id: i64,
    pub domain: String,
    pub common_name: String,
    pub alternate_names: Vec<String>,
    pub state: String,
    pub auto_renew: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    pub issued_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub renew_at: Option<OffsetDateTime>,
    pub serial_number: Option<String>,
    pub fingerprint_sha256: Option<String>,
    pub issuer: Option<String>,
    /// Where its order was placed; None when the order is gone.
    pub directory: Option<String>,
    pub key_is_plain: bool,
    /// Id of the key of the ring.
    pub key_sealed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// RFC 5280 section 5.3.1.
    pub revocation_reason: Option<i16>,
}

/// The newest first, at most `limit`: of one account or all, of one domain (by name or public id) or all, older than `before`.
pub async fn list(
    conn: &mut PgConnection,
    account_id: Option<i64>,
    domain: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<CertificateLine>, StoreError> {
    let lines = sqlx::query_as!(
        CertificateLine,
        r#"SELECT c.id, c.public_id, d.account_id, d.name AS domain, coalesce(c.common_name, d.name) AS "common_name!",
               c.alternate_names, c.state, c.auto_renew, c.issued_at, c.not_before, c.not_after, c.renew_at,
               c.serial_number, c.fingerprint_sha256, c.issuer,
               (SELECT o.directory FROM orders o WHERE o.certificate_id = c.id AND o.directory IS NOT NULL
                ORDER BY o.id DESC LIMIT 1) AS directory,
               c.private_key_pem IS NOT NULL AS "key_is_plain!", sealed_by(c.private_key_sealed) AS key_sealed_by,
               c.revoked_at, c.revocation_reason
           FROM certificates c JOIN domains d ON d.id = c.domain_id
           WHERE ($1::bigint IS NULL OR d.account_id = $1)
               AND ($2::text IS NULL OR c.domain_id IN (
                   SELECT id FROM domains WHERE name = $2 AND deleted_at IS NULL
                   UNION ALL SELECT id FROM domains WHERE public_id = $2))
               AND ($3::bigint IS NULL OR c.id < $3)
           ORDER BY c.id DESC LIMIT $4"#,
        account_id,
        domain,
        before,
        limit
    );
    Ok(lines.fetch_all(conn).await?)
}

/// By the id of `/v2` or of `/domains`.
pub async fn find(conn: &mut PgConnection, id: &str) -> Result<Option<CertificateLine>, StoreError> {
    let number: Option<i64> = id.parse().ok();
    let line = sqlx::query_as!(
        CertificateLine,
        r#"SELECT c.id, c.public_id, d.account_id, d.name AS domain, coalesce(c.common_name, d.name) AS "common_name!",
               c.alternate_names, c.state, c.auto_renew, c.issued_at, c.not_before, c.not_after, c.renew_at,
               c.serial_number, c.fingerprint_sha256, c.issuer,
               (SELECT o.directory FROM orders o WHERE o.certificate_id = c.id AND o.directory IS NOT NULL
                ORDER BY o.id DESC LIMIT 1) AS directory,
               c.private_key_pem IS NOT NULL AS "key_is_plain!", sealed_by(c.private_key_sealed) AS key_sealed_by,
               c.revoked_at, c.revocation_reason
           FROM certificates c JOIN domains d ON d.id = c.domain_id
           WHERE c.id = $1 OR c.public_id = $2 ORDER BY (c.public_id = $2) DESC LIMIT 1"#,
        number,
        id
    );
    Ok(line.fetch_optional(conn).await?)
}

/// The CA has revoked it: it is not renewed by itself any more. False when that is recorded already.
pub async fn record_revocation(conn: &mut PgConnection, id: i64, reason: i16) -> Result<bool, StoreError> {
    let recorded = sqlx::query!(
        "UPDATE certificates SET revoked_at = now(), revocation_reason = $2, auto_renew = false, updated_at = now()
         WHERE id = $1 AND state = 'issued' AND revoked_at IS NULL",
        id,
        reason
    );
    Ok(recorded.execute(conn).await?.rows_affected() == 1)
}
