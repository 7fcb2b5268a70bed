//! From what was seen to what is wrong.

use std::collections::BTreeSet;

use super::super::challenge::{Observation, printable};
use super::super::walk::{Hop, ServerAnswer, ServerResult, Sight, WalkEnd};
use super::FindingCode as C;
use super::Severity::{Error, Info, Warning};
use super::caa::Verdict;
use super::{Facts, Finding, RecordToSet, Sights};

/// All findings, the worst first; never none.
pub fn judge(facts: &Facts, sights: &Sights) -> Vec<Finding> {
    if sights.walk.ended == WalkEnd::NotBegun {
        let text = "too many other names are being looked at: ask again in a moment";
        return vec![Finding::new(C::NotLookedAt, Warning, text)];
    }
    let case = Case { facts, sights };
    let mut findings = Vec::new();
    if let Some(missing) = case.missing_domain() {
        return vec![missing];
    }
    findings.extend(case.failures());
    for hop in &sights.walk.hops {
        findings.extend(case.servers_of(hop));
    }
    findings.extend(case.record());
    findings.extend(case.caa());
    findings.sort_by_key(|finding| finding.severity);
    if findings.iter().all(|finding| finding.severity == Info) {
        findings.insert(0, case.all_well());
    }
    findings
}

struct Case<'a> {
    facts: &'a Facts,
    sights: &'a Sights,
}

