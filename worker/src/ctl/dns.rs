//! `countersignctl dns`: who publishes TXT records, for every domain of an account or for one domain. What is set is tried first.

mod given;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_shared::config::{DatabaseAddress, DnsArgs, KeyRingArgs};
use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::ids::hex;
use countersign_shared::model::order::OrderOrigin;
use countersign_shared::model::presenter::PresenterSettings;
use countersign_shared::store::domains::of_account::{self, AccountDomain};
use countersign_shared::store::presenter_configs::{self, ConfigLine, Scope};
use countersign_shared::store::presenter_proposals;
use countersign_shared::store::{Connection as _, PgConnection, accounts};
use serde_json::json;

use super::output::{Ended, at, print, print_json, print_table, wrong_usage};
use super::{connect, connect_to_seal, connect_with_keys};
use crate::presenters::{Publisher, trial};
use crate::settings::WebhookCallArgs;
use given::Given;

/// Lines of one table.
const MOST: i64 = 1000;

#[derive(Subcommand)]
pub(super) enum Dns {
    /// Show who publishes; whether there is a secret, never which
    Show(Show),
    /// Set who publishes from now on, once a value was written, seen and removed; open orders go on as they began
    Set(Set),
    /// Take back what was set; open orders go on as they began
    Remove(Remove),
    /// Write a value with what is set, see it, remove it, and see it gone
    Try(Try),
}

/// Whose records.
#[derive(Args)]
struct Whose {
    /// Every domain of this account that has nothing set for itself
    #[arg(long, global = true, value_name = "ID", conflicts_with = "domain")]
    account: Option<i64>,

    /// One domain: its name, or its id
    #[arg(long, global = true, value_name = "DOMAIN")]
    domain: Option<String>,
}

#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    whose: Whose,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    whose: Whose,

    /// Where to try what is set for an account: the name of one of its domains
    #[arg(long, global = true, value_name = "DOMAIN")]
    trial_name: Option<String>,

    /// Set it untried
    #[arg(long, global = true)]
    without_trial: bool,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    given: Given,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,

    #[command(flatten)]
    dns: DnsArgs,

    #[command(flatten)]
    webhooks: WebhookCallArgs,
}

#[derive(Args)]
pub(super) struct Remove {
    #[command(flatten)]
    whose: Whose,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Try {
    #[command(flatten)]
    whose: Whose,

    /// Where to try what is set for an account: the name of one of its domains
    #[arg(long, value_name = "DOMAIN")]
    trial_name: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    keys: KeyRingArgs,

    #[command(flatten)]
    dns: DnsArgs,

    #[command(flatten)]
    webhooks: WebhookCallArgs,
}

impl Dns {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Show(show) => show.run().await,
            Self::Set(set) => set.run().await,
            Self::Remove(remove) => remove.run().await,
            Self::Try(try_out) => try_out.run().await,
        }
    }
}

/// Something named exists.
enum Found {
    Account(i64),
    Domain(AccountDomain),
}

impl Found {
    fn scope(&self) -> Scope {
        match self {
            Self::Account(id) => Scope { account_id: *id, domain_id: None },
            Self::Domain(domain) => Scope { account_id: domain.account_id, domain_id: Some(domain.id) },
        }
    }

    fn named(&self) -> String {
        match self {
            Self::Account(id) => format!("account {id}"),
            Self::Domain(domain) => domain.name.clone(),
        }
    }
}

impl Whose {
    fn is_given(&self) -> bool {
        self.account.is_some() || self.domain.is_some()
    }

