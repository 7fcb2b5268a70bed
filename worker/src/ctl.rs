//! `countersignctl`: what an operator can do besides starting and stopping processes. One file per noun.

mod accounts;
mod acme_account;
mod audit;
mod certificates;
mod dns;
mod doctor;
mod jobs;
mod keys;
mod migrate;
mod orders;
mod output;
mod tokens;

use clap::{Parser, Subcommand};
use countersign_shared::config::{DatabaseAddress, KeyRingArgs};
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::{self, PgConnection, encryption_keys, schema};

pub use output::Ended;

/// What the timeline and the logs of a job name as the request behind a verb of this tool.
const REQUEST_ID: &str = "countersignctl";

/// The operator's tool of Countersign.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 something named does not exist, 4 something's state does not allow it.
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
    /// See orders; retry and cancel them
    #[command(subcommand)]
    Orders(orders::Orders),
    /// See the queue; retry and park its jobs
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Who publishes the TXT records of an account's domains, or of one domain
    #[command(subcommand)]
    Dns(dns::Dns),
    /// The accounts of /v2
    #[command(subcommand)]
    Accounts(accounts::Accounts),
    /// The bearer tokens of /v2
    #[command(subcommand)]
    Tokens(tokens::Tokens),
    /// See certificates; revoke and export them
    #[command(subcommand)]
    Certificates(certificates::Certificates),
    /// Who did what with a token of /v2, or to certificates
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Say what is wrong with a name's DNS, and which record to set; exits with 4 where certificates are in danger
    Doctor(Box<doctor::Doctor>),
    /// The keys that secrets in the database are sealed with (ENCRYPTION_KEYS)
    #[command(subcommand)]
    Keys(keys::Keys),
    /// The ACME account that all orders share
    #[command(subcommand)]
    AcmeAccount(acme_account::AcmeAccount),
}

/// Connects for the verbs that read and write rows: a schema that they do not fit is refused by its version.
async fn connect(database: &DatabaseAddress) -> anyhow::Result<PgConnection> {
    let mut conn = store::connect(&database.options()?).await?;
    schema::check_while_running(&mut conn).await?;
    store::with_limits(&mut conn).await?;
    Ok(conn)
}

/// Connects for the verbs that read secrets: a ring that does not fit the database is refused, and nothing is written.
async fn connect_with_keys(database: &DatabaseAddress, keys: &KeyRingArgs) -> anyhow::Result<(PgConnection, KeyRing)> {
    let ring = keys.ring()?;
    let mut conn = connect(database).await?;
    encryption_keys::check(&mut conn, &ring).await?;
    Ok((conn, ring))
}

/// Connects for the verbs that seal secrets, too: all keys of the ring are known to the database from then on.
async fn connect_to_seal(database: &DatabaseAddress, keys: &KeyRingArgs) -> anyhow::Result<(PgConnection, KeyRing)> {
    let (mut conn, ring) = connect_with_keys(database, keys).await?;
    encryption_keys::announce(&mut conn, &ring).await?;
    Ok((conn, ring))
}

impl Command {
    pub async fn run(self) -> anyhow::Result<Ended> {
        match self.verb {
            Verb::Migrate(migrate) => migrate.run().await.map(|()| Ended::Done),
            Verb::Orders(orders) => orders.run().await,
            Verb::Jobs(jobs) => jobs.run().await,
            Verb::Dns(dns) => dns.run().await,
            Verb::Accounts(accounts) => accounts.run().await,
            Verb::Tokens(tokens) => tokens.run().await,
            Verb::Certificates(certificates) => certificates.run().await,
            Verb::Audit(audit) => audit.run().await,
            Verb::Doctor(doctor) => doctor.run().await,
            Verb::Keys(keys) => keys.run().await,
            Verb::AcmeAccount(account) => account.run().await,
        }
    }
}
