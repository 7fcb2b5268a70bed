//! The schema's version: migrations are applied by `countersignctl migrate` only; everybody else checks.

use sqlx::PgConnection;
use sqlx::migrate::{AppliedMigration, Migrate as _, MigrateError, Migrator};
use thiserror::Error;

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

#[derive(Debug, Error)]
pub enum SchemaError {
    #[error(
        "the database has no Countersign schema; run `countersignctl migrate` (this binary needs version {needed})"
    )]
    Empty { needed: i64 },
    #[error("the database schema is at version {found}, this binary needs {needed}; run `countersignctl migrate`")]
    Older { found: i64, needed: i64 },
    #[error(
        "the database schema has version {found}, which this binary does not know (it knows up to {known}); run a newer binary"
    )]
    Unknown { found: i64, known: i64 },
    #[error("migration {version} was applied in another form than this binary's, or was left half done")]
    Different { version: i64 },
    #[error(transparent)]
    Database(StoreError),
    #[error("cannot read the schema version")]
    Unreadable(#[source] StoreError),
    #[error("cannot migrate")]
    Migrate(#[source] MigrateError),
}

/// The version this binary was built for.
pub fn version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Applies what is missing. Any number of processes may call it at once: an advisory lock lets one work at a time.
pub async fn migrate(conn: &mut PgConnection) -> Result<(), SchemaError> {
    refuse_unknown(&applied(conn).await?)?;
    MIGRATIONS.run(conn).await.map_err(SchemaError::Migrate)
}

/// For a process that starts: refuses an older, an unknown and a half-applied schema, each with a message that names it.
pub async fn check(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let applied = applied(conn).await?;
    refuse_unknown(&applied)?;
    refuse_missing(&applied)
}

/// For a process that runs already: a newer schema is fine, because migrations expand before they contract, and an old
/// fleet must go on while the new one is rolled out.
pub async fn check_while_running(conn: &mut PgConnection) -> Result<(), SchemaError> {
    refuse_missing(&applied(conn).await?)
}

fn refuse_missing(applied: &[AppliedMigration]) -> Result<(), SchemaError> {
    let needed = version();
    let Some(found) = applied.iter().map(|one| one.version).max() else {
        return Err(SchemaError::Empty { needed });
    };
    for migration in MIGRATIONS.iter() {
        match applied.iter().find(|one| one.version == migration.version) {
            None => return Err(SchemaError::Older { found, needed }),
            Some(one) if one.checksum != migration.checksum => {
                return Err(SchemaError::Different { version: migration.version });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn refuse_unknown(applied: &[AppliedMigration]) -> Result<(), SchemaError> {
    match applied.iter().find(|one| !MIGRATIONS.version_exists(one.version)) {
        Some(one) => Err(SchemaError::Unknown { found: one.version, known: version() }),
        None => Ok(()),
    }
}

async fn applied(conn: &mut PgConnection) -> Result<Vec<AppliedMigration>, SchemaError> {
    let unreadable = |error: sqlx::Error| SchemaError::Unreadable(error.into());
    let exists = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#)
        .fetch_one(&mut *conn)
        .await
        .map_err(unreadable)?;
    if !exists {
        return Ok(Vec::new());
    }
    let unlisted = |error| match error {
        MigrateError::Execute(error) => unreadable(error),
        error => SchemaError::Migrate(error),
    };
    if let Some(version) = conn.dirty_version(&MIGRATIONS.table_name).await.map_err(unlisted)? {
        return Err(SchemaError::Different { version });
    }
    conn.list_applied_migrations(&MIGRATIONS.table_name).await.map_err(unlisted)
}
