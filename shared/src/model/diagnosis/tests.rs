//! A table of broken names, and what is said of each.

use strum::IntoEnumIterator as _;

use super::super::walk::tests::{hop, server};
use super::super::walk::{Hop, Walk, WalkEnd};
use super::*;

const OWNER: &str = "_acme-challenge.shop.example.com.";
const ZONE: &str = "example.com.";
const TARGET: &str = "abc.acme.example.net.";

fn facts() -> Facts {
    Facts {
        name: "shop.example.com".to_owned(),
        owner: OWNER.to_owned(),
        expected: vec!["want".to_owned()],
        others: vec![("token".to_owned(), "the ownership token")],
        target: Some(TARGET.to_owned()),
        is_delegated: false,
        issuer: Issuer { identities: vec!["ca.example".to_owned()], account_uri: None },
        is_wildcard: false,
        registrable: "example.com".to_owned(),
    }
}

/// What the servers of the challenge name's zone say; the resolver agrees with the first that answers.
fn sights(servers: &[&str]) -> Sights {
    of_hops(vec![hop(OWNER, ZONE, servers)])
}

fn of_hops(hops: Vec<Hop>) -> Sights {
    let answer = hops.last().unwrap().answering().next().cloned();
    let alias = hops[0].alias.clone();
    let resolver = answer.unwrap_or_else(|| server("resolver=server_failure"));
    let resolver = ServerAnswer { alias: alias.or(resolver.alias), ..resolver };
    Sights { walk: Walk { hops, ended: WalkEnd::Arrived }, resolver: Some(resolver), ..Sights::default() }
}

fn codes(facts: &Facts, sights: &Sights) -> Vec<&'static str> {
    judge(facts, sights).iter().map(|finding| finding.code.as_str()).collect()
}

fn caa(records: &[(&str, &str)]) -> CaaSet {
    let record = |(tag, value): &(&str, &str)| CaaRecord {
        is_critical: false,
        tag: (*tag).to_owned(),
        value: (*value).to_owned(),
    };
    CaaSet { owner: Some(ZONE.to_owned()), records: records.iter().map(record).collect(), failed_at: None }
}

