//! An authoritative server by hand, for what BIND and Knot refuse to serve, such as TXT and CNAME records of one name.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Answers each type of a name by itself, until it is dropped.
pub struct OddServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OddServer {
    /// One zone with this server as its only one, and one name in it that has a TXT record and is an alias too.
    pub fn start(address: Ipv4Addr, apex: &str, owner: &str, value: &str, target: &str) -> Result<Self> {
        let (apex, ns) = (Name::from_ascii(apex)?, Name::from_ascii(format!("ns{}.{apex}", address.octets()[3]))?);
        let owner = Name::from_ascii(owner)?;
        let soa = SOA::new(ns.clone(), apex.clone(), 1, 3600, 600, 86400, 0);
        let records = vec![
            Record::from_rdata(apex.clone(), 0, RData::SOA(soa)),
            Record::from_rdata(apex, 0, RData::NS(NS(ns.clone()))),
            Record::from_rdata(ns, 0, RData::A(A(address))),
            Record::from_rdata(owner.clone(), 0, RData::TXT(TXT::new(vec![value.to_owned()]))),
            Record::from_rdata(owner, 0, RData::CNAME(CNAME(Name::from_ascii(target)?))),
        ];
        let socket = UdpSocket::bind((address, 53)).context("listening on port 53")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
                let Some(answer) = answer(&datagram[..length], &records) else { continue };
                // A client that has gone.
                let _ = socket.send_to(&answer, client);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for OddServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(question: &[u8], records: &[Record]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.authoritative = true;
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    let of_name = || records.iter().filter(|record| record.name == query.name);
    answer.answers = of_name().filter(|record| record.record_type() == query.query_type).cloned().collect();
    if answer.answers.is_empty() {
        answer.authorities = records.iter().filter(|record| record.record_type() == RecordType::SOA).cloned().collect();
        let is_there = records.iter().any(|record| query.name.zone_of(&record.name));
        answer.metadata.response_code = if is_there { ResponseCode::NoError } else { ResponseCode::NXDomain };
    }
    answer.queries.push(query);
    answer.to_vec().ok()
}
