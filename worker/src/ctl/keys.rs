//! `countersignctl keys`: what secrets in the database are sealed with, and sealing them anew while everything runs.

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_shared::config::{DatabaseAddress, KeyRingArgs};
use countersign_shared::sealed::{self, KeyRing};
use countersign_shared::store::encryption_keys::{self, Column, Held, Which};
use countersign_shared::store::{Connection as _, PgConnection};
use serde::Serialize;
use tokio::time::Instant;

use super::output::{Ended, print, print_json, print_table};
use super::{connect, connect_to_seal, connect_with_keys};

/// Rows of one transaction: it locks them for a few milliseconds.
const BATCH: i64 = 200;
/// What is left after a pass is locked by somebody, or was written meanwhile.
const PASSES: usize = 25;
const BETWEEN_PASSES: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum Keys {
    /// Count the secrets of each column that are plain, and sealed by each key
    Status(Status),
    /// Seal what is plain by the first key; while everything runs, and again if it was interrupted
    Seal(Change),
    /// Seal everything by the first key, whatever has sealed it; while everything runs, and again if it was interrupted
    Rotate(Change),
    /// Make a key and print it as an entry of ENCRYPTION_KEYS; it is stored nowhere
    Generate(Generate),
}

#[derive(Args)]
pub(super) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,
}

#[derive(Args)]
pub(super) struct Change {
    /// Only count what would be sealed
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,
}

#[derive(Args)]
pub(super) struct Generate {
    /// Id of the key: 1 to 32 of a-z 0-9 _ -, never used before
    id: String,
}

impl Keys {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Status(status) => status.run().await,
            Self::Seal(change) => change.run(false).await,
            Self::Rotate(change) => change.run(true).await,
            Self::Generate(generate) => {
                print(sealed::generate_entry(&generate.id)?.expose())?;
                Ok(Ended::Done)
            }
        }
    }
}

/// One key, of the ring or of the database.
#[derive(Serialize)]
struct KeyLine {
    id: String,
    is_in_ring: bool,
    /// It seals what is written.
    seals: bool,
    /// Values that it has sealed.
    rows: i64,
}

impl Status {
    async fn run(self) -> anyhow::Result<Ended> {
        let ring = self.keys.ring()?;
        let mut conn = connect(&self.database).await?;
        let held = encryption_keys::held(&mut conn).await?;
        let keys = key_lines(&ring, encryption_keys::ids(&mut conn).await?, &held);
        if self.json {
            print_json(&serde_json::json!({ "columns": held, "keys": keys }))?;
            return Ok(Ended::Done);
        }
        print_table(&["TABLE", "COLUMN", "SEALED BY", "ROWS"], held.iter().flat_map(rows))?;
        print("")?;
        print_table(&["KEY", "IN ENCRYPTION_KEYS", "ROWS"], keys.iter().map(key_row))?;
        Ok(Ended::Done)
    }
}

fn key_lines(ring: &KeyRing, known: Vec<String>, held: &[Held]) -> Vec<KeyLine> {
    let mut ids = known;
    ids.extend(ring.ids().filter(|id| !ids.iter().any(|known| known == id)).map(ToOwned::to_owned).collect::<Vec<_>>());
    ids.into_iter()
        .map(|id| KeyLine {
            is_in_ring: ring.has(&id),
            seals: ring.sealing_key() == Some(&id),
            rows: held.iter().filter_map(|column| column.sealed.get(&id)).sum(),
            id,
        })
        .collect()
}

fn rows(held: &Held) -> Vec<Vec<String>> {
    let row =
        |by: &str, count: i64| vec![held.table.to_owned(), held.column.to_owned(), by.to_owned(), count.to_string()];
    let plain = std::iter::once(row("-", held.plain));
    plain.chain(held.sealed.iter().map(|(key, count)| row(key, *count))).collect()
}

fn key_row(key: &KeyLine) -> Vec<String> {
    let place = match (key.is_in_ring, key.seals) {
        (_, true) => "first: seals",
        (true, false) => "opens",
        (false, _) if key.rows > 0 => "MISSING",
        (false, _) => "no, and not needed",
    };
    vec![key.id.clone(), place.to_owned(), key.rows.to_string()]
}

