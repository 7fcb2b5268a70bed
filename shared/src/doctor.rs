//! The doctor: what is wrong with a name's DNS, whoever asks — a customer, an operator, or an order that failed.
//!
//! It reads what is known of the name, looks, and has the model judge. No connection is held while it looks.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dns::Authoritative;
use crate::model::challenge::challenge_domain;
use crate::model::delegation::ChallengeZone;
use crate::model::diagnosis::{Diagnosis, Facts, Finding, Issuer, judge};
use crate::model::domain::DomainStatus;
use crate::model::identifier::{DnsName, registrable};
use crate::model::order::{Order, OrderState};
use crate::model::presenter::Presenter;
use crate::store::acme_accounts::{self, Registration};
use crate::store::domains::Domain;
use crate::store::orders::{self, of_domains};
use crate::store::{PgConnection, StoreError};
use time::OffsetDateTime;

/// Also before this the doctor may be done: it waits only for what does not answer.
pub const LOOKS_FOR: Duration = Duration::from_secs(20);

/// Names of one order that are looked at when it fails.
const MOST_NAMES: usize = 4;

/// Cheap to clone.
#[derive(Clone)]
pub struct Doctor {
    pub authoritative: Authoritative,
    /// Where challenges can be delegated to.
    pub challenge_zone: Option<ChallengeZone>,
    /// The CA's names in CAA records; its own choice where there are none.
    pub caa_identities: Vec<String>,
}

impl Doctor {
    /// For a name of which nothing else is known.
    pub fn facts_of_name(&self, name: &DnsName, directory: Option<&str>) -> Facts {
        Facts {
            name: name.to_string(),
            owner: challenge_domain(name),
            issuer: Issuer { identities: self.identities(directory), account_uri: None },
            registrable: registrable(name.as_str()).to_owned(),
            ..Facts::default()
        }
    }

    /// What is awaited of a domain now. `awaits_token`: whether its owner has been told the ownership token.
    pub async fn facts_of_domain(
        &self,
        conn: &mut PgConnection,
        domain: &Domain,
        awaits_token: bool,
    ) -> Result<Facts, StoreError> {
        let newest = match of_domains::newest_placed(conn, domain.id).await? {
            Some(id) => orders::load(conn, id).await?,
            None => None,
        };
        let directory = newest.as_ref().and_then(|order| order.placement.as_ref()).map(|placed| &*placed.directory);
        let registration = acme_accounts::registration(conn, directory).await?;
        let mut facts = match &newest {
            Some(order) => self.facts_of_order(order, registration),
            None => self.facts(&domain.name, &domain.delegation_label, registration),
        };
        facts.is_delegated |= domain.delegated_at.is_some();
        let token = &domain.verification_token;
        if domain.status == DomainStatus::Pending && awaits_token {
            facts.others = std::mem::take(&mut facts.expected).into_iter().map(|value| (value, OLD_VALUE)).collect();
            facts.expected.push(token.clone());
        } else {
            facts.others.push((token.clone(), "the token that proves ownership"));
        }
        Ok(facts)
    }

    /// What an order awaits of its domain's own name; nothing when it is issued or cancelled, or failed and nobody has to set anything.
    pub fn facts_of_order(&self, order: &Order, registration: Option<Registration>) -> Facts {
        let mut facts = self.facts(&order.domain_name, &order.delegation_label, registration);
        let of_domain = order.authorizations.iter().filter(|one| one.identifier == order.domain_name.as_str());
        let values = of_domain.filter(|one| one.proved_at.is_none()).map(|one| one.txt_value.clone()).collect();
        // What was published for it is removed by then.
        let is_over = order.cleaned_up_at.is_some() && order.published_by.presenter.is_automatic();
        match order.state {
            state if is_over || matches!(state, OrderState::Issued | OrderState::Cancelled) => {
                facts.others = Vec::<String>::into_iter(values).map(|value| (value, OLD_VALUE)).collect();
            }
            _ => facts.expected = values,
        }
        facts.is_delegated = order.published_by.presenter == Presenter::Delegated;
        facts.is_wildcard = order.names.iter().any(|name| name.starts_with("*."));
        facts
    }

    /// What a failing order awaits of each of its names, but for those that were proved: the first few.
    pub fn facts_of_names(&self, order: &Order, registration: Option<&Registration>) -> Vec<Facts> {
        let awaited = order.authorizations.iter().filter(|one| one.proved_at.is_none());
        let names: BTreeSet<&str> = awaited.clone().map(|one| one.identifier.as_str()).collect();
        let facts_of = |name: &str| {
            let facts =
                self.facts(&DnsName::from_stored(name.to_owned()), &order.delegation_label, registration.cloned());
            let of_name = awaited.clone().filter(|one| one.identifier == name);
            Facts {
                expected: of_name.clone().map(|one| one.txt_value.clone()).collect(),
                is_wildcard: of_name.clone().any(|one| one.wildcard),
                is_delegated: order.published_by.presenter == Presenter::Delegated,
                ..facts
            }
        };
        names.into_iter().take(MOST_NAMES).map(facts_of).collect()
    }

    pub async fn diagnose(&self, facts: &Facts, looked_at: OffsetDateTime) -> Diagnosis {
        let sights = self.authoritative.examine(&facts.name, LOOKS_FOR).await;
        Diagnosis::new(facts, sights, looked_at)
    }

    /// Only what is wrong.
    pub async fn findings(&self, facts: &Facts, within: Duration) -> Vec<Finding> {
        let sights = self.authoritative.examine(&facts.name, within).await;
        judge(facts, &sights)
    }

    fn facts(&self, name: &DnsName, label: &str, registration: Option<Registration>) -> Facts {
        let directory = registration.as_ref().map(|registration| registration.directory.as_str());
        let mut facts = self.facts_of_name(name, directory);
        facts.target = self.challenge_zone.as_ref().map(|zone| zone.target(label));
        facts.issuer.account_uri = registration.map(|registration| registration.kid);
        facts
    }

    fn identities(&self, directory: Option<&str>) -> Vec<String> {
        let named: Vec<String> = self.caa_identities.iter().map(|name| name.trim().to_owned()).collect();
        let is_lets_encrypt = || {
            let host = directory.and_then(|directory| url::Url::parse(directory).ok());
            let host = host.as_ref().and_then(url::Url::host_str);
            host.is_some_and(|host| host == LETS_ENCRYPT || host.ends_with(&format!(".{LETS_ENCRYPT}")))
        };
        if named.is_empty() && is_lets_encrypt() { vec![LETS_ENCRYPT.to_owned()] } else { named }
    }
}

const LETS_ENCRYPT: &str = "letsencrypt.org";
const OLD_VALUE: &str = "the value of an order before";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ca_is_known_by_its_directory_or_by_what_was_set() {
        let doctor = |set: &[&str]| Doctor {
            authoritative: Authoritative::new(&["127.0.0.1:53".parse().unwrap()], true, true).unwrap(),
            challenge_zone: None,
            caa_identities: set.iter().map(|name| (*name).to_owned()).collect(),
        };
        let staging = Some("https://acme-staging-v02.api.letsencrypt.org/directory");
        assert_eq!(doctor(&[]).identities(staging), ["letsencrypt.org"]);
        assert_eq!(doctor(&["ca.example", " x.example"]).identities(staging), ["ca.example", "x.example"]);
        for unknown in [None, Some("https://ca.example/dir"), Some("https://notletsencrypt.org/dir")] {
            assert!(doctor(&[]).identities(unknown).is_empty(), "{unknown:?}");
        }
    }
}
