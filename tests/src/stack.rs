//! One stack: Postgres, Pebble, DNS and our binaries, started together and gone together.
//!
//! A [`Stack`] belongs to its process. However that ends (return, panic, Ctrl-C, SIGKILL), the watchdog leaves no process and no file
//! behind. Processes are addressed by name: `api-1`, `worker-1`, `dns-1`, `postgres`, `pebble`, `dns`, `recursor`.
//!
//! Waiting is done here and only here: [`Stack::wait_until`] fails with what was awaited and the ends of all logs.

pub mod accounts;
pub mod delegation;
pub mod dns;
pub mod environment;
pub mod folder;
pub mod local_http;
pub mod pebble;
pub mod pgbouncer;
pub mod plan;
pub mod ports;
pub mod postgres;
pub mod processes;
pub mod waiting;
pub mod watchdog;

#[cfg(test)]
mod cleanup_tests;
mod fronts;
mod leftovers;
mod registered;

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::acme_front::AcmeFront;
use crate::api_client::ApiClient;
use dns::Dns;
use environment::Settings;
use pebble::Ca;
use plan::{Plan, Role};
pub use postgres::Shutdown;
use processes::{Lifetime, Processes, Signal};
use watchdog::Watchdog;

/// How long anything may take to start.
const START: Duration = Duration::from_secs(60);

/// How many lines of each log a failure shows.
const TAIL: usize = 30;

/// What a stack shall be: by default one API, one worker, and polls every 200 ms for at most 30 s.
pub struct StackBuilder {
    apis: usize,
    workers: usize,
    responders: usize,
    settings: Settings,
    replica_settings: Vec<(String, String, String)>,
    pebble_settings: Settings,
    postgres_settings: Settings,
    is_durable: bool,
    database_password: Option<String>,
    not_yet: Vec<String>,
    leftovers_allowed: bool,
    acme_front: bool,
    fronts: fronts::Wanted,
    resolver: Option<SocketAddr>,
}

impl StackBuilder {
    #[must_use]
    pub fn apis(mut self, count: usize) -> Self {
        self.apis = count;
        self
    }

    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// A setting of all our binaries, as its environment variable.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// A setting of one replica.
    #[must_use]
    pub fn setting_of(mut self, replica: &str, name: &str, value: impl Into<String>) -> Self {
        self.replica_settings.push((replica.to_owned(), name.to_owned(), value.into()));
        self
    }

    /// An environment variable of Pebble's, such as `PEBBLE_AUTHZREUSE`.
    #[must_use]
    pub fn pebble(mut self, name: &str, value: impl Into<String>) -> Self {
        self.pebble_settings.insert(name.to_owned(), value.into());
        self
    }

    /// A server parameter of Postgres, such as `shared_buffers`.
    #[must_use]
    pub fn postgres(mut self, name: &str, value: impl Into<String>) -> Self {
        self.postgres_settings.insert(name.to_owned(), value.into());
        self
    }

