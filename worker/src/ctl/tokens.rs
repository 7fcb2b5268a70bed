//! `countersignctl tokens`: by which clients of `/v2` are known. A token is shown once, when it is made.

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_shared::config::DatabaseAddress;
use countersign_shared::model::filter::word;
use countersign_shared::model::ids::hex;
use countersign_shared::model::scope::Scope;
use countersign_shared::store::api_tokens::{self, TokenLine};
use sha2::{Digest as _, Sha256};

use super::connect;
use super::output::{Ended, at, at_or_none, print, print_json, print_table};

/// So that a token is known for what it is wherever it turns up.
const PREFIX: &str = "countersign_";

#[derive(Subcommand)]
pub(super) enum Tokens {
    /// Make a token and show it, this once
    Create(Create),
    /// List tokens; what they are made of is stored nowhere
    List(List),
    /// Refuse tokens from now on
    Revoke(Revoke),
}

#[derive(Args)]
pub(super) struct Create {
    /// Id of the account it speaks for
    account: i64,

    /// What it is for, for people
    #[arg(long, default_value = "token")]
    name: String,

    /// What it may do, separated by commas: certificates:read, certificates:write, certificates:key, domains:*,
    /// webhooks:*
    #[arg(long, value_delimiter = ',', value_parser = word::<Scope>, value_name = "SCOPES",
        default_value = "certificates:read,certificates:write,certificates:key,domains:*,webhooks:*")]
    scopes: Vec<Scope>,

    /// Refused after this time, such as 90d; never by default
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    expires_in: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct List {
    /// Only those of this account
    #[arg(long)]
    account: Option<i64>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Ids of tokens
    #[arg(required = true)]
    ids: Vec<i64>,

    #[command(flatten)]
    database: DatabaseAddress,
}

impl Tokens {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<Ended> {
        let token = format!("{PREFIX}{}", hex(&rand::random::<[u8; 32]>()));
        let expires_in = self.expires_in.map(|length| length.as_secs_f64());
        let digest = Sha256::digest(&token);
        let mut conn = connect(&self.database).await?;
        let id = api_tokens::insert(&mut conn, self.account, &self.name, &digest, &self.scopes, expires_in).await?;
        let Some(id) = id else {
            eprintln!("countersignctl: there is no account {}", self.account);
            return Ok(Ended::NotFound);
        };
        if self.json {
            print_json(&serde_json::json!({ "id": id, "account_id": self.account, "token": token }))?;
        } else {
            eprintln!("token {id} of account {}; it is not shown again", self.account);
            print(&token)?;
        }
        Ok(Ended::Done)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let tokens = api_tokens::list(&mut conn, self.account).await?;
        if self.json {
            print_json(&serde_json::json!({ "tokens": tokens }))?;
        } else {
            let header = ["TOKEN", "ACCOUNT", "NAME", "SCOPES", "CREATED", "EXPIRES", "REVOKED", "LAST USED"];
            print_table(&header, tokens.iter().map(row))?;
        }
        Ok(Ended::Done)
    }
}

fn row(token: &TokenLine) -> Vec<String> {
    vec![
        token.id.to_string(),
        token.account_id.to_string(),
        token.name.clone(),
        token.scopes.join(" "),
        at(token.created_at),
        at_or_none(token.expires_at),
        at_or_none(token.revoked_at),
        at_or_none(token.last_used_at),
    ]
}

impl Revoke {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let mut ended = Ended::Done;
        for id in self.ids {
            if api_tokens::revoke(&mut conn, id).await? {
                print(&format!("{id}  revoked"))?;
            } else {
                print(&format!("{id}  not found, or revoked before"))?;
                ended = Ended::NotFound;
            }
        }
        Ok(ended)
    }
}
