//! `encryption_keys`: which keys have sealed values here; and sealed values as such, whichever column they are in.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};
use thiserror::Error;

use super::StoreError;
use crate::model::secret::{AtRest, Secret};
use crate::sealed::{KeyRing, Place, SealedError};

/// What a canary says once it is opened.
const CANARY: &str = "countersign";

/// Why a program must not start with its ring.
#[derive(Debug, Error)]
pub enum KeysError {
    #[error("{column} is sealed with the key `{key}`, which ENCRYPTION_KEYS lacks: add it behind the first one")]
    Missing { key: String, column: &'static str },
    #[error(
        "the key `{0}` of ENCRYPTION_KEYS is not the key of that id that has sealed here: mend it, or give it another id"
    )]
    Wrong(String),
    #[error("ENCRYPTION_KEYS cannot be held against the database")]
    Unreadable(#[source] StoreError),
}

/// A column of secrets, with the one beside it that holds them sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    AccountKeys,
    NextAccountKeys,
    CertificateKeys,
    PresenterSecrets,
    ProposalSecrets,
    WebhookSecrets,
}

struct Names {
    table: &'static str,
    plain: &'static str,
    sealed: &'static str,
    row: &'static str,
    row_type: &'static str,
    /// Below every value of the row's column.
    before_all: &'static str,
}

impl Column {
    pub const ALL: [Self; 6] = [
        Self::AccountKeys,
        Self::NextAccountKeys,
        Self::CertificateKeys,
        Self::PresenterSecrets,
        Self::ProposalSecrets,
        Self::WebhookSecrets,
    ];

    fn names(self) -> Names {
        let (table, plain, sealed) = match self {
            Self::AccountKeys => ("acme_accounts", "private_key_pem", "private_key_sealed"),
            Self::NextAccountKeys => ("acme_accounts", "next_private_key_pem", "next_private_key_sealed"),
            Self::CertificateKeys => ("certificates", "private_key_pem", "private_key_sealed"),
            Self::PresenterSecrets => ("presenter_configs", "secret", "secret_sealed"),
            Self::ProposalSecrets => ("presenter_proposals", "secret", "secret_sealed"),
            Self::WebhookSecrets => ("webhooks", "secret", "secret_sealed"),
        };
        let (row, row_type, before_all) = match table {
            "acme_accounts" => ("directory", "text", ""),
            _ => ("id", "bigint", "0"),
        };
        Names { table, plain, sealed, row, row_type, before_all }
    }

    pub fn table(self) -> &'static str {
        self.names().table
    }

    /// Where plain values are.
    pub fn plain(self) -> &'static str {
        self.names().plain
    }

    fn place(self, row: &str) -> Result<Place<'_>, StoreError> {
        let id = || row.parse().map_err(|_| StoreError::Corrupt { column: self.names().row });
        Ok(match self {
            Self::AccountKeys => Place::AccountKey(row),
            Self::NextAccountKeys => Place::NextAccountKey(row),
            Self::CertificateKeys => Place::CertificateKey(id()?),
            Self::PresenterSecrets => Place::PresenterSecret(id()?),
            Self::ProposalSecrets => Place::ProposalSecret(id()?),
            Self::WebhookSecrets => Place::WebhookSecret(id()?),
        })
    }
}

/// For a program that starts, or a verb that seals: [`check`], and every key of the ring is known from then on. So two
/// programs with different keys of one id are told before the second one seals by its own.
pub async fn announce(conn: &mut PgConnection, ring: &KeyRing) -> Result<(), KeysError> {
    check(conn, ring).await?;
    for id in ring.ids() {
        introduce(conn, ring, id).await?;
    }
    Ok(())
}

/// Whether the ring has every key that is needed, with the right bytes. Asks for one row of each key and never for the
/// sealed values, and writes nothing.
pub async fn check(conn: &mut PgConnection, ring: &KeyRing) -> Result<(), KeysError> {
    let unreadable = |error: sqlx::Error| KeysError::Unreadable(error.into());
    let known = sqlx::query!("SELECT id, canary FROM encryption_keys ORDER BY id");
    let known = known.fetch_all(&mut *conn).await.map_err(unreadable)?;
    for key in &known {
        if ring.has(&key.id) {
            recognize(ring, &key.id, key.canary.clone())?;
        } else if let Some(column) = first_sealed_by(conn, &key.id).await.map_err(KeysError::Unreadable)? {
            return Err(KeysError::Missing { key: key.id.clone(), column: column.table() });
        }
    }
    Ok(())
}

/// Before its first value is written. Of several programs with different keys of one id, the first to come is right.
async fn introduce(conn: &mut PgConnection, ring: &KeyRing, id: &str) -> Result<(), KeysError> {
    let unreadable = |error: sqlx::Error| KeysError::Unreadable(error.into());
    let canary = ring.seal_by(id, Place::Canary(id), &Secret::new(CANARY.to_owned()));
    let canary = canary.map_err(|error| KeysError::Unreadable(error.into()))?;
    sqlx::query!(
        "INSERT INTO encryption_keys (id, canary) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
        id,
        canary.sealed()
    )
    .execute(&mut *conn)
    .await
    .map_err(unreadable)?;
    let stored = sqlx::query_scalar!("SELECT canary FROM encryption_keys WHERE id = $1", id);
    recognize(ring, id, stored.fetch_one(conn).await.map_err(unreadable)?)
}

