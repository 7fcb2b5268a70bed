//! `countersignctl certificates`: see certificates, revoke them, and take chain and key out. Every export and every revocation
//! leaves a row in the audit.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use countersign_shared::config::{DatabaseAddress, KeyRingArgs};
use countersign_shared::model::filter::{DEFAULT_LIMIT, MOST};
use countersign_shared::store::audit;
use countersign_shared::store::certificates::kept::{self, CertificateLine};
use countersign_shared::store::certificates::ordered;
use countersign_shared::store::{Connection as _, PgConnection, Pool, acme_accounts};

use super::output::{Ended, at, at_or_none, or_none, print, print_json, print_more, print_table, wrong_usage};
use super::{REQUEST_ID, connect, connect_with_keys};
use crate::acme::{Acme, Revoked};
use crate::settings::AcmeArgs;

#[derive(Subcommand)]
pub(super) enum Certificates {
    /// List certificates, newest first
    List(List),
    /// Show one certificate; never its key
    Show(Show),
    /// Have the CA revoke certificates, and renew them no more by themselves
    Revoke(Box<Revoke>),
    /// Write a certificate's chain and key to files, or to the standard output
    Export(Export),
}

#[derive(Args)]
pub(super) struct List {
    /// Only of this domain: its name or its id
    #[arg(long)]
    domain: Option<String>,

    /// Only of this account
    #[arg(long)]
    account: Option<i64>,

    /// Only certificates older than this one: the page after it
    #[arg(long, value_name = "CERTIFICATE")]
    before: Option<i64>,

    /// At most this many
    #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST)))]
    limit: u16,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Show {
    /// Id of the certificate, as /v2 or /domains shows it
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Ids of certificates, as /v2 or /domains shows them
    #[arg(required = true)]
    ids: Vec<String>,

    /// Why (RFC 5280 section 5.3.1); key-compromise where somebody else may have the private key
    #[arg(long, value_enum, default_value = "unspecified")]
    reason: Reason,

    /// Only say which certificates are meant
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,

    #[command(flatten)]
    acme: AcmeArgs,
}

#[derive(Args)]
pub(super) struct Export {
    /// Id of the certificate, as /v2 or /domains shows it
    id: String,

    /// Where the chain goes, leaf first: a file that does not exist yet, or - for the standard output
    #[arg(long, value_name = "PATH")]
    chain: Option<PathBuf>,

    /// Where the private key goes: a file that does not exist yet, or - for the standard output
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,
}

/// Those that CAs take from a subscriber.
#[derive(Clone, Copy, ValueEnum)]
enum Reason {
    Unspecified,
    KeyCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
    PrivilegeWithdrawn,
}

impl Reason {
    fn code(self) -> i16 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

impl Certificates {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => show.run().await,
            Self::Revoke(revoke) => revoke.run().await,
            Self::Export(export) => export.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let limit = i64::from(self.limit);
        // One more than is shown tells whether there are more.
        let mut lines = kept::list(&mut conn, self.account, self.domain.as_deref(), self.before, limit + 1).await?;
        let is_all = lines.len() <= usize::from(self.limit);
        lines.truncate(self.limit.into());
        let next = lines.last().filter(|_| !is_all).map(|last| last.id);
        if self.json {
            print_json(&serde_json::json!({ "certificates": lines, "next_before": next }))?;
        } else {
            let header = ["CERTIFICATE", "ID", "ACCOUNT", "NAME", "STATE", "NOT AFTER", "RENEWED AT", "REVOKED"];
            print_table(&header, lines.iter().map(row))?;
            print_more("before", next)?;
        }
        Ok(Ended::Done)
    }
}

fn row(line: &CertificateLine) -> Vec<String> {
    vec![
        line.id.to_string(),
        line.public_id.clone(),
        line.account_id.to_string(),
        line.common_name.clone(),
        line.state.clone(),
        at_or_none(line.not_after),
        at_or_none(line.renew_at.filter(|_| line.auto_renew)),
        at_or_none(line.revoked_at),
    ]
}

/// What is meant by an id, or said that there is none.
async fn find(conn: &mut PgConnection, id: &str) -> anyhow::Result<Option<CertificateLine>> {
    let found = kept::find(conn, id).await?;
    if found.is_none() {
        eprintln!("countersignctl: there is no certificate {id}");
    }
    Ok(found)
}

impl Show {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let Some(line) = find(&mut conn, &self.id).await? else {
            return Ok(Ended::NotFound);
        };
        if self.json {
            print_json(&line)?;
            return Ok(Ended::Done);
        }
        let facts = [
            ("certificate", line.id.to_string()),
            ("id", line.public_id),
            ("account", line.account_id.to_string()),
            ("domain", line.domain),
            ("names", std::iter::once(line.common_name).chain(line.alternate_names).collect::<Vec<_>>().join(" ")),
            ("state", line.state),
            ("issued", at_or_none(line.issued_at)),
            ("not before", at_or_none(line.not_before)),
            ("not after", at_or_none(line.not_after)),
            ("serial", or_none(line.serial_number)),
            ("sha-256", or_none(line.fingerprint_sha256)),
            ("issuer", or_none(line.issuer)),
            ("directory", or_none(line.directory)),
            ("renewed at", at_or_none(line.renew_at.filter(|_| line.auto_renew))),
            (
                "private key",
                or_none(
                    line.key_sealed_by
                        .map_or(line.key_is_plain.then(|| "plain".to_owned()), |key| Some(format!("sealed by {key}"))),
                ),
            ),
            ("revoked", at_or_none(line.revoked_at)),
            ("reason", or_none(line.revocation_reason)),
        ];
        for (what, value) in facts {
            print(&format!("{what:<14}{value}"))?;
        }
        Ok(Ended::Done)
    }
}

