//! `accounts`: the owners of domains.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;

/// The account whose domains `/domains` shows.
pub const DEFAULT: i64 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub id: i64,
    pub name: String,
    /// Empty when there is none.
    pub email: String,
    /// Who publishes the TXT records of its certificates.
    pub presenter: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

pub async fn insert(conn: &mut PgConnection, name: &str, email: &str, presenter: &str) -> Result<Account, StoreError> {
    let account = sqlx::query_as!(
        Account,
        "INSERT INTO accounts (name, email, presenter) VALUES ($1, $2, $3)
         RETURNING id, name, email, presenter, created_at, updated_at",
        name,
        email,
        presenter
    )
    .fetch_one(conn)
    .await?;
    Ok(account)
}

pub async fn list(conn: &mut PgConnection) -> Result<Vec<Account>, StoreError> {
    let query =
        sqlx::query_as!(Account, "SELECT id, name, email, presenter, created_at, updated_at FROM accounts ORDER BY id");
    Ok(query.fetch_all(conn).await?)
}

pub async fn find(conn: &mut PgConnection, id: i64) -> Result<Option<Account>, StoreError> {
    let query = sqlx::query_as!(
        Account,
        "SELECT id, name, email, presenter, created_at, updated_at FROM accounts WHERE id = $1",
        id
    );
    Ok(query.fetch_optional(conn).await?)
}

/// Whoever else locks the account waits until this transaction has ended.
pub async fn lock(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE", id).execute(conn).await?;
    Ok(())
}

/// Changes who publishes the TXT records of certificates ordered from now on. False when there is no such account.
pub async fn set_presenter(conn: &mut PgConnection, id: i64, presenter: &str) -> Result<bool, StoreError> {
    let changed = sqlx::query!("UPDATE accounts SET presenter = $2, updated_at = now() WHERE id = $1", id, presenter)
        .execute(conn)
        .await?;
    Ok(changed.rows_affected() == 1)
}
