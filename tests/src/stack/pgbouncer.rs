//! PgBouncer before a Postgres of ours. It is a package of its own, which `tests/prepare all` installs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;

use super::processes::{Launch, Lifetime, Processes};
use super::watchdog::Watchdog;
use super::{environment, folder, ports, ready};
use crate::aloud;

const NAME: &str = "pgbouncer";

/// For how long a client keeps a connection to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    Session,
    Transaction,
    Statement,
}

/// A running pooler, gone when this value or its process is.
pub struct PgBouncer {
    url: String,
    port: u16,
    launch: Launch,
    processes: Processes,
    _watchdog: Watchdog,
}

/// False, with the reason on the standard error, where it is not installed; under `CI` it fails when it is started.
pub fn is_installed() -> bool {
    let is_installed = program().is_some();
    if !is_installed && !environment::is_ci() {
        aloud::say("skipped: pgbouncer is not installed (tests/prepare all)");
        return false;
    }
    true
}

fn program() -> Option<PathBuf> {
    let folders = environment::program_folders().into_iter().chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(NAME)).find(|path| path.is_file())
}

impl PgBouncer {
    /// Before the Postgres of this URL. `options` are further lines of its configuration.
    pub async fn start(direct: &str, mode: PoolMode, options: &str) -> Result<Self> {
        let program = program().context("pgbouncer is not installed")?;
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let (upstream, port): (PgConnectOptions, u16) = (direct.parse()?, ports::free()?);
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        };
        let (users, config) = (folder.join("users.txt"), folder.join("pgbouncer.ini"));
        fs::write(&users, "\"postgres\" \"\"\n")?;
        // No `ignore_startup_parameters`: what we send must do without.
        let text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
             default_pool_size = 100\n{options}\n",
            upstream.get_host(),
            upstream.get_port(),
            users.display()
        );
        fs::write(&config, text)?;
        let mut launch = Launch::new(NAME, program).args([config]);
        launch.user = folder::database_user()?;
        let before = format!("{}:{}", upstream.get_host(), upstream.get_port());
        let url = direct.replacen(&before, &format!("127.0.0.1:{port}"), 1);
        let pooler = Self { url, port, launch, processes, _watchdog: watchdog };
        pooler.start_again().await?;
        Ok(pooler)
    }

    /// The way through it to the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends every connection.
    pub fn kill(&self) {
        self.processes.kill(NAME);
    }

    pub async fn start_again(&self) -> Result<()> {
        self.processes.start(&self.launch)?;
        ready(&self.processes, NAME, async || TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()).await
    }
}
