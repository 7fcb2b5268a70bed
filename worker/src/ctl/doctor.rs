//! `countersignctl doctor`: what is wrong with a name's DNS, also of a name that is not registered.

use std::time::SystemTime;

use clap::Args;
use countersign_shared::config::{CaaArgs, ConfigError, DatabaseAddress, DelegationArgs, DnsArgs};
use countersign_shared::doctor::Doctor as Practitioner;
use countersign_shared::model::diagnosis::{Diagnosis, Facts, Severity};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::store::{accounts, domains};
use url::Url;

use super::connect;
use super::output::{Ended, or_none, print, print_json, print_table};

#[derive(Args)]
pub(super) struct Doctor {
    /// A DNS name, registered or not
    name: String,

    /// What the TXT record shall show, instead of what is awaited of a registered name
    #[arg(long, value_name = "VALUE")]
    expect: Vec<String>,

    /// Judge CAA records for a wildcard certificate
    #[arg(long)]
    wildcard: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// ACME directory of the CA
    #[arg(long, env = "ACME_DIRECTORY", default_value = "https://acme-staging-v02.api.letsencrypt.org/directory")]
    acme_directory: Url,

    #[command(flatten)]
    dns: DnsArgs,

    #[command(flatten)]
    delegation: DelegationArgs,

    #[command(flatten)]
    caa: CaaArgs,

    #[command(flatten)]
    database: DatabaseAddress,
}

impl Doctor {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        let name = DnsName::parse(&self.name, true)?;
        let practitioner = Practitioner {
            authoritative: self.dns.authoritative()?,
            challenge_zone: self.delegation.challenge_zone.clone(),
            caa_identities: self.caa.caa_identities.clone(),
        };
        let mut facts = self.facts(&practitioner, &name).await?;
        facts.is_wildcard |= self.wildcard;
        if !self.expect.is_empty() {
            facts.expected.clone_from(&self.expect);
        }
        let diagnosis = practitioner.diagnose(&facts, SystemTime::now().into()).await;
        if self.json {
            print_json(&diagnosis)?
        } else {
            print_diagnosis(&diagnosis)?
        }
        let is_broken = diagnosis.findings.iter().any(|finding| finding.severity == Severity::Error);
        Ok(if is_broken { Ended::Refused } else { Ended::Done })
    }

    /// Of a registered name, what is awaited; without a database nothing is registered.
    async fn facts(&self, practitioner: &Practitioner, name: &DnsName) -> anyhow::Result<Facts> {
        let unregistered = || Ok(practitioner.facts_of_name(name, Some(self.acme_directory.as_str())));
        if let Err(ConfigError::Missing(_)) = self.database.options() {
            return unregistered();
        }
        let mut conn = connect(&self.database).await?;
        let Some((id, account)) = domains::registered_as(&mut conn, name).await? else { return unregistered() };
        let Some(domain) = domains::find_live(&mut conn, id).await? else { return unregistered() };
        Ok(practitioner.facts_of_domain(&mut conn, &domain, account == accounts::DEFAULT).await?)
    }
}

fn print_diagnosis(diagnosis: &Diagnosis) -> anyhow::Result<()> {
    for finding in &diagnosis.findings {
        print(&format!("{:<8} {}", finding.severity.as_str(), finding.code.as_str()))?;
        print(&format!("         {}", finding.detail))?;
        if let Some(record) = &finding.record {
            print(&format!("         set: {} {} {}", record.name, record.kind, record.value))?;
        }
    }
    print("")?;
    let rows = diagnosis.walk.iter().flat_map(|hop| {
        hop.servers.iter().map(|server| {
            let said: &str = server.result.into();
            let shown = server.alias.iter().chain(&server.values).map(|text| text.escape_debug().to_string());
            let shown: Vec<String> = shown.collect();
            vec![
                hop.owner.clone(),
                or_none(hop.zone.as_ref()),
                server.server.clone(),
                or_none(server.address.as_ref()),
                said.to_owned(),
                shown.join(" "),
            ]
        })
    });
    let resolver = diagnosis.resolver.iter().map(|resolver| {
        let said: &str = resolver.result.into();
        let owner = diagnosis.walk.first().map_or("-", |hop| &hop.owner);
        let shown: Vec<String> = resolver.values.iter().map(|text| text.escape_debug().to_string()).collect();
        vec![
            owner.to_owned(),
            "-".to_owned(),
            resolver.server.clone(),
            "-".to_owned(),
            said.to_owned(),
            shown.join(" "),
        ]
    });
    print_table(&["NAME", "ZONE", "SERVER", "ADDRESS", "ANSWER", "SHOWS"], rows.chain(resolver))
}
