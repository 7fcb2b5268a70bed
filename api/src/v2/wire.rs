//! The JSON of this surface.

use countersign_shared::store::accounts::Account;
use countersign_shared::store::certificates::ordered::{OrderedCertificate, PendingChallenge};
use countersign_shared::store::domains::of_account::AccountDomain;
use countersign_shared::store::renewals::Renewal;
use serde::Serialize;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
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

/// `2026-11-21T09:30:00Z`
fn timestamp(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.to_offset(UtcOffset::UTC).format(format).expect("years of stored times have four digits")
}

/// `2026-11-21`
fn date(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]");
    at.to_offset(UtcOffset::UTC).format(format).expect("years of stored times have four digits")
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

#[derive(Serialize, ToSchema)]
pub(crate) struct DomainEntry {
    id: i64,
    account_id: i64,
    #[schema(value_type = Option<i64>)]
    registrant_id: Option<()>,
    /// A-labels.
    name: String,
    /// U-labels.
    unicode_name: String,
    /// Always `hosted`.
    state: &'static str,
    auto_renew: bool,
    private_whois: bool,
    trustee: bool,
    #[schema(value_type = Option<String>)]
    expires_on: Option<()>,
    #[schema(value_type = Option<String>)]
    expires_at: Option<()>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<AccountDomain> for DomainEntry {
    fn from(domain: AccountDomain) -> Self {
        Self {
            id: domain.id,
            account_id: domain.account_id,
            registrant_id: None,
            unicode_name: countersign_shared::model::identifier::unicode(&domain.name),
            name: domain.name,
            state: "hosted",
            auto_renew: false,
            private_whois: false,
            trustee: false,
            expires_on: None,
            expires_at: None,
            created_at: timestamp(domain.created_at),
            updated_at: timestamp(domain.updated_at),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CertificateEntry {
    id: i64,
    domain_id: i64,
    /// Kept for old clients: the account's id.
    contact_id: i64,
    /// Labels below the domain; empty for the domain itself.
    name: String,
    common_name: String,
    /// Kept for old clients: always 1.
    years: u32,
    /// PEM, once the key is made.
    csr: Option<String>,
    /// `new`, `requesting`, `issued`, `failed` or `cancelled`.
    state: String,
    auto_renew: bool,
    /// As ordered: without the domain that `www` covers unasked.
    alternate_names: Vec<String>,
    /// Always `letsencrypt`, whatever the CA is.
    authority_identifier: &'static str,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Of the leaf; null until it is issued.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(format = Date)]
    expires_on: Option<String>,
    /// Our addition: why it failed, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<String>,
}

impl CertificateEntry {
    pub(super) fn new(account_id: i64, certificate: OrderedCertificate) -> Self {
        Self {
            id: certificate.id,
            domain_id: certificate.domain_id,
            contact_id: account_id,
            name: certificate.name,
            common_name: certificate.common_name,
            years: 1,
            csr: certificate.csr,
            state: certificate.state,
            auto_renew: certificate.auto_renew,
            alternate_names: certificate.alternate_names,
            authority_identifier: "letsencrypt",
            created_at: timestamp(certificate.created_at),
            updated_at: timestamp(certificate.updated_at),
            expires_at: certificate.not_after.map(timestamp),
            expires_on: certificate.not_after.map(date),
            failure_reason: None,
        }
    }

    pub(super) fn because(mut self, failure_reason: Option<String>) -> Self {
        self.failure_reason = failure_reason;
        self
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
