//! What a stack consists of: folders, ports and settings, and how they become processes. It can be written down and read again, so that
//! a later command finds the same stack.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use reqwest::Client;
use serde::{Deserialize, Serialize};

use super::delegation::{self, RecursorPlan};
use super::dns::{self, DnsServer};
use super::environment::{self, Settings};
use super::pebble::{self, Pebble};
use super::postgres::{self, Postgres};
use super::processes::{Launch, Processes};
use super::{local_http, ports, ready};
use crate::checkout;

const DATABASE: &str = "countersign";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Api,
    Worker,
    Responder,
}

/// One process of ours that serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replica {
    pub role: Role,
    /// Where the API answers, or DNS is answered; a worker has none.
    pub port: Option<u16>,
    pub admin_port: u16,
    /// Its own settings, stronger than the stack's.
    pub settings: Settings,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub folder: PathBuf,
    pub postgres: Postgres,
    pub dns: DnsServer,
    /// Another server that the CA and our programs ask instead.
    #[serde(default)]
    pub resolver: Option<SocketAddr>,
    pub pebble: Pebble,
    /// Where there are name servers of ours.
    #[serde(default)]
    pub recursor: Option<RecursorPlan>,
    /// By name: `api-1`, `worker-1`, `dns-1`, …
    pub replicas: BTreeMap<String, Replica>,
    /// For all of our binaries.
    pub settings: Settings,
}

