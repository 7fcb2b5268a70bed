//! `countersignctl acme-account`: bring along an account that exists at the CA.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use countersign_shared::config::{DatabaseAddress, KeyRingArgs};
use countersign_shared::store::acme_accounts;
use url::Url;
use zeroize::Zeroizing;

use super::connect_with_keys;
use crate::acme::rsa_key_pem_as_pkcs8;

#[derive(Subcommand)]
pub(super) enum AcmeAccount {
    /// Store the key and the account URL (KID) of an existing account, before the first order
    Import(Import),
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
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Import(import) => import.run().await,
        }
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<()> {
        let pem = std::fs::read_to_string(&self.key_file)
            .map(Zeroizing::new)
            .with_context(|| format!("cannot read {}", self.key_file.display()))?;
        let pem = rsa_key_pem_as_pkcs8(&pem).with_context(|| format!("{} is of no use", self.key_file.display()))?;
        let (mut conn, ring) = connect_with_keys(&self.database, &self.keys).await?;
        let directory = self.acme_directory.as_str();
        if !acme_accounts::import(&mut conn, &ring, directory, &pem, self.kid.as_str()).await? {
            bail!("{directory} has an account already; nothing was changed");
        }
        println!("imported {} for {directory}", self.kid);
        Ok(())
    }
}
