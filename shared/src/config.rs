//! Settings that several binaries share, as clap argument groups, and the types that settings are parsed into.
//!
//! Every setting is a flag and an environment variable; secrets also come as `…_FILE`. Nothing else in the product
//! reads the environment.

mod collector;
mod database;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use zeroize::Zeroizing;

use crate::dns::{Authoritative, SetupError, TxtLookup};
use crate::model::delegation::ChallengeZone;
pub use crate::model::secret::Secret;
use crate::sealed::{KeyRing, KeyRingError};

pub use collector::{Collector, CollectorArgs};
pub use database::{DatabaseAddress, DatabaseArgs, DirectAddress};

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{0} must be set (or {0}_FILE)")]
    Missing(&'static str),
    #[error("cannot read {variable}_FILE at {path}")]
    File {
        variable: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Does not show the value: it may hold a password.
    #[error("{0} cannot be understood")]
    Invalid(&'static str),
    #[error("ENCRYPTION_KEYS cannot be used")]
    KeyRing(#[from] KeyRingError),
    #[error("ADMIN_TOKEN must be set (or ADMIN_TOKEN_FILE): ADMIN_ADDR {0} can be reached from other hosts")]
    AdminTokenMissing(ListenAddr),
    #[error("cannot listen on {address}")]
    Listen {
        address: ListenAddr,
        #[source]
        source: std::io::Error,
    },
}

/// A secret from its variable or from the file its `…_FILE` variable names; the value wins. A trailing line end in the
/// file does not count, and an empty value is no value.
pub fn secret(
    variable: &'static str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, ConfigError> {
    let secret = match (value, file) {
        (Some(value), _) => value.clone(),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|source| ConfigError::File {
                variable,
                path: path.to_owned(),
                source,
            })?;
            Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(secret).filter(|secret| !secret.expose().is_empty()))
}

/// Parses a length of time such as `10s`, `5m` or `200ms`, within bounds.
pub fn bounded_duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&length) {
        return Ok(length);
    }
    Err(format!("must be between {} and {}", humantime::format_duration(least), humantime::format_duration(most)))
}

/// Who must be told that a process goes has heard of it within minutes, or never.
pub fn parse_shutdown_delay(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::ZERO, Duration::from_secs(300))
}

/// Parses flags and environment, and ends the process with the reason where they cannot be understood. A variable that is
/// set but empty counts as not set.
pub fn parse<S: Parser>() -> S {
    let matches = ignore_empty_variables(S::command()).get_matches();
    S::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    });
    command.mut_subcommands(ignore_empty_variables)
}

/// What secrets in the database are sealed with.
#[derive(Args)]
#[command(next_help_heading = "Keys at rest")]
pub struct KeyRingArgs {
    /// Keys that seal secrets in the database, id:base64 of 32 bytes each, separated by commas: the first seals, all open;
    /// secrets are stored plain when empty, or when the first entry is the word plain
    #[arg(long, env = "ENCRYPTION_KEYS", hide_env_values = true, value_name = "KEYS")]
    pub encryption_keys: Option<Secret>,

    /// File that holds the keys, separated by commas or line ends
    #[arg(long, env = "ENCRYPTION_KEYS_FILE", value_name = "PATH")]
    pub encryption_keys_file: Option<PathBuf>,
}

impl KeyRingArgs {
    /// Without any key when nothing is set. A file that is named and empty is an error: it was meant to hold keys.
    pub fn ring(&self) -> Result<KeyRing, ConfigError> {
        let keys = secret("ENCRYPTION_KEYS", self.encryption_keys.as_ref(), self.encryption_keys_file.as_deref())?;
        match keys {
            Some(keys) => Ok(KeyRing::parse(keys.expose())?),
            None if self.encryption_keys_file.is_some() => Err(KeyRingError::Empty.into()),
            None => Ok(KeyRing::default()),
        }
    }
}

