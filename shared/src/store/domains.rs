//! `domains`: registered domains and their documented status.

pub mod of_account;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{StoreError, delegations};
use crate::model::domain::DomainStatus;
use crate::model::identifier::DnsName;
use crate::model::ids::PublicId;

#[derive(Clone, Debug)]
pub struct Domain {
    pub id: i64,
    pub public_id: PublicId,
    pub name: DnsName,
    /// As the caller wrote it.
    pub supplied_name: String,
    pub status: DomainStatus,
    pub verification_token: String,
    pub verified_at: Option<OffsetDateTime>,
    /// Where its challenges can be delegated to, below the zone of our name servers.
    pub delegation_label: String,
    /// When its challenge name was last seen to be an alias of that.
    pub delegated_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

pub struct NewDomain<'a> {
    pub account_id: i64,
    pub public_id: &'a PublicId,
    pub name: &'a DnsName,
    pub supplied_name: &'a str,
    pub verification_token: &'a str,
}

/// Unique index on the name among domains not deleted.
pub const NAME_KEY: &str = "domains_name_key";

struct Row {
    id: i64,
    public_id: String,
    name: String,
    supplied_name: String,
    status: String,
    verification_token: String,
    verified_at: Option<OffsetDateTime>,
    delegation_label: String,
    delegated_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Domain {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            public_id: PublicId::parse(&row.public_id).ok_or(StoreError::Corrupt { column: "domains.public_id" })?,
            name: DnsName::from_stored(row.name),
            supplied_name: row.supplied_name,
            status: row.status.parse().map_err(|_| StoreError::Corrupt { column: "domains.status" })?,
            verification_token: row.verification_token,
            verified_at: row.verified_at,
            delegation_label: row.delegation_label,
            delegated_at: row.delegated_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Registers a domain, `pending`. A name that is registered already is a conflict on [`NAME_KEY`]. The name servers, where there are
/// any, are to be told of its label: [`delegations::notify`].
pub async fn insert(conn: &mut PgConnection, new: &NewDomain<'_>) -> Result<Domain, StoreError> {
    sqlx::query_as!(
        Row,
        "INSERT INTO domains (account_id, public_id, name, supplied_name, verification_token) VALUES ($1, $2, $3, $4, $5)
         RETURNING id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at",
        new.account_id,
        new.public_id.as_str(),
        new.name.as_str(),
        new.supplied_name,
        new.verification_token
    )
    .fetch_one(conn)
    .await?
    .try_into()
}

/// A domain of the default account that is not deleted.
pub async fn find(conn: &mut PgConnection, public_id: &PublicId) -> Result<Option<Domain>, StoreError> {
    sqlx::query_as!(
        Row,
        "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
         FROM domains WHERE public_id = $1 AND account_id = 1 AND deleted_at IS NULL",
        public_id.as_str()
    )
    .fetch_optional(conn)
    .await?
    .map(Domain::try_from)
    .transpose()
}

/// One page, newest first: at most `limit` domains, older than the one with the internal key `before`, in one `status`
/// or in any.
pub async fn page(
    conn: &mut PgConnection,
    status: Option<DomainStatus>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Domain>, StoreError> {
    let before = before.unwrap_or(i64::MAX);
    // Two statements, because one plan cannot use both indexes; by -id, because only their indexes have
    // that order: by id, the primary key would be walked through the domains of all other accounts.
    let rows = match status {
        Some(status) => {
            sqlx::query_as!(
            Row,
            "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
                 FROM domains WHERE account_id = 1 AND status = $1 AND -id > -$2::bigint AND deleted_at IS NULL ORDER BY -id LIMIT $3",
            status.as_str(),
            before,
            limit
        )
            .fetch_all(conn)
            .await?
        }
        None => {
            sqlx::query_as!(
            Row,
            "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
                 FROM domains WHERE account_id = 1 AND -id > -$1::bigint AND deleted_at IS NULL ORDER BY -id LIMIT $2",
            before,
            limit
        )
            .fetch_all(conn)
            .await?
        }
    };
    rows.into_iter().map(Domain::try_from).collect()
}

/// Like [`find`], and locks the row: first in the lock order.
pub async fn lock(conn: &mut PgConnection, public_id: &PublicId) -> Result<Option<Domain>, StoreError> {
    sqlx::query_as!(
        Row,
        "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
         FROM domains WHERE public_id = $1 AND account_id = 1 AND deleted_at IS NULL FOR NO KEY UPDATE",
        public_id.as_str()
    )
    .fetch_optional(conn)
    .await?
    .map(Domain::try_from)
    .transpose()
}

/// A domain of any account that is not deleted, by its internal key.
pub async fn find_live(conn: &mut PgConnection, id: i64) -> Result<Option<Domain>, StoreError> {
    sqlx::query_as!(
        Row,
        "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
         FROM domains WHERE id = $1 AND deleted_at IS NULL",
        id
    )
    .fetch_optional(conn)
    .await?
    .map(Domain::try_from)
    .transpose()
}

/// The internal key and the account of the domain with this name that is not deleted.
pub async fn registered_as(conn: &mut PgConnection, name: &DnsName) -> Result<Option<(i64, i64)>, StoreError> {
    let row = sqlx::query!("SELECT id, account_id FROM domains WHERE name = $1 AND deleted_at IS NULL", name.as_str());
    Ok(row.fetch_optional(conn).await?.map(|row| (row.id, row.account_id)))
}

/// Locks the row of an order's domain, deleted or not, before the order row is locked.
pub async fn lock_by_key(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("SELECT id FROM domains WHERE id = $1 FOR NO KEY UPDATE", id).fetch_one(conn).await?;
    Ok(())
}

/// Locks the row of an order's domain and reads it; None when it is deleted, and stays so.
pub async fn lock_live(conn: &mut PgConnection, id: i64) -> Result<Option<Domain>, StoreError> {
    sqlx::query_as!(
        Row,
        "SELECT id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at
         FROM domains WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(conn)
    .await?
    .map(Domain::try_from)
    .transpose()
}

/// The token was seen: `verified` from any status that allows it. None when the status has changed meanwhile.
pub async fn mark_verified(
    conn: &mut PgConnection,
    id: i64,
    is_delegated: Option<bool>,
) -> Result<Option<Domain>, StoreError> {
    sqlx::query_as!(
        Row,
        "UPDATE domains SET status = 'verified', verified_at = now(), updated_at = now(),
             delegated_at = CASE WHEN $2::boolean IS NULL THEN delegated_at WHEN $2 THEN now() END
         WHERE id = $1 AND deleted_at IS NULL AND status IN ('pending', 'failed', 'active')
         RETURNING id, public_id, name, supplied_name, status, verification_token, verified_at, delegation_label, delegated_at, created_at, updated_at",
        id,
        is_delegated
    )
    .fetch_optional(conn)
    .await?
    .map(Domain::try_from)
    .transpose()
}

/// Its challenge name was seen, as an alias of its delegation target or not.
pub async fn mark_delegated(conn: &mut PgConnection, id: i64, is_delegated: bool) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE domains SET delegated_at = CASE WHEN $2 THEN now() END
         WHERE id = $1 AND deleted_at IS NULL AND (delegated_at IS NOT NULL) <> $2",
        id,
        is_delegated
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves the status along with an order. A deleted domain's status no longer matters and is left alone.
pub async fn move_status(conn: &mut PgConnection, id: i64, to: DomainStatus) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE domains SET status = $2, updated_at = now() WHERE id = $1 AND deleted_at IS NULL",
        id,
        to.as_str()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks the domain deleted; its name is free from the commit on.
pub async fn mark_deleted(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    let label = sqlx::query_scalar!(
        "UPDATE domains SET deleted_at = now(), updated_at = now() WHERE id = $1 RETURNING delegation_label",
        id
    )
    .fetch_one(&mut *conn)
    .await?;
    delegations::notify(conn, &label).await
}
