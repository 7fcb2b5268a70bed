//! The front by itself: one in front of another, which stands for the real server.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{DnsFault, DnsFront, Transport};

/// Longer than an answer takes on a busy machine, and short enough to wait for in vain.
const A_MOMENT: Duration = Duration::from_secs(2);

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::TXT));
    message
}

fn ask(server: SocketAddr, name: &str, by: Transport) -> Option<Message> {
    use std::io::{Read as _, Write as _};
    let question = question(name);
    let bytes = question.to_vec().unwrap();
    let mut answer = vec![0; 4096];
    let length = match by {
        Transport::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(A_MOMENT)).unwrap();
            socket.send_to(&bytes, server).unwrap();
            socket.recv(&mut answer).ok()?
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(A_MOMENT)).unwrap();
            stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &*bytes].concat()).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let length = usize::from(u16::from_be_bytes(length));
            stream.read_exact(&mut answer[..length]).ok()?;
            length
        }
    };
    let answer = Message::from_vec(&answer[..length]).unwrap();
    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    Some(answer)
}

#[test]
fn every_fault_is_what_it_says_by_both_transports() {
    // Whoever refuses stands for the real server.
    let real = DnsFront::start("127.0.0.1:1".parse().unwrap()).unwrap();
    real.fault_everywhere(DnsFault::Refused);
    let front = DnsFront::start(real.address()).unwrap();
    let code = |name: &str, by| ask(front.address(), name, by).map(|answer| answer.metadata.response_code);
    let later = DnsFault::After(A_MOMENT / 4);
    let faults = [
        ("servfail.test.", DnsFault::ServFail, Some(ResponseCode::ServFail)),
        ("refused.test.", DnsFault::Refused, Some(ResponseCode::Refused)),
        ("nobody.test.", DnsFault::NxDomain, Some(ResponseCode::NXDomain)),
        ("silent.test.", DnsFault::Silence, None),
        ("late.test.", later, Some(ResponseCode::Refused)),
    ];
    faults.iter().for_each(|(name, fault, _)| front.fault(name, *fault));
    for by in [Transport::Udp, Transport::Tcp] {
        for (name, fault, expected) in faults {
            let asked = Instant::now();
            assert_eq!((code(name, by), front.questions(name, by)), (expected, 1), "{name} {by:?}");
            assert!(fault != later || asked.elapsed() >= A_MOMENT / 4);
            assert_eq!(real.questions(name, by), usize::from(fault == later), "{name} {by:?}");
        }
        assert_eq!(code("other.test.", by), Some(ResponseCode::Refused));
        assert_eq!(real.questions("other.test", by), 1);
    }
    front.heal();
    assert_eq!(code("SILENT.test.", Transport::Udp), Some(ResponseCode::Refused));
    front.fault_everywhere(DnsFault::ServFail);
    assert_eq!(code("other.test.", Transport::Udp), Some(ResponseCode::ServFail));
}

#[test]
fn what_is_truncated_is_there_by_tcp_and_a_loop_has_no_end() {
    let real = DnsFront::start("127.0.0.1:1".parse().unwrap()).unwrap();
    real.fault_everywhere(DnsFault::NxDomain);
    let front = DnsFront::start(real.address()).unwrap();
    front.fault("long.test", DnsFault::Truncated);
    let short = ask(front.address(), "long.test.", Transport::Udp).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = ask(front.address(), "long.test.", Transport::Tcp).unwrap();
    assert!(!whole.metadata.truncation && whole.metadata.response_code == ResponseCode::NXDomain);

    front.fault("round.test", DnsFault::CnameLoop);
    let mut name = "round.test.".to_owned();
    for _ in 0..4 {
        let answer = ask(front.address(), &name, Transport::Udp).unwrap();
        let [record] = answer.answers.as_slice() else { panic!("{answer}") };
        let RData::CNAME(target) = &record.data else { panic!("{record}") };
        assert_ne!(target.0.to_utf8(), name);
        name = target.0.to_utf8();
    }
    assert_eq!(name, "round.test.");
}