    /// Postgres waits for the disk, as it does in production.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.is_durable = true;
        self
    }

    /// A password in our binaries' `DATABASE_URL`; Postgres itself asks for none.
    #[must_use]
    pub fn database_password(mut self, password: &str) -> Self {
        self.database_password = Some(password.to_owned());
        self
    }

    /// Leaves out a replica until [`Stack::restart`] starts it.
    #[must_use]
    pub fn not_yet(mut self, replica: &str) -> Self {
        self.not_yet.push(replica.to_owned());
        self
    }

    /// For a test whose point is that work is left over: neither `finish` nor dropping the stack looks for it.
    #[must_use]
    pub fn leftovers_allowed(mut self) -> Self {
        self.leftovers_allowed = true;
        self
    }

    /// The CA and our programs ask this server, and not the stack's own.
    #[must_use]
    pub fn resolver(mut self, server: SocketAddr) -> Self {
        self.resolver = Some(server);
        self
    }

    /// Puts a front between the workers and the CA: [`Stack::front`].
    #[must_use]
    pub fn acme_front(mut self) -> Self {
        self.acme_front = true;
        self
    }

    /// Starts everything and waits until it serves.
    ///
    /// # Panics
    /// If anything does not start; the message says what, with the ends of the logs.
    pub async fn start(self) -> Stack {
        self.try_start().await.unwrap_or_else(|error| panic!("the stack does not start: {error:#}"))
    }

    /// As [`Self::start`].
    pub async fn try_start(self) -> Result<Stack> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let mut plan = Plan::new(&folder, &folder, self.is_durable, self.pebble_settings)?;
        plan.postgres.settings = self.postgres_settings;
        plan.settings = self.settings;
        plan.resolver = self.resolver;
        if let Some(password) = self.database_password {
            let url = plan.database_url().replacen('@', &format!(":{password}@"), 1);
            plan.settings.insert("DATABASE_URL".to_owned(), url);
        }
        let front = self.acme_front.then(|| plan.pebble.front()).transpose()?;
        if let Some(front) = &front {
            plan.settings.insert("ACME_DIRECTORY".to_owned(), front.directory());
        }
        plan.grow(Role::Api, self.apis)?;
        plan.grow(Role::Worker, self.workers)?;
        plan.delegate(self.responders)?;
        for (replica, name, value) in self.replica_settings {
            let replica = plan.replicas.get_mut(&replica).with_context(|| format!("the stack has no {replica}"))?;
            replica.settings.insert(name, value);
        }
        let fronts = self.fronts.start(&mut plan).await?;
        plan.start_missing(&processes, &self.not_yet).await?;
        let token = plan.settings.get("AUTH_TOKEN");
        let urls = plan.api_urls();
        let apis = urls.iter().map(|url| ApiClient::new(url, token.map(String::as_str))).collect::<Result<_>>()?;
        Ok(Stack {
            apis,
            dns: Dns::new(&plan.dns)?,
            ca: Ca::new(&plan.pebble, &processes)?,
            pool: PgPoolOptions::new().max_connections(5).connect_lazy(&plan.database_url())?,
            checks_leftovers: AtomicBool::new(!self.leftovers_allowed),
            logs_shown: AtomicBool::new(false),
            plan,
            front,
            fronts,
            processes,
            _watchdog: watchdog,
        })
    }
}

/// A running stack. Dropping it fails the test if work is left over, and stops everything.
pub struct Stack {
    apis: Vec<ApiClient>,
    dns: Dns,
    ca: Ca,
    pool: PgPool,
    checks_leftovers: AtomicBool,
    logs_shown: AtomicBool,
    plan: Plan,
    front: Option<AcmeFront>,
    fronts: fronts::Fronts,
    // Dropped before the watchdog, so that it only finds what is left.
    processes: Processes,
    _watchdog: Watchdog,
}

impl Stack {
    pub fn builder() -> StackBuilder {
        let settings = [("POLL_INTERVAL", "200ms"), ("POLL_TIMEOUT", "30s")];
        StackBuilder {
            apis: 1,
            workers: 1,
            responders: 0,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            replica_settings: Vec::new(),
            pebble_settings: Settings::new(),
            postgres_settings: Settings::new(),
            is_durable: false,
            database_password: None,
            not_yet: Vec::new(),
            leftovers_allowed: false,
            acme_front: false,
            fronts: fronts::Wanted::default(),
            resolver: None,
        }
    }

    /// The first API replica.
    pub fn api(&self) -> &ApiClient {
        &self.apis[0]
    }

