//! A server by hand, for what BIND and Knot refuse to serve, such as TXT and CNAME records of one name, or thousands of name servers; as a
//! zone's own server, or in a resolver's place.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::sync::oneshot;

use crate::dns_wire::{parsed, read_framed, write_framed};

/// What goes by UDP; the rest is said to be cut short, and comes by TCP.
const UDP: usize = 1232;

/// Answers each type of a name by itself, until it is dropped.
pub struct OddServer {
    shared: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    records: Vec<Record>,
    questions: BTreeMap<RecordType, usize>,
}

impl OddServer {
    /// Serves these records at an address, and knows of no zone but theirs.
    pub fn start(address: SocketAddr, records: Vec<Record>) -> Result<Self> {
        let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(State { records, questions: BTreeMap::new() }));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = by_udp(udp, Arc::clone(&serving)) => served.expect("it can listen"),
                    served = by_tcp(tcp, serving) => served.expect("it can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Serves these instead from now on.
    pub fn change(&self, records: Vec<Record>) {
        state(&self.shared).records = records;
    }

    /// Questions that came so far, of whatever type.
    pub fn questions(&self) -> usize {
        state(&self.shared).questions.values().sum()
    }
}

impl Drop for OddServer {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The records of a zone: its apex, and its servers by label, each with its addresses.
pub fn zone(apex: &str, servers: &[(String, Vec<Ipv4Addr>)]) -> Vec<Record> {
    let named = |label: &str| name(&format!("{label}.{apex}"));
    let soa = SOA::new(named("ns"), name(apex), 1, 3600, 600, 86400, 0);
    let mut records = vec![Record::from_rdata(name(apex), 0, RData::SOA(soa))];
    for (label, addresses) in servers {
        records.push(Record::from_rdata(name(apex), 0, RData::NS(NS(named(label)))));
        records.extend(addresses.iter().map(|address| Record::from_rdata(named(label), 0, RData::A(A(*address)))));
    }
    records
}

pub fn txt(owner: &str, value: &str) -> Record {
    Record::from_rdata(name(owner), 0, RData::TXT(TXT::new(vec![value.to_owned()])))
}

pub fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 0, RData::CNAME(CNAME(name(target))))
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("tests name what is a name")
}

fn state(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn by_udp(socket: UdpSocket, shared: Arc<Mutex<State>>) -> Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut datagram = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut datagram).await?;
        let Ok(mut answer) = answer(&datagram[..length], &shared) else { continue };
        let mut bytes = answer.to_vec().map_err(Error::other)?;
        if bytes.len() > UDP {
            answer.answers.clear();
            answer.metadata.truncation = true;
            bytes = answer.to_vec().map_err(Error::other)?;
        }
        // A client that has gone.
        let _ = socket.send_to(&bytes, client).await;
    }
}

/// One question by each connection.
async fn by_tcp(listener: TcpListener, shared: Arc<Mutex<State>>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        let served = async {
            let question = read_framed(&mut client).await?;
            let answer = answer(&question, &shared)?.to_vec().map_err(Error::other)?;
            write_framed(&mut client, &answer).await
        };
        // A client that has gone.
        let _ = served.await;
    }
}

fn answer(question: &[u8], shared: &Mutex<State>) -> Result<Message> {
    let question = parsed(question)?;
    let query = question.queries.first().cloned().ok_or_else(|| Error::other("no question"))?;
    let mut state = state(shared);
    *state.questions.entry(query.query_type).or_default() += 1;
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.authoritative = true;
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let of_name = || state.records.iter().filter(|record| record.name == query.name);
    answer.answers = of_name().filter(|record| record.record_type() == query.query_type).cloned().collect();
    if answer.answers.is_empty() {
        let is_above = |record: &&Record| record.record_type() == RecordType::SOA && record.name.zone_of(&query.name);
        answer.authorities = state.records.iter().filter(is_above).cloned().collect();
        let is_there = state.records.iter().any(|record| query.name.zone_of(&record.name));
        answer.metadata.response_code = if is_there { ResponseCode::NoError } else { ResponseCode::NXDomain };
    }
    answer.queries.push(query);
    Ok(answer)
}