    /// None, and said, when it does not exist.
    async fn find(&self, conn: &mut PgConnection) -> anyhow::Result<Option<Found>> {
        let found = match (self.account, &self.domain) {
            (Some(id), _) => accounts::find(conn, id).await?.map(|account| Found::Account(account.id)),
            (None, Some(named)) => of_account::find_anywhere(conn, named).await?.map(Found::Domain),
            (None, None) => wrong_usage("say whose records: --account or --domain"),
        };
        if found.is_none() {
            match (self.account, &self.domain) {
                (Some(id), _) => eprintln!("countersignctl: there is no account {id}"),
                (None, named) => {
                    eprintln!("countersignctl: there is no domain {}", named.as_deref().unwrap_or_default())
                }
            }
        }
        Ok(found)
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let found = if self.whose.is_given() {
            let Some(found) = self.whose.find(&mut conn).await? else {
                return Ok(Ended::NotFound);
            };
            Some(found)
        } else {
            None
        };
        let scope = found.as_ref().map(Found::scope);
        let (account_id, domain_id) = (scope.map(|scope| scope.account_id), scope.and_then(|scope| scope.domain_id));
        let set = presenter_configs::list(&mut conn, account_id, domain_id, MOST).await?;
        let published_by = match domain_id {
            Some(id) => Some(presenter_configs::of_domain(&mut conn, id, OrderOrigin::Challenge).await?),
            None => None,
        };
        if self.json {
            let presenter = published_by.map(|by| by.presenter.as_str());
            print_json(&json!({ "presenters": set, "published_by": presenter }))?;
            return Ok(Ended::Done);
        }
        print_table(&["FOR", "PUBLISHED BY", "SETTINGS", "SECRET", "SINCE"], set.iter().map(row))?;
        if let (Some(found), Some(by)) = (found, published_by) {
            print(&format!("\nThe next order of {} is published by: {}", found.named(), by.presenter.as_str()))?;
        }
        if set.len() as i64 == MOST {
            print("\nThere may be more: name an account or a domain")?;
        }
        Ok(Ended::Done)
    }
}

fn row(line: &ConfigLine) -> Vec<String> {
    let fields = line.settings.as_object().into_iter().flatten();
    let settings: Vec<String> = fields
        .filter(|(name, _)| *name != "kind")
        .map(|(name, value)| format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)))
        .collect();
    vec![
        line.domain.clone().unwrap_or_else(|| format!("account {}", line.account_id)),
        line.settings["kind"].as_str().unwrap_or_default().to_owned(),
        settings.join(" "),
        if line.has_secret { "set" } else { "-" }.to_owned(),
        at(line.created_at),
    ]
}

impl Set {
    async fn run(self) -> anyhow::Result<Ended> {
        let (settings, secret) = self.given.read()?;
        let faults = settings.faults(secret.as_ref());
        if let Some((field, why)) = faults.first() {
            wrong_usage(&format!("{} {why}", field.replace('_', "-")));
        }
        let (mut conn, ring) = connect_to_seal(&self.database, &self.keys).await?;
        let Some(found) = self.whose.find(&mut conn).await? else {
            return Ok(Ended::NotFound);
        };
        let is_tried = !self.without_trial && !matches!(settings, PresenterSettings::Manual {});
        if is_tried {
            let Some(name) = trial_name(&mut conn, &found, self.trial_name.as_deref()).await? else {
                return Ok(Ended::NotFound);
            };
            let publisher = self.webhooks.presenters()?.publisher(&settings, secret.as_ref())?;
            if let Err(why) = try_out(&publisher, &name, &self.dns).await? {
                eprintln!("countersignctl: nothing was set: {why}");
                return Ok(Ended::Refused);
            }
        }
        let mut tx = conn.begin().await?;
        // What was proposed before must not take its place.
        presenter_proposals::withdraw(&mut tx, found.scope()).await?;
        let id = presenter_configs::replace(&mut tx, &ring, found.scope(), &settings, secret.as_ref()).await?;
        tx.commit().await?;
        let presenter = settings.presenter().as_str();
        if self.json {
            print_json(&json!({ "id": id, "presenter": presenter, "is_tried": is_tried }))?;
        } else {
            let tried = if is_tried { ": a value was written, seen and removed" } else { ", untried" };
            print(&format!("{}: {presenter}{tried}", found.named()))?;
        }
        Ok(Ended::Done)
    }
}