/// How DNS is asked.
#[derive(Args)]
#[command(next_help_heading = "DNS")]
pub struct DnsArgs {
    /// Recursive resolvers to ask, as ip or ip:port, separated by commas; the system's when empty
    #[arg(long, env = "DNS_RESOLVERS", value_delimiter = ',', value_parser = parse_resolver, value_name = "ADDRESS")]
    pub dns_resolvers: Vec<SocketAddr>,

    /// Ask the zones' own name servers before the CA is told to look, and for a diagnosis; off where the network lets us reach
    /// the resolvers only
    #[arg(long, env = "DNS_AUTHORITATIVE_CHECK", default_value = "on")]
    pub dns_authoritative_check: Switch,

    /// Let name servers of customers' zones have private, loopback and other addresses that are not of the public internet
    #[arg(long, env = "DNS_ALLOW_PRIVATE", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub dns_allow_private: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl DnsArgs {
    pub fn lookup(&self) -> Result<TxtLookup, SetupError> {
        TxtLookup::new(&self.dns_resolvers)
    }

    pub fn authoritative(&self) -> Result<Authoritative, SetupError> {
        Authoritative::new(&self.dns_resolvers, self.dns_authoritative_check == Switch::On, self.dns_allow_private)
    }
}

/// How the CA is named in CAA records.
#[derive(Args)]
#[command(next_help_heading = "DNS")]
pub struct CaaArgs {
    /// Names by which the CA knows itself in CAA records, separated by commas; letsencrypt.org where it is Let's Encrypt
    #[arg(long, env = "CAA_IDENTITIES", value_delimiter = ',', value_name = "NAMES")]
    pub caa_identities: Vec<String>,
}

/// Where customers can delegate their challenges to.
#[derive(Args)]
#[command(next_help_heading = "Delegation")]
pub struct DelegationArgs {
    /// Zone that countersign-dns answers for, such as acme.example.net; no delegation when empty
    #[arg(long, env = "CHALLENGE_ZONE", value_name = "NAME")]
    pub challenge_zone: Option<ChallengeZone>,
}

/// Where webhooks may lead.
#[derive(Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Let webhooks lead to private, loopback and other addresses that are not of the public internet
    #[arg(long, env = "WEBHOOK_ALLOW_PRIVATE", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub webhook_allow_private: bool,
}

fn parse_resolver(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse()
        .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| "expected an IP address, or address:port".to_owned())
}

/// What the operators' listener asks of its callers.
#[derive(Args)]
#[command(next_help_heading = "Operators")]
pub struct AdminArgs {
    /// Bearer token of the operators' listener; must be set where ADMIN_ADDR is not a loopback address
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<Secret>,

    /// File that holds the operators' token
    #[arg(long, env = "ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,
}

impl AdminArgs {
    /// The token that a listener at `address` asks for; an error if it must ask for one and there is none.
    pub fn token(&self, address: &ListenAddr) -> Result<Option<Secret>, ConfigError> {
        let token = secret("ADMIN_TOKEN", self.admin_token.as_ref(), self.admin_token_file.as_deref())?;
        if token.is_none() && !address.is_loopback() {
            return Err(ConfigError::AdminTokenMissing(address.clone()));
        }
        Ok(token)
    }
}

/// What is logged, and how.
#[derive(Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// error, warn, info, debug, trace, or directives such as info,countersign_worker=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// json, human, or auto: human on a terminal
    #[arg(long, env = "LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Auto,
    Json,
    Human,
}

/// `host:port`; a bare `:port` means all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr(String);