impl Revoke {
    async fn run(self) -> anyhow::Result<Ended> {
        let (mut conn, ring) = connect_with_keys(&self.database, &self.keys).await?;
        let directory = self.acme.acme_directory.as_str();
        if acme_accounts::registration(&mut conn, Some(directory)).await?.is_none() {
            eprintln!("countersignctl: there is no account at {directory}: is ACME_DIRECTORY that of the workers?");
            return Ok(Ended::Refused);
        }
        let pool = Pool::new(self.database.options()?, 2, Duration::from_secs(10));
        let acme = Acme::new(self.acme.settings()?, pool, ring)?;
        let (mut ended, mut results) = (Ended::Done, Vec::new());
        for id in &self.ids {
            // The next one may still be revoked, and whatever was has to be told.
            let (came, said) = match self.revoke(&mut conn, &acme, id).await {
                Ok(came) => came,
                Err(error) => (Ended::Refused, format!("failed, run it again: {error:#}")),
            };
            ended = ended.max(came);
            if !self.json {
                print(&format!("{id}  {said}"))?;
            }
            results.push(serde_json::json!({ "id": id, "result": said }));
        }
        if self.json {
            print_json(&serde_json::json!({ "dry_run": self.dry_run, "results": results }))?;
        }
        Ok(ended)
    }

    async fn revoke(&self, conn: &mut PgConnection, acme: &Acme, id: &str) -> anyhow::Result<(Ended, String)> {
        let Some(line) = kept::find(conn, id).await? else {
            return Ok((Ended::NotFound, "not found".to_owned()));
        };
        if let Some(revoked_at) = line.revoked_at {
            return Ok((Ended::Done, format!("revoked before, at {}", at(revoked_at))));
        }
        let Some(chain) = ordered::chain(conn, line.id).await? else {
            return Ok((Ended::Refused, format!("refused: it is {}, so there is nothing to revoke", line.state)));
        };
        if let Some(other) = line.directory.as_deref().filter(|directory| *directory != acme.directory()) {
            return Ok((Ended::Refused, format!("refused: it was issued by {other}; set ACME_DIRECTORY to that")));
        }
        if self.dry_run {
            return Ok((Ended::Done, "selected".to_owned()));
        }
        let revoked = acme.revoke(&chain, self.reason.code()).await?;
        let mut tx = conn.begin().await?;
        if kept::record_revocation(&mut tx, line.id, self.reason.code()).await? {
            audit::record_operator(&mut tx, line.account_id, "certificate.revoke", &subject(&line), REQUEST_ID).await?;
        }
        tx.commit().await?;
        Ok((
            Ended::Done,
            match revoked {
                Revoked::Now => "revoked".to_owned(),
                Revoked::Before => "the CA had revoked it before; recorded".to_owned(),
            },
        ))
    }
}

/// In words that outlive the row.
fn subject(line: &CertificateLine) -> String {
    format!("certificate {} of {}", line.id, line.common_name)
}

impl Export {
    async fn run(self) -> anyhow::Result<Ended> {
        if self.chain.is_none() && self.key.is_none() {
            wrong_usage("say where to: --chain, --key or both");
        }
        let (mut conn, ring) = connect_with_keys(&self.database, &self.keys).await?;
        let Some(line) = find(&mut conn, &self.id).await? else {
            return Ok(Ended::NotFound);
        };
        let Some(chain) = ordered::chain(&mut conn, line.id).await? else {
            eprintln!("countersignctl: certificate {} is not issued, it is {}", line.id, line.state);
            return Ok(Ended::Refused);
        };
        let key = match &self.key {
            Some(_) => ordered::private_key(&mut conn, &ring, line.id).await?,
            None => None,
        };
        if self.key.is_some() && key.is_none() {
            eprintln!("countersignctl: certificate {} has no private key any more", line.id);
            return Ok(Ended::NotFound);
        }
        let chain_to = self.chain.as_deref().map(Target::open).transpose()?;
        let key_to = self.key.as_deref().map(Target::open).transpose()?;
        // Before anything comes out: no export without its row.
        let action = if key.is_some() { "private_key.export" } else { "certificate.export" };
        audit::record_operator(&mut conn, line.account_id, action, &subject(&line), REQUEST_ID).await?;
        if let Some(mut target) = chain_to {
            target.put(&chain)?;
        }
        if let Some((mut target, key)) = key_to.zip(key) {
            target.put(key.expose())?;
        }
        Ok(Ended::Done)
    }
}

/// Where a PEM goes: opened before anything is written, and gone again if that does not come to pass.
enum Target<'a> {
    Output,
    File { path: &'a Path, file: File, is_written: bool },
}

impl<'a> Target<'a> {
    /// A new file that nobody else may read: one that exists might be open to others.
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Output);
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self::File { path, file, is_written: false })
    }

    fn put(&mut self, pem: &str) -> anyhow::Result<()> {
        match self {
            Self::Output => print(pem.trim_end()),
            Self::File { path, file, is_written } => {
                let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
                written.with_context(|| format!("cannot write {}", path.display()))?;
                *is_written = true;
                Ok(())
            }
        }
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Self::File { path, is_written: false, .. } = self {
            // Whoever tries again would find it in the way.
            let _ = std::fs::remove_file(path);
        }
    }
}