impl Case<'_> {
    /// The record that would do, where the customer publishes it.
    fn record_to_set(&self) -> Option<RecordToSet> {
        let owner = &self.facts.owner;
        match (&self.facts.target, self.missing_values().first()) {
            (Some(target), _) if self.facts.is_delegated => Some(RecordToSet::new("CNAME", owner, target)),
            (_, Some(value)) => Some(RecordToSet::new("TXT", owner, *value)),
            (Some(target), None) => Some(RecordToSet::new("CNAME", owner, target)),
            (None, None) => None,
        }
    }

    /// Of the expected values, those that no server shows at the end of the walk; all when they are all there.
    fn missing_values(&self) -> Vec<&str> {
        let seen = self.values();
        let all = || self.facts.expected.iter().map(String::as_str);
        let missing: Vec<&str> = all().filter(|value| !seen.contains(value)).collect();
        if missing.is_empty() { all().collect() } else { missing }
    }

    /// The answers where the value has to be: the last zone's servers, or else the resolver.
    fn answers(&self) -> Vec<&ServerAnswer> {
        let last: Vec<&ServerAnswer> = self.sights.walk.hops.last().into_iter().flat_map(Hop::answering).collect();
        if !last.is_empty() {
            return last;
        }
        self.sights.resolver.iter().filter(|resolver| resolver.has_answered()).collect()
    }

    fn values(&self) -> BTreeSet<&str> {
        self.answers().iter().flat_map(|answer| &answer.values).map(String::as_str).collect()
    }

    /// Where the challenge name leads to.
    fn alias(&self) -> Option<&str> {
        let hop = self.sights.walk.hops.first().and_then(|hop| hop.alias.as_deref());
        hop.or_else(|| self.sights.resolver.as_ref()?.alias.as_deref())
    }

    /// Some server above says that the registered domain does not exist.
    fn missing_domain(&self) -> Option<Finding> {
        let hop = self.sights.walk.hops.first()?;
        let zone = hop.zone.as_deref()?;
        let registrable = format!("{}.", self.facts.registrable);
        let is_above = zone == "." || (registrable != zone && registrable.ends_with(&format!(".{zone}")));
        let is_missing = hop.answering().any(|server| server.result == ServerResult::NameNotFound)
            && hop.answering().all(|server| server.result == ServerResult::NameNotFound);
        (is_above && is_missing).then(|| {
            let name = &self.facts.registrable;
            let text = format!(
                "{name} does not exist: the servers of {zone} know nothing of it; register it, or have it delegated to \
                 its name servers"
            );
            Finding::new(C::NameNotFound, Error, text)
        })
    }

    /// What recursive resolvers, and so the CA, cannot look up.
    fn failures(&self) -> Option<Finding> {
        let owner = &self.facts.owner;
        if self.sights.is_bogus {
            let text = format!(
                "resolvers that check DNSSEC refuse the zone's answers for {owner}, and so does the certificate \
                 authority: sign the zone again, or remove the DS record at the registrar"
            );
            return Some(Finding::new(C::DnssecBogus, Error, text));
        }
        let nobody_answers = |hop: &&Hop| hop.answering().next().is_none();
        if let Some(hop) = self.sights.walk.hops.iter().find(nobody_answers)
            && !self.resolver_answers()
        {
            let zone = hop.zone.as_deref().unwrap_or(&hop.owner);
            let text = format!("no name server of {zone} answers for {}: mend them, or the delegation", hop.owner);
            return Some(Finding::new(C::DnsFailed, Error, text));
        }
        match &self.sights.resolver {
            None if self.sights.walk.hops.is_empty() => {
                let text = "no DNS resolver answers: this service's operator must act";
                Some(Finding::new(C::DnsFailed, Error, text))
            }
            Some(resolver) if matches!(resolver.result, ServerResult::ServerFailure | ServerResult::Refused) => {
                let said = if resolver.result == ServerResult::Refused { "REFUSED" } else { "SERVFAIL" };
                let text = format!(
                    "the look-up for {owner} ends with {said}: mend the zone's name servers, or the delegation to them"
                );
                Some(Finding::new(C::DnsFailed, Error, text))
            }
            _ => None,
        }
    }

    fn resolver_answers(&self) -> bool {
        self.sights.resolver.as_ref().is_some_and(ServerAnswer::has_answered)
    }

    fn servers_of(&self, hop: &Hop) -> Vec<Finding> {
        let mut findings = Vec::new();
        let zone = hop.zone.as_deref().unwrap_or(&hop.owner);
        for server in hop.servers.iter().filter(|server| !server.has_answered()) {
            let place = server.place();
            findings.push(if server.result == ServerResult::Unreachable {
                let text =
                    format!("the name server {place} of {zone} does not answer: mend it, or remove its NS record");
                Finding::new(C::ServerUnreachable, Warning, text)
            } else {
                let said = match server.result {
                    ServerResult::Refused => "refuses to answer",
                    ServerResult::NotAuthoritative => "does not know the zone",
                    _ => "fails",
                };
                let text =
                    format!("the name server {place} {said} for {zone}: set it up there, or remove its NS record");
                Finding::new(C::ServerLame, Warning, text)
            });
        }
        let saying = |server: &ServerAnswer| {
            let values: BTreeSet<&str> = server.values.iter().map(String::as_str).collect();
            (server.alias.clone(), values.into_iter().map(ToOwned::to_owned).collect::<Vec<_>>())
        };
        let answers: Vec<&ServerAnswer> = hop.answering().collect();
        if let Some(other) = answers.iter().find(|server| saying(server) != saying(answers[0])) {
            let text = format!(
                "the name servers of {zone} disagree about {}: {} shows {}, {} shows {}; bring them to the same version \
                 of the zone",
                hop.owner,
                answers[0].place(),
                shown(answers[0]),
                other.place(),
                shown(other)
            );
            let all_show = !self.facts.expected.is_empty() && answers.iter().all(|one| one.shows(&self.facts.expected));
            let severity = if all_show { Warning } else { Error };
            let finding = Finding::new(C::ServersDisagree, severity, text);
            findings.push(match self.record_to_set() {
                Some(record) if severity == Error && record.name == hop.owner => finding.with(record),
                _ => finding,
            });
        }
        findings
    }

    /// The record itself: there, elsewhere, or wrong.
    fn record(&self) -> Vec<Finding> {
        let owner = &self.facts.owner;
        // What one of the two leads to says nothing as long as there are both.
        if let Some(both) = self.both_kinds() {
            return vec![both];
        }
        let mut findings = Vec::new();
        if matches!(self.sights.walk.ended, WalkEnd::Loop | WalkEnd::TooLong) {
            let text = format!("the aliases that begin at {owner} lead nowhere: remove the CNAME there");
            findings.push(self.with_record(Finding::new(C::CnameLoop, Error, text)));
            return findings;
        }
        match (self.alias(), self.facts.target.as_deref()) {
            (Some(alias), target) if Some(alias) != target => findings.extend(self.led_elsewhere(alias)),
            (Some(alias), _) => findings.extend(self.at_home(alias)),
            (None, _) => findings.extend(self.by_hand()),
        }
        findings
    }

    fn with_record(&self, finding: Finding) -> Finding {
        match self.record_to_set() {
            Some(record) => finding.with(record),
            None => finding,
        }
    }

    fn both_kinds(&self) -> Option<Finding> {
        let owner = &self.facts.owner;
        let first = self.sights.walk.hops.first().into_iter().flat_map(Hop::answering);
        let here: Vec<&ServerAnswer> = first.collect();
        let has_alias = here.iter().any(|server| server.alias.is_some());
        let has_values = here.iter().any(|server| !server.values.is_empty());
        (self.sights.resolver_shows_both || (has_alias && has_values)).then(|| {
            let text = format!(
                "{owner} has a CNAME record and TXT records, and a name that is an alias can have no other record: \
                 resolvers see the one or the other; keep one of them"
            );
            self.with_record(Finding::new(C::CnameAndTxt, Error, text))
        })
    }

    fn shows_all(&self) -> bool {
        let by_servers = self.sights.walk.sight(&self.facts.expected);
        let by_resolver = || self.sights.resolver.as_ref().is_some_and(|resolver| resolver.shows(&self.facts.expected));
        !self.facts.expected.is_empty()
            && match by_servers {
                Sight::Everywhere => true,
                Sight::NotAt(_) => false,
                Sight::NobodyAnswers => by_resolver(),
            }
    }

    fn led_elsewhere(&self, alias: &str) -> Option<Finding> {
        let owner = &self.facts.owner;
        // Wherever that is, it works.
        if self.shows_all() || (self.facts.expected.is_empty() && self.facts.target.is_none()) {
            return None;
        }
        let severity = if self.facts.expected.is_empty() { Warning } else { Error };
        let text = match &self.facts.target {
            Some(target) => format!(
                "{owner} is an alias of {alias}, which is not this domain's at this service: make it an alias of {target}"
            ),
            None => format!(
                "{owner} is an alias of {alias}, where the expected value is not: replace the CNAME record by the TXT \
                 record"
            ),
        };
        let finding = Finding::new(C::CnameElsewhere, severity, text);
        Some(match &self.facts.target {
            Some(target) => finding.with(RecordToSet::new("CNAME", owner, target)),
            None => self.with_record(finding),
        })
    }

    /// The alias is right; what is there is ours to mend.
    fn at_home(&self, alias: &str) -> Option<Finding> {
        if self.facts.expected.is_empty() || self.shows_all() || self.answers().is_empty() {
            return None;
        }
        let owner = &self.facts.owner;
        let text = format!(
            "{owner} is an alias of {alias} as it should be, and the expected value is not there yet; if that lasts, \
             this service's operator must act"
        );
        Some(Finding::new(C::RecordMissing, Error, text))
    }

    fn by_hand(&self) -> Vec<Finding> {
        let owner = &self.facts.owner;
        if self.answers().is_empty() || self.shows_all() {
            return Vec::new();
        }
        if self.facts.expected.is_empty() {
            let text = format!("{owner} is no alias any more, and its records are published through one");
            let finding = self.facts.is_delegated.then(|| Finding::new(C::RecordMissing, Error, text));
            return finding.map(|finding| self.with_record(finding)).into_iter().collect();
        }
        let mut findings = Vec::new();
        let wanted = self.missing_values().join(", ");
        if let Some((name, value)) = self.misplaced() {
            let text = format!(
                "the value {value} is at {name}, and belongs at {owner}: in a control panel that appends the zone, leave the zone out"
            );
            findings.push(self.with_record(Finding::new(C::ValueAtWrongName, Error, text)));
        }
        let seen = self.values();
        // Where one server shows it, the others are behind, which has been said.
        let some_show = self.answers().iter().any(|answer| answer.shows(&self.facts.expected));
        if seen.is_empty() && findings.is_empty() {
            let text = format!("there is no TXT record at {owner}: create one with the value {wanted}");
            findings.push(self.with_record(Finding::new(C::RecordMissing, Error, text)));
        } else if !seen.is_empty() && !some_show {
            let listed: Vec<String> = seen.iter().take(Observation::MAX_VALUES).map(|value| printable(value)).collect();
            let hint = seen.iter().find_map(|value| self.hint(value)).unwrap_or_default();
            let text = format!("{owner} shows {} and not {wanted}{hint}", listed.join(", "));
            findings.push(self.with_record(Finding::new(C::WrongValue, Error, text)));
        }
        findings
    }

    fn misplaced(&self) -> Option<(&str, &str)> {
        let missing = self.missing_values();
        self.sights.elsewhere.iter().find_map(|(name, values)| {
            let value = missing.iter().find(|value| values.iter().any(|found| found == *value))?;
            Some((name.as_str(), *value))
        })
    }

    /// What became of the value on its way into the zone.
    fn hint(&self, seen: &str) -> Option<String> {
        if let Some((_, what)) = self.facts.others.iter().find(|(value, _)| value == seen) {
            return Some(format!("; what is there is {what}"));
        }
        let bare = seen.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'');
        self.facts.expected.iter().find_map(|expected| {
            let why = if bare == expected {
                "; leave out the quotes or spaces around it"
            } else if bare.eq_ignore_ascii_case(expected) {
                "; upper and lower case count"
            } else if bare.len() > expected.len() && bare.contains(expected.as_str()) {
                "; leave out what is around it"
            } else if bare.len() > 9 && expected.starts_with(bare) {
                "; its end is cut off"
            } else {
                return None;
            };
            Some(why.to_owned())
        })
    }

    fn caa(&self) -> Option<Finding> {
        let caa = &self.sights.caa;
        if let Some(failed_at) = &caa.failed_at {
            // Said already where nothing can be looked up.
            return self.failures().is_none().then(|| {
                let text = format!(
                    "the look-up for CAA records at {failed_at} fails, and a certificate authority must not issue then: \
                     mend the zone's name servers"
                );
                Finding::new(C::DnsFailed, Error, text)
            });
        }
        let owner = caa.owner.as_deref()?;
        let identities = &self.facts.issuer.identities;
        match caa.verdict(&self.facts.issuer, self.facts.is_wildcard) {
            Verdict::Allows => None,
            Verdict::Unknown => {
                let text = format!(
                    "there are CAA records at {owner}: make sure that they allow this service's certificate authority"
                );
                Some(Finding::new(C::CaaFound, Info, text))
            }
            Verdict::Forbids(why) => {
                let text = format!(
                    "the CAA records at {owner} forbid this service's certificate authority: {}",
                    printable(&why)
                );
                let tag = if self.facts.is_wildcard { "issuewild" } else { "issue" };
                let record = |ca: &String| RecordToSet::new("CAA", owner, format!("0 {tag} \"{ca}\""));
                let record = identities.first().map(record);
                Some(Finding { record, ..Finding::new(C::CaaForbids, Error, text) })
            }
        }
    }

    fn all_well(&self) -> Finding {
        let owner = &self.facts.owner;
        let text = match (self.alias(), self.facts.expected.is_empty()) {
            (Some(alias), true) => format!("{owner} is an alias of {alias}, and nothing else is awaited there now"),
            (None, true) if self.sights.walk.hops.iter().any(|hop| hop.answering().next().is_some()) => {
                "the name servers answer, and no record is awaited now".to_owned()
            }
            (None, true) => "no record is awaited now; the name servers themselves were not asked".to_owned(),
            (_, false) => format!("every name server that answers shows what is expected at {owner}"),
        };
        Finding::new(C::AllWell, Info, text)
    }
}

fn shown(server: &ServerAnswer) -> String {
    match (&server.alias, server.values.as_slice()) {
        (Some(alias), _) => format!("an alias of {alias}"),
        (None, []) => "no TXT record".to_owned(),
        (None, values) => {
            let values: Vec<String> =
                values.iter().take(Observation::MAX_VALUES).map(|value| printable(value)).collect();
            values.join(", ")
        }
    }
}
