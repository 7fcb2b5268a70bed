//! Real name servers on loopback addresses of their own, all on port 53: BIND and Knot for zones, BIND as the recursive resolver that our
//! processes ask, and one by hand for what no sound server serves.
//!
//! Everything lives below `test.`: the resolver knows where that is, and finds the rest by its delegations. A [`DnsFront`] is before each
//! server, because BIND listens only where an interface has the address; so servers can be made to fail, too. Port 53 needs root.

pub mod odd;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::aloud;
use crate::dns_front::{DnsFault, DnsFront};
use crate::dns_software::{Served, Server, Software, bind, zone_file};
use crate::stack::ports;
use crate::stack::processes::{Launch, Lifetime, Processes, Signal};
use crate::stack::waiting;
use crate::stack::watchdog::Watchdog;
use crate::stack::{environment, folder};

const START: Duration = Duration::from_secs(60);
const RESOLVER: u8 = 1;

/// Loopback addresses that nobody else uses, by their last number, where a test may listen on port 53.
pub struct Addresses {
    network: u8,
}

impl Addresses {
    /// None, with the reason printed, where nobody may listen there: unless under CI, where that is a failure.
    pub fn free() -> Result<Option<Self>> {
        or_skipped(free_network().map(|network| Self { network }))
    }

    pub fn of(&self, server: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 53, self.network, server)
    }
}

/// Servers by the last number of their address. Dropping this ends them.
pub struct NameServers {
    addresses: Addresses,
    serial: AtomicU32,
    fronts: Mutex<BTreeMap<u8, DnsFront>>,
    folder: PathBuf,
    // Dropped before the watchdog, so that it only finds what is left.
    processes: Processes,
    _watchdog: Watchdog,
}

impl NameServers {
    /// Addresses that nobody uses. None, with the reason printed, where the servers are not installed or may not listen: unless under CI,
    /// where that is a failure.
    pub fn new() -> Result<Option<Self>> {
        let Some(addresses) = Addresses::free()? else { return Ok(None) };
        if or_skipped(installed())?.is_none() {
            return Ok(None);
        }
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let (serial, fronts) = (AtomicU32::new(1), Mutex::default());
        Ok(Some(Self { addresses, serial, fronts, folder, processes, _watchdog: watchdog }))
    }

    pub fn address(&self, server: u8) -> Ipv4Addr {
        self.addresses.of(server)
    }

    /// What our processes take as their `DNS_RESOLVERS`.
    pub fn resolver(&self) -> String {
        format!("{}:53", self.address(RESOLVER))
    }

