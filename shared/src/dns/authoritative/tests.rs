//! Answers that no sound server gives.

use hickory_resolver::proto::op::{MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::{A, CNAME, NS, SOA, TXT};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const OWNER: &str = "_acme-challenge.shop.example.com.";
const ZONE: &str = "example.com.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// One record of each kind that is looked for, at names above, at and beside the owner.
fn record(kind: usize, at: usize) -> Record {
    let names = [OWNER, "shop.example.com.", ZONE, "com.", ".", "elsewhere.example.net."];
    let other = name(names[(at + 1) % names.len()]);
    let rdata = match kind % 5 {
        0 => RData::SOA(SOA::new(other.clone(), other, 1, 1, 1, 1, 1)),
        1 => RData::NS(NS(other)),
        2 => RData::CNAME(CNAME(other)),
        3 => RData::TXT(TXT::new(vec!["value".to_owned(), String::new()])),
        _ => RData::A(A([127, 0, 0, 1].into())),
    };
    Record::from_rdata(name(names[at % names.len()]), 0, rdata)
}

/// Everything that is made of an answer. Nothing of it may panic.
fn make_use_of(answer: &Message) {
    let (owner, zone) = (name(OWNER), name(ZONE));
    let _ = result_of(answer, &owner);
    for records in [&answer.answers, &answer.authorities, &answer.additionals] {
        let _ = (txt_of(records, &owner), alias_of(records, &owner), addresses_of(records, &owner));
        assert!(name_servers(records, &zone).len() <= MOST_SERVERS);
    }
    if let Some(cut) = referral(answer, &owner, &zone) {
        assert!(
            cut.zone.zone_of(&owner) && cut.zone != zone && zone.zone_of(&cut.zone),
            "{} leads up or away",
            cut.zone
        );
        assert!(cut.servers.len() <= MOST_SERVERS);
    }
}

proptest! {
    /// In any order, in any section, with any code.
    #[test]
    fn no_answer_ends_the_process_or_leads_up_or_away(
        sections in vec((0..3_usize, 0..5_usize, 0..6_usize), 0..40),
        code in 0..6_u16,
        authoritative in any::<bool>(),
        flips in vec((any::<Index>(), 1..=u8::MAX), 0..8),
    ) {
        let mut answer = Message::new(1, MessageType::Response, OpCode::Query);
        answer.metadata.response_code = ResponseCode::from(0, code as u8);
        answer.metadata.authoritative = authoritative;
        answer.queries.push(Query::query(name(OWNER), RecordType::TXT));
        for (section, kind, at) in sections {
            let records = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
            records.into_iter().nth(section).unwrap().push(record(kind, at));
        }
        make_use_of(&answer);
        let mut bytes = answer.to_vec().unwrap();
        for (at, flip) in flips {
            let length = bytes.len();
            bytes[at.index(length)] ^= flip;
        }
        if let Ok(spoilt) = Message::from_vec(&bytes) {
            make_use_of(&spoilt);
        }
    }
}

#[test]
fn of_thousands_of_name_servers_a_few_are_looked_up() {
    let servers = (0..5000)
        .map(|number| Record::from_rdata(name(ZONE), 0, RData::NS(NS(name(&format!("ns{number}.example.com."))))));
    assert_eq!(name_servers(&servers.collect::<Vec<_>>(), &name(ZONE)).len(), MOST_SERVERS);
}
