//! A table of broken zones on BIND and Knot, and what the doctor says of each.

use std::process::Command;

use countersign_tests::api_client::Domain;
use countersign_tests::checkout;
use countersign_tests::dns_software::Software;
use countersign_tests::name_servers::NameServers;
use countersign_tests::name_servers::odd::{self, OddServer};
use countersign_tests::stack::Stack;
use serde_json::Value;

use super::{codes, diagnosis};

/// Of the zones' servers: Knot with `test.` and BIND; BIND that knows no zone; nobody; one by hand.
const FIRST: u8 = 2;
const SECOND: u8 = 3;
const LAME: u8 = 4;
const DEAD: u8 = 5;
const ODD: u8 = 6;

struct Case {
    /// Below `test.`; the zone is its last label.
    name: &'static str,
    /// Where the zone is delegated to.
    servers: &'static [u8],
    /// `TOKEN` and `TARGET` stand for the domain's.
    records: &'static str,
    /// What the second server has instead.
    stale: Option<&'static str>,
    found: &'static [&'static str],
    /// Type and value of the record that the first finding names; `-` for none.
    record: (&'static str, &'static str),
}

const TXT: (&str, &str) = ("TXT", "TOKEN");
const CNAME: (&str, &str) = ("CNAME", "TARGET");
const NONE: (&str, &str) = ("-", "");
const BOTH: &[u8] = &[FIRST, SECOND];

const fn case(
    name: &'static str,
    servers: &'static [u8],
    records: &'static str,
    found: &'static [&'static str],
    record: (&'static str, &'static str),
) -> Case {
    Case { name, servers, records, stale: None, found, record }
}

const CASES: [Case; 19] = [
    case("well", BOTH, "_acme-challenge TXT TOKEN", &["all_well"], NONE),
    case("delegated", BOTH, "_acme-challenge CNAME TARGET", &["all_well"], NONE),
    case("missing", BOTH, "", &["record_missing"], TXT),
    case("wrong", BOTH, "_acme-challenge TXT last-year", &["wrong_value"], TXT),
    case("doubled", BOTH, "_acme-challenge.doubled.test TXT TOKEN", &["value_at_wrong_name"], TXT),
    case("bare", BOTH, "@ TXT TOKEN", &["value_at_wrong_name"], TXT),
    // The control panel appended the zone to the whole name.
    case("shop.above", BOTH, "_acme-challenge.shop.above.test TXT TOKEN", &["value_at_wrong_name"], TXT),
    case("vendor", BOTH, "_acme-challenge CNAME validation.vendor", &["cname_elsewhere"], CNAME),
    case("loop", BOTH, "_acme-challenge CNAME a\na CNAME _acme-challenge", &["dns_failed", "cname_loop"], NONE),
    Case {
        stale: Some("_acme-challenge TXT last-year"),
        ..case("stale", BOTH, "_acme-challenge TXT TOKEN", &["servers_disagree"], TXT)
    },
    case("dead", &[FIRST, DEAD], "_acme-challenge TXT TOKEN", &["server_unreachable"], NONE),
    case("lame", &[FIRST, LAME], "_acme-challenge TXT TOKEN", &["server_lame"], NONE),
    case("failing", &[LAME], "", &["dns_failed", "server_lame"], NONE),
    case("bogus", &[FIRST], "_acme-challenge TXT TOKEN", &["dnssec_bogus"], NONE),
    case(
        "caa",
        BOTH,
        "_acme-challenge TXT TOKEN\n@ CAA 0 issue \"other.example\"",
        &["caa_forbids"],
        ("CAA", "0 issue \"ca.example\""),
    ),
    case(
        "shop.climb",
        BOTH,
        "_acme-challenge.shop TXT TOKEN\n@ CAA 0 issue \"ca.example; validationmethods=http-01\"",
        &["caa_forbids"],
        ("CAA", "0 issue \"ca.example\""),
    ),
    case(
        "allowed",
        BOTH,
        "_acme-challenge TXT TOKEN\n@ CAA 0 issue \"ca.example\"\n@ CAA 0 issuewild \";\"",
        &["all_well"],
        NONE,
    ),
    case("gone", &[], "", &["name_not_found"], NONE),
    case("both", &[ODD], "", &["cname_and_txt"], TXT),
];

