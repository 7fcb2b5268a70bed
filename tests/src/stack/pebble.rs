//! Pebble, the CA: its own HTTPS certificate, its start, and what it says about the objects it made.
//!
//! Pebble keeps accounts, orders and its issuing root in memory: after a restart it is another CA behind the same URL.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::Client;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use x509_parser::pem::parse_x509_pem;

use super::environment::Settings;
use super::processes::{Launch, Processes};
use super::{local_http, ports, ready};
use crate::acme_front::AcmeFront;

pub(crate) const NAME: &str = "pebble";

/// The name that it refuses to certify, with all below it.
pub const BLOCKED: &str = "blocked.example.com";

/// A certificate with its key for the HTTPS of the directory, and the root that it leads to, as PEM.
pub struct HttpsIdentity {
    pub root: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// Where a Pebble is and how it runs; it survives the process that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pebble {
    folder: PathBuf,
    port: u16,
    management_port: u16,
    challenge_ports: [u16; 2],
    pub settings: Settings,
}

impl Pebble {
    /// Its certificates and configuration go to `folder`.
    pub fn new(folder: &Path, settings: Settings) -> Result<Self> {
        let challenge_ports = [ports::free()?, ports::free()?];
        Ok(Self {
            folder: folder.to_owned(),
            port: ports::free()?,
            management_port: ports::free()?,
            challenge_ports,
            settings,
        })
    }

    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The root of the directory's HTTPS certificate (PEM).
    pub fn https_root_file(&self) -> PathBuf {
        self.folder.join("https-root.pem")
    }

    /// The root that issued certificates chain to (PEM).
    pub fn issued_root_file(&self) -> PathBuf {
        self.folder.join("issued-root.pem")
    }

    /// Starts it, waits until the directory answers, and stores its issuing root.
    pub async fn start(&self, dns_server: &str, processes: &Processes) -> Result<()> {
        let config = self.write_config()?;
        let mut launch = Launch::new(NAME, NAME).args(["-strict", "-dnsserver", dns_server, "-config"]).args([config]);
        launch.env = vec![("PEBBLE_VA_NOSLEEP".to_owned(), "1".to_owned())];
        launch.env.extend(self.settings.clone());
        processes.start(&launch)?;
        let client = self.client()?;
        ready(processes, NAME, async || local_http::answers(&client, &self.directory()).await).await?;
        let root = client.get(self.management_url("roots/0")).send().await?.error_for_status()?.bytes().await?;
        fs::write(self.issued_root_file(), root)?;
        Ok(())
    }

    fn client(&self) -> Result<Client> {
        local_http::client(Some(&fs::read(self.https_root_file())?))
    }

    /// Another server in its place.
    pub(super) fn front(&self) -> Result<AcmeFront> {
        self.write_config()?;
        let [root, certificate, key] =
            ["https-root.pem", "https.pem", "https-key.pem"].map(|file| fs::read(self.folder.join(file)));
        let identity = HttpsIdentity { root: root?, certificate: certificate?, key: key? };
        AcmeFront::start(&format!("https://127.0.0.1:{}", self.port), &identity)
    }

    fn management_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.management_port)
    }

    fn write_config(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let [certificate, key, config] =
            ["https.pem", "https-key.pem", "pebble.json"].map(|file| self.folder.join(file));
        if !certificate.exists() {
            let identity = HttpsIdentity::make().context("making the CA's HTTPS certificate")?;
            fs::write(self.https_root_file(), identity.root)?;
            fs::write(&key, identity.key)?;
            fs::write(&certificate, identity.certificate)?;
        }
        let [http_port, tls_port] = self.challenge_ports;
        let content = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management_port),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": [BLOCKED],
        }});
        fs::write(&config, format!("{content:#}\n"))?;
        Ok(config)
    }
}

/// What the CA did since it was last started.
pub struct Ca {
    pebble: Pebble,
    log: PathBuf,
    http: Client,
}

