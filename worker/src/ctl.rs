//! `countersignctl`: what an operator can do besides starting and stopping processes.

mod acme_account;
mod migrate;

use clap::{Parser, Subcommand};

/// The operator's tool of Countersign.
#[derive(Parser)]
#[command(name = "countersignctl", version)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the database schema to this version; safe to run any number of times, also at once
    Migrate(migrate::Migrate),
    /// The ACME account that all orders share
    #[command(subcommand)]
    AcmeAccount(acme_account::AcmeAccount),
}

impl Command {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Migrate(migrate) => migrate.run().await,
            Verb::AcmeAccount(account) => account.run().await,
        }
    }
}
