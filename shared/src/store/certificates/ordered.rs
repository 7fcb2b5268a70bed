//! Certificates as `/v2` orders and shows them. Chains and keys are read one by one, never in a list.

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use strum::EnumString;
use time::OffsetDateTime;

use super::super::StoreError;
use super::super::sorting::{Column, SortBy, order_by};
use super::open_key;
use crate::model::certificate::KeyAlgorithm;
use crate::model::certificate_names::CertificateNames;
use crate::model::entries::{CertificateEntry, date, timestamp};
use crate::model::ids::PublicId;
use crate::model::problem::OrderProblem;
use crate::model::secret::Secret;
use crate::sealed::KeyRing;

#[derive(Clone, Debug, FromRow)]
pub struct OrderedCertificate {
    pub id: i64,
    pub domain_id: i64,
    pub name: String,
    pub common_name: String,
    pub alternate_names: Vec<String>,
    pub state: String,
    pub auto_renew: bool,
    /// PEM, once the key is made.
    pub csr: Option<String>,
    pub not_after: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

impl OrderedCertificate {
    /// As the API and events show it.
    pub fn entry(self, account_id: i64) -> CertificateEntry {
        CertificateEntry {
            id: self.id,
            domain_id: self.domain_id,
            contact_id: account_id,
            name: self.name,
            common_name: self.common_name,
            years: 1,
            csr: self.csr,
            state: self.state,
            auto_renew: self.auto_renew,
            alternate_names: self.alternate_names,
            authority_identifier: "letsencrypt",
            created_at: timestamp(self.created_at),
            updated_at: timestamp(self.updated_at),
            expires_at: self.not_after.map(timestamp),
            expires_on: self.not_after.map(date),
            failure_reason: None,
            failure_findings: Vec::new(),
        }
    }
}

/// What the list can be sorted by, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum CertificateColumn {
    Id,
    CommonName,
    Expiration,
}

impl CertificateColumn {
    fn stands(self) -> Column {
        let sql = match self {
            Self::Id => "-c.id",
            // Null in rows of an older release only.
            Self::CommonName => "c.common_name",
            Self::Expiration => "c.not_after",
        };
        Column { sql, is_nullable: self == Self::Expiration, is_negated: self == Self::Id }
    }
}

/// An order that nobody has issued yet, state `new`. The caller holds the domain's lock.
pub async fn insert(
    conn: &mut PgConnection,
    public_id: &PublicId,
    domain_id: i64,
    names: &CertificateNames,
    algorithm: KeyAlgorithm,
    auto_renew: bool,
) -> Result<OrderedCertificate, StoreError> {
    let certificate = sqlx::query_as!(
        OrderedCertificate,
        r#"INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, alternate_names, auto_renew)
           VALUES ($1, $2, 'order', 'new', $3, $4, $5, $6, $7)
           RETURNING id, domain_id, name, common_name AS "common_name!", alternate_names, state, auto_renew, csr,
               not_after, created_at, updated_at"#,
        public_id.as_str(),
        domain_id,
        <&str>::from(algorithm),
        names.name,
        names.common_name,
        &names.alternate_names,
        auto_renew
    );
    Ok(certificate.fetch_one(conn).await?)
}

pub async fn find(conn: &mut PgConnection, domain_id: i64, id: i64) -> Result<Option<OrderedCertificate>, StoreError> {
    let certificate = sqlx::query_as!(
        OrderedCertificate,
        r#"SELECT c.id, c.domain_id, c.name, coalesce(c.common_name, d.name) AS "common_name!", c.alternate_names, c.state,
               c.auto_renew, c.csr, c.not_after, c.created_at, c.updated_at
           FROM certificates c JOIN domains d ON d.id = c.domain_id WHERE c.id = $2 AND c.domain_id = $1"#,
        domain_id,
        id
    );
    Ok(certificate.fetch_optional(conn).await?)
}

/// Whichever domain of the account it is for.
pub async fn find_in_account(
    conn: &mut PgConnection,
    account_id: i64,
    id: i64,
) -> Result<Option<OrderedCertificate>, StoreError> {
    let certificate = sqlx::query_as!(
        OrderedCertificate,
        r#"SELECT c.id, c.domain_id, c.name, coalesce(c.common_name, d.name) AS "common_name!", c.alternate_names, c.state,
               c.auto_renew, c.csr, c.not_after, c.created_at, c.updated_at
           FROM certificates c JOIN domains d ON d.id = c.domain_id WHERE c.id = $2 AND d.account_id = $1"#,
        account_id,
        id
    );
    Ok(certificate.fetch_optional(conn).await?)
}

/// A page, and how many there are in all.
pub async fn page(
    conn: &mut PgConnection,
    domain_id: i64,
    sort: &[SortBy<CertificateColumn>],
    limit: i64,
    offset: i64,
) -> Result<(Vec<OrderedCertificate>, i64), StoreError> {
    let total = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM certificates WHERE domain_id = $1"#, domain_id)
        .fetch_one(&mut *conn)
        .await?;
    let text = format!(
        "SELECT c.id, c.domain_id, c.name, coalesce(c.common_name, d.name) AS common_name, c.alternate_names, c.state,
             c.auto_renew, c.csr, c.not_after, c.created_at, c.updated_at
         FROM certificates c JOIN domains d ON d.id = c.domain_id
         WHERE c.domain_id = $1 ORDER BY {} LIMIT $2 OFFSET $3",
        order_by(sort, CertificateColumn::stands, "-c.id")
    );
    let page = sqlx::query_as(AssertSqlSafe(text)).bind(domain_id).bind(limit).bind(offset);
    Ok((page.fetch_all(conn).await?, total))
}

