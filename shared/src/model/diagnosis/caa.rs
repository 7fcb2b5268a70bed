//! Whether CAA records let a CA issue (RFC 8659), for an account and by dns-01 (RFC 8657).

/// One record of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaaRecord {
    pub is_critical: bool,
    pub tag: String,
    pub value: String,
}

/// The set that counts: the one closest to the name, at it or above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaaSet {
    /// Where it is, with the final dot; None when there is none up to the root.
    pub owner: Option<String>,
    pub records: Vec<CaaRecord>,
    /// Where the look-up failed before one was found.
    pub failed_at: Option<String>,
}

/// Who would issue.
#[derive(Clone, Debug, Default)]
pub struct Issuer {
    /// The domain names by which the CA knows itself in CAA records; without any there is no verdict.
    pub identities: Vec<String>,
    /// Our account at the CA; None when it is not known.
    pub account_uri: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allows,
    /// A clause for people.
    Forbids(String),
    /// Records, but nothing to hold them against.
    Unknown,
}

const METHOD: &str = "dns-01";

impl CaaSet {
    /// For a certificate with a wildcard, or without.
    pub(super) fn verdict(&self, issuer: &Issuer, is_wildcard: bool) -> Verdict {
        if self.records.is_empty() {
            return Verdict::Allows;
        }
        let known = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone", "issuevmc"];
        let is_known = |record: &&CaaRecord| known.iter().any(|tag| record.tag.eq_ignore_ascii_case(tag));
        if let Some(record) = self.records.iter().filter(|record| record.is_critical).find(|record| !is_known(record)) {
            return Verdict::Forbids(format!("it has the critical property {}, which no CA may ignore", record.tag));
        }
        let tagged = |tag: &str| -> Vec<&CaaRecord> {
            self.records.iter().filter(|record| record.tag.eq_ignore_ascii_case(tag)).collect()
        };
        let wild = tagged("issuewild");
        let properties = if is_wildcard && !wild.is_empty() { wild } else { tagged("issue") };
        if properties.is_empty() {
            return Verdict::Allows;
        }
        let names_anybody = properties.iter().any(|property| !issuer_in(&property.value).is_empty());
        if issuer.identities.is_empty() && names_anybody {
            return Verdict::Unknown;
        }
        let mut why = None;
        for property in &properties {
            let ca = issuer_in(&property.value);
            if !issuer.identities.iter().any(|identity| identity.eq_ignore_ascii_case(ca)) {
                continue;
            }
            match refused_parameter(property.value.split(';').skip(1).map(str::trim), issuer) {
                None => return Verdict::Allows,
                Some(refused) => why = Some(refused),
            }
        }
        let tag = properties.first().map_or("issue", |property| property.tag.as_str());
        let shown: Vec<&str> = properties.iter().map(|property| property.value.as_str()).collect();
        Verdict::Forbids(why.unwrap_or_else(|| format!("its {tag} names only: {}", shown.join(", "))))
    }
}

/// Empty for nobody.
fn issuer_in(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim().trim_end_matches('.')
}

/// The first parameter that keeps us out.
fn refused_parameter<'a>(parameters: impl Iterator<Item = &'a str>, issuer: &Issuer) -> Option<String> {
    for parameter in parameters.filter(|parameter| !parameter.is_empty()) {
        let Some((name, value)) = parameter.split_once('=') else {
            return Some(format!("the parameter {parameter} is malformed"));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match (name.as_str(), &issuer.account_uri) {
            ("accounturi", Some(account)) if account != value => {
                return Some(format!("its accounturi is {value}, and this service's account is {account}"));
            }
            ("validationmethods", _) if !value.split(',').any(|method| method.trim() == METHOD) => {
                return Some(format!("its validationmethods are {value}, without {METHOD}"));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Records = &'static [(&'static str, &'static str)];

    fn set(records: &[(&str, &str)]) -> CaaSet {
        let records = records.iter().map(|(tag, value)| CaaRecord {
            is_critical: tag.starts_with('!'),
            tag: tag.trim_start_matches('!').to_owned(),
            value: (*value).to_owned(),
        });
        CaaSet { owner: Some("example.com.".to_owned()), records: records.collect(), failed_at: None }
    }

    #[test]
    fn who_may_issue_is_what_the_records_say() {
        let ours = Issuer {
            identities: vec!["ca.example".to_owned(), "old-ca.example".to_owned()],
            account_uri: Some("https://ca.example/acct/1".to_owned()),
        };
        // Records, then whether a plain and a wildcard certificate may be issued.
        let table: [(Records, bool, bool); 17] = [
            (&[], true, true),
            (&[("iodef", "mailto:a@b.c")], true, true),
            (&[("issue", "CA.example")], true, true),
            (&[("issue", "other.example"), ("issue", "old-ca.example")], true, true),
            (&[("issue", "other.example")], false, false),
            (&[("issue", ";")], false, false),
            (&[("issue", "")], false, false),
            (&[("issue", "ca.example"), ("issuewild", ";")], true, false),
            (&[("issue", ";"), ("issuewild", "ca.example")], false, true),
            (&[("issuewild", "other.example")], true, false),
            (&[("ISSUE", "ca.example; accounturi=https://ca.example/acct/1")], true, true),
            (&[("issue", "ca.example; accounturi=https://ca.example/acct/2")], false, false),
            (&[("issue", "ca.example; validationmethods=http-01,dns-01")], true, true),
            (&[("issue", "ca.example;validationmethods=http-01")], false, false),
            (&[("issue", "ca.example; validationmethods=http-01"), ("issue", "ca.example")], true, true),
            (&[("issue", "ca.example; nonsense")], false, false),
            (&[("issue", "ca.example"), ("!future", "x")], false, false),
        ];
        for (records, plain, wildcard) in table {
            for (is_wildcard, allowed) in [(false, plain), (true, wildcard)] {
                let verdict = set(records).verdict(&ours, is_wildcard);
                assert_eq!(verdict == Verdict::Allows, allowed, "{records:?}, wildcard {is_wildcard}: {verdict:?}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let stranger = Issuer::default();
        assert_eq!(set(&[("issue", "ca.example")]).verdict(&stranger, false), Verdict::Unknown);
        assert!(matches!(set(&[("issue", ";")]).verdict(&stranger, false), Verdict::Forbids(_)));
        assert_eq!(set(&[("iodef", "mailto:a@b.c")]).verdict(&stranger, false), Verdict::Allows);
        let new = Issuer { identities: vec!["ca.example".to_owned()], account_uri: None };
        assert_eq!(set(&[("issue", "ca.example; accounturi=x")]).verdict(&new, false), Verdict::Allows);
    }
}
