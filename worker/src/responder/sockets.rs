//! Questions by UDP and TCP. However many there are, and however slowly they come: what one asker costs is bounded.

use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_shared::telemetry::labels::{DnsTransport, Rcode};
use countersign_shared::telemetry::metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::packet::{Heard, Transport};
use super::records::Records;
use super::zone::Zone;

/// No question is longer; the rest of one that is would be cut off, and the packet is malformed then.
const MOST_OCTETS: usize = 4096;
/// Questions by UDP that wait for the database.
const MOST_WAITING: usize = 4096;
const MOST_CONNECTIONS: usize = 512;
/// For one question to arrive, by a connection, and for its answer to be taken.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// However busy, a connection makes room for others then.
const CONNECTION_LASTS: Duration = Duration::from_secs(60);
/// After an error of a socket that may come again at once.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Responder {
    zone: Zone,
    records: Arc<Records>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    answering: TaskTracker,
}

impl Responder {
    pub(super) fn new(zone: Zone, records: Arc<Records>) -> Self {
        Self {
            zone,
            records,
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            answering: TaskTracker::new(),
        }
    }

    /// Waits for the answers under way; nobody listens any more.
    pub(super) async fn finish(&self) {
        self.answering.close();
        self.answering.wait().await;
    }

    /// Several of these may share a socket.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, stop: CancellationToken) {
        let mut packet = [0; MOST_OCTETS];
        while let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut packet)).await {
            let (length, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "receiving by UDP failed");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let question = match self.zone.hear(&packet[..length], from, Transport::Udp) {
                Heard::Nothing => continue,
                Heard::Answer(answer) => {
                    send(&socket, &answer, from).await;
                    continue;
                }
                Heard::Asks(question) => question,
            };
            if let Some(found) = self.records.at_once(question.label()) {
                send(&socket, &question.answer(&self.zone, &found), from).await;
                continue;
            }
            // Whoever gets no answer asks again, or another server.
            let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { continue };
            let (responder, socket) = (Arc::clone(&self), Arc::clone(&socket));
            self.answering.spawn(async move {
                let _place = place;
                let found = responder.records.find(question.label()).await;
                send(&socket, &question.answer(&responder.zone, &found), from).await;
            });
        }
    }

    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Closed at once: the asker hears of it, and may come again.
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            let (responder, stop) = (Arc::clone(&self), stop.clone());
            self.answering.spawn(async move {
                let _place = place;
                let served = tokio::time::timeout(CONNECTION_LASTS, responder.converse(stream, from, stop)).await;
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "a connection failed");
                }
            });
        }
    }

    /// One question after the other, until the asker has no more.
    async fn converse(&self, mut stream: TcpStream, from: SocketAddr, stop: CancellationToken) -> Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let asked = tokio::time::timeout(ASK_WITHIN, read_framed(&mut stream));
            let Some(Ok(packet)) = stop.run_until_cancelled(asked).await else { return Ok(()) };
            let answer = match self.zone.hear(&packet?, from, Transport::Tcp) {
                Heard::Nothing => return Ok(()),
                Heard::Answer(answer) => answer,
                Heard::Asks(question) => {
                    let found = self.records.find(question.label()).await;
                    question.answer(&self.zone, &found)
                }
            };
            metrics::question_answered(rcode_of(&answer), DnsTransport::Tcp);
            // By TCP every message comes with its length before it (RFC 1035 section 4.2.2).
            let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            if tokio::time::timeout(ASK_WITHIN, stream.write_all(&framed)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut packet = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

/// What the header of an answer says (RFC 1035 section 4.1.1); the part of an extended one that is not there counts for nothing.
fn rcode_of(answer: &[u8]) -> Rcode {
    match answer.get(3).map(|flags| flags & 0x0f) {
        Some(0) => Rcode::NoError,
        Some(1) => Rcode::FormErr,
        Some(2) => Rcode::ServFail,
        Some(3) => Rcode::NxDomain,
        Some(4) => Rcode::NotImp,
        Some(5) => Rcode::Refused,
        _ => Rcode::Other,
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    metrics::question_answered(rcode_of(answer), DnsTransport::Udp);
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, "an answer could not be sent");
    }
}
