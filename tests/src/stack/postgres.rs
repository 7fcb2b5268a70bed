//! A Postgres cluster of our own, made with the installed server's programs: own data folder, port and socket folder, no password.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::environment::{self, Settings};
use super::folder::{self, User};
use super::ports;
use super::processes::{Launch, Lifetime, Processes, Signal};
use super::watchdog::Watchdog;

pub(crate) const NAME: &str = "postgres";

/// How long the remains of a killed Postgres may be in the way of the next one.
const RECOVERY: Duration = Duration::from_secs(10);

/// How a running cluster is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Open transactions are rolled back, a checkpoint is written.
    Fast,
    /// As after a crash: the next start recovers from the log.
    Immediate,
}

/// Where a cluster is and how it runs; it survives the process that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    durable: bool,
    /// Server parameters of its own, by name.
    #[serde(default)]
    pub settings: Settings,
}

impl Postgres {
    /// A cluster in `folder`, which must be new or an earlier cluster's. Without `durable` a crash of the machine loses it.
    pub fn new(folder: &Path, durable: bool) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), port: ports::free()?, durable, settings: Settings::new() })
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, made first if there is none yet, and waits until it answers. On an existing cluster it is the same data and port.
    pub async fn start(&self, processes: &Processes) -> Result<()> {
        let programs = programs()?;
        let user = folder::database_user()?;
        if !self.data().exists() {
            self.initialise(&programs, user, processes)?;
        }
        let port = self.port.to_string();
        let mut launch = Launch::new(NAME, programs.join("postgres"));
        launch.user = user;
        launch.args =
            vec!["-D".into(), self.data().into(), "-k".into(), (&self.folder).into(), "-p".into(), port.into()];
        let mut options = vec!["listen_addresses=127.0.0.1", "max_connections=200", "log_line_prefix=%m [%p] %d "];
        if !self.durable {
            // Commits stay synchronous: what was committed must survive a crash of Postgres, only not one of the machine.
            options.extend(["fsync=off", "full_page_writes=off"]);
        }
        let own = self.settings.iter().map(|(name, value)| format!("{name}={value}"));
        let options = options.into_iter().map(ToOwned::to_owned).chain(own);
        let launch = launch.args(options.flat_map(|option| ["-c".to_owned(), option]));
        // After a SIGKILL the server processes of connections live on for a moment, and Postgres does not start beside them.
        let deadline = Instant::now() + RECOVERY;
        loop {
            self.forget_dead_postmaster();
            processes.start(&launch)?;
            match self.ready(processes).await {
                Err(error) if Instant::now() < deadline && format!("{error:#}").contains("is still in use") => {}
                outcome => return outcome,
            }
        }
    }

    pub async fn stop(&self, processes: &Processes, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        processes.signal(NAME, signal)?;
        processes.ended(NAME, Duration::from_secs(20)).await?;
        Ok(())
    }

    /// Creates an empty database, or a copy of `template` that nobody may be connected to meanwhile; returns its URL.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<String> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        let template = template.unwrap_or("template1");
        let statement = format!("CREATE DATABASE {} TEMPLATE {}", quoted(name), quoted(template));
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .with_context(|| format!("creating database {name}"))?;
        connection.close().await?;
        Ok(self.url(name))
    }

    pub async fn has_database(&self, name: &str) -> Result<bool> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)").bind(name);
        Ok(query.fetch_one(&mut connection).await?)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialise(&self, programs: &Path, user: Option<User>, processes: &Processes) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        folder::hand_over(&self.folder, user)?;
        // Renamed when complete, so that an interrupted attempt is never taken for a cluster.
        let unfinished = self.folder.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let mut launch = Launch::new("initdb", programs.join("initdb"));
        launch.user = user;
        launch.args = vec!["-D".into(), (&unfinished).into()];
        let options = ["--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"];
        processes.run(&launch.args(options))?;
        fs::remove_file(processes.log_file("initdb"))?;
        fs::rename(unfinished, self.data())?;
        Ok(())
    }

    /// In a container whose first process reaps nobody, a killed Postgres stays a zombie for ever, and its successor takes it for alive.
    fn forget_dead_postmaster(&self) {
        let socket_lock = self.folder.join(format!(".s.PGSQL.{}.lock", self.port));
        for file in [self.data().join("postmaster.pid"), socket_lock] {
            let pid = fs::read_to_string(&file).ok().and_then(|content| content.lines().next().map(ToOwned::to_owned));
            let status = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
            if status.is_some_and(|status| status.lines().any(|line| line.starts_with("State:\tZ"))) {
                let _ = fs::remove_file(file);
            }
        }
    }

    async fn ready(&self, processes: &Processes) -> Result<()> {
        let url = self.url("postgres");
        super::ready(processes, NAME, async || PgConnection::connect(&url).await.is_ok()).await
    }
}

/// A cluster without the rest of a stack, which is gone when this value or its process is.
pub struct PrivatePostgres {
    postgres: Postgres,
    _processes: Processes,
    _watchdog: Watchdog,
}

impl PrivatePostgres {
    pub async fn start() -> Result<Self> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let postgres = Postgres::new(&folder.join(NAME), false)?;
        postgres.start(&processes).await?;
        Ok(Self { postgres, _processes: processes, _watchdog: watchdog })
    }
}

impl std::ops::Deref for PrivatePostgres {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.postgres
    }
}

/// A program of the newest installed server, such as `pg_dump`.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(programs()?.join(name))
}

/// The folder of the newest installed server's programs.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let on_path = environment::program_folders();
    let mut candidates = versions.into_iter().rev().map(|(_, folder)| folder).chain(on_path);
    let found = candidates.find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).exists()));
    found.context(
        "no Postgres server is installed: neither /usr/lib/postgresql/*/bin nor PATH has `initdb` and `postgres`",
    )
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_keeps_its_data_and_port_over_a_crash() {
        let folder = folder::temporary().unwrap();
        let _watchdog = Watchdog::start(&folder).unwrap();
        let processes = Processes::new(&folder, Lifetime::Owned).unwrap();
        let postgres = Postgres::new(&folder.join(NAME), false).unwrap();
        postgres.start(&processes).await.unwrap();
        let url = postgres.create_database("first", None).await.unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query("CREATE TABLE kept AS SELECT 42 AS answer").execute(&mut connection).await.unwrap();
        drop(connection);

        postgres.stop(&processes, Shutdown::Immediate).await.unwrap();
        postgres.start(&processes).await.unwrap();
        let copy = postgres.create_database("second", Some("first")).await.unwrap();
        let mut connection = PgConnection::connect(&copy).await.unwrap();
        let answer: i32 = sqlx::query_scalar("SELECT answer FROM kept").fetch_one(&mut connection).await.unwrap();
        assert_eq!(answer, 42);
        assert!(postgres.has_database("first").await.unwrap());
        postgres.stop(&processes, Shutdown::Fast).await.unwrap();
    }
}
