//! What a release leaves behind for the tests of the next one, in `tests/releases/<schema version>`: its rows, and its
//! statements.
//!
//! `make release-fixture` writes both, for the schema of this checkout. That folder's README says what for.

mod rows;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::migrate::Migrator;
use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Either, Executor as _, PgConnection, SqlSafeStr as _, Statement as _,
};

use crate::checkout;
use crate::stack::postgres::PrivatePostgres;

/// Where the CA, and the customers' servers, of the run that made the rows are said to have been.
pub const CA: &str = "https://ca.example:14000";
pub const RECEIVER: &str = "https://receiver.example:14001";

/// A statement of a release, as Postgres understands it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Understood {
    pub query: String,
    /// Types.
    pub parameters: Vec<String>,
    /// Names with types.
    pub columns: Vec<(String, String)>,
}

/// One that is kept.
pub struct Release {
    pub version: i64,
    folder: PathBuf,
}

impl Release {
    /// All that are kept, the oldest one first.
    pub fn all() -> Result<Vec<Self>> {
        let folders = fs::read_dir(checkout::root()?.join("tests/releases"))?.flatten().map(|entry| entry.path());
        let mut releases: Vec<Self> = folders
            .filter_map(|folder| Some(Self { version: folder.file_name()?.to_str()?.parse().ok()?, folder }))
            .collect();
        releases.sort_by_key(|release| release.version);
        Ok(releases)
    }

    pub fn statements(&self) -> Result<Vec<Understood>> {
        Ok(serde_json::from_str(&self.read("statements.json")?)?)
    }

    /// SQL that fills an empty schema of this version.
    pub fn rows(&self) -> Result<String> {
        self.read("rows.sql")
    }

    /// Brings an empty database to the schema of this release.
    pub async fn migrate(&self, connection: &mut PgConnection) -> Result<()> {
        Ok(migrations().await?.run_to(self.version, connection).await?)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

pub async fn migrations() -> Result<Migrator> {
    Migrator::new(checkout::root()?.join("migrations")).await.context("reading the migrations")
}

/// What Postgres makes of a statement; nothing is executed.
pub async fn understand(connection: &mut PgConnection, query: &str) -> Result<Understood, sqlx::Error> {
    let statement = connection.prepare(AssertSqlSafe(query.to_owned()).into_sql_str()).await?;
    let parameters = match statement.parameters() {
        Some(Either::Left(types)) => types.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let columns = statement.columns().iter().map(|column| (column.name().to_owned(), column.type_info().to_string()));
    Ok(Understood { query: query.to_owned(), parameters, columns: columns.collect() })
}

/// Writes the folder of this checkout's schema, again where there is one; returns its path.
pub async fn write() -> Result<PathBuf> {
    let root = checkout::root()?;
    let version = migrations().await?.iter().map(|migration| migration.version).max().context("no migrations")?;
    let folder = root.join("tests/releases").join(version.to_string());
    let rows = rows::of_a_run().await?;
    let statements = statements(&root).await?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("rows.sql"), rows)?;
    let lines: Vec<String> = statements.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    fs::write(folder.join("statements.json"), format!("[\n{}\n]\n", lines.join(",\n")))?;
    Ok(folder)
}

/// Those of `.sqlx`, which are all that there are.
async fn statements(root: &Path) -> Result<Vec<Understood>> {
    let postgres = PrivatePostgres::start().await?;
    let mut connection = PgConnection::connect(&postgres.create_database("statements", None).await?).await?;
    migrations().await?.run(&mut connection).await?;
    let mut statements = Vec::new();
    for entry in fs::read_dir(root.join(".sqlx"))? {
        let metadata: serde_json::Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
        let query = metadata["query"].as_str().context("metadata without a query")?;
        statements.push(understand(&mut connection, query).await.with_context(|| query.to_owned())?);
    }
    statements.sort();
    Ok(statements)
}
