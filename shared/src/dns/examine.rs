//! What the doctor looks at: the walk with every server's answer, what resolvers make of it, the names where values are put by
//! mistake, and CAA.

use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;

use super::authoritative::{Authoritative, Search, alias_of, recursive_result_of, txt_of};
use super::lookup::txt_value;
use super::question::Asked;
use crate::model::challenge::challenge_owner;
use crate::model::diagnosis::{CaaRecord, CaaSet, Sights, wrong_names};
use crate::model::walk::{ServerAnswer, ServerResult, Walk};

impl Authoritative {
    /// All that can be seen of a name (without the final dot) in this time, also when some of it does not answer.
    pub async fn examine(&self, name: &str, within: Duration) -> Sights {
        let owner = Name::from_ascii(challenge_owner(name));
        let (Ok(owner), Ok(base)) = (owner, Name::from_ascii(format!("{name}."))) else {
            return Sights::default();
        };
        let Some(_place) = self.place().await else {
            return Sights { walk: Walk::not_begun(), ..Sights::default() };
        };
        let search = self.search(within, true);
        let Some(answer) = search.resolve(&owner, RecordType::TXT, Asked::Resolver).await else {
            return Sights::default();
        };
        let result = recursive_result_of(&answer, &owner);
        let alias = alias_of(&answer.answers, &owner);
        let walk = async { if self.walks() { search.walk(owner.clone(), None).await } else { Walk::default() } };
        let (walk, caa, is_bogus, shows_both) =
            tokio::join!(walk, search.caa(base), search.is_bogus(&owner, result), search.shows_both(&owner, &answer));
        let zone = walk.hops.first().and_then(|hop| hop.zone.as_deref());
        let elsewhere = search.elsewhere(wrong_names(name, zone)).await;
        let resolver = ServerAnswer {
            server: "resolver".to_owned(),
            address: None,
            result,
            values: answer.answers.iter().filter_map(|record| txt_value(&record.data)).collect(),
            alias,
        };
        Sights { walk, resolver: Some(resolver), resolver_shows_both: shows_both, is_bogus, elsewhere, caa }
    }
}

impl Search {
    /// Whether what fails succeeds without DNSSEC.
    async fn is_bogus(&self, owner: &Name, checked: ServerResult) -> bool {
        if checked != ServerResult::ServerFailure {
            return false;
        }
        let unchecked = self.resolve(owner, RecordType::TXT, Asked::ResolverUnchecked).await;
        unchecked.is_some_and(|answer| {
            matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        })
    }

    async fn shows_both(&self, owner: &Name, answer: &Message) -> bool {
        let values = !txt_of(&answer.answers, owner).is_empty();
        if !values || alias_of(&answer.answers, owner).is_some() {
            return values;
        }
        let alias = self.resolve(owner, RecordType::CNAME, Asked::ResolverUnchecked).await;
        alias.is_some_and(|answer| alias_of(&answer.answers, owner).is_some())
    }

    /// The names that have TXT records, with these.
    async fn elsewhere(&self, names: Vec<String>) -> Vec<(String, Vec<String>)> {
        let mut asking = JoinSet::new();
        for text in names {
            let Ok(name) = Name::from_ascii(&text) else { continue };
            let search = self.again();
            asking.spawn(async move {
                let answer = search.resolve(&name, RecordType::TXT, Asked::ResolverUnchecked).await;
                (text, answer.map(|answer| txt_of(&answer.answers, &name)).unwrap_or_default())
            });
        }
        let mut found = asking.join_all().await;
        found.retain(|(_, values)| !values.is_empty());
        found.sort();
        found
    }

    /// The closest CAA records, at the name or above it (RFC 8659 section 3); the resolver follows aliases.
    async fn caa(&self, name: Name) -> CaaSet {
        let mut at = name;
        while !at.is_root() {
            let answer = self.resolve(&at, RecordType::CAA, Asked::Resolver).await;
            let Some(answer) = answer.filter(|answer| {
                matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
            }) else {
                return CaaSet { failed_at: Some(at.to_ascii()), ..CaaSet::default() };
            };
            let mut owner = None;
            let mut records = Vec::new();
            for record in &answer.answers {
                let RData::CAA(caa) = &record.data else { continue };
                owner.get_or_insert_with(|| record.name.to_lowercase().to_ascii());
                records.push(CaaRecord {
                    is_critical: caa.issuer_critical,
                    tag: caa.tag.clone(),
                    value: String::from_utf8_lossy(&caa.value).into_owned(),
                });
            }
            if !records.is_empty() {
                return CaaSet { owner, records, failed_at: None };
            }
            at = at.base_name();
        }
        CaaSet::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnosis::{Facts, FindingCode, judge};
    use crate::model::walk::Sight;

    #[tokio::test]
    async fn who_finds_no_place_in_time_is_told_so() {
        let mut authoritative = Authoritative::new(&["127.0.0.1:9".parse().unwrap()], true, true).unwrap();
        authoritative.place_within = Duration::ZERO;
        let mut places = Vec::new();
        for _ in 0..32 {
            places.push(authoritative.place().await.expect("a place is free"));
        }
        let walk = authoritative.walk("_acme-challenge.shop.example.com.", None).await;
        assert!(matches!(walk.sight(&["v".to_owned()]), Sight::NotAt(why) if why.contains("too many")), "{walk:?}");
        let sights = authoritative.examine("shop.example.com", Duration::from_secs(1)).await;
        let codes: Vec<FindingCode> = judge(&Facts::default(), &sights).iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [FindingCode::NotLookedAt]);
        places.pop();
        assert!(authoritative.place().await.is_some());
    }
}