fn zone_label(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

struct Patients {
    servers: NameServers,
    stack: Stack,
    domains: Vec<Domain>,
    _odd: OddServer,
}

fn token(domain: &Domain) -> &str {
    domain.verification_token.as_deref().unwrap()
}

fn target(domain: &Domain) -> &str {
    domain.more["delegation"]["cname_target"].as_str().unwrap()
}

/// Every domain registered, and its zone as broken as it shall be.
async fn patients() -> Option<Patients> {
    let servers = NameServers::new().unwrap()?;
    let stack = Stack::builder().workers(0);
    let stack = stack.setting("DNS_RESOLVERS", servers.resolver()).setting("CHALLENGE_ZONE", "acme.test");
    let stack = stack.setting("CAA_IDENTITIES", "ca.example").start().await;
    let mut domains = Vec::new();
    for case in CASES {
        domains.push(stack.api().register(&format!("{}.test", case.name)).await);
    }
    let mut above = servers.delegation("acme", &[SECOND]);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let apexes: Vec<String> = CASES.iter().map(|case| format!("{}.test.", zone_label(case.name))).collect();
    for ((case, domain), apex) in CASES.iter().zip(&domains).zip(&apexes) {
        if case.servers.is_empty() {
            continue;
        }
        above += &servers.delegation(zone_label(case.name), case.servers);
        let told = |records: &str| records.replace("TOKEN", token(domain)).replace("TARGET", target(domain));
        let zone = |records: &str| servers.zone(apex, case.servers, &told(records));
        if case.servers.contains(&FIRST) {
            first.push((apex.as_str(), zone(case.records)));
        }
        if case.servers.contains(&SECOND) {
            second.push((apex.as_str(), zone(case.stale.unwrap_or(case.records))));
        }
    }
    let answers = CASES.iter().zip(&domains).filter(|(case, _)| case.name == "delegated");
    let answers: String = answers.map(|(_, domain)| format!("{} TXT {}\n", target(domain), token(domain))).collect();
    first.push(("test.", servers.zone("test.", &[FIRST], &above)));
    second.push(("acme.test.", servers.zone("acme.test.", &[SECOND], &answers)));
    servers.start(FIRST, Software::Knot, &first).await.unwrap();
    servers.start(SECOND, Software::Bind, &second).await.unwrap();
    servers.start(LAME, Software::Bind, &[]).await.unwrap();
    let both = domains.last().unwrap();
    let owner = "_acme-challenge.both.test.";
    let mut records = odd::zone("both.test.", &[(format!("ns{ODD}"), vec![servers.address(ODD)])]);
    records.extend([odd::txt(owner, token(both)), odd::cname(owner, target(both))]);
    let odd = OddServer::start((servers.address(ODD), 53).into(), records).unwrap();
    servers.start_resolver(&["bogus.test"]).await.unwrap();
    Some(Patients { servers, stack, domains, _odd: odd })
}

#[tokio::test]
#[ignore = "needs BIND and Knot: make test-all"]
async fn every_broken_zone_gets_its_findings_and_the_record_to_set() {
    let Some(Patients { servers, stack, domains, _odd }) = patients().await else { return };
    for (case, domain) in CASES.iter().zip(&domains) {
        let told = diagnosis(stack.api(), &domain.id).await;
        assert_eq!(codes(&told), case.found, "{}: {told:#}", case.name);
        let record = &told["findings"][0]["record"];
        let (kind, value) = case.record;
        let value = value.replace("TOKEN", token(domain)).replace("TARGET", target(domain));
        if kind == "-" {
            assert_eq!(*record, Value::Null, "{}", case.name);
        } else {
            assert_eq!((&record["type"], &record["value"]), (&kind.into(), &value.into()), "{}: {told:#}", case.name);
        }
    }
    let of = |name: &str| domains.iter().find(|domain| domain.domain_name == format!("{name}.test")).unwrap();

    // Every server's answer is there, along the alias too.
    let told = diagnosis(stack.api(), &of("delegated").id).await;
    let places = |hop: &Value| -> Vec<String> {
        hop["servers"].as_array().unwrap().iter().map(|server| server["address"].as_str().unwrap().to_owned()).collect()
    };
    let (first, second) = (servers.address(FIRST).to_string(), servers.address(SECOND).to_string());
    assert_eq!(places(&told["walk"][0]), [first.clone(), second.clone()], "{told:#}");
    assert_eq!(places(&told["walk"][1]), [second], "{told:#}");
    assert_eq!(told["walk"][1]["servers"][0]["values"][0], token(of("delegated")));

    // The zone's servers are found by the delegation, although resolvers get nowhere.
    let told = diagnosis(stack.api(), &of("failing").id).await;
    assert_eq!(told["walk"][0]["zone"], "failing.test.", "{told:#}");
    let told = diagnosis(stack.api(), &of("stale").id).await;
    let detail = told["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains(&first) && detail.contains("last-year"), "{detail}");
}

#[tokio::test]
#[ignore = "needs BIND and Knot: make test-all"]
async fn an_operator_asks_about_any_name_without_a_database() {
    let Some(Patients { servers, _odd, .. }) = patients().await else { return };
    let ask = |args: &[&str]| {
        let mut command = Command::new(checkout::binary("countersignctl").unwrap());
        command
            .arg("doctor")
            .args(args)
            .env_clear()
            .env("DNS_RESOLVERS", servers.resolver())
            .env("DNS_ALLOW_PRIVATE", "true");
        command.output().unwrap()
    };
    let json = |args: &[&str]| -> (i32, Vec<String>) {
        let output = ask(&[args, &["--json"]].concat());
        let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), codes(&told))
    };
    let found = |code: &str| vec![code.to_owned()];
    assert_eq!(json(&["wrong.test"]), (0, found("all_well")), "nothing is awaited of it");
    assert_eq!(json(&["wrong.test", "--expect", "last-year"]), (0, found("all_well")));
    assert_eq!(json(&["wrong.test", "--expect", "this-year"]), (4, found("wrong_value")));
    assert_eq!(json(&["gone.test"]), (4, found("name_not_found")));
    assert_eq!(json(&["allowed.test"]), (4, found("caa_forbids")), "staging is Let's Encrypt's, and no other CA's");
    let ours = ["allowed.test", "--caa-identities", "ca.example"];
    assert_eq!(json(&ours), (0, found("all_well")));
    assert_eq!(json(&[&ours[..], &["--wildcard"]].concat()), (4, found("caa_forbids")));

    let told = json(&["caa.test", "--acme-directory", "https://ca.example/directory"]);
    assert_eq!(told.0, 0, "nobody said how the CA is named: {told:?}");
    let output = ask(&["caa.test", "--acme-directory", "https://ca.example/directory"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["caa_found", "ns2.caa.test.", &servers.address(SECOND).to_string(), "values"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
