//! One question or update to one server, signed, and its answer, whose signature was checked.
//!
//! Not by hickory's client: that drops an unsigned refusal, and with it the reason (BADKEY, BADSIG) that a person needs.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use countersign_shared::model::presenter::Transport;
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{TSigVerifier, TSigner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{UpdateError, key_fault, mnemonic};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A datagram that may be lost is sent again.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(1500);
/// The longest datagram that is read.
const LONGEST_DATAGRAM: usize = 4096;

pub(super) struct Channel {
    pub(super) server: SocketAddr,
    pub(super) transport: Transport,
    pub(super) signer: TSigner,
}

impl Channel {
    pub(super) async fn ask(&self, mut message: Message) -> Result<Message, UpdateError> {
        let server = self.server;
        let malformed = |source: ProtoError| UpdateError::Malformed { server, source };
        // What the server compares is this host's clock with its own.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let verifier = message.finalize(&self.signer, now).map_err(malformed)?;
        let question = message.to_vec().map_err(malformed)?;
        let asked = timeout(ANSWER_WITHIN, async {
            if self.transport == Transport::Udp {
                let answer = by_udp(server, &question).await?;
                // It did not fit.
                if !is_truncated(&answer) {
                    return Ok(answer);
                }
            }
            by_tcp(server, &question).await
        });
        let bytes = match asked.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(source)) => return Err(UpdateError::Unreachable { server, source }),
            Err(_) => return Err(UpdateError::Silent(server)),
        };
        let answer = Message::from_vec(&bytes).map_err(|error| malformed(error.into()))?;
        if answer.metadata.id != message.metadata.id {
            return Err(malformed(ProtoError::NotAResponse));
        }
        self.judge(answer, &bytes, verifier)
    }

    /// An error may be unsigned (RFC 8945 section 5.3.2), anything else may not.
    fn judge(&self, answer: Message, bytes: &[u8], verifier: Option<TSigVerifier>) -> Result<Message, UpdateError> {
        let (server, key) = (self.server, self.signer.signer_name().to_string());
        if let Some(error) = answer.signature().and_then(|signature| signature.data.error) {
            return Err(UpdateError::KeyRefused { server, key, reason: key_fault(error) });
        }
        match (answer.signature().is_some(), answer.metadata.response_code) {
            (false, ResponseCode::NoError | ResponseCode::NXDomain) => Err(UpdateError::NotSigned { server, key }),
            (false, code @ (ResponseCode::FormErr | ResponseCode::NotImp)) => {
                let what = "a signed request".to_owned();
                Err(UpdateError::Refused { server, what, code: mnemonic(code) })
            }
            (false, _) => Ok(answer),
            (true, _) => match verifier.map(|mut verifier| verifier.verify(bytes)) {
                Some(Ok(_)) => Ok(answer),
                _ => Err(UpdateError::NotSigned { server, key }),
            },
        }
    }
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Datagrams of others do not arrive then.
    socket.connect(server).await?;
    let mut answer = vec![0; LONGEST_DATAGRAM];
    loop {
        socket.send(question).await?;
        let matching = async {
            loop {
                let length = socket.recv(&mut answer).await?;
                // The id.
                if length > 2 && answer[..2] == question[..2] {
                    return io::Result::Ok(length);
                }
            }
        };
        if let Ok(received) = timeout(SEND_AGAIN_AFTER, matching).await {
            answer.truncate(received?);
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0b10 != 0)
}
