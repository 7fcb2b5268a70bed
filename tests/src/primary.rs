//! BIND or Knot as the primary of zones that take dynamic updates.
//!
//! It ends with its owner, as a stack does.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

use crate::dns_software::{SECRET, Served, Server, Software, zone_file};
use crate::stack::processes::{Lifetime, Processes};
use crate::stack::watchdog::Watchdog;
use crate::stack::{folder, ports, waiting};

const NAME: &str = "name-server";
const START: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A zone: its name with the final dot, its records besides SOA and NS in the format of a zone file, and whether it takes updates.
pub struct Zone {
    pub name: &'static str,
    pub records: &'static str,
    pub is_dynamic: bool,
}

pub struct NameServer {
    port: u16,
    folder: PathBuf,
    // Dropped before the watchdog, so that it only finds what is left.
    _processes: Processes,
    _watchdog: Watchdog,
}

impl NameServer {
    /// Starts it and waits until it answers for all zones.
    pub async fn start(software: Software, zones: &[Zone]) -> Result<Self> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let port = ports::free()?;
        for zone in zones {
            let name = zone.name;
            let head =
                format!("$TTL 60\n{name} SOA ns.{name} hostmaster.{name} 1 3600 600 86400 1\n{name} NS ns.{name}\n");
            let text = format!("{head}ns.{name} A 127.0.0.1\n{}\n", zone.records);
            fs::write(zone_file(&folder, name), text)?;
        }
        fs::write(folder.join("secret"), format!("{SECRET}\n"))?;
        let served: Vec<Served<'_>> =
            zones.iter().map(|zone| Served { apex: zone.name, is_dynamic: zone.is_dynamic }).collect();
        processes.start(&software.authoritative(NAME, &Server { folder: &folder, port, zones: &served })?)?;
        let server = Self { port, folder, _processes: processes, _watchdog: watchdog };
        for zone in zones {
            let serves = async || {
                let answer = server.ask(zone.name, RecordType::SOA).await.ok()?;
                (answer.metadata.authoritative && !answer.answers.is_empty()).then_some(())
            };
            if waiting::poll(START, serves).await.is_none() {
                bail!("{software:?} does not answer for {}:\n{}", zone.name, server._processes.log_tail(NAME, 40));
            }
        }
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Holds [`SECRET`].
    pub fn secret_file(&self) -> PathBuf {
        self.folder.join("secret")
    }

    /// The TXT values at an owner name, sorted.
    pub async fn values(&self, owner: &str) -> Result<Vec<String>> {
        let answer = self.ask(owner, RecordType::TXT).await?;
        let values = answer.answers.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()),
            _ => None,
        });
        let mut values: Vec<String> = values.collect();
        values.sort();
        Ok(values)
    }

    async fn ask(&self, name: &str, record_type: RecordType) -> Result<Message> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name)?, record_type));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(self.address()).await?;
        socket.send(&question.to_vec()?).await?;
        let mut answer = vec![0; 4096];
        let length = tokio::time::timeout(ANSWER_WITHIN, socket.recv(&mut answer)).await??;
        Ok(Message::from_vec(&answer[..length])?)
    }
}
