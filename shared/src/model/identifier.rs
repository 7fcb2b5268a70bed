//! DNS names that a public CA could certify: the one parser for every name that enters the service.

use std::{fmt, net::IpAddr};

use thiserror::Error;
use time::Date;
use time::macros::date;

/// A normalised DNS name: lower-case A-labels, no trailing dot, at most [`DnsName::MAX_OCTETS`] octets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsName(String);

/// Names set apart from the public DNS: no public CA certifies them (RFC 6761, RFC 6762, RFC 7686, RFC 8375).
const SPECIAL_USE: [&str; 8] = ["test", "local", "internal", "invalid", "localhost", "example", "onion", "home.arpa"];

/// The public suffix list that names are checked against: the version of the crate `psl` that holds it, and the day that
/// version was released. Change both with the crate; a test compares the version.
pub const SUFFIX_LIST: (&str, Date) = ("2.1.247", date!(2026 - 11 - 05));

/// Why a name is refused. The text is meant for the customer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {max} octets long, so that the challenge prefix still fits", max = DnsName::MAX_OCTETS)]
    TooLong,
    #[error("must not be an IP address")]
    IpAddress,
    #[error("must not be a wildcard name; register the name without \"*.\"")]
    Wildcard,
    #[error("must not have an empty label (two dots in a row, or a leading dot)")]
    EmptyLabel,
    #[error("must not have a label of more than 63 octets")]
    LabelTooLong,
    #[error("must consist of letters, digits and hyphens, in labels that neither begin nor end with a hyphen")]
    NotLetterDigitHyphen,
    #[error("is not a valid internationalised name (UTS 46)")]
    NotInternationalised,
    #[error("must have at least two labels, like example.com")]
    SingleLabel,
    #[error("must not end in a numeric label")]
    NumericLastLabel,
    #[error("must not be a public suffix; register a name below it")]
    PublicSuffix,
    #[error("ends in .{0}, a special-use name that no public CA certifies")]
    SpecialUse(&'static str),
}

impl DnsName {
    /// 253 octets less `_acme-challenge.`
    pub const MAX_OCTETS: usize = 237;

    /// Parses what a caller supplied. Unicode labels become A-labels (UTS 46, non-transitional), letters become
    /// lower-case, one trailing dot is dropped. `allow_special_use` is for private CAs (`ALLOW_SPECIAL_USE_NAMES`).
    pub fn parse(supplied: &str, allow_special_use: bool) -> Result<Self, NameError> {
        let relative = supplied.strip_suffix('.').unwrap_or(supplied);
        if relative.is_empty() {
            return Err(NameError::Empty);
        }
        // Work on hostile input stays bounded: no valid name in any script needs more than this.
        if relative.len() > 4 * Self::MAX_OCTETS {
            return Err(NameError::TooLong);
        }
        if relative.parse::<IpAddr>().is_ok() || relative.starts_with('[') {
            return Err(NameError::IpAddress);
        }
        if relative.split('.').any(|label| label == "*") {
            return Err(NameError::Wildcard);
        }
        let name = if relative.is_ascii() && !relative.to_ascii_lowercase().contains("xn--") {
            relative.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(relative).map_err(|_| NameError::NotInternationalised)?
        };
        check_labels(&name)?;
        if let Some(suffix) = SPECIAL_USE.into_iter().find(|suffix| ends_with_labels(&name, suffix)) {
            if !allow_special_use {
                return Err(NameError::SpecialUse(suffix));
            }
        } else if is_icann_suffix(&name) {
            return Err(NameError::PublicSuffix);
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a name that was parsed before it was stored.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a name that somebody registered, as far as the public suffix list knows.
pub fn registrable(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

/// A stored name in U-labels, for people; A-labels that are none stay as they are.
pub fn unicode(name: &str) -> String {
    idna::domain_to_unicode(name).0
}

fn check_labels(name: &str) -> Result<(), NameError> {
    for label in name.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > 63 {
            return Err(NameError::LabelTooLong);
        }
        let letter_digit_hyphen =
            label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !letter_digit_hyphen || label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::NotLetterDigitHyphen);
        }
        // RFC 5891 section 4.2.3.1: "??--" is reserved, and only "xn--" was given a meaning.
        if label.as_bytes().get(2..4) == Some(b"--") && !label.starts_with("xn--") {
            return Err(NameError::NotInternationalised);
        }
    }
    if name.len() > DnsName::MAX_OCTETS {
        return Err(NameError::TooLong);
    }
    let (_, last) = name.rsplit_once('.').ok_or(NameError::SingleLabel)?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::NumericLastLabel);
    }
    Ok(())
}

