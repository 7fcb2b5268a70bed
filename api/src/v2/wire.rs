//! The JSON of this surface. What events show too is in `countersign_shared::model::entries`.

use countersign_shared::model::entries::timestamp;
pub(crate) use countersign_shared::model::entries::{CertificateEntry, DomainEntry, WebhookEntry};
use countersign_shared::store::accounts::Account;
use countersign_shared::store::certificates::ordered::{OrderedCertificate, PendingChallenge};
use countersign_shared::store::presenter_configs::PresenterConfig;
use countersign_shared::store::presenter_proposals::Proposal;
use countersign_shared::store::renewals::Renewal;
use serde::Serialize;
use utoipa::ToSchema;

use super::lists::Pagination;
use countersign_shared::model::challenge::challenge_owner;

/// The envelope of every answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Data<T> {
    pub(super) data: T,
}

/// The envelope of a list in pages.
#[derive(Serialize, ToSchema)]
pub(crate) struct Paged<T> {
    pub(super) data: Vec<T>,
    pub(super) pagination: Pagination,
}

/// Who the token speaks for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Whoami {
    /// Always null: tokens belong to accounts.
    #[schema(value_type = Option<Object>)]
    pub(super) user: Option<()>,
    pub(super) account: AccountView,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AccountView {
    id: i64,
    email: String,
    name: String,
    plan_identifier: &'static str,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<Account> for AccountView {
    fn from(account: Account) -> Self {
        Self {
            id: account.id,
            email: account.email,
            name: account.name,
            plan_identifier: "self-hosted",
            created_at: timestamp(account.created_at),
            updated_at: timestamp(account.updated_at),
        }
    }
}

/// Answer of an order: nothing is asked of the CA yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct OrderEntry {
    id: i64,
    /// The same number.
    certificate_id: i64,
    state: String,
    auto_renew: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<&OrderedCertificate> for OrderEntry {
    fn from(certificate: &OrderedCertificate) -> Self {
        Self {
            id: certificate.id,
            certificate_id: certificate.id,
            state: certificate.state.clone(),
            auto_renew: certificate.auto_renew,
            created_at: timestamp(certificate.created_at),
            updated_at: timestamp(certificate.updated_at),
        }
    }
}

/// A renewal: nothing is asked of the CA until it is issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct RenewalEntry {
    /// Of a sequence of its own.
    id: i64,
    old_certificate_id: i64,
    /// The successor.
    new_certificate_id: i64,
    /// `new`, `renewing`, `renewed`, `failed` or `cancelled`.
    state: String,
    /// Of the successor.
    auto_renew: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<Renewal> for RenewalEntry {
    fn from(renewal: Renewal) -> Self {
        Self {
            id: renewal.id,
            old_certificate_id: renewal.old_certificate_id,
            new_certificate_id: renewal.new_certificate_id,
            state: renewal.state,
            auto_renew: renewal.auto_renew,
            created_at: timestamp(renewal.created_at),
            updated_at: timestamp(renewal.updated_at),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Bundle {
    /// The leaf, PEM.
    server: String,
    /// Always null.
    root: Option<String>,
    /// From the leaf's issuer upward, without the root, PEM each.
    chain: Vec<String>,
}

impl Bundle {
    /// Splits a chain of PEM blocks, leaf first.
    pub(super) fn split(chain_pem: &str) -> Self {
        const END: &str = "-----END CERTIFICATE-----";
        let mut blocks = chain_pem.split_inclusive(END).filter(|block| block.ends_with(END)).map(|block| {
            let mut block = block.trim_start().to_owned();
            block.push('\n');
            block
        });
        Self { server: blocks.next().unwrap_or_default(), root: None, chain: blocks.collect() }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PrivateKey {
    /// PEM: PKCS#1 or SEC1.
    pub(super) private_key: String,
}

/// A TXT record that the customer publishes.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChallengeEntry {
    #[schema(example = "TXT")]
    record_type: &'static str,
    /// Owner name, with the final dot.
    record_name: String,
    value: String,
    /// Until when it may appear.
    #[schema(format = DateTime)]
    deadline_at: String,
    /// When it was first seen.
    #[schema(format = DateTime)]
    seen_at: Option<String>,
}

impl From<PendingChallenge> for ChallengeEntry {
    fn from(challenge: PendingChallenge) -> Self {
        Self {
            record_type: "TXT",
            record_name: challenge_owner(&challenge.identifier),
            value: challenge.txt_value,
            deadline_at: timestamp(challenge.deadline_at),
            seen_at: challenge.seen_at.map(timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_split_into_leaf_and_issuers_each_with_a_final_newline() {
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let bundle = Bundle::split(&[block("leaf"), block("issuer"), block("above")].concat());
        assert_eq!((bundle.server, bundle.chain), (block("leaf"), vec![block("issuer"), block("above")]));
    }
}

/// Who publishes TXT records, and who is to.
#[derive(Serialize, ToSchema)]
pub(crate) struct PresenterView {
    pub(super) in_force: Option<PresenterInForce>,
    /// Not tried yet, or refused.
    pub(super) proposed: Option<PresenterProposed>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PresenterInForce {
    /// As it was proposed, without the secret.
    #[schema(value_type = Object)]
    settings: serde_json::Value,
    has_secret: bool,
    #[schema(format = DateTime)]
    since: String,
}

impl TryFrom<PresenterConfig> for PresenterInForce {
    type Error = serde_json::Error;

    fn try_from(config: PresenterConfig) -> Result<Self, serde_json::Error> {
        Ok(Self {
            settings: serde_json::to_value(&config.settings)?,
            has_secret: config.has_secret(),
            since: timestamp(config.created_at),
        })
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PresenterProposed {
    /// As it was proposed, without the secret.
    #[schema(value_type = Object)]
    settings: serde_json::Value,
    /// A secret is forgotten when the trial fails.
    has_secret: bool,
    #[schema(format = DateTime)]
    proposed_at: String,
    /// When the trial failed; null while it is still to come.
    #[schema(format = DateTime)]
    refused_at: Option<String>,
    /// Why.
    error: Option<String>,
}

impl From<Proposal> for PresenterProposed {
    fn from(proposal: Proposal) -> Self {
        Self {
            settings: proposal.settings,
            has_secret: proposal.has_secret,
            proposed_at: timestamp(proposal.proposed_at),
            refused_at: proposal.refused_at.map(timestamp),
            error: proposal.refused_because,
        }
    }
}
