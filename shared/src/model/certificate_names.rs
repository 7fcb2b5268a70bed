//! The names of a certificate: a label below a domain, and further names inside the same domain.

use std::collections::BTreeSet;

use thiserror::Error;

use super::identifier::{DnsName, NameError};

/// As Let's Encrypt limits it.
const MOST_NAMES: usize = 100;

/// Names that a client asked for, checked and normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateNames {
    /// Labels below the domain, perhaps with `*` in front; empty: the domain itself.
    pub name: String,
    /// Name and domain.
    pub common_name: String,
    /// Whole names, without the common name and without the domain that `www` covers unasked.
    pub alternate_names: Vec<String>,
}

/// Which field is wrong, and why. The texts are meant for the client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NamesError {
    #[error("{0}")]
    Name(String),
    #[error("{0}")]
    AlternateNames(String),
}

impl CertificateNames {
    /// `name` as in the order input of `/v2`: labels below `domain`.
    pub fn parse(name: &str, alternate_names: &[String], domain: &DnsName) -> Result<Self, NamesError> {
        let name = name.to_ascii_lowercase();
        let common_name = if name.is_empty() { domain.to_string() } else { format!("{name}.{domain}") };
        check(&common_name, domain).map_err(NamesError::Name)?;
        let mut alternates = Vec::new();
        for supplied in alternate_names {
            let alternate = supplied.to_ascii_lowercase();
            let refused = |why: String| NamesError::AlternateNames(format!("{} {why}", quoted(supplied)));
            check(&alternate, domain).map_err(refused)?;
            if alternate != common_name && !alternates.contains(&alternate) {
                alternates.push(alternate);
            }
            if alternates.len() >= MOST_NAMES {
                return Err(NamesError::AlternateNames(format!("must be at most {MOST_NAMES} names in all")));
            }
        }
        let names = Self { name, common_name, alternate_names: alternates };
        let all: BTreeSet<String> = names.all(domain).into_iter().collect();
        if all.len() > MOST_NAMES {
            return Err(NamesError::AlternateNames(format!("must be at most {MOST_NAMES} names in all")));
        }
        let covered = all.iter().find(|name| {
            let above = name.split_once('.').map(|(_, above)| format!("*.{above}"));
            above.is_some_and(|wildcard| **name != wildcard && all.contains(&wildcard))
        });
        match covered {
            Some(name) => Err(NamesError::AlternateNames(format!("{name} is covered by a wildcard of the same order"))),
            None => Ok(names),
        }
    }

    /// Every name the certificate is for: `www` covers the domain itself too.
    pub fn all(&self, domain: &DnsName) -> Vec<String> {
        all_names(&self.name, &self.common_name, &self.alternate_names, domain.as_str())
    }
}

/// The same from what is stored.
pub fn all_names(name: &str, common_name: &str, alternate_names: &[String], domain: &str) -> Vec<String> {
    let mut all = vec![common_name.to_owned()];
    if name == "www" && !alternate_names.iter().any(|alternate| alternate == domain) {
        all.push(domain.to_owned());
    }
    all.extend(alternate_names.iter().cloned());
    all
}

/// Whether a whole name, perhaps with `*.` in front, is `domain` or below it.
fn check(name: &str, domain: &DnsName) -> Result<(), String> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let below = host.strip_suffix(domain.as_str());
    if !below.is_some_and(|below| below.is_empty() || below.ends_with('.')) {
        return Err(format!("must be {domain} or below it"));
    }
    if !name.is_ascii() {
        return Err("must be in A-labels".to_owned());
    }
    // What is below a domain that was accepted cannot be more special than the domain is.
    match DnsName::parse(host, true) {
        Ok(parsed) if parsed.as_str() == host => Ok(()),
        // A final dot, for example.
        Ok(_) => Err("must be a plain host name".to_owned()),
        Err(NameError::Wildcard) => Err("must have its wildcard as the leftmost label".to_owned()),
        // A name that is public suffix itself (foo.github.io as a domain is not, github.io is).
        Err(error) => Err(error.to_string()),
    }
}

/// What a client sent, short enough for an answer.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, alternates: &[&str]) -> Result<CertificateNames, NamesError> {
        let domain = DnsName::parse("shop.example.com", false).unwrap();
        let alternates: Vec<String> = alternates.iter().map(ToString::to_string).collect();
        CertificateNames::parse(name, &alternates, &domain)
    }

    fn all(name: &str, alternates: &[&str]) -> Vec<String> {
        parse(name, alternates).unwrap().all(&DnsName::parse("shop.example.com", false).unwrap())
    }

    #[test]
    fn www_covers_the_domain_without_saying_so() {
        let names = parse("www", &[]).unwrap();
        assert_eq!((names.common_name.as_str(), names.alternate_names.len()), ("www.shop.example.com", 0));
        assert_eq!(all("www", &[]), ["www.shop.example.com", "shop.example.com"]);
        assert_eq!(all("WWW", &["shop.example.com"]), ["www.shop.example.com", "shop.example.com"]);
        assert_eq!(all("", &[]), ["shop.example.com"]);
        assert_eq!(all("api", &[]), ["api.shop.example.com"]);
        assert_eq!(all("*", &["shop.example.com"]), ["*.shop.example.com", "shop.example.com"]);
        assert_eq!(all("*.eu", &[]), ["*.eu.shop.example.com"]);
    }

    #[test]
    fn alternates_are_normalised_and_never_double() {
        let names = parse("api", &["Docs.shop.example.com", "api.shop.example.com", "docs.shop.example.com"]).unwrap();
        assert_eq!(names.alternate_names, ["docs.shop.example.com"]);
    }

    #[test]
    fn what_no_ca_would_certify_or_is_somebody_else_s_is_refused() {
        for bad in ["a..b", "-a", "a b", "ü", "a.*", "*.*", "**", ".", &"a".repeat(64), &"a.".repeat(120)] {
            assert!(matches!(parse(bad, &[]), Err(NamesError::Name(_))), "{bad}");
        }
        for bad in
            ["docs", "example.com", "other.com", "evilshop.example.com", "", "shop.example.com.", "*.example.com"]
        {
            assert!(matches!(parse("www", &[bad]), Err(NamesError::AlternateNames(_))), "{bad}");
        }
        assert!(parse("www", &["*.shop.example.com"]).is_err(), "www is covered by the wildcard");
        let many: Vec<String> = (0..99).map(|number| format!("n{number}.shop.example.com")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(parse("api", &many).is_ok() && parse("www", &many).is_err(), "www brings a name more");
    }
}