/// Type, name and value.
type Record = (&'static str, &'static str, &'static str);
/// What is known and seen, the codes that are found, and the record of the first finding.
type Case = (&'static str, Facts, Sights, Vec<&'static str>, Option<Record>);

fn table() -> Vec<Case> {
    let txt = Some(("TXT", OWNER, "want"));
    let cname = Some(("CNAME", OWNER, TARGET));
    let nothing_expected = || Facts { expected: Vec::new(), ..facts() };
    let elsewhere = |mut sights: Sights| {
        sights.elsewhere = vec![(format!("{OWNER}example.com."), vec!["x".to_owned(), "want".to_owned()])];
        sights
    };
    let with_caa = |records: &[(&str, &str)]| Sights { caa: caa(records), ..sights(&["a=values:want"]) };
    let led = |target: &str, there: &[&str]| {
        of_hops(vec![hop(OWNER, ZONE, &[&format!("a=alias:{target}")]), hop(target, "t.", there)])
    };
    let ended = |ended: WalkEnd, mut sights: Sights| {
        sights.walk.ended = ended;
        sights
    };
    let resolver_only = |answer: &str| Sights { resolver: Some(server(answer)), ..Sights::default() };
    vec![
        ("well", facts(), sights(&["a=values:x,want", "b=values:want,x"]), vec!["all_well"], None),
        ("well, nothing awaited", nothing_expected(), sights(&["a=name_not_found"]), vec!["all_well"], None),
        ("well at home", facts(), led(TARGET, &["c=values:want"]), vec!["all_well"], None),
        ("well at another's", facts(), led("other.example.", &["c=values:want"]), vec!["all_well"], None),
        ("well, through the resolver", facts(), resolver_only("resolver=values:want"), vec!["all_well"], None),
        ("crowded out", facts(), Sights { walk: Walk::not_begun(), ..Sights::default() }, vec!["not_looked_at"], None),
        ("missing", facts(), sights(&["a=name_not_found", "b=name_not_found"]), vec!["record_missing"], txt),
        ("missing, resolver only", facts(), resolver_only("resolver=no_record"), vec!["record_missing"], txt),
        ("missing at home", facts(), led(TARGET, &["c=name_not_found"]), vec!["record_missing"], None),
        (
            "the alias is gone",
            Facts { is_delegated: true, ..nothing_expected() },
            sights(&["a=name_not_found"]),
            vec!["record_missing"],
            cname,
        ),
        (
            "the alias is gone, awaited",
            Facts { is_delegated: true, ..facts() },
            sights(&["a=no_record"]),
            vec!["record_missing"],
            cname,
        ),
        ("wrong", facts(), sights(&["a=values:token"]), vec!["wrong_value"], txt),
        ("at the wrong name", facts(), elsewhere(sights(&["a=no_record"])), vec!["value_at_wrong_name"], txt),
        (
            "at the wrong name, and wrong",
            facts(),
            elsewhere(sights(&["a=values:x"])),
            vec!["value_at_wrong_name", "wrong_value"],
            txt,
        ),
        ("right and elsewhere too", facts(), elsewhere(sights(&["a=values:want"])), vec!["all_well"], None),
        (
            "both",
            Facts { target: None, ..facts() },
            Sights { resolver_shows_both: true, ..sights(&["a=values:want"]) },
            vec!["cname_and_txt"],
            txt,
        ),
        ("elsewhere", facts(), led("other.example.", &["c=name_not_found"]), vec!["cname_elsewhere"], cname),
        (
            "elsewhere, no zone of ours",
            Facts { target: None, ..facts() },
            led("other.example.", &["c=values:x"]),
            vec!["cname_elsewhere"],
            txt,
        ),
        (
            "elsewhere, nothing awaited",
            nothing_expected(),
            led("other.example.", &["c=values:x"]),
            vec!["cname_elsewhere"],
            cname,
        ),
        ("loop", facts(), ended(WalkEnd::Loop, sights(&["a=alias:other.example."])), vec!["cname_loop"], txt),
        ("disagree", facts(), sights(&["a=values:want", "b=name_not_found"]), vec!["servers_disagree"], txt),
        (
            "disagree about another value",
            facts(),
            sights(&["a=values:want", "b=values:want,x"]),
            vec!["servers_disagree"],
            None,
        ),
        ("unreachable", facts(), sights(&["a=values:want", "b=unreachable"]), vec!["server_unreachable"], None),
        (
            "lame",
            facts(),
            sights(&["a=refused", "b=values:want", "c=not_authoritative"]),
            vec!["server_lame", "server_lame"],
            None,
        ),
        ("all lame", facts(), sights(&["a=refused"]), vec!["dns_failed", "server_lame"], None),
        ("fails", facts(), resolver_only("resolver=server_failure"), vec!["dns_failed"], None),
        ("nobody", facts(), Sights::default(), vec!["dns_failed"], None),
        (
            "bogus",
            facts(),
            Sights { is_bogus: true, resolver: Some(server("resolver=server_failure")), ..sights(&["a=values:want"]) },
            vec!["dnssec_bogus"],
            None,
        ),
        (
            "forbidden",
            facts(),
            with_caa(&[("issue", "other.example")]),
            vec!["caa_forbids"],
            Some(("CAA", ZONE, "0 issue \"ca.example\"")),
        ),
        (
            "wildcard forbidden",
            Facts { is_wildcard: true, ..facts() },
            with_caa(&[("issue", "ca.example"), ("issuewild", ";")]),
            vec!["caa_forbids"],
            Some(("CAA", ZONE, "0 issuewild \"ca.example\"")),
        ),
        ("allowed", facts(), with_caa(&[("issue", "ca.example")]), vec!["all_well"], None),
        (
            "CAA of an unknown CA",
            Facts { issuer: Issuer::default(), ..facts() },
            with_caa(&[("issue", "ca.example")]),
            vec!["all_well", "caa_found"],
            None,
        ),
        (
            "CAA cannot be looked up",
            facts(),
            Sights {
                caa: CaaSet { failed_at: Some(ZONE.to_owned()), ..CaaSet::default() },
                ..sights(&["a=values:want"])
            },
            vec!["dns_failed"],
            None,
        ),
        (
            "not registered",
            facts(),
            of_hops(vec![hop(OWNER, "com.", &["a=name_not_found"])]),
            vec!["name_not_found"],
            None,
        ),
    ]
}

#[test]
fn every_broken_name_gets_its_findings_and_the_record_to_set() {
    for (case, facts, sights, expected, record) in table() {
        assert_eq!(codes(&facts, &sights), expected, "{case}");
        let first = judge(&facts, &sights).remove(0);
        let set = first.record.as_ref().map(|set| (set.kind.as_str(), set.name.as_str(), set.value.as_str()));
        assert_eq!(set, record, "{case}: {first:?}");
    }
}

#[test]
fn the_table_has_every_finding_and_every_finding_a_sentence() {
    let all: Vec<Finding> = table().iter().flat_map(|(_, facts, sights, ..)| judge(facts, sights)).collect();
    for code in FindingCode::iter() {
        assert!(all.iter().any(|finding| finding.code == code), "{code:?}");
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    for finding in all {
        assert!(finding.detail.len() > 20, "{finding:?}");
    }
}

#[test]
fn what_was_seen_is_told_with_what_became_of_it() {
    let hints = [
        ("token", "the ownership token"),
        ("\"want\"", "quotes or spaces"),
        ("WANT", "upper and lower case"),
        ("_acme-challenge=want;", "around it"),
        ("x", "shows x and not want"),
    ];
    for (seen, hint) in hints {
        let detail = judge(&facts(), &sights(&[&format!("a=values:{seen}")])).remove(0).detail;
        assert!(detail.contains(seen) && detail.contains(hint), "{detail}");
    }
    let escape = judge(&facts(), &sights(&["a=values:\u{1b}[2J"])).remove(0).detail;
    assert!(!escape.contains('\u{1b}'), "{escape}");
}

#[test]
fn the_servers_that_disagree_are_named_with_what_they_show() {
    let detail = judge(&facts(), &sights(&["ns1=values:want", "ns2=no_record"])).remove(0).detail;
    for part in ["ns1. (192.0.2.1) shows want", "ns2. (192.0.2.1) shows no TXT record"] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[test]
fn values_are_looked_for_where_control_panels_put_them() {
    assert_eq!(
        wrong_names("shop.example.com", Some(ZONE)),
        [
            "_acme-challenge.example.com.",
            "_acme-challenge.shop.example.com.example.com.",
            "_acme-challenge.shop.example.com.shop.example.com.",
            "shop.example.com."
        ]
    );
    assert_eq!(wrong_names("example.com", Some(ZONE)), ["_acme-challenge.example.com.example.com.", "example.com."]);
    assert!(wrong_names(&format!("{}.example.com", "a".repeat(60)), None).len() == 2);
}

#[test]
fn stored_findings_of_a_newer_release_are_left_out() {
    #[derive(serde::Deserialize)]
    struct Stored(#[serde(deserialize_with = "known_findings")] Vec<Finding>);
    let finding = serde_json::json!({"code": "all_well", "severity": "info", "detail": "x", "record": null});
    let newer = serde_json::json!({"code": "of_the_future", "severity": "info", "detail": "x", "record": null});
    let Stored(read) = serde_json::from_value(serde_json::json!([newer, finding])).unwrap();
    assert_eq!(read.len(), 1);
}
