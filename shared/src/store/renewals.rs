//! `renewals`: a certificate, the successor that takes over its names, and how far that is.

pub mod due;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use super::events::{self, EventName};
use crate::model::certificate::KeyAlgorithm;
use crate::model::ids::PublicId;
use crate::model::order::OrderState;

/// Unique index: one renewal at a time.
pub const ONE_LIVE_PER_CERTIFICATE: &str = "renewals_one_live_per_certificate";

#[derive(Clone, Debug)]
pub struct Renewal {
    pub id: i64,
    pub old_certificate_id: i64,
    pub new_certificate_id: i64,
    pub state: String,
    pub auto_renew: bool,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

pub struct NewRenewal<'a> {
    pub old_certificate_id: i64,
    /// Of the successor.
    pub public_id: &'a PublicId,
    /// None: the old certificate's.
    pub algorithm: Option<KeyAlgorithm>,
    pub auto_renew: bool,
    /// By the job `renew-due`.
    pub is_automatic: bool,
}

/// Whether a certificate can be renewed, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewable {
    Yes,
    /// Its state is another than `issued`.
    NotIssued,
    Expired,
    /// A renewal of it is `new` or `renewing`.
    Underway,
}

/// By the database's clock. The caller holds the domain's lock.
pub async fn renewable(conn: &mut PgConnection, certificate_id: i64) -> Result<Renewable, StoreError> {
    let row = sqlx::query!(
        r#"SELECT c.state = 'issued' AS "is_issued!", coalesce(c.not_after <= now(), false) AS "is_expired!",
               EXISTS (SELECT FROM renewals r WHERE r.old_certificate_id = c.id AND r.state IN ('new', 'renewing'))
                   AS "is_underway!"
           FROM certificates c WHERE c.id = $1"#,
        certificate_id
    )
    .fetch_one(conn)
    .await?;
    Ok(match row {
        row if !row.is_issued => Renewable::NotIssued,
        row if row.is_expired => Renewable::Expired,
        row if row.is_underway => Renewable::Underway,
        _ => Renewable::Yes,
    })
}

/// The renewal and its successor, both `new`, with the names of the old certificate. A second one is a conflict on
/// [`ONE_LIVE_PER_CERTIFICATE`].
pub async fn insert(conn: &mut PgConnection, new: &NewRenewal<'_>) -> Result<Renewal, StoreError> {
    let renewal = sqlx::query_as!(
        Renewal,
        r#"WITH successor AS (
               INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, alternate_names,
                   auto_renew, successor_of)
               SELECT $2, c.domain_id, 'renewal', 'new', coalesce($3, c.algorithm), c.name, coalesce(c.common_name, d.name),
                   c.alternate_names, $4, c.id
               FROM certificates c JOIN domains d ON d.id = c.domain_id WHERE c.id = $1
               RETURNING id
           )
           INSERT INTO renewals (old_certificate_id, new_certificate_id, auto_renew, is_automatic)
           SELECT $1, successor.id, $4, $5 FROM successor
           RETURNING id, old_certificate_id, new_certificate_id, state, auto_renew, created_at, updated_at"#,
        new.old_certificate_id,
        new.public_id.as_str(),
        new.algorithm.map(<&str>::from),
        new.auto_renew,
        new.is_automatic
    );
    Ok(renewal.fetch_one(conn).await?)
}

/// A renewal of this very certificate.
pub async fn find(conn: &mut PgConnection, old_certificate_id: i64, id: i64) -> Result<Option<Renewal>, StoreError> {
    let renewal = sqlx::query_as!(
        Renewal,
        "SELECT id, old_certificate_id, new_certificate_id, state, auto_renew, created_at, updated_at
         FROM renewals WHERE id = $2 AND old_certificate_id = $1",
        old_certificate_id,
        id
    );
    Ok(renewal.fetch_optional(conn).await?)
}

/// `new` → `renewing`, and its successor `new` → `requesting`: of several calls one wins. False when it is in another state.
pub async fn start(conn: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let started = sqlx::query!(
        "WITH renewal AS (
             UPDATE renewals SET state = 'renewing', updated_at = now() WHERE id = $1 AND state = 'new'
             RETURNING new_certificate_id
         )
         UPDATE certificates SET state = 'requesting', updated_at = now()
         FROM renewal WHERE certificates.id = renewal.new_certificate_id AND certificates.state = 'new'",
        id
    )
    .execute(conn)
    .await?;
    Ok(started.rows_affected() == 1)
}

/// Cancels the renewal of a certificate that was ordered so long ago and never issued, with its successor. False when there is
/// none.
pub async fn cancel_forgotten(
    conn: &mut PgConnection,
    old_certificate_id: i64,
    after_secs: f64,
) -> Result<bool, StoreError> {
    let cancelled = sqlx::query!(
        "WITH forgotten AS (
             UPDATE renewals SET state = 'cancelled', updated_at = now()
             WHERE old_certificate_id = $1 AND state = 'new' AND created_at < now() - make_interval(secs => $2)
             RETURNING new_certificate_id
         )
         UPDATE certificates SET state = 'cancelled', updated_at = now()
         FROM forgotten WHERE certificates.id = forgotten.new_certificate_id AND certificates.state = 'new'",
        old_certificate_id,
        after_secs
    );
    Ok(cancelled.execute(conn).await?.rows_affected() > 0)
}

/// A renewal ends with the order of its successor, in the same transaction. This is the one place where it does: what is to
/// be told to anybody about it is written here.
pub(super) async fn end(conn: &mut PgConnection, new_certificate_id: i64, order: OrderState) -> Result<(), StoreError> {
    let state = match order {
        OrderState::Issued => "renewed",
        OrderState::Failed => "failed",
        OrderState::Cancelled => "cancelled",
        _ => return Ok(()),
    };
    let ended = sqlx::query!(
        "UPDATE renewals SET state = $2, updated_at = now()
         WHERE new_certificate_id = $1 AND state IN ('new', 'renewing') RETURNING old_certificate_id, is_automatic",
        new_certificate_id,
        state
    );
    match (ended.fetch_optional(&mut *conn).await?, order) {
        (Some(ended), OrderState::Issued) => due::end(conn, ended.old_certificate_id).await,
        (Some(ended), OrderState::Failed) if ended.is_automatic => {
            events::certificate(conn, EventName::CertificateAutoRenewalFailed, ended.old_certificate_id).await
        }
        _ => Ok(()),
    }
}

/// The certificate that another succeeds, as its CA knows it.
#[derive(Clone, Debug)]
pub struct Predecessor {
    pub chain_pem: String,
    /// Where it was issued; None when that order is deleted.
    pub directory: Option<String>,
}

pub async fn predecessor(conn: &mut PgConnection, certificate_id: i64) -> Result<Option<Predecessor>, StoreError> {
    let predecessor = sqlx::query_as!(
        Predecessor,
        r#"SELECT old.certificate_pem AS "chain_pem!",
               (SELECT o.directory FROM orders o WHERE o.certificate_id = old.id AND o.state = 'issued' LIMIT 1) AS directory
           FROM certificates c JOIN certificates old ON old.id = c.successor_of
           WHERE c.id = $1 AND old.state = 'issued'"#,
        certificate_id
    );
    Ok(predecessor.fetch_optional(conn).await?)
}
