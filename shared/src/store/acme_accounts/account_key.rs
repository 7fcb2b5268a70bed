//! Another key for an ACME account (RFC 8555 section 7.3.5), in two acts: stored as the next key, then in force.

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use subtle::ConstantTimeEq as _;

use super::super::StoreError;
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place};

/// What [`offer`] found or stored. No `Debug`: it is a key.
pub struct NextKey {
    pub private_key_pem: Secret,
    /// It was stored by a run before, which may have told the CA.
    pub is_resumed: bool,
}

/// Stores a next key unless there is one, and returns the one that is stored. None when the directory has no account.
pub async fn offer(
    conn: &mut PgConnection,
    ring: &KeyRing,
    directory: &str,
    private_key_pem: &Secret,
) -> Result<Option<NextKey>, StoreError> {
    let key = ring.seal(Place::NextAccountKey(directory), private_key_pem)?;
    let stored = sqlx::query!(
        "UPDATE acme_accounts SET next_private_key_pem = $2, next_private_key_sealed = $3
         WHERE directory = $1 AND num_nonnulls(next_private_key_pem, next_private_key_sealed) = 0",
        directory,
        key.plain(),
        key.sealed()
    );
    let is_resumed = stored.execute(&mut *conn).await?.rows_affected() == 0;
    let next = next(conn, ring, directory).await?;
    Ok(next.map(|private_key_pem| NextKey { private_key_pem, is_resumed }))
}

/// The key that the account is being given.
pub async fn next(conn: &mut PgConnection, ring: &KeyRing, directory: &str) -> Result<Option<Secret>, StoreError> {
    let row = sqlx::query!(
        "SELECT next_private_key_pem, next_private_key_sealed FROM acme_accounts WHERE directory = $1",
        directory
    );
    let row = row.fetch_optional(conn).await?;
    let next = row.and_then(|row| AtRest::of_columns(row.next_private_key_pem, row.next_private_key_sealed));
    Ok(next.map(|next| ring.open(Place::NextAccountKey(directory), &next)).transpose()?)
}

/// The CA has taken the next key `taken`: it is the account's from now on, and the one before is forgotten. False when another
/// run was quicker. In a transaction of the caller.
pub async fn promote(
    conn: &mut PgConnection,
    ring: &KeyRing,
    directory: &str,
    taken: &Secret,
) -> Result<bool, StoreError> {
    sqlx::query!("SELECT kid FROM acme_accounts WHERE directory = $1 FOR UPDATE", directory)
        .fetch_optional(&mut *conn)
        .await?;
    let digest = |secret: &Secret| Sha256::digest(secret.expose());
    if !next(conn, ring, directory).await?.is_some_and(|next| digest(&next).ct_eq(&digest(taken)).into()) {
        return Ok(false);
    }
    let key = ring.seal(Place::AccountKey(directory), taken)?;
    sqlx::query!(
        "UPDATE acme_accounts SET private_key_pem = $2, private_key_sealed = $3,
             next_private_key_pem = NULL, next_private_key_sealed = NULL
         WHERE directory = $1",
        directory,
        key.plain(),
        key.sealed()
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Open orders at a directory whose TXT values the account's key is part of, and which the CA has not accepted yet.
pub async fn orders_bound_to_key(conn: &mut PgConnection, directory: &str) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM orders
           WHERE cleaned_up_at IS NULL AND directory = $1 AND state IN ('placed', 'presented', 'confirmed', 'responded')"#,
        directory
    );
    Ok(count.fetch_one(conn).await?)
}