impl Ca {
    pub(super) fn new(pebble: &Pebble, processes: &Processes) -> Result<Self> {
        Ok(Self { pebble: pebble.clone(), log: processes.log_file(NAME), http: pebble.client()? })
    }

    pub fn directory(&self) -> String {
        self.pebble.directory()
    }

    pub fn https_root_file(&self) -> PathBuf {
        self.pebble.https_root_file()
    }

    pub fn issued_root_file(&self) -> PathBuf {
        self.pebble.issued_root_file()
    }

    /// Accounts made; asking for an existing one again does not count.
    pub fn accounts(&self) -> Result<usize> {
        self.highest("accounts in memory")
    }

    pub fn orders_placed(&self) -> Result<usize> {
        self.highest("orders in the db")
    }

    pub fn authorizations(&self) -> Result<usize> {
        self.highest("authorizations in the db")
    }

    pub fn certificates_issued(&self) -> Result<usize> {
        Ok(self.serials()?.len())
    }

    /// Certificates whose subject alternative names include `name`, downloaded or not.
    pub async fn certificates_issued_for(&self, name: &str) -> Result<usize> {
        let issued = self.issued().await?;
        Ok(issued.iter().filter(|(_, names)| names.iter().any(|issued| issued == name)).count())
    }

    /// Every certificate, downloaded or not: its serial number in lower-case hex without leading zeros, and its names.
    pub async fn issued(&self) -> Result<Vec<(String, Vec<String>)>> {
        let mut issued = Vec::new();
        for serial in self.serials()? {
            let url = self.pebble.management_url(&format!("cert-status-by-serial/{serial}"));
            let status: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
            let pem =
                status["Certificate"].as_str().context("Pebble shows no certificate for a serial number it issued")?;
            let (_, pem) = parse_x509_pem(pem.as_bytes())?;
            issued.push((serial.trim_start_matches('0').to_owned(), crate::certificate::names(&pem.parse_x509()?)));
        }
        Ok(issued)
    }

    /// The reason that a certificate was revoked for; None when it is not revoked.
    pub async fn revocation_reason(&self, serial: &str) -> Result<Option<u64>> {
        let url = self.pebble.management_url(&format!("cert-status-by-serial/{serial}"));
        let status: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok((status["Status"] == "Revoked").then(|| status["Reason"].as_u64().unwrap_or(0)))
    }

    fn serials(&self) -> Result<Vec<String>> {
        let log = self.log()?;
        let lines =
            log.lines().filter_map(|line| line.split_once("Issued certificate serial ")?.1.split_whitespace().next());
        Ok(lines.map(ToOwned::to_owned).collect())
    }

    /// The n of the last "There are now n …" that Pebble logged.
    fn highest(&self, what: &str) -> Result<usize> {
        let log = self.log()?;
        let count = |line: &str| line.split_once("There are now ")?.1.strip_suffix(what)?.trim().parse().ok();
        Ok(log.lines().filter_map(count).max().unwrap_or(0))
    }

    /// The log since the last start.
    fn log(&self) -> Result<String> {
        let log = fs::read_to_string(&self.log)?;
        let start = log.rfind("Starting Pebble").unwrap_or(0);
        Ok(log[start..].to_owned())
    }
}

impl HttpsIdentity {
    /// A new one, for `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn make() -> Result<Self> {
        let root_key = KeyPair::generate()?;
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "Countersign test stack");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = root.self_signed(&root_key)?.pem();
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&root, &root_key))?;
        Ok(Self {
            root: root_pem.into_bytes(),
            certificate: leaf.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        })
    }

    /// For a server that shows this certificate.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn acceptor(&self) -> Result<TlsAcceptor> {
        let certificates = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let tls =
            ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        Ok(TlsAcceptor::from(Arc::new(tls.with_no_client_auth().with_single_cert(certificates, key)?)))
    }
}
