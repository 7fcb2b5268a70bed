//! The committed metadata of our SQL (`.sqlx/`), from which the sqlx macros compile without a database: rewriting and checking it.
//!
//! The macros themselves write one file per query when they expand against a live database, so this migrates a private one and has the
//! crate that owns all SQL checked against it. Nothing else of the workspace has to compile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::checkout;
use crate::stack::postgres::PrivatePostgres;

type Files = BTreeMap<String, Vec<u8>>;

/// Rewrites `.sqlx/` from the queries and migrations as they are now; returns how many queries there are.
pub async fn rewrite() -> Result<usize> {
    let root = checkout::root()?;
    let current = expand(&root).await?;
    let folder = root.join(".sqlx");
    let committed = read(&folder)?;
    fs::create_dir_all(&folder)?;
    for stale in committed.keys().filter(|name| !current.contains_key(*name)) {
        fs::remove_file(folder.join(stale))?;
    }
    for (name, content) in current.iter().filter(|(name, content)| committed.get(*name) != Some(content)) {
        fs::write(folder.join(name), content)?;
    }
    Ok(current.len())
}

/// Fails, naming the files, if `.sqlx/` is not what the queries and migrations say.
pub async fn check() -> Result<usize> {
    let root = checkout::root()?;
    let current = expand(&root).await?;
    let committed = read(&root.join(".sqlx"))?;
    let missing = current.keys().filter(|name| !committed.contains_key(*name)).map(|name| format!("missing  {name}"));
    let unused = committed.keys().filter(|name| !current.contains_key(*name)).map(|name| format!("unused   {name}"));
    let changed = committed.iter().filter(|(name, content)| current.get(*name).is_some_and(|now| now != *content));
    let stale: Vec<String> = missing.chain(unused).chain(changed.map(|(name, _)| format!("changed  {name}"))).collect();
    if !stale.is_empty() {
        bail!("the SQL metadata is stale; run `make sql-metadata` and commit .sqlx:\n{}", stale.join("\n"));
    }
    Ok(current.len())
}

async fn expand(root: &Path) -> Result<Files> {
    let postgres = PrivatePostgres::start().await?;
    let url = postgres.create_database("metadata", None).await?;
    let mut connection = PgConnection::connect(&url).await?;
    let migrator = Migrator::new(root.join("migrations")).await.context("reading the migrations")?;
    migrator.run(&mut connection).await.context("applying the migrations")?;
    connection.close().await?;

    // The macros expand only when the crate is compiled, and cargo compiles it only when it looks changed.
    for source in ["lib.rs", "store.rs"].map(|file| root.join("shared/src").join(file)) {
        if source.exists() {
            fs::File::options().append(true).open(source)?.set_modified(SystemTime::now())?;
        }
    }
    let folder = tempfile::tempdir()?;
    let status = Command::new("cargo")
        .args(["check", "--quiet", "--package", "countersign-shared", "--all-targets"])
        .current_dir(root)
        .env("DATABASE_URL", url)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", folder.path())
        .status()
        .context("running cargo")?;
    if !status.success() {
        bail!("countersign-shared does not compile against the migrated database; .sqlx is unchanged");
    }
    read(folder.path())
}

fn read(folder: &Path) -> Result<Files> {
    if !folder.exists() {
        return Ok(Files::new());
    }
    let files = fs::read_dir(folder)?.map(|entry| {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?} is no UTF-8"))?;
        Ok((name, fs::read(entry.path())?))
    });
    files.filter(|file| file.as_ref().map_or(true, |(name, _)| name.starts_with("query-"))).collect()
}
