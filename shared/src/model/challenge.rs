//! The dns-01 challenge as a customer meets it (RFC 8555 section 8.4), and what a look-up for it saw.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::identifier::DnsName;

/// Owner name of the TXT record, with the trailing dot: `_acme-challenge.<name>.`
pub fn challenge_domain(name: &DnsName) -> String {
    challenge_owner(name.as_str())
}

/// The same for an identifier as the CA spells it, without `*.`
pub fn challenge_owner(identifier: &str) -> String {
    format!("_acme-challenge.{identifier}.")
}

/// The sentence a customer follows, for the ownership token.
pub fn verification_instructions(name: &DnsName, token: &str) -> String {
    format!("Create a TXT record for {} with value: {token}", challenge_domain(name))
}

/// The sentence a customer follows, for the CA's value.
pub fn issuance_instructions(name: &DnsName, txt_value: &str) -> String {
    format!("Update the TXT record for {} to: {txt_value}", challenge_domain(name))
}

/// What one DNS look-up for a TXT value saw. Stored as `jobs.last_result` and shown as `last_check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When the look-up began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub result: LookupResult,
    /// At most [`Self::MAX_VALUES`] of the values seen.
    #[serde(default)]
    pub values: Vec<String>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupResult {
    /// No TXT record there (NXDOMAIN and an empty answer alike).
    Absent,
    /// TXT records there, none with the expected value.
    OtherValue,
    /// DNS did not answer the question: SERVFAIL, refused, time-out.
    LookupFailed,
    /// The expected value is there.
    Seen,
}

impl Observation {
    pub const MAX_VALUES: usize = 10;

    /// Judges the values of one successful look-up.
    pub fn of_values(at: OffsetDateTime, values: Vec<String>, expected: &str) -> Self {
        let seen = values.iter().any(|value| value == expected);
        let shown: Vec<String> = values.iter().take(Self::MAX_VALUES).map(|value| printable(value)).collect();
        let (result, detail) = if seen {
            (LookupResult::Seen, "the value is there".to_owned())
        } else if values.is_empty() {
            (LookupResult::Absent, "no TXT record".to_owned())
        } else {
            (LookupResult::OtherValue, format!("another value: {}", shown.join(", ")))
        };
        Self { at, result, values: shown, detail }
    }

    pub fn of_failure(at: OffsetDateTime, reason: &str) -> Self {
        Self { at, result: LookupResult::LookupFailed, values: Vec::new(), detail: format!("look-up failed: {reason}") }
    }
}

/// A TXT value is whatever a stranger put there: shown without control characters and at most 255 characters long.
pub(super) fn printable(value: &str) -> String {
    value.chars().take(255).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_is_judged_by_the_exact_value() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let judge = |values: &[&str]| {
            Observation::of_values(at, values.iter().map(|v| (*v).to_owned()).collect(), "expected").result
        };
        assert_eq!(judge(&[]), LookupResult::Absent);
        assert_eq!(judge(&["Expected"]), LookupResult::OtherValue);
        assert_eq!(judge(&["expected "]), LookupResult::OtherValue);
        assert_eq!(judge(&["other", "expected"]), LookupResult::Seen);
    }

    #[test]
    fn a_value_beyond_the_shown_ones_still_counts() {
        let mut values: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        values.push("expected".to_owned());
        let seen = Observation::of_values(OffsetDateTime::UNIX_EPOCH, values, "expected");
        assert_eq!((seen.result, seen.values.len()), (LookupResult::Seen, Observation::MAX_VALUES));
    }
}