    /// API replica `number`, from 1.
    pub fn api_replica(&self, number: usize) -> &ApiClient {
        &self.apis[number - 1]
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// What the workers take for the CA.
    ///
    /// # Panics
    /// If the stack was built without.
    pub fn front(&self) -> &AcmeFront {
        self.front.as_ref().expect("this stack has no front")
    }

    /// Connections to our database, for looking behind the API.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn database_url(&self) -> String {
        self.plan.database_url()
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The operators' listener of a replica: `http://127.0.0.1:port`.
    pub fn admin_url(&self, replica: &str) -> String {
        self.plan.admin_url(replica).unwrap_or_else(|| panic!("there is no {replica}"))
    }

    /// All that a process has logged so far.
    pub fn log(&self, name: &str) -> String {
        let log = std::fs::read(self.processes.log_file(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    pub fn pid(&self, name: &str) -> Option<Pid> {
        self.processes.pid(name)
    }

    /// The most memory that a running process has had in use so far, in bytes.
    pub fn peak_memory(&self, name: &str) -> u64 {
        let pid = self.processes.pid(name).unwrap_or_else(|| self.fail(&format!("{name} is not running")));
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
        let peak: Option<u64> =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        1024 * peak.unwrap_or_else(|| self.fail(&format!("the system does not say how much memory {name} has")))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self, name: &str) {
        self.processes.kill(name);
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn terminate(&self, name: &str, within: Duration) -> ExitStatus {
        self.signal(name, Signal::TERM);
        let ended = self.processes.ended(name, within).await;
        let status = ended.unwrap_or_else(|error| self.fail(&format!("{error:#}")));
        status.expect("an owned process is our child")
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub fn pause(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        self.processes.signal(name, signal).unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }

    /// Starts a process that has ended, on the same ports, and waits until it serves. A restarted Pebble is a new CA at the same URL, a
    /// restarted DNS server has no records.
    pub async fn restart(&self, name: &str) {
        let started = match name {
            postgres::NAME => self.plan.postgres.start(&self.processes).await,
            dns::NAME => self.plan.dns.start(&self.processes).await,
            pebble::NAME => self.plan.pebble.start(&self.plan.resolver_address(), &self.processes).await,
            replica => self.plan.start_replica(&self.processes, replica).await,
        };
        started.unwrap_or_else(|error| self.fail(&format!("{name} does not start again: {error:#}")));
    }

    /// Starts a replica that has ended, and does not wait until it serves.
    pub fn launch(&self, replica: &str) -> Result<()> {
        self.processes.start(&self.plan.launch(replica)?)
    }

    /// Stops a replica and starts it with another value of a setting.
    pub async fn restart_with(&mut self, replica: &str, name: &str, value: impl Into<String>) {
        self.kill(replica);
        let settings = self.plan.replicas.get_mut(replica).map(|replica| &mut replica.settings);
        settings.expect("the stack has this replica").insert(name.to_owned(), value.into());
        self.restart(replica).await;
    }

    pub async fn stop_postgres(&self, how: Shutdown) {
        let stopped = self.plan.postgres.stop(&self.processes, how).await;
        stopped.unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }

    /// Asks every 50 ms, at least once, until the answer is `Some`.
    ///
    /// # Panics
    /// When the time is over, with `what` and the ends of all logs.
    pub async fn wait_until<T>(&self, what: &str, within: Duration, ask: impl AsyncFnMut() -> Option<T>) -> T {
        match waiting::poll(within, ask).await {
            Some(answer) => answer,
            None => self.fail(&format!("waited {within:?} in vain until {what}")),
        }
    }

    /// Fails the test with this message and the ends of all logs.
    pub fn fail(&self, message: &str) -> ! {
        self.logs_shown.store(true, Ordering::Relaxed);
        panic!("{message}\n{}", self.processes.log_tails(TAIL));
    }

    /// Gives up on the stack without a panic: whatever work is left over no longer matters. Returns the ends of all logs.
    pub fn abandon(&self) -> String {
        self.checks_leftovers.store(false, Ordering::Relaxed);
        self.processes.log_tails(TAIL)
    }

    /// Waits up to 10 s until no job is leased and no order has a job any more, and fails the test if some are left.
    pub async fn finish(&self) {
        if self.checks_leftovers.swap(false, Ordering::Relaxed)
            && let Err(error) = leftovers::none(&self.database_url()).await
        {
            self.fail(&format!("{error:#}"));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if !self.logs_shown.load(Ordering::Relaxed) {
                eprintln!("{}", self.processes.log_tails(TAIL));
            }
        } else if self.checks_leftovers.load(Ordering::Relaxed)
            && self.is_running(postgres::NAME)
            && let Err(error) = leftovers::none_blocking(self.database_url())
        {
            self.fail(&format!("{error:#}"));
        }
    }
}

/// Waits until a process that was just started serves; fails at once if it has ended instead.
async fn ready(processes: &Processes, name: &str, mut serves: impl AsyncFnMut() -> bool) -> Result<()> {
    let ready = waiting::poll(START, async || {
        if processes.pid(name).is_none() {
            return Some(false);
        }
        serves().await.then_some(true)
    });
    let problem = match ready.await {
        Some(true) => return Ok(()),
        Some(false) => "has ended".to_owned(),
        None => format!("is not ready after {START:?}"),
    };
    bail!("{name} {problem}; {} ends with:\n{}", processes.log_file(name).display(), processes.log_tail(name, TAIL))
}