impl Plan {
    /// A stack without replicas. Logs, pids and the CA's files go to `folder`, the database to `data_folder`.
    pub fn new(folder: &Path, data_folder: &Path, durable: bool, pebble_settings: Settings) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            postgres: Postgres::new(&data_folder.join(postgres::NAME), durable)?,
            dns: DnsServer::new()?,
            resolver: None,
            pebble: Pebble::new(&folder.join("ca"), pebble_settings)?,
            recursor: None,
            replicas: BTreeMap::new(),
            settings: Settings::new(),
        })
    }

    /// Adds replicas until there are `count` in this role.
    pub fn grow(&mut self, role: Role, count: usize) -> Result<()> {
        for number in 1..=count {
            let (name, port) = match role {
                Role::Api => (format!("api-{number}"), Some(ports::free()?)),
                Role::Worker => (format!("worker-{number}"), None),
                Role::Responder => (format!("dns-{number}"), Some(ports::free()?)),
            };
            if let Entry::Vacant(place) = self.replicas.entry(name) {
                place.insert(Replica { role, port, admin_port: ports::free()?, settings: Settings::new() });
            }
        }
        Ok(())
    }

    /// Adds name servers until there are `count`, with the zone they answer for and a resolver that knows them.
    pub fn delegate(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.grow(Role::Responder, count)?;
        if self.recursor.is_none() {
            self.recursor = Some(RecursorPlan::new()?);
        }
        self.settings.insert("CHALLENGE_ZONE".to_owned(), delegation::ZONE.to_owned());
        Ok(())
    }

    /// `host:port` of the resolver that the CA and our processes ask.
    pub fn resolver_address(&self) -> String {
        match (&self.resolver, &self.recursor) {
            (Some(resolver), _) => resolver.to_string(),
            (None, Some(recursor)) => recursor.address(),
            (None, None) => self.dns.address(),
        }
    }

    /// Where our name servers answer, `dns-1` first.
    pub fn name_servers(&self) -> Vec<SocketAddr> {
        self.ports(Role::Responder).map(|port| ([127, 0, 0, 1], port).into()).collect()
    }

    fn ports(&self, role: Role) -> impl Iterator<Item = u16> {
        self.replicas.values().filter(move |replica| replica.role == role).filter_map(|replica| replica.port)
    }

    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// The URLs of the API's replicas, the first one first.
    pub fn api_urls(&self) -> Vec<String> {
        self.ports(Role::Api).map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// Where operators reach a replica, if there is one of that name.
    pub fn admin_url(&self, replica: &str) -> Option<String> {
        self.replicas.get(replica).map(|replica| format!("http://127.0.0.1:{}", replica.admin_port))
    }

    /// Starts all that is not running, except the replicas in `not_yet`, and waits until it serves; returns the names of what it started.
    pub async fn start_missing(&self, processes: &Processes, not_yet: &[String]) -> Result<Vec<String>> {
        let missing = |name: &str| processes.pid(name).is_none();
        let mut started: Vec<String> = Vec::new();
        let surroundings = [postgres::NAME, dns::NAME, pebble::NAME].into_iter().filter(|name| missing(name));
        let resolver = self.recursor.iter().map(|_| delegation::NAME).filter(|name| missing(name));
        started.extend(surroundings.chain(resolver).map(ToOwned::to_owned));
        let start = |name: &str| started.iter().any(|missing| missing == name);
        let ca_and_dns = async {
            if start(dns::NAME) {
                self.dns.start(processes).await?;
            }
            if let Some(recursor) = self.recursor.as_ref().filter(|_| start(delegation::NAME)) {
                recursor.start(self, processes).await?;
            }
            if start(pebble::NAME) {
                self.pebble.start(&self.resolver_address(), processes).await?;
            }
            anyhow::Ok(())
        };
        let database = async {
            if start(postgres::NAME) {
                self.postgres.start(processes).await?;
            }
            if !self.postgres.has_database(DATABASE).await? {
                self.postgres.create_database(DATABASE, None).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(ca_and_dns, database)?;

        let replicas: Vec<&String> =
            self.replicas.keys().filter(|name| missing(name) && !not_yet.contains(name)).collect();
        if !replicas.is_empty() {
            self.migrate(processes)?;
        }
        // All at once, then wait: their start-ups overlap.
        for name in &replicas {
            processes.start(&self.launch(name)?)?;
        }
        for name in replicas {
            self.replica_ready(processes, name).await?;
            started.push(name.clone());
        }
        Ok(started)
    }

    /// Starts one replica again, on its own ports.
    pub async fn start_replica(&self, processes: &Processes, name: &str) -> Result<()> {
        processes.start(&self.launch(name)?)?;
        self.replica_ready(processes, name).await
    }

    fn migrate(&self, processes: &Processes) -> Result<()> {
        let launch = Launch::new("migrate", checkout::binary("countersignctl")?).args(["migrate"]);
        processes.run(&launch.env("DATABASE_URL", self.database_url()))
    }

    async fn replica_ready(&self, processes: &Processes, name: &str) -> Result<()> {
        let client: Client = local_http::client(None)?;
        let url = format!("http://127.0.0.1:{}/readyz", self.replicas[name].admin_port);
        ready(processes, name, async || local_http::answers(&client, &url).await).await
    }

    pub(super) fn launch(&self, name: &str) -> Result<Launch> {
        let replica = &self.replicas[name];
        let program = match replica.role {
            Role::Api => checkout::binary("countersign-api")?,
            Role::Worker => checkout::binary("countersign-worker")?,
            Role::Responder => environment::responder().map_or_else(|| checkout::binary("countersign-dns"), Ok)?,
        };
        let mut launch = Launch::new(name, program)
            .env("DATABASE_URL", self.database_url())
            .env("LOG_LEVEL", "info")
            .env("LOG_FORMAT", "json")
            .env("ADMIN_ADDR", format!("127.0.0.1:{}", replica.admin_port))
            .env("DNS_RESOLVERS", self.resolver_address())
            .env("DNS_ALLOW_PRIVATE", "true");
        let listener = replica.port.map(|port| format!("127.0.0.1:{port}")).unwrap_or_default();
        launch = match replica.role {
            Role::Api => launch.env("SERVER_ADDR", listener).env("ALLOW_SPECIAL_USE_NAMES", "true"),
            Role::Responder => launch.env("DNS_ADDR", listener),
            Role::Worker => launch
                .env("ACME_DIRECTORY", self.pebble.directory())
                .env("ACME_EMAIL", "operator@example.com")
                .env("ACME_CA_FILE", self.pebble.https_root_file().display().to_string())
                // Pebble's store locks itself up under concurrent ones.
                .env("ACME_NEW_ORDER_LIMIT", "1")
                // The DNS server of the stack knows no name servers to ask.
                .env("DNS_AUTHORITATIVE_CHECK", "off")
                .env("TEST_DNS_MANAGEMENT_URL", self.dns.management_url())
                .env("WORKER_NAME", name),
        };
        // The later ones are the stronger ones.
        launch.env.extend(self.settings.clone().into_iter().chain(replica.settings.clone()));
        Ok(launch)
    }
}