fn ends_with_labels(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_icann_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes())
        .is_some_and(|suffix| suffix.typ() == Some(psl::Type::Icann) && suffix.as_bytes().len() == name.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_normalised() {
        for (supplied, normalised) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com.", "example.com"),
            ("bücher.example.com", "xn--bcher-kva.example.com"),
            ("XN--BCHER-KVA.example.com", "xn--bcher-kva.example.com"),
            ("faß.de", "xn--fa-hia.de"),
            ("a.co.uk", "a.co.uk"),
            ("user.github.io", "user.github.io"),
            ("github.io", "github.io"),
        ] {
            assert_eq!(DnsName::parse(supplied, false).as_ref().map(DnsName::as_str), Ok(normalised), "{supplied}");
        }
    }

    #[test]
    fn what_no_public_ca_certifies_is_refused_with_its_reason() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = format!("{}com", "abcdefg.".repeat(30));
        for (supplied, reason) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("192.0.2.1", NameError::IpAddress),
            ("2001:db8::1", NameError::IpAddress),
            ("[2001:db8::1]", NameError::IpAddress),
            ("*.example.com", NameError::Wildcard),
            ("a..example.com", NameError::EmptyLabel),
            (".example.com", NameError::EmptyLabel),
            ("example.com..", NameError::EmptyLabel),
            (&long_label, NameError::LabelTooLong),
            (&long_name, NameError::TooLong),
            ("-a.com", NameError::NotLetterDigitHyphen),
            ("a-.com", NameError::NotLetterDigitHyphen),
            ("a_b.com", NameError::NotLetterDigitHyphen),
            ("a b.com", NameError::NotLetterDigitHyphen),
            ("a\0b.com", NameError::NotLetterDigitHyphen),
            ("a\n.com", NameError::NotLetterDigitHyphen),
            ("ab--c.com", NameError::NotInternationalised),
            ("xn--zzzzzzzzz.com", NameError::NotInternationalised),
            ("localhost", NameError::SingleLabel),
            ("example.123", NameError::NumericLastLabel),
            ("co.uk", NameError::PublicSuffix),
            ("com.", NameError::SingleLabel),
            ("shop.test", NameError::SpecialUse("test")),
            ("a.home.arpa", NameError::SpecialUse("home.arpa")),
        ] {
            assert_eq!(DnsName::parse(supplied, false), Err(reason), "{supplied:?}");
        }
        assert!(DnsName::parse("shop.test", true).is_ok());
    }

    #[test]
    fn the_stated_version_of_the_suffix_list_is_the_one_compiled_in() {
        let lock = include_str!("../../../Cargo.lock");
        let (_, entry) = lock.split_once("name = \"psl\"\nversion = \"").unwrap();
        assert_eq!(entry.split('"').next(), Some(SUFFIX_LIST.0), "change SUFFIX_LIST with the crate psl");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_normal(supplied in "\\PC{0,80}|[a-zA-Z0-9.*_-]{0,260}|([a-zäß世-]{1,12}\\.){1,4}[a-z]{2,6}") {
            if let Ok(name) = DnsName::parse(&supplied, true) {
                let name = name.as_str();
                prop_assert!(name.len() <= DnsName::MAX_OCTETS && name.contains('.'));
                prop_assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)));
                let again = DnsName::parse(name, true);
                prop_assert_eq!(again.as_ref().map(DnsName::as_str), Ok(name));
            }
        }

        #[test]
        fn case_and_a_trailing_dot_do_not_matter(name in "([a-z0-9]{1,20}\\.){1,3}[a-z]{2,10}") {
            let parsed = DnsName::parse(&name, true);
            prop_assert_eq!(DnsName::parse(&format!("{}.", name.to_ascii_uppercase()), true), parsed);
        }
    }

    #[test]
    fn the_challenge_name_of_the_longest_name_fits_dns() {
        let longest = format!("{}.com", ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(41)].join("."));
        assert_eq!(longest.len(), DnsName::MAX_OCTETS);
        let name = DnsName::parse(&longest, false).unwrap();
        assert_eq!(crate::model::challenge::challenge_domain(&name).len(), 254); // 253 and the trailing dot
    }
}