    /// A zone's text: its servers by number, named `ns<number>` inside of it, and further records. Everything may change at once: TTL 0.
    pub fn zone(&self, apex: &str, servers: &[u8], records: &str) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut text = format!("$ORIGIN {apex}\n$TTL 0\n@ SOA ns hostmaster {serial} 3600 600 86400 0\n");
        for &server in servers {
            let address = self.address(server);
            writeln!(text, "@ NS ns{server}\nns{server} A {address}").expect("a string takes everything");
        }
        text + records + "\n"
    }

    /// The records in the zone above that delegate `label` to the servers that [`Self::zone`] names for it.
    pub fn delegation(&self, label: &str, servers: &[u8]) -> String {
        let lines = servers
            .iter()
            .map(|server| format!("{label} NS ns{server}.{label}\nns{server}.{label} A {}\n", self.address(*server)));
        lines.collect()
    }

    /// Starts the recursive resolver. It knows that server 2 has `test.`, and believes of the `bogus` zones that they are signed.
    pub async fn start_resolver(&self, bogus: &[&str]) -> Result<()> {
        let digest = "A".repeat(64);
        let anchors = bogus.iter().map(|zone| format!("\"{zone}\" static-ds 12345 13 2 \"{digest}\"; "));
        let anchors = match bogus {
            [] => String::new(),
            _ => format!("trust-anchors {{ {} }};\n", anchors.collect::<String>()),
        };
        let options = "recursion yes; dnssec-validation yes; max-cache-ttl 0; max-ncache-ttl 0; servfail-ttl 0;";
        let zone = format!("zone \"test\" {{ type static-stub; server-addresses {{ {}; }}; }};\n", self.address(2));
        let (folder, port) = (self.folder_of(RESOLVER)?, self.front(RESOLVER)?);
        let resolver = Server { folder: &folder, port, zones: &[] };
        self.serves(RESOLVER, &bind(&process(RESOLVER), &resolver, options, &(anchors + &zone))?).await
    }

    /// Starts a server for these zones, given as apex and text.
    pub async fn start(&self, server: u8, software: Software, zones: &[(&str, String)]) -> Result<()> {
        for (apex, text) in zones {
            self.write_zone(server, apex, text)?;
        }
        let zones: Vec<Served<'_>> = zones.iter().map(|(apex, _)| Served { apex, is_dynamic: false }).collect();
        let (folder, port) = (self.folder_of(server)?, self.front(server)?);
        let launch = software.authoritative(&process(server), &Server { folder: &folder, port, zones: &zones })?;
        self.serves(server, &launch).await
    }

    /// Serves another text of one zone from now on.
    pub async fn change(&self, server: u8, apex: &str, text: &str) -> Result<()> {
        self.write_zone(server, apex, text)?;
        self.processes.signal(&process(server), Signal::HUP)?;
        let serial = serial_in(text)?;
        let serves = async || (self.serial(server, apex) == Some(serial)).then_some(());
        waiting::poll(START, serves).await.with_context(|| format!("{apex} of server {server} is still the old one"))
    }

    /// What becomes of questions to one server about this name.
    ///
    /// # Panics
    /// If it was not started.
    pub fn fault(&self, server: u8, name: &str, fault: DnsFault) {
        self.fronts.lock().expect("no test panics with it")[&server].fault(name, fault);
    }

    /// Listens at a server's address; the port where the server itself shall listen.
    fn front(&self, server: u8) -> Result<u16> {
        let port = ports::free()?;
        let address = SocketAddr::new(self.address(server).into(), 53);
        let front = DnsFront::start_at(address, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
        self.fronts.lock().expect("no test panics with it").insert(server, front);
        Ok(port)
    }

    async fn serves(&self, server: u8, launch: &Launch) -> Result<()> {
        self.processes.start(launch)?;
        let answers = async || {
            if self.processes.pid(&launch.name).is_none() {
                return Some(false);
            }
            // No recursion is asked for: also the resolver answers this by itself.
            ask(self.address(server), ".", RecordType::SOA).is_some().then_some(true)
        };
        match waiting::poll(START, answers).await {
            Some(true) => Ok(()),
            _ => bail!("{} does not serve:\n{}", launch.name, self.processes.log_tail(&launch.name, 30)),
        }
    }

    fn serial(&self, server: u8, apex: &str) -> Option<u32> {
        let answer = ask(self.address(server), apex, RecordType::SOA)?;
        answer.answers.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        })
    }

    fn folder_of(&self, server: u8) -> Result<PathBuf> {
        let folder = self.folder.join(process(server));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn write_zone(&self, server: u8, apex: &str, text: &str) -> Result<()> {
        Ok(fs::write(zone_file(&self.folder_of(server)?, apex), text)?)
    }
}

fn process(server: u8) -> String {
    format!("name-server-{server}")
}

fn serial_in(zone: &str) -> Result<u32> {
    let soa = zone.lines().find(|line| line.contains(" SOA ")).context("a zone without SOA")?;
    Ok(soa.split_whitespace().nth(4).context("a SOA without serial")?.parse()?)
}

/// One datagram there and back, within a moment.
fn ask(server: Ipv4Addr, name: &str, kind: RecordType) -> Option<Message> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).ok()?, kind));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    socket.connect(SocketAddr::new(server.into(), 53)).ok()?;
    socket.send(&message.to_vec().ok()?).ok()?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).ok()?;
    Message::from_vec(&answer[..length]).ok()
}

/// A reason to skip is printed; under CI nothing may be skipped.
fn or_skipped<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(reason) if environment::is_ci() => Err(reason),
        Err(reason) => {
            aloud::say(&format!("skipped: {reason:#}"));
            Ok(None)
        }
    }
}

fn installed() -> Result<()> {
    [Software::Bind, Software::Knot].into_iter().try_for_each(Software::is_installed)
}

/// The third number of addresses that nobody listens on; others may look for one at the same time.
fn free_network() -> Result<u8> {
    let first: u8 = rand::random();
    let is_free = |network: &u8| UdpSocket::bind((Ipv4Addr::new(127, 53, *network, RESOLVER), 53)).is_ok();
    (0..8)
        .map(|step| first.wrapping_add(step))
        .find(is_free)
        .context("nobody may listen on port 53 here: that needs root")
}
