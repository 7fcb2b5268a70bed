//! DNS messages on the wire: one question to one server, and the framing by TCP.

use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Sends a packet, and waits without end for what comes back.
pub async fn ask(server: SocketAddr, packet: &[u8], by: Transport) -> Result<Vec<u8>> {
    match by {
        Transport::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            socket.connect(server).await?;
            socket.send(packet).await?;
            let mut answer = vec![0; 64 * 1024];
            let length = socket.recv(&mut answer).await?;
            answer.truncate(length);
            Ok(answer)
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            write_framed(&mut stream, packet).await?;
            read_framed(&mut stream).await
        }
    }
}

/// As [`ask`] by UDP, and by TCP where the answer was cut short.
pub async fn ask_in_full(server: SocketAddr, question: &Message) -> Result<Message> {
    let packet = question.to_vec().map_err(Error::other)?;
    let answer = parsed(&ask(server, &packet, Transport::Udp).await?)?;
    if answer.metadata.truncation { parsed(&ask(server, &packet, Transport::Tcp).await?) } else { Ok(answer) }
}

/// By TCP every message comes with its length before it (RFC 1035 section 4.2.2).
pub async fn read_framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    let length = u16::try_from(message.len()).map_err(Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

pub(crate) fn parsed(packet: &[u8]) -> Result<Message> {
    Message::from_vec(packet).map_err(Error::other)
}
