//! Delegation: a customer makes the challenge name an alias of a name of ours, once, and nobody has to set a record again.

use std::fmt;
use std::str::FromStr;

use super::challenge::challenge_owner;
use super::identifier::{DnsName, NameError};

/// The zone that our own name servers answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeZone(DnsName);

impl FromStr for ChallengeZone {
    type Err = NameError;

    /// A name such as `acme.example.net`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        DnsName::parse(text, true).map(Self)
    }
}

impl fmt::Display for ChallengeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ChallengeZone {
    /// With the final dot.
    pub fn apex(&self) -> String {
        format!("{}.", self.0)
    }

    /// Where the name servers answer for the domain with this label, with the final dot.
    pub fn target(&self, label: &str) -> String {
        format!("{label}.{}.", self.0)
    }

    /// The sentence that a customer follows once, instead of setting TXT records.
    pub fn instructions(&self, name: &DnsName, label: &str) -> String {
        let (owner, target) = (challenge_owner(name.as_str()), self.target(label));
        format!("Create a CNAME record for {owner} with target: {target} and no TXT record beside it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_label_below_the_zone() {
        let zone: ChallengeZone = "ACME.Example.net.".parse().unwrap();
        assert_eq!((zone.apex().as_str(), zone.target("ab").as_str()), ("acme.example.net.", "ab.acme.example.net."));
        let name = DnsName::parse("shop.example.com", false).unwrap();
        let text = zone.instructions(&name, "ab");
        assert!(text.contains("_acme-challenge.shop.example.com.") && text.contains("ab.acme.example.net."), "{text}");
        assert!("com".parse::<ChallengeZone>().is_err() && "".parse::<ChallengeZone>().is_err());
    }
}
