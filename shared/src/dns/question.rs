//! One question to one server: by UDP, and by TCP where UDP does not bring the whole answer. Nothing is cached.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use crate::telemetry::labels::{LookupOutcome, Resolver};
use crate::telemetry::metrics;

/// What UDP carries unfragmented almost everywhere.
const UDP_PAYLOAD: u16 = 1232;

#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) asked: Asked,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A server of the zone: for what it knows itself.
    Authoritative,
    /// A recursive resolver, which may check DNSSEC.
    Resolver,
    /// A recursive resolver, which shall not.
    ResolverUnchecked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// This host has no way to such an address.
    NoRoute,
    Silent,
}

/// The answer, whatever it says. A datagram that is lost is sent once more.
pub(super) async fn ask(server: SocketAddr, question: &Question, within: Duration) -> Result<Message, Unanswered> {
    let began = Instant::now();
    let answer = by_udp_or_tcp(server, question, within).await;
    let resolver = match question.asked {
        Asked::Authoritative => Resolver::Authoritative,
        Asked::Resolver | Asked::ResolverUnchecked => Resolver::Recursive,
    };
    metrics::dns_lookup(resolver, outcome_of(&answer), began.elapsed());
    answer
}

fn outcome_of(answer: &Result<Message, Unanswered>) -> LookupOutcome {
    match answer {
        Ok(answer) => match answer.metadata.response_code {
            ResponseCode::NoError if !answer.answers.is_empty() => LookupOutcome::Found,
            ResponseCode::NoError | ResponseCode::NXDomain => LookupOutcome::Absent,
            _ => LookupOutcome::Failed,
        },
        Err(Unanswered::NoRoute) => LookupOutcome::Failed,
        Err(Unanswered::Silent) => LookupOutcome::TimedOut,
    }
}

async fn by_udp_or_tcp(server: SocketAddr, question: &Question, within: Duration) -> Result<Message, Unanswered> {
    let request = request(question);
    let bytes = request.to_vec().map_err(|_| Unanswered::Silent)?;
    let Ok(socket) = connected(server).await else { return Err(Unanswered::NoRoute) };
    for _ in 0..2 {
        match timeout(within / 3, by_udp(&socket, &bytes, &request)).await {
            Ok(Ok(answer)) if !answer.metadata.truncation => return Ok(answer),
            // A closed port, or an answer cut short.
            Ok(_) => break,
            Err(_) => {}
        }
    }
    match timeout(within / 3, by_tcp(server, &bytes)).await {
        Ok(Ok(answer)) if is_answer(&answer, &request) => Ok(answer),
        _ => Err(Unanswered::Silent),
    }
}

fn request(question: &Question) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(question.name.clone(), question.kind));
    message.metadata.recursion_desired = question.asked != Asked::Authoritative;
    message.metadata.checking_disabled = question.asked == Asked::ResolverUnchecked;
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    message
}

/// Connected, so that only this server is heard, and a closed port is heard of.
async fn connected(server: SocketAddr) -> Result<UdpSocket, Error> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn by_udp(socket: &UdpSocket, bytes: &[u8], request: &Message) -> Result<Message, Error> {
    socket.send(bytes).await?;
    let mut datagram = vec![0; 4096];
    loop {
        let length = socket.recv(&mut datagram).await?;
        // Anything else may be forged, or late: the answer is still to come.
        if let Ok(answer) = Message::from_vec(&datagram[..length])
            && is_answer(&answer, request)
        {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8]) -> Result<Message, Error> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

/// Servers that refuse may leave out the question.
fn is_answer(answer: &Message, request: &Message) -> bool {
    answer.metadata.id == request.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && (answer.queries == request.queries || (answer.queries.is_empty() && answer.answers.is_empty()))
}
