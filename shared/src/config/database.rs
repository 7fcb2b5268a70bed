//! Where Postgres is, and how many connections a process opens there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use sqlx::postgres::PgConnectOptions;

use super::{ConfigError, Secret, secret};
use crate::store::Pool;
use crate::store::notifications::Listener;

/// Where the database is.
#[derive(Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseAddress {
    /// Postgres URL: postgres://user:password@host:port/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<Secret>,

    /// File that holds the Postgres URL
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,
}

/// Where the database is, and how a process that serves uses it.
#[derive(Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    #[command(flatten)]
    address: DatabaseAddress,

    /// Most connections this process opens, at least 2, for a worker 3
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    pub database_max_connections: u32,

    /// How long a caller waits for a free connection, new or kept, that answers
    #[arg(long, env = "DATABASE_ACQUIRE_TIMEOUT", default_value = "3s", value_parser = humantime::parse_duration)]
    pub database_acquire_timeout: Duration,

    #[command(flatten)]
    direct: DirectAddress,
}

/// The way to the same database that no pooler is on.
#[derive(Args)]
#[command(next_help_heading = "Database")]
pub struct DirectAddress {
    /// Postgres URL that leads to the same database past a pooler, for LISTEN and for migrations; DATABASE_URL when
    /// empty
    #[arg(long, env = "DATABASE_DIRECT_URL", hide_env_values = true, value_name = "URL")]
    database_direct_url: Option<Secret>,

    /// File that holds the direct Postgres URL
    #[arg(long, env = "DATABASE_DIRECT_URL_FILE", value_name = "PATH")]
    database_direct_url_file: Option<PathBuf>,
}

impl DatabaseAddress {
    pub fn options(&self) -> Result<PgConnectOptions, ConfigError> {
        let url = secret("DATABASE_URL", self.database_url.as_ref(), self.database_url_file.as_deref())?
            .ok_or(ConfigError::Missing("DATABASE_URL"))?;
        connect_options("DATABASE_URL", &url)
    }
}

impl DirectAddress {
    /// None where it is not set.
    pub fn options(&self) -> Result<Option<PgConnectOptions>, ConfigError> {
        const VARIABLE: &str = "DATABASE_DIRECT_URL";
        let url = secret(VARIABLE, self.database_direct_url.as_ref(), self.database_direct_url_file.as_deref())?;
        url.map(|url| connect_options(VARIABLE, &url)).transpose()
    }
}

fn connect_options(variable: &'static str, url: &Secret) -> Result<PgConnectOptions, ConfigError> {
    // sqlx would take any scheme.
    if !url.expose().starts_with("postgres://") && !url.expose().starts_with("postgresql://") {
        return Err(ConfigError::Invalid(variable));
    }
    let options: PgConnectOptions = url.expose().parse().map_err(|_| ConfigError::Invalid(variable))?;
    // A start-up parameter that poolers refuse.
    Ok(options.extra_float_digits(None))
}

impl DatabaseArgs {
    /// All connections but that of [`Self::listener`].
    pub fn pool(&self) -> Result<Pool, ConfigError> {
        Ok(Pool::new(self.address.options()?, self.database_max_connections - 1, self.database_acquire_timeout))
    }

    /// Goes the direct way if there is one.
    pub fn listener(&self) -> Result<Listener, ConfigError> {
        let options = self.direct.options()?.map_or_else(|| self.address.options(), Ok)?;
        Ok(Listener { options, connect_within: self.database_acquire_timeout })
    }
}
