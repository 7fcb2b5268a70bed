//! The table of answers: what is asked of whom, by what, and what comes back.

use countersign_tests::dns_wire::Transport;
use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::ZONE;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use super::{answer_to, question, registered, sent_back, token, with_edns};

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

/// Response code, AA, the types of the answers, and whether a SOA says that there is nothing.
fn gist(answer: &Message) -> (ResponseCode, bool, Vec<RecordType>, bool) {
    let types = answer.answers.iter().map(|record| record.record_type()).collect();
    let is_negative = match answer.authorities.as_slice() {
        [] => false,
        [only] => match &only.data {
            // Nobody remembers for longer than a second that there was nothing.
            RData::SOA(soa) => (soa.minimum, only.ttl, only.name.to_ascii()) == (1, 1, format!("{ZONE}.")),
            _ => false,
        },
        _ => panic!("{answer}"),
    };
    (answer.metadata.response_code, answer.metadata.authoritative, types, is_negative)
}

#[tokio::test]
async fn every_question_has_the_answer_of_the_table() {
    use RecordType as T;
    use ResponseCode as C;
    let stack = Stack::builder()
        .responders(1)
        .setting_of("dns-1", "DNS_NAME_SERVERS", format!("ns1.{ZONE},ns.elsewhere.example"))
        .setting_of("dns-1", "DNS_ADDRESSES", format!("ns1.{ZONE}=192.0.2.53,ns1.{ZONE}=2001:db8::53"))
        .setting_of("dns-1", "DNS_CONTACT", "dns.person@example.net")
        .start()
        .await;
    let (domain, target) = registered(&stack, "shop.example.com").await;
    let [unknown, below, at_apex] = [format!("{UNKNOWN}.{ZONE}"), format!("_acme-challenge.{target}"), ZONE.to_owned()];
    let (ns, not_hex) = (format!("ns1.{ZONE}"), format!("{}g.{ZONE}", &UNKNOWN[1..]));
    let table = [
        (at_apex.as_str(), T::SOA, (C::NoError, true, vec![T::SOA], false)),
        (&at_apex, T::NS, (C::NoError, true, vec![T::NS, T::NS], false)),
        (&at_apex, T::TXT, (C::NoError, true, vec![], true)),
        (&at_apex, T::ANY, (C::NoError, true, vec![T::HINFO], false)),
        (&target, T::TXT, (C::NoError, true, vec![T::TXT], false)),
        (&target, T::A, (C::NoError, true, vec![], true)),
        (&target, T::CNAME, (C::NoError, true, vec![], true)),
        (&target, T::NS, (C::NoError, true, vec![], true)),
        (&target, T::ANY, (C::NoError, true, vec![T::HINFO], false)),
        (&unknown, T::TXT, (C::NXDomain, true, vec![], true)),
        (&unknown, T::ANY, (C::NXDomain, true, vec![], true)),
        (&not_hex, T::TXT, (C::NXDomain, true, vec![], true)),
        (&below, T::TXT, (C::NXDomain, true, vec![], true)),
        (&ns, T::A, (C::NoError, true, vec![T::A], false)),
        (&ns, T::AAAA, (C::NoError, true, vec![T::AAAA], false)),
        (&ns, T::TXT, (C::NoError, true, vec![], true)),
        ("shop.example.com", T::TXT, (C::Refused, false, vec![], false)),
        ("countersign.example", T::SOA, (C::Refused, false, vec![], false)),
        ("xacme.countersign.example", T::SOA, (C::Refused, false, vec![], false)),
        (".", T::NS, (C::Refused, false, vec![], false)),
        (&at_apex, T::AXFR, (C::Refused, false, vec![], false)),
        (&at_apex, T::IXFR, (C::Refused, false, vec![], false)),
        (&target, T::AXFR, (C::Refused, false, vec![], false)),
    ];
    for (name, record_type, expected) in table {
        for by in [Transport::Udp, Transport::Tcp] {
            for question in [question(name, record_type), with_edns(question(name, record_type), 1232)] {
                let (answer, _) = answer_to(&stack, &question, by).await;
                assert_eq!(gist(&answer), expected, "{name} {record_type} {by:?}");
                assert_eq!(answer.edns.is_some(), question.edns.is_some(), "{name} {record_type} {by:?}");
                assert!(answer.metadata.recursion_desired && !answer.metadata.truncation);
            }
        }
    }

    let (answer, _) = answer_to(&stack, &question(&at_apex, T::SOA), Transport::Udp).await;
    let RData::SOA(soa) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!(soa.mname.to_ascii(), format!("ns1.{ZONE}."));
    assert_eq!(soa.rname, Name::from_labels([&b"dns.person"[..], b"example", b"net"]).unwrap());
    let (answer, _) = answer_to(&stack, &question(&at_apex, T::NS), Transport::Udp).await;
    assert_eq!(answer.additionals.len(), 2, "the addresses of ns1 come along: {answer}");
    let (answer, _) = answer_to(&stack, &question(&target, T::TXT), Transport::Udp).await;
    let RData::TXT(txt) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!((txt.txt_data.concat(), answer.answers[0].ttl), (token(&domain).as_bytes().to_vec(), 1));
}

