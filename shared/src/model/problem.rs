//! Why an order ended without a certificate: a closed list of codes, and the text a customer reads for each.
//!
//! Text from a CA or a library goes into `acme`, for operators; `detail` is ours.

use serde::{Deserialize, Serialize};
use strum::{EnumIter, EnumString, IntoStaticStr};

use super::challenge::challenge_domain;
use super::diagnosis::{Finding, known_findings};
use super::identifier::DnsName;

/// The codes of `failure.code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr, EnumIter)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ProblemCode {
    /// The TXT record did not show the value before the deadline.
    RecordNotSeen,
    /// DNS did not answer, up to the deadline and a while beyond.
    DnsLookupFailed,
    /// The TXT record could not be written where the presenter writes it.
    RecordNotPublished,
    /// The CA looked at the record and did not accept it.
    ChallengeRefused,
    /// A CAA record forbids the CA.
    CaaForbids,
    /// The CA does not certify this name.
    NameRefused,
    /// The CA's order is gone: expired, or unknown to it.
    CaOrderLost,
    /// The CA limits the rate of orders.
    RateLimited,
    /// The CA refused for a reason of its own.
    CaRefused,
    /// The CA does not accept our account: for operators.
    CaAccount,
    /// The CA delivered a chain that does not fit the key or the names.
    ChainRefused,
    /// The workers now speak to another ACME directory than the order was placed at.
    DirectoryChanged,
    /// Nobody placed the order while the caller waited.
    NotPlacedInTime,
    /// The domain was deleted.
    DomainDeleted,
    /// An operator cancelled the order.
    CancelledByOperator,
    /// Attempts used up for a reason that only an operator can see; also any code that a newer release has stored.
    #[serde(other)]
    Internal,
}

impl ProblemCode {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the customer's DNS is, or may be, the reason.
    pub fn is_about_dns(self) -> bool {
        matches!(self, Self::RecordNotSeen | Self::DnsLookupFailed | Self::ChallengeRefused | Self::CaaForbids)
    }

    /// Whether the same request can succeed later without an operator.
    pub fn retryable(self) -> bool {
        !matches!(self, Self::NameRefused | Self::CaAccount | Self::DomainDeleted | Self::Internal)
    }
}

/// Stored as `orders.problem`, shown as `failure`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderProblem {
    pub code: ProblemCode,
    /// What a person has to change, in our words.
    pub detail: String,
    /// The CA's problem document (RFC 7807) or the error behind it, for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<serde_json::Value>,
    /// What the doctor found when the order failed, for the customer.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "known_findings")]
    pub findings: Vec<Finding>,
}

impl OrderProblem {
    /// The standard text of `code` for `name`.
    pub fn new(code: ProblemCode, name: &DnsName) -> Self {
        let record = challenge_domain(name);
        let detail = match code {
            ProblemCode::RecordNotSeen => {
                format!("the TXT record {record} did not show the expected value in time")
            }
            ProblemCode::DnsLookupFailed => {
                format!("DNS did not answer for {record}; make sure that the zone's name servers answer, then retry")
            }
            ProblemCode::RecordNotPublished => {
                format!("the TXT record {record} could not be published automatically; mend the presenter, then retry")
            }
            ProblemCode::ChallengeRefused => format!(
                "the certificate authority did not accept the TXT record {record}; make sure that every name server \
                 of the zone shows what is set there, then retry to get a new value"
            ),
            ProblemCode::CaaForbids => format!(
                "a CAA record of {name} or above it forbids the certificate authority; allow it there, then retry"
            ),
            ProblemCode::NameRefused => format!("the certificate authority does not issue certificates for {name}"),
            ProblemCode::CaOrderLost => {
                "the certificate authority's order has expired; retry to get a new one".to_owned()
            }
            ProblemCode::RateLimited => {
                "the certificate authority limits how many certificates it issues; try again later".to_owned()
            }
            ProblemCode::CaRefused => {
                "the certificate authority refused the order; retry, or ask its operator".to_owned()
            }
            ProblemCode::CaAccount => {
                "the certificate authority does not accept this service's account; its operator must act".to_owned()
            }
            ProblemCode::ChainRefused => {
                "the certificate authority delivered a certificate that does not fit the request".to_owned()
            }
            ProblemCode::DirectoryChanged => {
                "the service has changed its certificate authority; retry to order from the new one".to_owned()
            }
            ProblemCode::NotPlacedInTime => "the order could not be placed in time; nothing was ordered".to_owned(),
            ProblemCode::DomainDeleted => "the domain was deleted".to_owned(),
            ProblemCode::CancelledByOperator => {
                "an operator of this service cancelled the order; retry to get a new one".to_owned()
            }
            ProblemCode::Internal => "an internal error; the service's operator must act".to_owned(),
        };
        Self { code, detail, acme: None, findings: Vec::new() }
    }

    /// Names the exact value that the TXT record has to show, where a retry keeps it.
    #[must_use]
    pub fn expecting(mut self, txt_value: &str) -> Self {
        self.detail = format!("{}; set it to {txt_value}, then retry", self.detail);
        self
    }

    /// Adds what was seen, for the customer: one clause after the standard text.
    #[must_use]
    pub fn because(mut self, specifics: &str) -> Self {
        self.detail = format!("{} ({specifics})", self.detail);
        self
    }

    /// Adds the CA's own words, for operators.
    #[must_use]
    pub fn with_acme(mut self, acme: Option<serde_json::Value>) -> Self {
        self.acme = acme;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn every_code_has_a_text_and_one_spelling() {
        let name = DnsName::parse("shop.example.com", false).unwrap();
        for code in ProblemCode::iter() {
            assert!(OrderProblem::new(code, &name).detail.len() > 20, "{code:?}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(serde_json::from_value::<ProblemCode>(code.as_str().into()).unwrap(), code);
        }
    }

    #[test]
    fn a_code_of_a_newer_release_reads_as_internal() {
        assert_eq!(serde_json::from_value::<ProblemCode>("of_the_future".into()).unwrap(), ProblemCode::Internal);
    }
}
