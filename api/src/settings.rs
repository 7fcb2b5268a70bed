//! The API's settings. Every one is a flag and an environment variable.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use countersign_shared::config::{
    AdminArgs, CaaArgs, CollectorArgs, DatabaseArgs, DelegationArgs, DnsArgs, KeyRingArgs, ListenAddr, LogArgs, Secret,
    WebhookArgs, bounded_duration, parse_shutdown_delay,
};

/// The HTTP API of Countersign: registers domains, verifies them, and orders certificates that workers issue.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Settings {
    /// Where customers' platforms reach the API; a bare :port means all interfaces
    #[arg(long, env = "SERVER_ADDR", default_value = ":8080")]
    pub(crate) server_addr: ListenAddr,

    /// Where operators and probes reach this process; each process of a host needs its own
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9180")]
    pub(crate) admin_addr: ListenAddr,

    /// Bearer token that every /domains call needs; none when empty
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true)]
    pub(crate) auth_token: Option<Secret>,

    /// File that holds the bearer token
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "PATH")]
    pub(crate) auth_token_file: Option<PathBuf>,

    /// Which of the two APIs are served: domains, v2, or both
    #[arg(long, env = "PUBLIC_APIS", value_delimiter = ',', default_value = "domains,v2")]
    pub(crate) public_apis: Vec<PublicApi>,

    /// Let certificates be ordered through /v2 where the customer must publish the TXT records
    #[arg(long, env = "ALLOW_MANUAL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) allow_manual: bool,

    /// Let certificates be ordered through /v2 only for domains that have been verified through /domains
    #[arg(long, env = "REQUIRE_VERIFIED", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) require_verified: bool,

    /// Requests an account may make to /v2 in an hour, over all its tokens; 0: as many as it likes
    #[arg(long, env = "RATE_LIMIT", default_value_t = 2400)]
    pub(crate) rate_limit: u64,

    /// How long issue-certificate and retry wait for a worker to place the order: 100ms to 25s
    #[arg(long, env = "PLACE_WAIT", default_value = "10s", value_parser = parse_place_wait)]
    pub(crate) place_wait: Duration,

    /// Accept names such as shop.test or api.internal, for private CAs
    #[arg(long, env = "ALLOW_SPECIAL_USE_NAMES", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) allow_special_use_names: bool,

    /// How long requests are still answered once a stop was asked for, while /readyz is 503 already: at most 5m
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "0s", value_parser = parse_shutdown_delay)]
    pub(crate) shutdown_delay: Duration,

    /// How long answers under way may take after that
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) shutdown_grace: Duration,

    /// Requests answered at once; more get a 503
    #[arg(long, env = "MAX_REQUESTS", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_requests: u16,

    /// Connections open at once; more wait until one is closed
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: u16,

    /// Print the API's OpenAPI description and exit
    #[arg(long)]
    pub(crate) print_openapi: bool,

    #[command(flatten)]
    pub(crate) admin: AdminArgs,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    pub(crate) keys: KeyRingArgs,

    #[command(flatten)]
    pub(crate) dns: DnsArgs,

    #[command(flatten)]
    pub(crate) delegation: DelegationArgs,

    #[command(flatten)]
    pub(crate) caa: CaaArgs,

    #[command(flatten)]
    pub(crate) webhooks: WebhookArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) collector: CollectorArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublicApi {
    Domains,
    V2,
}

/// An answer comes within 30 s, whatever is waited for.
fn parse_place_wait(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::from_millis(100), Duration::from_secs(25))
}
