//! `acme_accounts`: one ACME account per directory, shared by every worker.

pub mod account_key;

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place};

/// No `Debug`: it holds the account's private key.
pub struct AcmeAccount {
    pub directory: String,
    /// PKCS#8 PEM.
    pub private_key_pem: Secret,
    pub kid: Option<String>,
}

pub async fn load(conn: &mut PgConnection, ring: &KeyRing, directory: &str) -> Result<Option<AcmeAccount>, StoreError> {
    let row = sqlx::query!(
        "SELECT directory, private_key_pem, private_key_sealed, kid FROM acme_accounts WHERE directory = $1",
        directory
    );
    let Some(row) = row.fetch_optional(conn).await? else {
        return Ok(None);
    };
    let key = AtRest::of_columns(row.private_key_pem, row.private_key_sealed)
        .ok_or(StoreError::Corrupt { column: "acme_accounts.private_key_pem" })?;
    let private_key_pem = ring.open(Place::AccountKey(directory), &key)?;
    Ok(Some(AcmeAccount { directory: row.directory, private_key_pem, kid: row.kid }))
}

/// Where there are accounts.
pub async fn directories(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT directory FROM acme_accounts ORDER BY directory").fetch_all(conn).await?)
}

/// Who we are at a CA.
#[derive(Clone, Debug)]
pub struct Registration {
    pub directory: String,
    /// The account's URL.
    pub kid: String,
}

/// At this directory, or at the one where we registered last.
pub async fn registration(
    conn: &mut PgConnection,
    directory: Option<&str>,
) -> Result<Option<Registration>, StoreError> {
    let registration = sqlx::query_as!(
        Registration,
        r#"SELECT directory, kid AS "kid!" FROM acme_accounts
           WHERE kid IS NOT NULL AND ($1::text IS NULL OR directory = $1) ORDER BY registered_at DESC LIMIT 1"#,
        directory
    );
    Ok(registration.fetch_optional(conn).await?)
}

/// Stores the key if the directory has none yet, and returns the row that is stored, whoever wrote it.
pub async fn insert_key_if_absent(
    conn: &mut PgConnection,
    ring: &KeyRing,
    directory: &str,
    private_key_pem: &Secret,
) -> Result<AcmeAccount, StoreError> {
    let key = ring.seal(Place::AccountKey(directory), private_key_pem)?;
    sqlx::query!(
        "INSERT INTO acme_accounts (directory, private_key_pem, private_key_sealed) VALUES ($1, $2, $3)
         ON CONFLICT (directory) DO NOTHING",
        directory,
        key.plain(),
        key.sealed()
    )
    .execute(&mut *conn)
    .await?;
    load(conn, ring, directory).await?.ok_or(StoreError::Corrupt { column: "acme_accounts.directory" })
}

/// Stores the account URL once the CA has told it.
pub async fn store_kid(conn: &mut PgConnection, directory: &str, kid: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE acme_accounts SET kid = $2, registered_at = now() WHERE directory = $1 AND kid IS DISTINCT FROM $2",
        directory,
        kid
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores an account that exists at the CA. Refuses to replace one: false when the directory has an account already.
pub async fn import(
    conn: &mut PgConnection,
    ring: &KeyRing,
    directory: &str,
    private_key_pem: &Secret,
    kid: &str,
) -> Result<bool, StoreError> {
    let key = ring.seal(Place::AccountKey(directory), private_key_pem)?;
    let inserted = sqlx::query!(
        "INSERT INTO acme_accounts (directory, private_key_pem, private_key_sealed, kid, registered_at)
         VALUES ($1, $2, $3, $4, now()) ON CONFLICT (directory) DO NOTHING",
        directory,
        key.plain(),
        key.sealed(),
        kid
    )
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Keeps every worker from calling the CA for this account for `seconds` from now. Never shortens a hold.
pub async fn hold_back(
    conn: &mut PgConnection,
    directory: &str,
    seconds: f64,
    because: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE acme_accounts SET held_until = now() + make_interval(secs => $2), held_because = $3
         WHERE directory = $1 AND coalesce(held_until, '-infinity') < now() + make_interval(secs => $2)",
        directory,
        seconds,
        because
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Until when the CA asked to be left alone, if that is still ahead.
pub async fn held_until(conn: &mut PgConnection, directory: &str) -> Result<Option<OffsetDateTime>, StoreError> {
    let held = sqlx::query_scalar!(
        r#"SELECT held_until AS "held_until!" FROM acme_accounts WHERE directory = $1 AND held_until > now()"#,
        directory
    )
    .fetch_optional(conn)
    .await?;
    Ok(held)
}

/// Keeps every worker from asking the CA about renewal windows for `seconds` from now. Never shortens a hold.
pub async fn hold_windows(conn: &mut PgConnection, directory: &str, seconds: f64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE acme_accounts SET windows_held_until = greatest(windows_held_until, now() + make_interval(secs => $2))
         WHERE directory = $1",
        directory,
        seconds
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the CA is to be left alone, about renewal windows or altogether.
pub async fn are_windows_held(conn: &mut PgConnection, directory: &str) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar!(
        r#"SELECT coalesce(greatest(held_until, windows_held_until) > now(), false) AS "held!"
           FROM acme_accounts WHERE directory = $1"#,
        directory
    )
    .fetch_optional(conn)
    .await?;
    Ok(held.unwrap_or(false))
}

/// An account that the CA asked to be left alone.
#[derive(Clone, Debug, Serialize)]
pub struct Hold {
    pub directory: String,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// What the CA said.
    pub because: String,
}

/// The holds that are not over.
pub async fn holds(conn: &mut PgConnection) -> Result<Vec<Hold>, StoreError> {
    let holds = sqlx::query_as!(
        Hold,
        r#"SELECT directory, held_until AS "until!", coalesce(held_because, '') AS "because!" FROM acme_accounts
           WHERE held_until > now() ORDER BY directory"#
    )
    .fetch_all(conn)
    .await?;
    Ok(holds)
}