fn recognize(ring: &KeyRing, id: &str, canary: Vec<u8>) -> Result<(), KeysError> {
    // What it opens to is no secret, and whether it opens is what counts: the value is authenticated.
    match ring.open(Place::Canary(id), &AtRest::Sealed(canary)) {
        Ok(_) => Ok(()),
        Err(error @ SealedError::Version { .. }) => Err(KeysError::Unreadable(error.into())),
        Err(_) => Err(KeysError::Wrong(id.to_owned())),
    }
}

/// A column with a value that this key has sealed.
async fn first_sealed_by(conn: &mut PgConnection, key: &str) -> Result<Option<Column>, StoreError> {
    for column in Column::ALL {
        let Names { table, sealed, .. } = column.names();
        let text =
            format!("SELECT EXISTS (SELECT FROM {table} WHERE {sealed} IS NOT NULL AND sealed_by({sealed}) = $1)");
        if sqlx::query_scalar(AssertSqlSafe(text)).bind(key).fetch_one(&mut *conn).await? {
            return Ok(Some(column));
        }
    }
    Ok(None)
}

/// The ids of all keys that were ever in the ring of a program here, oldest first.
pub async fn ids(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT id FROM encryption_keys ORDER BY created_at, id").fetch_all(conn).await?)
}

/// How the values of one column are held.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    pub table: &'static str,
    pub column: &'static str,
    pub plain: i64,
    /// By the key's id.
    pub sealed: BTreeMap<String, i64>,
}

/// Of every column. Reads the indexes, not the rows.
pub async fn held(conn: &mut PgConnection) -> Result<Vec<Held>, StoreError> {
    let mut all = Vec::new();
    for column in Column::ALL {
        let Names { table, plain, sealed, .. } = column.names();
        let text = format!("SELECT count(*) FROM {table} WHERE {plain} IS NOT NULL");
        let plain_count = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *conn).await?;
        let text = format!(
            "SELECT sealed_by({sealed}), count(*) FROM {table} WHERE {sealed} IS NOT NULL GROUP BY sealed_by({sealed})"
        );
        let by_key: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(text)).fetch_all(&mut *conn).await?;
        all.push(Held { table, column: plain, plain: plain_count, sealed: by_key.into_iter().collect() });
    }
    Ok(all)
}

/// Which values of a column are sealed anew.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    Plain,
    /// Those that this key has sealed.
    SealedBy(&'a str),
}

impl<'a> Which<'a> {
    /// Their condition, and what its `$1` stands for.
    fn condition(self, column: Column) -> (String, Option<&'a str>) {
        let Names { plain, sealed, .. } = column.names();
        match self {
            Self::Plain => (format!("{plain} IS NOT NULL AND $1::text IS NULL"), None),
            Self::SealedBy(key) => (format!("{sealed} IS NOT NULL AND sealed_by({sealed}) = $1"), Some(key)),
        }
    }
}

pub async fn count(conn: &mut PgConnection, column: Column, which: Which<'_>) -> Result<i64, StoreError> {
    let (condition, key) = which.condition(column);
    let text = format!("SELECT count(*) FROM {} WHERE {condition}", column.table());
    Ok(sqlx::query_scalar(AssertSqlSafe(text)).bind(key).fetch_one(conn).await?)
}

/// What one batch came to.
#[derive(Debug, Default)]
pub struct Batch {
    pub resealed: usize,
    /// Rows that cannot be opened by any key; they stay as they are.
    pub unreadable: Vec<String>,
    /// Where the next batch begins; None: nothing was left that is not locked.
    pub after: Option<String>,
}

/// Seals at most `limit` values by the ring's first key, in the order of their rows, from `after` on. The caller's
/// transaction is one batch. A row that somebody has locked is left for a later pass, so that nobody waits for anybody.
pub async fn reseal(
    conn: &mut PgConnection,
    ring: &KeyRing,
    column: Column,
    which: Which<'_>,
    after: Option<&str>,
    limit: i64,
) -> Result<Batch, StoreError> {
    let Names { table, plain, sealed, row, row_type, before_all } = column.names();
    let (condition, key) = which.condition(column);
    let text = format!(
        "SELECT {row}::text, {plain}, {sealed} FROM {table} WHERE {condition} AND {row} > $2::text::{row_type}
         ORDER BY {row} LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED"
    );
    let rows = sqlx::query_as(AssertSqlSafe(text)).bind(key).bind(after.unwrap_or(before_all)).bind(limit);
    let rows: Vec<(String, Option<String>, Option<Vec<u8>>)> = rows.fetch_all(&mut *conn).await?;
    let mut batch = Batch { after: rows.last().map(|(row, ..)| row.clone()), ..Batch::default() };
    let (mut done, mut values) = (Vec::new(), Vec::new());
    for (row, plain, sealed) in rows {
        let Some(value) = AtRest::of_columns(plain, sealed) else { continue };
        let place = column.place(&row)?;
        let Ok(secret) = ring.open(place, &value) else {
            batch.unreadable.push(row);
            continue;
        };
        if let AtRest::Sealed(bytes) = ring.seal(place, &secret)? {
            values.push(bytes);
            done.push(row);
        }
    }
    let text = format!(
        "UPDATE {table} t SET {plain} = NULL, {sealed} = new.value
         FROM unnest($1::text[], $2::bytea[]) AS new (id, value) WHERE t.{row} = new.id::{row_type}"
    );
    sqlx::query(AssertSqlSafe(text)).bind(&done).bind(&values).execute(conn).await?;
    batch.resealed = done.len();
    Ok(batch)
}
