//! BIND or Knot, of Debian's packages, as the primary of zones that take dynamic updates: each with a TSIG key of its own.
//!
//! It ends with its owner, as a stack does.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

use crate::aloud;
use crate::stack::environment;
use crate::stack::processes::{Launch, Lifetime, Processes};
use crate::stack::watchdog::Watchdog;
use crate::stack::{folder, ports, waiting};

const NAME: &str = "name-server";
const START: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Base64, as a customer has it.
pub const SECRET: &str = "bm8gc2VjcmV0IGF0IGFsbCwgYnV0IGxvbmcgZW5vdWdoIQ==";
pub const KEY_NAME: &str = "countersign-key.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bind,
    Knot,
}

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

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Bind => "named",
            Self::Knot => "knotd",
        }
    }

    /// None, with the reason on the standard error, where it is not installed; under `CI` that fails when it is started.
    pub fn if_installed(self) -> Option<Self> {
        let is_installed = self.path().is_some();
        if !is_installed && !environment::is_ci() {
            aloud::say(&format!("skipped: {} is not installed (tests/prepare all)", self.program()));
            return None;
        }
        Some(self)
    }

    fn path(self) -> Option<PathBuf> {
        let folders = environment::program_folders().into_iter().chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        folders.map(|folder| folder.join(self.program())).find(|path| path.is_file())
    }
}

impl NameServer {
    /// Starts it and waits until it answers for all zones.
    pub async fn start(kind: Kind, zones: &[Zone]) -> Result<Self> {
        let program = kind.path().with_context(|| format!("{} is not installed", kind.program()))?;
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let port = ports::free()?;
        for zone in zones {
            let name = zone.name;
            let head =
                format!("$TTL 60\n{name} SOA ns.{name} hostmaster.{name} 1 3600 600 86400 1\n{name} NS ns.{name}\n");
            let text = format!("{head}ns.{name} A 127.0.0.1\n{}\n", zone.records);
            fs::write(folder.join(format!("{name}zone")), text)?;
        }
        let config = folder.join("name-server.conf");
        let text = match kind {
            Kind::Bind => bind(&folder.display().to_string(), port, zones),
            Kind::Knot => knot(&folder.display().to_string(), port, zones),
        };
        fs::write(&config, text)?;
        fs::write(folder.join("secret"), format!("{SECRET}\n"))?;
        let launch = Launch::new(NAME, program);
        let launch = match kind {
            Kind::Bind => launch.args(["-g", "-n", "1", "-c"]),
            Kind::Knot => launch.args(["-c"]),
        };
        processes.start(&launch.args([config]))?;
        let server = Self { port, folder, _processes: processes, _watchdog: watchdog };
        for zone in zones {
            let serves = async || {
                let answer = server.ask(zone.name, RecordType::SOA).await.ok()?;
                (answer.metadata.authoritative && !answer.answers.is_empty()).then_some(())
            };
            if waiting::poll(START, serves).await.is_none() {
                bail!("{kind:?} does not answer for {}:\n{}", zone.name, server._processes.log_tail(NAME, 40));
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

fn bind(folder: &str, port: u16, zones: &[Zone]) -> String {
    let mut text = format!(
        r#"options {{
    directory "{folder}";
    pid-file none;
    session-keyfile none;
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    empty-zones-enable no;
    notify no;
}};
controls {{ }};
key "{KEY_NAME}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
"#
    );
    for Zone { name, is_dynamic, .. } in zones {
        let update = if *is_dynamic { format!("key \"{KEY_NAME}\";") } else { "none;".to_owned() };
        let _ =
            writeln!(text, "zone \"{name}\" {{ type primary; file \"{name}zone\"; allow-update {{ {update} }}; }};");
    }
    text
}

fn knot(folder: &str, port: u16, zones: &[Zone]) -> String {
    let mut text = format!(
        r"server:
    rundir: {folder}
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: {folder}
log:
  - target: stderr
    any: info
key:
  - id: {KEY_NAME}
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: updates
    key: {KEY_NAME}
    action: update
zone:
"
    );
    for Zone { name, is_dynamic, .. } in zones {
        let _ = writeln!(text, "  - domain: {name}\n    storage: {folder}\n    file: {name}zone");
        if *is_dynamic {
            text.push_str("    acl: updates\n");
        }
    }
    text
}
