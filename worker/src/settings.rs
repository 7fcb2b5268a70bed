//! The worker's settings. Every one is a flag and an environment variable.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use countersign_shared::config::{
    AdminArgs, CaaArgs, CollectorArgs, ConfigError, DatabaseArgs, DelegationArgs, DnsArgs, KeyRingArgs, ListenAddr,
    LogArgs, Secret, WebhookArgs, bounded_duration, secret,
};
use url::Url;

use crate::acme;
use crate::outward::SetupError;
use crate::presenters::Configured;

/// The worker of Countersign: places orders at the CA, watches DNS, and fetches certificates.
#[derive(Parser)]
#[command(version)]
pub struct Settings {
    /// Name of this worker in the queue and in logs; the host's name and the process id when empty
    #[arg(long, env = "WORKER_NAME", default_value = "")]
    pub worker_name: String,

    /// Jobs run at once: 4 to 4096
    #[arg(long, env = "WORKER_SLOTS", default_value_t = 32, value_parser = clap::value_parser!(u16).range(4..=4096))]
    pub worker_slots: u16,

    /// How long a job is leased, at least 2s; a dead worker's jobs are taken over after it
    #[arg(long, env = "LEASE_FOR", default_value = "9s", value_parser = parse_lease)]
    pub lease_for: Duration,

    /// Counted failures since an order last advanced, or a run of its job came to its end, after which the job is parked for a
    /// person
    #[arg(long, env = "MAX_ATTEMPTS", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..))]
    pub max_attempts: i32,

    /// How long ended orders and their timelines are kept: 90days to 100years
    #[arg(long, env = "RETAIN_FOR", default_value = "1year", value_parser = parse_retention)]
    pub retain_for: Duration,

    /// How long steps under way may take once a stop was asked for
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "20s", value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// Where operators and probes reach this process; each process of a host needs its own
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9181")]
    pub admin_addr: ListenAddr,

    /// Pause between look-ups for a TXT value in the first five minutes of an order: 100ms to 1h
    #[arg(long, env = "POLL_INTERVAL", default_value = "10s", value_parser = parse_interval)]
    pub poll_interval: Duration,

    /// How long a TXT value is awaited: 1s to 7days
    #[arg(long, env = "POLL_TIMEOUT", default_value = "5m", value_parser = parse_timeout)]
    pub poll_timeout: Duration,

    /// How long a value that was seen once may take to be everywhere, and how long past the deadline DNS may stay silent
    #[arg(long, env = "CONFIRM_GRACE", default_value = "60s", value_parser = humantime::parse_duration)]
    pub confirm_grace: Duration,

    /// Management URL of a pebble-challtestsrv, a loopback address: where the presenter test-dns publishes TXT records
    #[arg(long, env = "TEST_DNS_MANAGEMENT_URL", value_name = "URL", default_value = "", hide_default_value = true, value_parser = parse_optional_url)]
    pub test_dns_management_url: std::option::Option<Url>,

    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub database: DatabaseArgs,

    #[command(flatten)]
    pub keys: KeyRingArgs,

    #[command(flatten)]
    pub dns: DnsArgs,

    #[command(flatten)]
    pub delegation: DelegationArgs,

    #[command(flatten)]
    pub caa: CaaArgs,

    #[command(flatten)]
    pub acme: AcmeArgs,

    #[command(flatten)]
    pub webhooks: WebhookCallArgs,

    #[command(flatten)]
    pub log: LogArgs,

    #[command(flatten)]
    pub collector: CollectorArgs,
}

/// How customers' servers are called.
#[derive(Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookCallArgs {
    #[command(flatten)]
    pub may: WebhookArgs,

    /// PEM file of roots trusted for webhooks, besides the system's
    #[arg(long, env = "WEBHOOK_CA_FILE", value_name = "PATH")]
    pub webhook_ca_file: Option<PathBuf>,
}

