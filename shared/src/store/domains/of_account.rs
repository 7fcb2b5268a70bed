//! The domains of one account, as `/v2` shows them.

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use strum::EnumString;
use time::OffsetDateTime;

use super::super::StoreError;
use super::super::sorting::{Column, SortBy, order_by};
use crate::model::delegation::ChallengeZone;
use crate::model::entries::{DomainEntry, timestamp};
use crate::model::identifier::unicode;

#[derive(Clone, Debug, FromRow)]
pub struct AccountDomain {
    pub id: i64,
    pub account_id: i64,
    pub name: String,
    pub delegation_label: String,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

impl From<AccountDomain> for DomainEntry {
    fn from(domain: AccountDomain) -> Self {
        Self {
            id: domain.id,
            account_id: domain.account_id,
            registrant_id: None,
            unicode_name: unicode(&domain.name),
            name: domain.name,
            state: "hosted",
            auto_renew: false,
            private_whois: false,
            trustee: false,
            expires_on: None,
            expires_at: None,
            created_at: timestamp(domain.created_at),
            updated_at: timestamp(domain.updated_at),
            delegation_target: None,
        }
    }
}

impl AccountDomain {
    pub fn entry(self, zone: Option<&ChallengeZone>) -> DomainEntry {
        let delegation_target = zone.map(|zone| zone.target(&self.delegation_label));
        DomainEntry { delegation_target, ..self.into() }
    }
}

/// What the list can be sorted by, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum DomainColumn {
    Id,
    Name,
    /// None of ours has one.
    Expiration,
}

impl DomainColumn {
    fn stands(self) -> Column {
        let sql = match self {
            Self::Id => "-id",
            Self::Name => "name",
            Self::Expiration => "NULL::timestamptz",
        };
        Column { sql, is_nullable: false, is_negated: self == Self::Id }
    }
}

/// A page, and how many there are in all. `name_like`: a part of the name.
pub async fn page(
    conn: &mut PgConnection,
    account_id: i64,
    name_like: Option<&str>,
    sort: &[SortBy<DomainColumn>],
    limit: i64,
    offset: i64,
) -> Result<(Vec<AccountDomain>, i64), StoreError> {
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM domains
           WHERE account_id = $1 AND deleted_at IS NULL AND ($2::text IS NULL OR position(lower($2) IN name) > 0)"#,
        account_id,
        name_like
    )
    .fetch_one(&mut *conn)
    .await?;
    let text = format!(
        "SELECT id, account_id, name, delegation_label, created_at, updated_at FROM domains
         WHERE account_id = $1 AND deleted_at IS NULL AND ($2::text IS NULL OR position(lower($2) IN name) > 0)
         ORDER BY {} LIMIT $3 OFFSET $4",
        order_by(sort, DomainColumn::stands, "-id")
    );
    let page = sqlx::query_as(AssertSqlSafe(text)).bind(account_id).bind(name_like).bind(limit).bind(offset);
    Ok((page.fetch_all(conn).await?, total))
}

/// By id.
pub async fn find(conn: &mut PgConnection, account_id: i64, id: i64) -> Result<Option<AccountDomain>, StoreError> {
    let domain = sqlx::query_as!(
        AccountDomain,
        "SELECT id, account_id, name, delegation_label, created_at, updated_at FROM domains
         WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL",
        account_id,
        id
    );
    Ok(domain.fetch_optional(conn).await?)
}

/// By id, also once it is deleted: for what tells of the deletion.
pub async fn find_even_deleted(
    conn: &mut PgConnection,
    account_id: i64,
    id: i64,
) -> Result<Option<AccountDomain>, StoreError> {
    let domain = sqlx::query_as!(
        AccountDomain,
        "SELECT id, account_id, name, delegation_label, created_at, updated_at FROM domains WHERE id = $2 AND account_id = $1",
        account_id,
        id
    );
    Ok(domain.fetch_optional(conn).await?)
}

/// By its normalised name.
pub async fn find_by_name(
    conn: &mut PgConnection,
    account_id: i64,
    name: &str,
) -> Result<Option<AccountDomain>, StoreError> {
    let domain = sqlx::query_as!(
        AccountDomain,
        "SELECT id, account_id, name, delegation_label, created_at, updated_at FROM domains
         WHERE name = $2 AND account_id = $1 AND deleted_at IS NULL",
        account_id,
        name
    );
    Ok(domain.fetch_optional(conn).await?)
}

/// Of any account, by what an operator may know it by: its name, its id of `/v2`, its id of `/domains`.
pub async fn find_anywhere(conn: &mut PgConnection, named: &str) -> Result<Option<AccountDomain>, StoreError> {
    let domain = sqlx::query_as!(
        AccountDomain,
        "SELECT id, account_id, name, delegation_label, created_at, updated_at FROM domains
         WHERE (name = lower($1) OR public_id = $1 OR id = $2) AND deleted_at IS NULL",
        named.trim_end_matches('.'),
        named.parse::<i64>().ok()
    );
    Ok(domain.fetch_optional(conn).await?)
}
