//! `countersignctl accounts`: the owners of domains.

use clap::{Args, Subcommand, ValueEnum};
use countersign_shared::config::DatabaseAddress;
use countersign_shared::store::accounts::{self, Account};

use super::connect;
use super::output::{Ended, at, print, print_json, print_table};

#[derive(Subcommand)]
pub(super) enum Accounts {
    /// Make an account
    Create(Create),
    /// List accounts; 1 is the default account, whose domains /domains shows
    List(List),
    /// Say who publishes the TXT records of certificates that an account orders from now on
    Presenter(SetPresenter),
}

/// Where no presenter is configured and nothing is delegated.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Fallback {
    Manual,
    TestDns,
}

impl Fallback {
    fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::TestDns => "test-dns",
        }
    }
}

#[derive(Args)]
pub(super) struct Create {
    /// For people
    name: String,

    /// Contact that /v2 shows
    #[arg(long, default_value = "")]
    email: String,

    /// Who publishes the TXT records of its certificates: manual, the customer; or test-dns
    #[arg(long, default_value = "manual", value_enum)]
    presenter: Fallback,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct SetPresenter {
    /// Id of the account
    account: i64,

    /// manual, the customer; or test-dns
    #[arg(value_enum)]
    presenter: Fallback,

    #[command(flatten)]
    database: DatabaseAddress,
}

impl Accounts {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Presenter(set) => set.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let account = accounts::insert(&mut conn, &self.name, &self.email, self.presenter.as_str()).await?;
        if self.json {
            print_json(&account)?
        } else {
            print(&format!("account {}", account.id))?
        }
        Ok(Ended::Done)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let accounts = accounts::list(&mut conn).await?;
        if self.json {
            print_json(&serde_json::json!({ "accounts": accounts }))?;
        } else {
            print_table(&["ACCOUNT", "NAME", "EMAIL", "PRESENTER", "CREATED"], accounts.iter().map(row))?;
        }
        Ok(Ended::Done)
    }
}

fn row(account: &Account) -> Vec<String> {
    vec![
        account.id.to_string(),
        account.name.clone(),
        account.email.clone(),
        account.presenter.clone(),
        at(account.created_at),
    ]
}

impl SetPresenter {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        if !accounts::set_presenter(&mut conn, self.account, self.presenter.as_str()).await? {
            eprintln!("countersignctl: there is no account {}", self.account);
            return Ok(Ended::NotFound);
        }
        print(&format!("account {}: {}", self.account, self.presenter.as_str()))?;
        Ok(Ended::Done)
    }
}
