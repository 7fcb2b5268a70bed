//! The objects that both the `/v2` API and the events to webhooks show: built once, so that they never differ.
//!
//! Never a private key.

use serde::Serialize;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use utoipa::ToSchema;

use super::diagnosis::Finding;
use super::problem::OrderProblem;

/// `2026-11-21T09:30:00Z`
pub fn timestamp(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.to_offset(UtcOffset::UTC).format(format).expect("years of stored times have four digits")
}

/// `2026-11-21`
pub fn date(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]");
    at.to_offset(UtcOffset::UTC).format(format).expect("years of stored times have four digits")
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DomainEntry {
    pub id: i64,
    pub account_id: i64,
    #[schema(value_type = Option<i64>)]
    pub registrant_id: Option<()>,
    /// A-labels.
    pub name: String,
    /// U-labels.
    pub unicode_name: String,
    /// Always `hosted`.
    pub state: &'static str,
    pub auto_renew: bool,
    pub private_whois: bool,
    pub trustee: bool,
    #[schema(value_type = Option<String>)]
    pub expires_on: Option<()>,
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<()>,
    #[schema(format = DateTime)]
    pub created_at: String,
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// Our addition, in answers only: what `_acme-challenge` of the domain may be a CNAME to, so that nobody has to publish a
    /// TXT record. Absent where the service has no zone for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0b8f2b8e5d3c4a7f9e1d2c3b4a5f6e7d.acme.example.net.")]
    pub delegation_target: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CertificateEntry {
    pub id: i64,
    pub domain_id: i64,
    /// Kept for old clients: the account's id.
    pub contact_id: i64,
    /// Labels below the domain; empty for the domain itself.
    pub name: String,
    pub common_name: String,
    /// Kept for old clients: always 1.
    pub years: u32,
    /// PEM, once the key is made.
    pub csr: Option<String>,
    /// `new`, `requesting`, `issued`, `failed` or `cancelled`.
    pub state: String,
    pub auto_renew: bool,
    /// As ordered: without the domain that `www` covers unasked.
    pub alternate_names: Vec<String>,
    /// Always `letsencrypt`, whatever the CA is.
    pub authority_identifier: &'static str,
    #[schema(format = DateTime)]
    pub created_at: String,
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// Of the leaf; null until it is issued.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    #[schema(format = Date)]
    pub expires_on: Option<String>,
    /// Our addition: why it failed, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// Our addition: what was found wrong with the DNS of its names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_findings: Vec<Finding>,
}

impl CertificateEntry {
    pub fn because(mut self, problem: Option<OrderProblem>) -> Self {
        if let Some(problem) = problem {
            self.failure_reason = Some(problem.detail);
            self.failure_findings = problem.findings;
        }
        self
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WebhookEntry {
    pub id: i64,
    pub url: String,
    /// Since when nothing is sent there any more, after 15 failures in a row. Delete it and create it again to resume.
    #[schema(format = DateTime)]
    pub suppressed_at: Option<String>,
}
