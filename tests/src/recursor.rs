//! A recursive resolver for one aim: it follows an alias from the stack's DNS server into the zone of our name servers.
//!
//! It stands before pebble-challtestsrv, which follows aliases among its own records only, and is a process of the stack: the verb
//! `recursor` of `countersign-stack`. A name server that does not answer is passed over, as every resolver does.

use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dns_wire::{Transport, ask, ask_in_full, parsed, read_framed, write_framed};

/// Until the next name server is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// What fits into an answer by UDP where the question says nothing of it.
const PLAIN_UDP: usize = 512;

#[derive(Clone, Debug)]
pub struct Recursor {
    /// Answers everything outside the zone.
    pub upstream: SocketAddr,
    pub zone: Name,
    pub name_servers: Vec<SocketAddr>,
}

struct Asked {
    recursor: Recursor,
    turn: AtomicUsize,
}

/// Answers on a port of this host, for ever.
pub async fn serve(port: u16, recursor: Recursor) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, port);
    let (udp, tcp) = (Arc::new(UdpSocket::bind(address).await?), TcpListener::bind(address).await?);
    let asked = Arc::new(Asked { recursor, turn: AtomicUsize::new(0) });
    let mut answering = JoinSet::new();
    let mut datagram = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                // Of a client that has gone.
                let Ok((length, client)) = received else { continue };
                answering.spawn(by_udp(Arc::clone(&udp), datagram[..length].to_vec(), client, Arc::clone(&asked)));
            }
            accepted = tcp.accept() => drop(answering.spawn(by_tcp(accepted?.0, Arc::clone(&asked)))),
        }
        while answering.try_join_next().is_some() {}
    }
}

async fn by_udp(socket: Arc<UdpSocket>, packet: Vec<u8>, client: SocketAddr, asked: Arc<Asked>) -> Result<()> {
    let question = parsed(&packet)?;
    let answer = asked.answer(&question).await?;
    let most = question.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().into());
    let mut packet = answer.to_vec().map_err(Error::other)?;
    if packet.len() > most {
        packet = answer.truncate().to_vec().map_err(Error::other)?;
    }
    socket.send_to(&packet, client).await?;
    Ok(())
}

async fn by_tcp(mut client: TcpStream, asked: Arc<Asked>) -> Result<()> {
    loop {
        let question = parsed(&read_framed(&mut client).await?)?;
        let answer = asked.answer(&question).await?.to_vec().map_err(Error::other)?;
        write_framed(&mut client, &answer).await?;
    }
}

impl Asked {
    async fn answer(&self, question: &Message) -> Result<Message> {
        let Some(query) = question.queries.first() else {
            return Ok(Message::error_msg(question.metadata.id, question.metadata.op_code, ResponseCode::FormErr));
        };
        let mut answer = if self.recursor.zone.zone_of(query.name()) {
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.add_query(query.clone());
            self.append(&mut answer, query).await;
            answer
        } else {
            let packet = question.to_vec().map_err(Error::other)?;
            let mut answer = parsed(&ask(self.recursor.upstream, &packet, Transport::Tcp).await?)?;
            let mut aliases = answer.answers.iter().rev().filter_map(|record| match &record.data {
                RData::CNAME(target) => Some(&target.0),
                _ => None,
            });
            let target = aliases.next().filter(|target| self.recursor.zone.zone_of(target)).cloned();
            if let Some(target) = target
                && query.query_type() != RecordType::CNAME
            {
                self.append(&mut answer, &Query::query(target, query.query_type())).await;
            }
            answer
        };
        answer.metadata.recursion_available = true;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.authoritative = false;
        Ok(answer)
    }

    /// What the name servers of the zone answer, or SERVFAIL where none of them does.
    async fn append(&self, answer: &mut Message, query: &Query) {
        let name_servers = &self.recursor.name_servers;
        let mut question = Message::query();
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        question.metadata.recursion_desired = false;
        question.add_query(query.clone()).set_edns(edns);
        // Each time another one is the first.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for number in 0..name_servers.len() {
            let server = name_servers[(turn + number) % name_servers.len()];
            if let Ok(Ok(found)) = timeout(PATIENCE, ask_in_full(server, &question)).await
                && found.metadata.response_code != ResponseCode::ServFail
            {
                answer.metadata.response_code = found.metadata.response_code;
                answer.add_answers(found.answers);
                answer.authorities = found.authorities;
                return;
            }
        }
        answer.metadata.response_code = ResponseCode::ServFail;
    }
}
