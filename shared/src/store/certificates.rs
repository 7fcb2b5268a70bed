//! `certificates`: from the order that asks for one to the stored chain and key.

pub mod kept;
pub mod ordered;

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use crate::model::certificate::{IssuedCertificate, KeyAlgorithm, KeyAndCsr, StoredKeyAndCsr};
use crate::model::ids::PublicId;
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place};

/// What `GET /domains/{id}/certificate` shows. No PEM.
#[derive(Clone, Debug)]
pub struct CertificateSummary {
    pub public_id: PublicId,
    pub issued_at: OffsetDateTime,
    pub created_at: OffsetDateTime,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    pub serial_number: String,
    pub fingerprint_sha256: String,
    pub issuer: String,
    /// Whether its renewal needs nobody, and when it is planned.
    pub is_automatic: bool,
    pub renew_at: Option<OffsetDateTime>,
}

/// The row that an order of `/domains` will fill, state `requesting`.
pub async fn insert_requested(
    conn: &mut PgConnection,
    public_id: &PublicId,
    domain_id: i64,
    algorithm: KeyAlgorithm,
) -> Result<i64, StoreError> {
    let algorithm: &'static str = algorithm.into();
    let id = sqlx::query_scalar!(
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, common_name, auto_renew)
         SELECT $1, id, 'challenge', 'requesting', $3, name, true FROM domains WHERE id = $2 RETURNING id",
        public_id.as_str(),
        domain_id,
        algorithm
    )
    .fetch_one(conn)
    .await?;
    Ok(id)
}

/// Stores key and CSR, once: a second pair for the same certificate matches no row.
pub async fn store_key(conn: &mut PgConnection, id: i64, key: &StoredKeyAndCsr) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "UPDATE certificates SET csr = $2, private_key_pem = $3, private_key_sealed = $4, updated_at = now()
         WHERE id = $1 AND state = 'requesting' AND csr IS NULL",
        id,
        key.csr_pem,
        key.private_key.plain(),
        key.private_key.sealed()
    )
    .execute(conn)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// Key and CSR, once they are stored.
pub async fn key(conn: &mut PgConnection, ring: &KeyRing, id: i64) -> Result<Option<KeyAndCsr>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT csr AS "csr!", private_key_pem, private_key_sealed FROM certificates
           WHERE id = $1 AND csr IS NOT NULL"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let private_key_pem = open_key(ring, id, row.private_key_pem, row.private_key_sealed)?;
    Ok(Some(KeyAndCsr { private_key_pem, csr_pem: row.csr }))
}

fn open_key(ring: &KeyRing, id: i64, plain: Option<String>, sealed: Option<Vec<u8>>) -> Result<Secret, StoreError> {
    let key =
        AtRest::of_columns(plain, sealed).ok_or(StoreError::Corrupt { column: "certificates.private_key_pem" })?;
    Ok(ring.open(Place::CertificateKey(id), &key)?)
}

/// Stores the chain, once: false when the row is no longer `requesting`.
pub async fn store_issued(
    conn: &mut PgConnection,
    id: i64,
    issued_at: OffsetDateTime,
    certificate: &IssuedCertificate,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "UPDATE certificates SET state = 'issued', issued_at = $2, certificate_pem = $3, not_before = $4, not_after = $5,
             serial_number = $6, fingerprint_sha256 = $7, issuer = $8, updated_at = now()
         WHERE id = $1 AND state = 'requesting'",
        id,
        issued_at,
        certificate.chain_pem,
        certificate.not_before,
        certificate.not_after,
        certificate.serial_number,
        certificate.fingerprint_sha256,
        certificate.issuer
    )
    .execute(conn)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// The order ended without it. `state` is `failed` or `cancelled`.
pub async fn end_unissued(conn: &mut PgConnection, id: i64, state: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE certificates SET state = $2, updated_at = now() WHERE id = $1 AND state = 'requesting'",
        id,
        state
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest issued certificate of each domain's own issuance, or of a line of successors that began there, by the domain's
/// internal key.
pub async fn newest_issued(
    conn: &mut PgConnection,
    domain_ids: &[i64],
) -> Result<HashMap<i64, CertificateSummary>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT wanted.domain_id AS "domain_id!", c.public_id, c.issued_at AS "issued_at!", c.created_at,
               c.not_before AS "not_before!", c.not_after AS "not_after!", c.serial_number AS "serial_number!",
               c.fingerprint_sha256 AS "fingerprint_sha256!", c.issuer AS "issuer!",
               c.auto_renew AND p.presenter <> 'manual' AS "is_automatic!", c.renew_at
           FROM unnest((SELECT $1::bigint[])) AS wanted (domain_id) JOIN domain_presenters p USING (domain_id) CROSS JOIN LATERAL (
               WITH RECURSIVE line AS (
                   SELECT id FROM certificates
                   WHERE domain_id = wanted.domain_id AND state = 'issued' AND origin = 'challenge'
                   UNION ALL
                   SELECT successor.id FROM certificates successor JOIN line ON successor.successor_of = line.id
                   WHERE successor.state = 'issued')
               SELECT * FROM certificates WHERE id = (SELECT max(id) FROM line)) AS c"#,
        domain_ids
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let public_id = PublicId::parse(&row.public_id);
            Ok((
                row.domain_id,
                CertificateSummary {
                    public_id: public_id.ok_or(StoreError::Corrupt { column: "certificates.public_id" })?,
                    issued_at: row.issued_at,
                    created_at: row.created_at,
                    not_before: row.not_before,
                    not_after: row.not_after,
                    serial_number: row.serial_number,
                    fingerprint_sha256: row.fingerprint_sha256,
                    issuer: row.issuer,
                    is_automatic: row.is_automatic,
                    renew_at: row.renew_at,
                },
            ))
        })
        .collect()
}