#[tokio::test]
async fn what_is_not_a_plain_question_gets_its_code_or_nothing() {
    let stack = Stack::builder().responders(1).start().await;
    let (_, target) = registered(&stack, "shop.example.com").await;
    let code = async |packet: Vec<u8>| {
        let mut codes = Vec::new();
        for by in [Transport::Udp, Transport::Tcp] {
            codes.push(sent_back(&stack, &packet, by).await.map(|(answer, _)| answer.metadata.response_code));
        }
        assert_eq!(codes[0], codes[1]);
        codes[0]
    };
    for opcode in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::Unknown(15)] {
        let mut message = question(&target, RecordType::TXT);
        message.metadata.op_code = opcode;
        assert_eq!(code(message.to_vec().unwrap()).await, Some(ResponseCode::NotImp), "{opcode:?}");
    }
    let mut of_chaos = question(&target, RecordType::TXT);
    of_chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(of_chaos.to_vec().unwrap()).await, Some(ResponseCode::Refused));
    let mut newer = with_edns(question(&target, RecordType::TXT), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    // BADVERS, which shares its number with BADSIG.
    assert_eq!(code(newer.to_vec().unwrap()).await.map(u16::from), Some(16));

    let whole = question(&target, RecordType::TXT).to_vec().unwrap();
    let mut two_questions = question(&target, RecordType::TXT);
    two_questions.add_query(two_questions.queries[0].clone());
    assert_eq!(code(two_questions.to_vec().unwrap()).await, Some(ResponseCode::FormErr));
    assert_eq!(code(whole[..whole.len() - 3].to_vec()).await, Some(ResponseCode::FormErr), "cut short");
    assert_eq!(code(whole[..12].to_vec()).await, Some(ResponseCode::FormErr), "a header alone");
    // A name that points into the header.
    let mut pointing = whole[..12].to_vec();
    pointing.extend([0xc0, 0x00, 0, 16, 0, 1]);
    assert_eq!(code(pointing).await, Some(ResponseCode::FormErr));
    let alive = async || assert_eq!(code(whole.clone()).await, Some(ResponseCode::NoError));
    alive().await;
    // Two servers that answered these would answer each other for ever.
    let mut an_answer = whole.clone();
    an_answer[2] |= 0x80;
    assert_eq!(code(an_answer).await, None);
    assert_eq!(code(whole[..11].to_vec()).await, None, "less than a header");
    alive().await;
}

#[tokio::test]
async fn names_are_compared_without_case_and_answered_in_the_case_of_the_question() {
    let stack = Stack::builder().responders(1).start().await;
    let (_, target) = registered(&stack, "shop.example.com").await;
    let mixed: String = target
        .chars()
        .enumerate()
        .map(|(at, letter)| if at % 2 == 0 { letter.to_ascii_uppercase() } else { letter })
        .collect();
    assert_ne!(mixed, target);
    for name in [mixed.as_str(), &target.to_uppercase(), &target] {
        let (answer, length) = answer_to(&stack, &question(name, RecordType::TXT), Transport::Udp).await;
        // `Name` itself compares without case.
        assert!(answer.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()), "{answer}");
        assert!(answer.answers[0].name.eq_case(&Name::from_ascii(name).unwrap()), "{answer}");
        assert!(length < 175, "names are compressed: {length}");
    }
    let apex = ZONE.to_uppercase();
    let (answer, _) = answer_to(&stack, &question(&apex, RecordType::SOA), Transport::Udp).await;
    assert!(answer.answers[0].name.to_ascii().starts_with("ACME."), "{answer}");
}

#[tokio::test]
async fn what_does_not_fit_comes_by_tcp_however_many_values_there_are() {
    let stack = Stack::builder().responders(1).leftovers_allowed().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let target = countersign_tests::stack::delegation::target(&domain).to_owned();
    stack.kill("worker-1");
    let many = "INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value)
        SELECT o.id, o.domain_id, n || '.example.com', '', '', '', lpad(n::text, 43, 'x')
        FROM orders o, generate_series(1, 120) n WHERE o.public_id = $1";
    sqlx::query(many).bind(&order.order_id).execute(stack.pool()).await.unwrap();
    let all = async || (stack.txt_at(1, &target).await?.len() == 122).then_some(());
    stack.wait_until("all values are answered", crate::facts::SOON, all).await;

    let ask = async |question: Message, by| {
        let (answer, length) = answer_to(&stack, &question, by).await;
        (answer.metadata.truncation, answer.answers.len(), length)
    };
    let plain = || question(&target, RecordType::TXT);
    let (is_cut, _, length) = ask(plain(), Transport::Udp).await;
    assert!(is_cut && length <= 512, "{length}");
    for (offered, most) in [(0, 512), (512, 512), (900, 900), (1232, 1232), (4096, 1232), (65_535, 1232)] {
        let (is_cut, _, length) = ask(with_edns(plain(), offered), Transport::Udp).await;
        assert!(is_cut && length <= most, "{offered}: {length}");
    }
    for question in [plain(), with_edns(plain(), 512)] {
        let (is_cut, values, _) = ask(question, Transport::Tcp).await;
        assert_eq!((is_cut, values), (false, 122), "the order's own, the token and 120 more");
    }
}
