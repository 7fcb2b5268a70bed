//! Let's Encrypt's rate limits as a switch: the same rules, texts and headers, with numbers small enough to meet in a test.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::asked::{Asked, Kind, names};
use super::faults::RetryAfter;
use super::habits::Habit;
use super::reply::Reply;

const DATE_IN_TEXT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// How many of a thing are allowed within `window`. A registered domain is taken for the last two labels of a name.
#[derive(Default)]
pub struct Limits {
    window: Duration,
    most: BTreeMap<Rule, usize>,
    /// What was counted, for whom, and when.
    counted: BTreeMap<(Rule, String), Vec<Instant>>,
    /// Names of the CA's orders, by their finalize URL.
    names_of: BTreeMap<String, Vec<String>>,
    /// Authorizations whose failure is counted.
    failed: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    NewOrdersPerAccount,
    /// Duplicate certificates.
    CertificatesPerExactNames,
    CertificatesPerRegisteredDomain,
    FailedAuthorizationsPerName,
}

impl Limits {
    /// None yet.
    pub fn within(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    #[must_use]
    pub fn at_most(mut self, most: usize, rule: Rule) -> Self {
        self.most.insert(rule, most);
        self
    }

    fn count(&mut self, rule: Rule, subject: String) {
        self.counted.entry((rule, subject)).or_default().push(Instant::now());
    }

    /// The refusal, if `subject` has used up what `rule` allows.
    fn refusal(&mut self, rule: Rule, subject: &str) -> Option<Reply> {
        let most = *self.most.get(&rule)?;
        let counted = self.counted.get_mut(&(rule, subject.to_owned()))?;
        counted.retain(|at| at.elapsed() < self.window);
        let oldest_that_counts = counted.len().checked_sub(most).and_then(|over| counted.get(over))?;
        let wait = self.window.saturating_sub(oldest_that_counts.elapsed());
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Some(rule.refuse(most, subject, self.window, seconds))
    }
}

impl Rule {
    /// All that a newOrder is measured against: the rule, and for whom.
    fn of_new_order(asked: &Asked) -> Vec<(Self, String)> {
        let names = asked.names();
        let mut rules = vec![(Self::NewOrdersPerAccount, asked.account.clone())];
        rules.extend(names.iter().map(|name| (Self::FailedAuthorizationsPerName, name.clone())));
        rules.extend(Self::of_certificate(&names));
        rules
    }

    fn of_certificate(names: &[String]) -> Vec<(Self, String)> {
        let mut domains: Vec<&str> = names.iter().map(|name| registered_domain(name)).collect();
        domains.sort_unstable();
        domains.dedup();
        let of_domain = |domain: &str| (Self::CertificatesPerRegisteredDomain, domain.to_owned());
        let mut rules: Vec<_> = domains.into_iter().map(of_domain).collect();
        rules.push((Self::CertificatesPerExactNames, names.join(",")));
        rules
    }

    fn refuse(self, most: usize, subject: &str, window: Duration, seconds: u32) -> Reply {
        let (what, anchor) = match self {
            Self::NewOrdersPerAccount => {
                (format!("too many new orders ({most}) from this account"), "new-orders-per-account")
            }
            Self::CertificatesPerExactNames => (
                format!("too many certificates ({most}) already issued for this exact set of identifiers"),
                "new-certificates-per-exact-set-of-identifiers",
            ),
            Self::CertificatesPerRegisteredDomain => (
                format!("too many certificates ({most}) already issued for {subject:?}"),
                "new-certificates-per-registered-domain",
            ),
            Self::FailedAuthorizationsPerName => (
                format!("too many failed authorizations ({most}) for {subject:?}"),
                "authorization-failures-per-identifier-per-account",
            ),
        };
        let until = OffsetDateTime::from(SystemTime::now()) + Duration::from_secs(seconds.into());
        let until = until.format(DATE_IN_TEXT).expect("every date has this form");
        let (hours, minutes, left) = (window.as_secs() / 3600, window.as_secs() / 60 % 60, window.as_secs() % 60);
        let detail = format!(
            "{what} in the last {hours}h{minutes}m{left}s, retry after {until}: \
             see https://letsencrypt.org/docs/rate-limits/#{anchor}"
        );
        Reply::problem(429, "rateLimited", &detail).retry_after(RetryAfter::Seconds(seconds))
    }
}

impl Habit for Limits {
    fn before(&mut self, asked: &Asked) -> Option<Reply> {
        if asked.kind != Kind::NewOrder {
            return None;
        }
        Rule::of_new_order(asked).into_iter().find_map(|(rule, subject)| self.refusal(rule, &subject))
    }

    fn after(&mut self, asked: &Asked, of_ca: &Reply, shown: &Reply) {
        let body = of_ca.json();
        match asked.kind {
            Kind::NewOrder if of_ca.is_success() => {
                if let Some(finalize) = body["finalize"].as_str() {
                    self.names_of.insert(finalize.to_owned(), names(&body));
                }
                self.count(Rule::NewOrdersPerAccount, asked.account.clone());
            }
            Kind::Finalize if of_ca.is_success() => {
                let names = self.names_of.get(&asked.url).cloned().unwrap_or_default();
                Rule::of_certificate(&names).into_iter().for_each(|(rule, subject)| self.count(rule, subject));
            }
            Kind::Authorization if !self.failed.contains(&asked.url) => {
                let shown = shown.json();
                if let Some(name) = shown["identifier"]["value"].as_str().filter(|_| shown["status"] == "invalid") {
                    self.failed.push(asked.url.clone());
                    self.count(Rule::FailedAuthorizationsPerName, name.to_owned());
                }
            }
            _ => {}
        }
    }
}

fn registered_domain(name: &str) -> &str {
    let dots: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    match dots.as_slice() {
        [.., before, _] => &name[before + 1..],
        _ => name,
    }
}
