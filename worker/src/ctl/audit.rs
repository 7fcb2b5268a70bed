//! `countersignctl audit`: who did what with a token, and what operators did to certificates.

use clap::{Args, Subcommand};
use countersign_shared::config::DatabaseAddress;
use countersign_shared::model::filter::{DEFAULT_LIMIT, MOST};
use countersign_shared::store::audit::{self, Entry};

use super::connect;
use super::output::{Ended, at, or_none, print_json, print_table};

#[derive(Subcommand)]
pub(super) enum Audit {
    /// List changes made with tokens, reads and exports of private keys, and revocations, newest first
    List(List),
}

#[derive(Args)]
pub(super) struct List {
    /// Only of this account
    #[arg(long)]
    account: Option<i64>,

    /// Only this action, such as private_key.read
    #[arg(long)]
    action: Option<String>,

    /// Only entries older than this one: the page after it
    #[arg(long, value_name = "ENTRY")]
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

impl Audit {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        let Self::List(list) = self;
        let mut conn = connect(&list.database).await?;
        let action = list.action.as_deref();
        let entries = audit::list(&mut conn, list.account, action, list.before, list.limit.into()).await?;
        if list.json {
            print_json(&serde_json::json!({ "entries": entries }))?;
        } else {
            let header = ["ENTRY", "AT", "ACCOUNT", "TOKEN", "ACTION", "SUBJECT", "REQUEST"];
            print_table(&header, entries.iter().map(row))?;
        }
        Ok(Ended::Done)
    }
}

fn row(entry: &Entry) -> Vec<String> {
    vec![
        entry.id.to_string(),
        at(entry.at),
        entry.account_id.to_string(),
        entry.token_id.map_or_else(|| "operator".to_owned(), |id| format!("{id} ({})", or_none(entry.token.as_ref()))),
        entry.action.clone(),
        entry.subject.clone(),
        entry.request_id.clone(),
    ]
}