/// `new` → `requesting`: of several calls one wins. False when it is in another state, or a successor, which its renewal
/// starts.
pub async fn start(conn: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let started = sqlx::query!(
        "UPDATE certificates SET state = 'requesting', updated_at = now() WHERE id = $1 AND state = 'new' AND origin = 'order'",
        id
    )
    .execute(conn)
    .await?;
    Ok(started.rows_affected() == 1)
}

/// Gives up orders that nobody has issued for 30 days, and renewals with their successors, at most `limit` of each. Returns how
/// many certificates. A renewal's row is locked before its successor's; what somebody has locked waits for the next time.
pub async fn cancel_idle(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"WITH idle AS (
             SELECT r.id FROM renewals r JOIN certificates c ON c.id = r.new_certificate_id
             WHERE r.state = 'new' AND c.state = 'new' AND c.created_at < now() - interval '30 days'
             LIMIT $1 FOR UPDATE OF r SKIP LOCKED
         ), ended AS (
             UPDATE renewals r SET state = 'cancelled', updated_at = now() FROM idle WHERE r.id = idle.id
             RETURNING r.new_certificate_id AS id
         ), ordered AS (
             SELECT c.id FROM certificates c
             WHERE c.state = 'new' AND c.created_at < now() - interval '30 days'
               AND NOT EXISTS (SELECT FROM renewals r WHERE r.new_certificate_id = c.id AND r.state = 'new')
             LIMIT $1 FOR UPDATE SKIP LOCKED
         ), cancelled AS (
             UPDATE certificates c SET state = 'cancelled', updated_at = now()
             FROM (SELECT id FROM ended UNION ALL SELECT id FROM ordered) AS idle
             WHERE c.id = idle.id AND c.state = 'new' RETURNING c.id
         )
         SELECT count(*) AS "count!" FROM cancelled"#,
        limit
    );
    Ok(count.fetch_one(conn).await?.unsigned_abs())
}

/// Deletes at most `limit` that were given up longer than `retain_secs` ago without ever having had an order, with their
/// renewals. Returns how many. Those that have one go with it.
pub async fn purge_cancelled(conn: &mut PgConnection, retain_secs: f64, limit: i64) -> Result<u64, StoreError> {
    let purged = sqlx::query!(
        "DELETE FROM certificates WHERE id = ANY(ARRAY(
             SELECT c.id FROM certificates c
             WHERE c.state = 'cancelled' AND c.updated_at < now() - make_interval(secs => $1)
               AND NOT EXISTS (SELECT FROM orders o WHERE o.certificate_id = c.id)
             ORDER BY c.updated_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
        retain_secs,
        limit
    )
    .execute(conn)
    .await?;
    Ok(purged.rows_affected())
}

/// Leaf and chain, leaf first; None until it is issued.
pub async fn chain(conn: &mut PgConnection, id: i64) -> Result<Option<String>, StoreError> {
    let pem = sqlx::query_scalar!(
        r#"SELECT certificate_pem AS "certificate_pem!" FROM certificates WHERE id = $1 AND state = 'issued'"#,
        id
    );
    Ok(pem.fetch_optional(conn).await?)
}

/// The private key, PEM (PKCS#1 or SEC1); None until the certificate is issued.
pub async fn private_key(conn: &mut PgConnection, ring: &KeyRing, id: i64) -> Result<Option<Secret>, StoreError> {
    let row = sqlx::query!(
        "SELECT private_key_pem, private_key_sealed FROM certificates WHERE id = $1 AND state = 'issued'",
        id
    );
    let row = row.fetch_optional(conn).await?;
    row.map(|row| open_key(ring, id, row.private_key_pem, row.private_key_sealed)).transpose()
}

/// A TXT record that the CA is to find for a certificate's open order.
#[derive(Clone, Debug)]
pub struct PendingChallenge {
    pub identifier: String,
    pub txt_value: String,
    pub deadline_at: OffsetDateTime,
    pub seen_at: Option<OffsetDateTime>,
}

/// The records of its open order, whoever publishes them, but for names that are proved: those must stay until the CA has looked,
/// and so they are shown after they were seen.
pub async fn pending_challenges(conn: &mut PgConnection, id: i64) -> Result<Vec<PendingChallenge>, StoreError> {
    let challenges = sqlx::query_as!(
        PendingChallenge,
        r#"SELECT a.identifier, a.txt_value, o.deadline_at AS "deadline_at!", o.seen_at
           FROM orders o JOIN authorizations a ON a.order_id = o.id
           WHERE o.certificate_id = $1 AND o.ended_at IS NULL AND o.deadline_at IS NOT NULL
             AND a.proved_at IS NULL
           ORDER BY a.identifier, a.wildcard"#,
        id
    );
    Ok(challenges.fetch_all(conn).await?)
}

/// Why its order ended without it.
pub async fn failure(conn: &mut PgConnection, id: i64) -> Result<Option<OrderProblem>, StoreError> {
    let problem = sqlx::query_scalar!(
        r#"SELECT problem AS "problem!" FROM orders
           WHERE certificate_id = $1 AND state IN ('failed', 'cancelled') ORDER BY id DESC LIMIT 1"#,
        id
    );
    let problem = problem.fetch_optional(conn).await?;
    let parsed = problem.map(serde_json::from_value).transpose();
    parsed.map_err(|_| StoreError::Corrupt { column: "orders.problem" })
}
