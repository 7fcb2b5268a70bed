//! What is wrong with a name's DNS, as far as certificates need it: a closed list of findings, each with the record to set.
//!
//! Pure: it judges what a walk and some look-ups saw. The texts are for customers.

pub mod caa;
mod judgement;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Deserializer, Serialize};
use strum::{EnumIter, EnumString, IntoStaticStr};
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use caa::{CaaRecord, CaaSet, Issuer};
pub use judgement::judge;

use super::entries::timestamp;
use super::walk::{Hop, ServerAnswer, Walk, WalkEnd};

/// The codes of findings.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumIter, EnumString, IntoStaticStr, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FindingCode {
    /// Nothing is in the way.
    AllWell,
    /// Nothing was looked at: too many other names were.
    NotLookedAt,
    /// No server shows any TXT record.
    RecordMissing,
    /// There are TXT records, and none of them has the value.
    WrongValue,
    /// The value is at another name.
    ValueAtWrongName,
    /// The name is an alias and has TXT records too.
    CnameAndTxt,
    /// The name is an alias of a name that is not ours.
    CnameElsewhere,
    /// The aliases lead back to themselves, or too far.
    CnameLoop,
    /// The zone's servers give different answers.
    ServersDisagree,
    ServerUnreachable,
    /// A server does not speak for the zone that names it.
    ServerLame,
    /// The look-up fails.
    DnsFailed,
    /// The look-up fails only where DNSSEC is checked.
    DnssecBogus,
    /// A CAA record keeps the CA from issuing.
    CaaForbids,
    /// There are CAA records, and it is not known how the CA is named in them.
    CaaFound,
    /// The domain does not exist.
    NameNotFound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Severity {
    /// Keeps the domain from being verified or certified.
    Error,
    /// May do so, now or later.
    Warning,
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub code: FindingCode,
    pub severity: Severity,
    /// What was seen, and what to change.
    pub detail: String,
    /// What to set; null where no record helps.
    #[schema(required)]
    pub record: Option<RecordToSet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordToSet {
    /// `TXT`, `CNAME` or `CAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With the final dot.
    pub name: String,
    pub value: String,
}

/// What is known of the name before anybody looks.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Without `*.`, without the final dot.
    pub name: String,
    /// The challenge name, with the final dot.
    pub owner: String,
    /// Every one of these has to be there.
    pub expected: Vec<String>,
    /// Values of ours that are not awaited now, each with what it is.
    pub others: Vec<(String, &'static str)>,
    /// Where the challenge name can be an alias of: the domain's own name below our zone.
    pub target: Option<String>,
    /// Whether the alias is how the records are published.
    pub is_delegated: bool,
    pub issuer: Issuer,
    pub is_wildcard: bool,
    /// The name that the owner registered, as far as the public suffix list knows.
    pub registrable: String,
}

/// What was found, as every surface shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Diagnosis {
    pub domain_name: String,
    #[schema(format = DateTime)]
    pub looked_at: String,
    /// The record that is awaited now; null when none is.
    #[schema(required)]
    pub expected: Option<Expected>,
    /// The one CNAME record that does for good; null where this service has no zone for it.
    #[schema(required)]
    pub delegation: Option<RecordToSet>,
    /// The worst first; never none.
    pub findings: Vec<Finding>,
    /// Every server's answer, from the challenge name along its aliases; empty where only the resolver could be asked.
    pub walk: Vec<Hop>,
    /// How the walk ended.
    pub walk_ended: WalkEnd,
    /// What the resolver said; null when it did not answer.
    #[schema(required)]
    pub resolver: Option<ServerAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Expected {
    /// With the final dot.
    pub record_name: String,
    /// All of them.
    pub values: Vec<String>,
}

impl Diagnosis {
    pub fn new(facts: &Facts, sights: Sights, looked_at: OffsetDateTime) -> Self {
        let expected = || Expected { record_name: facts.owner.clone(), values: facts.expected.clone() };
        Self {
            domain_name: facts.name.clone(),
            looked_at: timestamp(looked_at),
            expected: (!facts.expected.is_empty()).then(expected),
            delegation: facts.target.as_ref().map(|target| RecordToSet::new("CNAME", &facts.owner, target)),
            findings: judge(facts, &sights),
            walk: sights.walk.hops,
            walk_ended: sights.walk.ended,
            resolver: sights.resolver,
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Sights {
    /// Without a single hop where the zones' own servers could not be found or may not be asked.
    pub walk: Walk,
    /// What the first resolver said of the challenge name, with the values that its alias leads to; None when none answers.
    pub resolver: Option<ServerAnswer>,
    /// The resolver shows an alias and other records of the challenge name itself.
    pub resolver_shows_both: bool,
    /// The look-up succeeds where DNSSEC is not checked, and fails where it is.
    pub is_bogus: bool,
    /// TXT values at names where people put them by mistake.
    pub elsewhere: Vec<(String, Vec<String>)>,
    pub caa: CaaSet,
}

/// Names where values are put by mistake: control panels append the zone to what is typed.
pub fn wrong_names(name: &str, zone: Option<&str>) -> Vec<String> {
    let owner = super::challenge::challenge_owner(name);
    let mut names = vec![format!("{owner}{name}."), format!("{name}.")];
    if let Some(zone) = zone.filter(|zone| *zone != ".") {
        names.push(format!("{owner}{zone}"));
        names.push(super::challenge::challenge_owner(zone.trim_end_matches('.')));
    }
    names.sort();
    names.dedup();
    names.retain(|other| *other != owner && other.len() < 254);
    names
}

/// Leaves out what a newer release has stored and this one does not know.
pub fn known_findings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Finding>, D::Error> {
    let stored = Vec::<serde_json::Value>::deserialize(deserializer)?;
    Ok(stored.into_iter().filter_map(|finding| serde_json::from_value(finding).ok()).collect())
}

impl FindingCode {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Finding {
    fn new(code: FindingCode, severity: Severity, detail: impl Into<String>) -> Self {
        Self { code, severity, detail: detail.into(), record: None }
    }

    #[must_use]
    fn with(mut self, record: RecordToSet) -> Self {
        self.record = Some(record);
        self
    }
}

impl RecordToSet {
    fn new(kind: &str, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), name: name.into(), value: value.into() }
    }
}