impl FromStr for ListenAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Self(text.to_owned())),
            _ => Err("expected host:port or :port"),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ListenAddr {
    /// Whether only this host can reach it.
    fn is_loopback(&self) -> bool {
        let host = self.0.rsplit_once(':').map_or("", |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    pub async fn bind(&self) -> Result<TcpListener, ConfigError> {
        self.bind_with(async |address| TcpListener::bind(address).await).await
    }

    pub async fn bind_udp(&self) -> Result<UdpSocket, ConfigError> {
        self.bind_with(async |address| UdpSocket::bind(address).await).await
    }

    async fn bind_with<T>(&self, bind: impl AsyncFn(String) -> std::io::Result<T>) -> Result<T, ConfigError> {
        let bound = match self.0.strip_prefix(':') {
            // Both families where the machine has IPv6, otherwise IPv4 alone.
            Some(port) => match bind(format!("[::]:{port}")).await {
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => bind(format!("0.0.0.0:{port}")).await,
                bound => bound,
            },
            None => bind(self.0.clone()).await,
        };
        bound.map_err(|source| ConfigError::Listen { address: self.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_needs_a_port() {
        for good in [":8080", "127.0.0.1:0", "[::1]:9180", "localhost:80"] {
            assert!(good.parse::<ListenAddr>().is_ok(), "{good}");
        }
        for bad in ["", "8080", "127.0.0.1", "localhost:http", ":65536"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_loopback_address_needs_no_operators_token() {
        let token = |address: &str, token: Option<&str>| {
            let args =
                AdminArgs { admin_token: token.map(|token| Secret::new(token.to_owned())), admin_token_file: None };
            args.token(&address.parse().unwrap()).map(|token| token.is_some())
        };
        for local in ["127.0.0.1:9180", "127.9.9.9:1", "[::1]:9180", "[::ffff:127.0.0.1]:1", "localhost:9180"] {
            assert!(!token(local, None).unwrap() && token(local, Some("s")).unwrap(), "{local}");
        }
        for open in [":9180", "0.0.0.0:9180", "[::]:9180", "192.0.2.1:9180", "admin.example.com:9180"] {
            assert!(token(open, None).is_err() && token(open, Some("")).is_err() && token(open, Some("s")).unwrap());
        }
    }

    #[test]
    fn a_resolver_without_a_port_is_asked_on_53() {
        assert_eq!(parse_resolver("192.0.2.1"), Ok("192.0.2.1:53".parse().unwrap()));
        assert_eq!(parse_resolver(" [2001:db8::1]:5353"), Ok("[2001:db8::1]:5353".parse().unwrap()));
        assert!(parse_resolver("dns.example").is_err());
    }

    #[test]
    fn a_secret_comes_from_its_value_or_its_file() {
        let file = std::env::temp_dir().join(format!("countersign-secret-{}", std::process::id()));
        std::fs::write(&file, "from-file\n").unwrap();
        let value = Secret::new("value".to_owned());
        let read = |value: Option<&Secret>, file: Option<&Path>| {
            secret("AUTH_TOKEN", value, file).unwrap().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(read(None, None), None);
        assert_eq!(read(None, Some(&file)).as_deref(), Some("from-file"));
        assert_eq!(read(Some(&value), Some(&file)).as_deref(), Some("value"));
        assert_eq!(read(Some(&Secret::new(String::new())), None), None);
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(secret("AUTH_TOKEN", None, Some(&file)), Err(ConfigError::File { .. })));
    }

    #[test]
    fn keys_that_are_named_and_empty_are_an_error_and_never_left_out() {
        let file = std::env::temp_dir().join(format!("countersign-keys-{}", std::process::id()));
        let ring = |value: Option<&str>, file: Option<&Path>| {
            let encryption_keys = value.map(|value| Secret::new(value.to_owned()));
            KeyRingArgs { encryption_keys, encryption_keys_file: file.map(Path::to_owned) }.ring()
        };
        for nothing in ["", "\n", " \n\n", ",\n"] {
            std::fs::write(&file, nothing).unwrap();
            for value in [None, Some("")] {
                let empty = ring(value, Some(&file));
                assert!(matches!(empty, Err(ConfigError::KeyRing(KeyRingError::Empty))), "{nothing:?} {value:?}");
            }
        }
        std::fs::write(&file, "plain\n").unwrap();
        for plain in [ring(None, Some(&file)), ring(None, None), ring(Some(""), None), ring(Some("plain"), None)] {
            assert_eq!(plain.unwrap().sealing_key(), None);
        }
        std::fs::remove_file(&file).unwrap();
    }
}