impl Remove {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let Some(found) = self.whose.find(&mut conn).await? else {
            return Ok(Ended::NotFound);
        };
        let mut tx = conn.begin().await?;
        let is_withdrawn = presenter_proposals::withdraw(&mut tx, found.scope()).await?;
        let is_removed = presenter_configs::remove(&mut tx, found.scope()).await?;
        tx.commit().await?;
        if !is_removed && !is_withdrawn {
            eprintln!("countersignctl: nothing is set for {}", found.named());
            return Ok(Ended::NotFound);
        }
        print(&format!("{}: removed", found.named()))?;
        Ok(Ended::Done)
    }
}

impl Try {
    async fn run(self) -> anyhow::Result<Ended> {
        let (mut conn, ring) = connect_with_keys(&self.database, &self.keys).await?;
        let Some(found) = self.whose.find(&mut conn).await? else {
            return Ok(Ended::NotFound);
        };
        let mut config = presenter_configs::find(&mut conn, found.scope()).await?;
        if config.is_none() {
            let of_account = Scope { domain_id: None, ..found.scope() };
            config = presenter_configs::find(&mut conn, of_account).await?;
        }
        let Some(config) = config else {
            eprintln!("countersignctl: nothing is set for {}", found.named());
            return Ok(Ended::NotFound);
        };
        let Some(name) = trial_name(&mut conn, &found, self.trial_name.as_deref()).await? else {
            return Ok(Ended::NotFound);
        };
        drop(conn);
        let secret = config.secret(&ring)?;
        let publisher = self.webhooks.presenters()?.publisher(&config.settings, secret.as_ref())?;
        let tried = try_out(&publisher, &name, &self.dns).await?;
        let presenter = config.settings.presenter().as_str();
        if self.json {
            let works = tried.is_ok();
            print_json(
                &json!({ "id": config.id, "presenter": presenter, "works": works, "error": tried.as_ref().err() }),
            )?;
        } else if tried.is_ok() {
            print(&format!("{}: {presenter} works: a value was written, seen and removed", found.named()))?;
        }
        Ok(match tried {
            Ok(()) => Ended::Done,
            Err(why) => {
                if !self.json {
                    eprintln!("countersignctl: {presenter} does not work for {}: {why}", found.named());
                }
                Ended::Refused
            }
        })
    }
}

/// The domain to try with. None, and said, when it does not exist.
async fn trial_name(conn: &mut PgConnection, found: &Found, named: Option<&str>) -> anyhow::Result<Option<String>> {
    let (account, named) = match (found, named) {
        (Found::Domain(domain), None) => return Ok(Some(domain.name.clone())),
        (Found::Domain(_), Some(_)) => {
            wrong_usage("--trial-name goes with --account: a domain is tried with its own name")
        }
        (Found::Account(_), None) => wrong_usage(
            "say with --trial-name where to try it: the name of one of the account's domains; or --without-trial",
        ),
        (Found::Account(id), Some(named)) => (*id, named),
    };
    let domain = of_account::find_anywhere(conn, named).await?.filter(|domain| domain.account_id == account);
    if domain.is_none() {
        eprintln!("countersignctl: account {account} has no domain {named}");
    }
    Ok(domain.map(|domain| domain.name))
}

/// Why it does not work, in words.
async fn try_out(publisher: &Publisher, name: &str, dns: &DnsArgs) -> anyhow::Result<Result<(), String>> {
    if matches!(publisher, Publisher::Nobody) {
        return Ok(Err("the customer publishes: there is nothing to try".to_owned()));
    }
    let lookup = dns.lookup().context("DNS_RESOLVERS cannot be used")?;
    let value = format!("countersign-trial-{}", hex(&rand::random::<[u8; 12]>()));
    let tried = trial::run(publisher, &challenge_owner(name), &value, &lookup).await;
    Ok(tried.map_err(|error| countersign_shared::telemetry::chain(&error).to_string()))
}
