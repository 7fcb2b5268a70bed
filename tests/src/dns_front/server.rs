//! What the front does with one question.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::{DnsFault, Transport, canonical};
use crate::dns_wire::{ask, read_framed, write_framed};

/// What an alias of a name begins with.
const ALIAS: &str = "loop";

/// What the questions and the test share.
pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) faults: BTreeMap<String, DnsFault>,
    pub(super) everywhere: Option<DnsFault>,
    pub(super) questions: BTreeMap<(String, Transport), usize>,
}

pub(super) async fn serve(udp: std::net::UdpSocket, tcp: std::net::TcpListener, shared: Arc<Shared>) -> Result<()> {
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let mut answering = JoinSet::new();
    let mut datagram = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                let (length, client) = received?;
                answering.spawn(by_udp(Arc::clone(&udp), datagram[..length].to_vec(), client, Arc::clone(&shared)));
            }
            accepted = tcp.accept() => drop(answering.spawn(by_tcp(accepted?.0, Arc::clone(&shared)))),
        }
        while answering.try_join_next().is_some() {}
    }
}

/// An error is a client that has gone, or a server behind us that does not answer: then neither do we.
async fn by_udp(socket: Arc<UdpSocket>, question: Vec<u8>, client: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    if let Some(answer) = shared.answer(question, Transport::Udp).await? {
        socket.send_to(&answer, client).await?;
    }
    Ok(())
}

async fn by_tcp(mut client: TcpStream, shared: Arc<Shared>) -> Result<()> {
    loop {
        let question = read_framed(&mut client).await?;
        if let Some(answer) = shared.answer(question, Transport::Tcp).await? {
            write_framed(&mut client, &answer).await?;
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when there shall be no answer.
    async fn answer(&self, question: Vec<u8>, by: Transport) -> Result<Option<Vec<u8>>> {
        let message = Message::from_vec(&question).map_err(Error::other)?;
        let name = message.queries.first().map(|query| query.name.clone()).unwrap_or_default();
        let fault = self.note(&canonical(&name.to_utf8()), by);
        let made_up = match fault {
            None => return self.forward(&question, by).await.map(Some),
            Some(DnsFault::Truncated) if by == Transport::Tcp => return self.forward(&question, by).await.map(Some),
            Some(DnsFault::After(delay)) => {
                tokio::time::sleep(delay).await;
                return self.forward(&question, by).await.map(Some);
            }
            Some(DnsFault::Silence) => return Ok(None),
            Some(DnsFault::ServFail) => answer_of(&message, ResponseCode::ServFail),
            Some(DnsFault::Refused) => answer_of(&message, ResponseCode::Refused),
            Some(DnsFault::NxDomain) => answer_of(&message, ResponseCode::NXDomain),
            Some(DnsFault::Truncated) => {
                let mut answer = answer_of(&message, ResponseCode::NoError);
                answer.metadata.truncation = true;
                answer
            }
            Some(DnsFault::CnameLoop) => {
                let mut answer = answer_of(&message, ResponseCode::NoError);
                let target = other_name(&name).map_err(Error::other)?;
                answer.add_answer(Record::from_rdata(name, 1, RData::CNAME(CNAME(target))));
                answer
            }
        };
        made_up.to_vec().map(Some).map_err(Error::other)
    }

    /// Counts the question and says what becomes of it. An alias shares the fault of its name.
    fn note(&self, name: &str, by: Transport) -> Option<DnsFault> {
        let mut state = self.state();
        *state.questions.entry((name.to_owned(), by)).or_default() += 1;
        let original = name.strip_prefix(ALIAS).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        state.faults.get(original).copied().or(state.everywhere)
    }

    async fn forward(&self, question: &[u8], by: Transport) -> Result<Vec<u8>> {
        ask(self.upstream, question, by).await
    }
}

/// An answer to this question, without records.
fn answer_of(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::error_msg(question.metadata.id, question.metadata.op_code, code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    answer
}

/// From a name to its alias, and back.
fn other_name(name: &Name) -> std::result::Result<Name, hickory_proto::ProtoError> {
    let is_alias = name.iter().next().is_some_and(|label| label == ALIAS.as_bytes());
    if is_alias { Ok(name.base_name()) } else { name.prepend_label(ALIAS) }
}
