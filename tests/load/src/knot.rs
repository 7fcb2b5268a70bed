//! Knot, of Debian's package: a name server that costs little, for zones of which most names do not exist; and dnsperf, which says how
//! many questions it answers at most.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_tests::dns_software::{Served, Server, Software, zone_file};
use countersign_tests::stack::folder;
use countersign_tests::stack::ports;
use countersign_tests::stack::processes::{Lifetime, Processes};
use countersign_tests::stack::watchdog::Watchdog;
use tokio::net::UdpSocket;
use tokio::process::Command;

use crate::meter::Meter;
use crate::rows::ZONE;

const NAME: &str = "knot";

/// A running one. It ends when it is dropped.
pub(crate) struct Knot {
    port: u16,
    folder: PathBuf,
    processes: Processes,
    _watchdog: Watchdog,
}

impl Knot {
    /// Serves [`ZONE`], without any TXT record.
    pub(crate) async fn start() -> Result<Self> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let port = ports::free()?;
        let zones = [Served { apex: ZONE, is_dynamic: false }];
        let text =
            format!("$ORIGIN {ZONE}\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 0\n@ NS ns\nns A 127.0.0.1\n");
        fs::write(zone_file(&folder, ZONE), text)?;
        let server = Server { folder: &folder, port, zones: &zones };
        processes.start(&Software::Knot.authoritative(NAME, &server)?)?;
        let knot = Self { port, folder, processes, _watchdog: watchdog };
        countersign_tests::stack::waiting::poll(Duration::from_secs(20), async || knot.answers().await.ok())
            .await
            .context("Knot does not answer")?;
        Ok(knot)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Adds a TXT value to those of a name in [`ZONE`].
    pub(crate) async fn publish(&self, owner: &str, value: &str) -> Result<()> {
        let owner = format!("{}.", owner.trim_end_matches('.'));
        self.control(&["zone-begin", ZONE]).await?;
        self.control(&["zone-set", ZONE, &owner, "60", "TXT", value]).await?;
        self.control(&["zone-commit", ZONE]).await
    }

    async fn control(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("/usr/sbin/knotc");
        let output = command.arg("-s").arg(self.folder.join("knot.sock")).args(arguments).output().await;
        let output = output.context("running knotc")?;
        ensure!(output.status.success(), "knotc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(crate) fn meter(&self) -> Result<Meter> {
        self.processes.pid(NAME).map(Meter::of).context("Knot has ended")
    }

    /// One question for the zone's SOA.
    async fn answers(&self) -> Result<()> {
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05bench\x04test\x00\x00\x06\x00\x01";
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(self.address()).await?;
        socket.send(question).await?;
        let mut answer = [0; 512];
        tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await??;
        Ok(())
    }

    /// Questions per second that it answers to dnsperf, for names that do not exist.
    pub(crate) async fn most_answers(&self) -> Result<f64> {
        let names = (0..10_000).map(|number| format!("_acme-challenge.d{number}.{ZONE} TXT\n"));
        dnsperf(self.port, &self.folder.join("questions"), names.collect()).await
    }
}

async fn dnsperf(port: u16, file: &Path, questions: String) -> Result<f64> {
    fs::write(file, questions)?;
    let port = port.to_string();
    let arguments = ["-s", "127.0.0.1", "-p", &port, "-l", "10", "-c", "8", "-q", "100", "-t", "5", "-d"];
    let output = Command::new("dnsperf").args(arguments).arg(file).kill_on_drop(true).output().await;
    let output = output.context("running dnsperf")?.stdout;
    let said = String::from_utf8_lossy(&output);
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Queries per second:")?.trim().parse().ok());
    rate.with_context(|| format!("dnsperf says no rate: {said}"))
}