impl WebhookCallArgs {
    pub fn presenters(&self) -> Result<Configured, SetupError> {
        Configured::new(self.may.webhook_allow_private, self.webhook_ca_file.as_deref())
    }
}

/// Which CA, and who we are there.
#[derive(Args)]
#[command(next_help_heading = "Certificate authority")]
pub struct AcmeArgs {
    /// ACME directory of the CA
    #[arg(long, env = "ACME_DIRECTORY", default_value = "https://acme-staging-v02.api.letsencrypt.org/directory")]
    pub acme_directory: Url,

    /// Contact address of the ACME account, without mailto:; used when the account is registered
    #[arg(long, env = "ACME_EMAIL")]
    pub acme_email: Option<String>,

    /// PEM file of roots trusted for the directory, besides the system's
    #[arg(long, env = "ACME_CA_FILE", value_name = "PATH")]
    pub acme_ca_file: Option<PathBuf>,

    /// Key id of an external account binding (RFC 8555 section 7.3.4); needs the MAC key too
    #[arg(long, env = "ACME_EAB_KEY_ID")]
    pub acme_eab_key_id: Option<String>,

    /// MAC key of the external account binding, base64url
    #[arg(long, env = "ACME_EAB_HMAC_KEY", hide_env_values = true)]
    pub acme_eab_hmac_key: Option<Secret>,

    /// File that holds the MAC key
    #[arg(long, env = "ACME_EAB_HMAC_KEY_FILE", value_name = "PATH")]
    pub acme_eab_hmac_key_file: Option<PathBuf>,

    /// Concurrent newOrder calls of this process: 1 to 64; Pebble deadlocks above 1
    #[arg(long, env = "ACME_NEW_ORDER_LIMIT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub acme_new_order_limit: u16,

    /// Time for one request to the CA, with its repetitions
    #[arg(long, env = "ACME_REQUEST_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    pub acme_request_timeout: Duration,
}

impl AcmeArgs {
    pub fn settings(&self) -> Result<acme::Settings, ConfigError> {
        let mac_key =
            secret("ACME_EAB_HMAC_KEY", self.acme_eab_hmac_key.as_ref(), self.acme_eab_hmac_key_file.as_deref())?;
        let external_account = match (&self.acme_eab_key_id, mac_key) {
            (None, _) => None,
            (Some(_), None) => return Err(ConfigError::Missing("ACME_EAB_HMAC_KEY")),
            (Some(key_id), Some(mac_key)) => {
                use base64::Engine as _;
                let encoded = mac_key.expose().trim_end_matches('=');
                let hmac_key = base64::prelude::BASE64_URL_SAFE_NO_PAD
                    .decode(encoded)
                    .map_err(|_| ConfigError::Invalid("ACME_EAB_HMAC_KEY"))?;
                Some(acme::ExternalAccount { key_id: key_id.clone(), hmac_key: hmac_key.into() })
            }
        };
        Ok(acme::Settings {
            directory: self.acme_directory.clone(),
            contact: self.acme_email.clone().filter(|contact| !contact.is_empty()),
            ca_file: self.acme_ca_file.clone().filter(|path| !path.as_os_str().is_empty()),
            connect_timeout: Duration::from_secs(10),
            request_timeout: self.acme_request_timeout,
            new_order_limit: self.acme_new_order_limit.into(),
            external_account,
        })
    }
}

impl Settings {
    /// The configured name, or one that no other live worker has.
    pub fn name(&self) -> String {
        if !self.worker_name.is_empty() {
            return self.worker_name.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "worker".to_owned());
        format!("{}-{}", host.trim(), std::process::id())
    }
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::from_secs(2), Duration::from_secs(3600))
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    // What an authorization may live at a CA: until then an order says whose it was.
    bounded_duration(text, Duration::from_secs(90 * DAY), Duration::from_secs(36_525 * DAY))
}

/// Empty: none.
fn parse_optional_url(text: &str) -> Result<Option<Url>, url::ParseError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::from_millis(100), Duration::from_secs(3600))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600))
}