/// What became of one column.
#[derive(Serialize)]
struct ColumnReport {
    table: &'static str,
    column: &'static str,
    /// To be sealed, when it began.
    selected: i64,
    sealed: usize,
    /// Locked by somebody all the time, or written meanwhile by a process with another first key.
    left: i64,
    /// Rows that no key opens.
    unreadable: Vec<String>,
}

impl Change {
    async fn run(self, also_sealed: bool) -> anyhow::Result<Ended> {
        let (mut conn, ring) = match self.dry_run {
            true => connect_with_keys(&self.database, &self.keys).await?,
            false => connect_to_seal(&self.database, &self.keys).await?,
        };
        let Some(first) = ring.sealing_key() else {
            eprintln!("countersignctl: ENCRYPTION_KEYS has no first key to seal with; nothing was changed");
            return Ok(Ended::Refused);
        };
        let others: Vec<String> = match also_sealed {
            true => encryption_keys::ids(&mut conn).await?.into_iter().filter(|id| id != first).collect(),
            false => Vec::new(),
        };
        let mut report = Vec::new();
        for column in Column::ALL {
            let which = std::iter::once(Which::Plain).chain(others.iter().map(|id| Which::SealedBy(id)));
            report.push(self.column(&mut conn, &ring, column, which.collect()).await?);
        }
        if self.json {
            let columns = serde_json::json!({ "dry_run": self.dry_run, "key": first, "columns": report });
            print_json(&columns)?;
        } else {
            let header = ["TABLE", "COLUMN", "SELECTED", "SEALED", "LEFT", "UNREADABLE"];
            print_table(&header, report.iter().map(line))?;
            print(&match self.dry_run {
                true => {
                    let selected: i64 = report.iter().map(|column| column.selected).sum();
                    format!("{selected} would be sealed by the key {first}; nothing was changed")
                }
                false => {
                    let sealed: usize = report.iter().map(|column| column.sealed).sum();
                    format!("{sealed} sealed by the key {first}")
                }
            })?;
        }
        let is_whole = report.iter().all(|column| column.unreadable.is_empty() && (self.dry_run || column.left == 0));
        Ok(if is_whole { Ended::Done } else { Ended::Refused })
    }

    async fn column(
        &self,
        conn: &mut PgConnection,
        ring: &KeyRing,
        column: Column,
        which: Vec<Which<'_>>,
    ) -> anyhow::Result<ColumnReport> {
        let mut report = ColumnReport {
            table: column.table(),
            column: column.plain(),
            selected: count(conn, column, &which).await?,
            sealed: 0,
            left: 0,
            unreadable: Vec::new(),
        };
        report.left = report.selected;
        if self.dry_run {
            return Ok(report);
        }
        let mut told_at = Instant::now();
        for pass in 0..PASSES {
            if report.left == 0 {
                break;
            }
            if pass > 0 {
                tokio::time::sleep(BETWEEN_PASSES).await;
            }
            report.unreadable.clear();
            for which in &which {
                let mut after = None;
                loop {
                    let mut tx = conn.begin().await?;
                    let batch = encryption_keys::reseal(&mut tx, ring, column, *which, after.as_deref(), BATCH).await?;
                    tx.commit().await?;
                    report.sealed += batch.resealed;
                    report.unreadable.extend(batch.unreadable);
                    if told_at.elapsed() > TELL_EVERY {
                        eprintln!("{}: {} of {}", report.table, report.sealed, report.selected);
                        told_at = Instant::now();
                    }
                    after = batch.after;
                    if after.is_none() {
                        break;
                    }
                }
            }
            let unreadable = i64::try_from(report.unreadable.len()).unwrap_or(i64::MAX);
            report.left = (count(conn, column, &which).await? - unreadable).max(0);
        }
        Ok(report)
    }
}

async fn count(conn: &mut PgConnection, column: Column, which: &[Which<'_>]) -> anyhow::Result<i64> {
    let mut count = 0;
    for which in which {
        count += encryption_keys::count(conn, column, *which).await?;
    }
    Ok(count)
}

fn line(report: &ColumnReport) -> Vec<String> {
    vec![
        report.table.to_owned(),
        report.column.to_owned(),
        report.selected.to_string(),
        report.sealed.to_string(),
        report.left.to_string(),
        report.unreadable.join(" "),
    ]
}
