//! `countersignctl acme-account`: the account at the CA: bring one along, look at it, and give it another key.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use countersign_shared::config::{DatabaseAddress, KeyRingArgs};
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::acme_accounts::{self, Registration, account_key};
use countersign_shared::store::{Connection as _, Pool};
use countersign_shared::telemetry::chain;
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use super::output::{Ended, or_none, print, print_json};
use super::{connect_to_seal, connect_with_keys};
use crate::acme::{Acme, generate_rsa_key_pem, parse_rsa_key_pem, rsa_key_pem_as_pkcs8};
use crate::settings::AcmeArgs;

#[derive(Subcommand)]
pub(super) enum AcmeAccount {
    /// Show the account of each directory, and what the CA of ACME_DIRECTORY says of it; never its key
    Show(Box<Show>),
    /// Store the key and the account URL (KID) of an existing account, before the first order
    Import(Box<Import>),
    /// Give the account a fresh key at the CA, for the day its key leaks: RFC 8555 section 7.3.5
    Replace(Box<Replace>),
}

#[derive(Args)]
pub(super) struct Show {
    /// Do not ask the CA
    #[arg(long)]
    offline: bool,

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
pub(super) struct Replace {
    /// Also while open orders wait for TXT values that the key is part of: the CA will refuse them, and they can be retried
    #[arg(long)]
    break_open_orders: bool,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,

    #[command(flatten)]
    acme: AcmeArgs,
}

#[derive(Args)]
pub(super) struct Import {
    /// ACME directory the account is at
    #[arg(long, env = "ACME_DIRECTORY")]
    acme_directory: Url,

    /// PEM file of the account's RSA key, PKCS#8 or PKCS#1
    #[arg(long, value_name = "PATH")]
    key_file: PathBuf,

    /// The account's URL at the CA
    #[arg(long, value_name = "URL")]
    kid: Url,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,
}

impl AcmeAccount {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Show(show) => show.run().await,
            Self::Import(import) => import.run().await.map(|()| Ended::Done),
            Self::Replace(replace) => replace.run().await,
        }
    }
}

/// What is shown of an account.
#[derive(Serialize)]
struct AccountLine {
    directory: String,
    kid: Option<String>,
    /// RFC 7638, of the public key.
    thumbprint: String,
    /// A replacement of the key was begun and not finished.
    is_being_replaced: bool,
    /// What the CA says; None where it was not asked.
    status: Option<String>,
}

fn acme(args: &AcmeArgs, database: &DatabaseAddress, ring: &KeyRing) -> anyhow::Result<Acme> {
    let pool = Pool::new(database.options()?, 2, Duration::from_secs(10));
    Ok(Acme::new(args.settings()?, pool, ring.clone())?)
}

impl Show {
    async fn run(self) -> anyhow::Result<Ended> {
        let (mut conn, ring) = connect_with_keys(&self.database, &self.keys).await?;
        let mut lines = Vec::new();
        for directory in acme_accounts::directories(&mut conn).await? {
            let Some(account) = acme_accounts::load(&mut conn, &ring, &directory).await? else { continue };
            let key = parse_rsa_key_pem(account.private_key_pem.expose())?;
            let is_asked = !self.offline && account.kid.is_some() && directory == self.acme.acme_directory.as_str();
            let status = match is_asked {
                true => Some(match acme(&self.acme, &self.database, &ring)?.account_status().await {
                    Ok(status) => status,
                    Err(error) => chain(&error),
                }),
                false => None,
            };
            lines.push(AccountLine {
                is_being_replaced: account_key::next(&mut conn, &ring, &directory).await?.is_some(),
                directory,
                kid: account.kid,
                thumbprint: key.thumbprint(),
                status,
            });
        }
        if self.json {
            print_json(&serde_json::json!({ "accounts": lines }))?;
            return Ok(Ended::Done);
        }
        for line in lines {
            print(&format!("directory   {}", line.directory))?;
            print(&format!("kid         {}", or_none(line.kid)))?;
            print(&format!("thumbprint  {}", line.thumbprint))?;
            if line.is_being_replaced {
                print("key         being replaced: run `countersignctl acme-account replace` again")?;
            }
            print(&format!("status      {}\n", or_none(line.status)))?;
        }
        Ok(Ended::Done)
    }
}

impl Replace {
    async fn run(self) -> anyhow::Result<Ended> {
        let (mut conn, ring) = connect_to_seal(&self.database, &self.keys).await?;
        let directory = self.acme.acme_directory.as_str();
        let registration = acme_accounts::registration(&mut conn, Some(directory)).await?;
        let Some(Registration { kid, .. }) = registration else {
            eprintln!("countersignctl: there is no account at {directory}: is ACME_DIRECTORY that of the workers?");
            return Ok(Ended::NotFound);
        };
        let bound = account_key::orders_bound_to_key(&mut conn, directory).await?;
        if bound > 0 && !self.break_open_orders {
            eprintln!(
                "countersignctl: {bound} open orders wait for TXT values that the key is part of. After the change the CA \
                 refuses them, and they can be retried. Wait until they have ended, or give --break-open-orders"
            );
            return Ok(Ended::Refused);
        }
        let fresh = tokio::task::spawn_blocking(generate_rsa_key_pem).await??;
        // Before the CA is told: a key that nobody has would lose the account.
        let Some(next) = account_key::offer(&mut conn, &ring, directory, &fresh).await? else {
            bail!("another run has just given the account a key, or it was removed: look with `acme-account show`");
        };
        let acme = acme(&self.acme, &self.database, &ring)?;
        if let Err(error) = acme.change_key(next.private_key_pem.expose(), next.is_resumed).await {
            eprintln!(
                "countersignctl: {}. The key is kept for the next try of the same command. \
                 An account that the CA has deactivated takes none: deploy/operating.md says what to do then",
                chain(&error)
            );
            return Ok(Ended::Refused);
        }
        let mut tx = conn.begin().await?;
        account_key::promote(&mut tx, &ring, directory, &next.private_key_pem).await?;
        tx.commit().await?;
        print(&format!("{kid} has a new key; workers notice at their next request"))?;
        // One that was placed while the CA was told has a value of the key before.
        let bound = account_key::orders_bound_to_key(&mut conn, directory).await?;
        if bound > 0 {
            print(&format!(
                "the CA will refuse up to {bound} open orders, whose TXT values were made with the key before: retry them with \
                 `countersignctl orders retry --code challenge_refused`"
            ))?;
        }
        if next.is_resumed {
            print(
                "the new key was made by a run before, which did not end: if somebody may have read it since, run the \
                 same command once more",
            )?;
        }
        Ok(Ended::Done)
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<()> {
        let pem = std::fs::read_to_string(&self.key_file)
            .map(Zeroizing::new)
            .with_context(|| format!("cannot read {}", self.key_file.display()))?;
        let pem = rsa_key_pem_as_pkcs8(&pem).with_context(|| format!("{} is of no use", self.key_file.display()))?;
        let (mut conn, ring) = connect_to_seal(&self.database, &self.keys).await?;
        let directory = self.acme_directory.as_str();
        if !acme_accounts::import(&mut conn, &ring, directory, &pem, self.kid.as_str()).await? {
            bail!("{directory} has an account already; nothing was changed");
        }
        println!("imported {} for {directory}", self.kid);
        Ok(())
    }
}
