//! The name server's settings. Every one is a flag and an environment variable.

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use countersign_shared::config::{
    AdminArgs, CollectorArgs, DatabaseArgs, DelegationArgs, ListenAddr, LogArgs, parse_shutdown_delay,
};

/// The name server of Countersign: answers for the zone that challenges are delegated to, and for nothing else.
#[derive(Parser)]
#[command(version)]
pub struct Settings {
    /// Where questions are answered, by UDP and TCP; a bare :port means all interfaces
    #[arg(long, env = "DNS_ADDR", default_value = ":53")]
    pub dns_addr: ListenAddr,

    /// Names of the zone's name servers, separated by commas; ns1.CHALLENGE_ZONE when empty
    #[arg(long, env = "DNS_NAME_SERVERS", value_delimiter = ',', value_name = "NAME")]
    pub dns_name_servers: Vec<String>,

    /// Addresses of name servers whose names lie in the zone, as name=ip, separated by commas
    #[arg(long, env = "DNS_ADDRESSES", value_delimiter = ',', value_parser = parse_address, value_name = "NAME=IP")]
    pub dns_addresses: Vec<(String, IpAddr)>,

    /// Mail address of the person responsible for the zone; hostmaster of it when empty
    #[arg(long, env = "DNS_CONTACT", value_name = "ADDRESS")]
    pub dns_contact: Option<String>,

    /// How long questions are still answered once a stop was asked for, while /readyz is 503 already: at most 5m
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "0s", value_parser = parse_shutdown_delay)]
    pub shutdown_delay: Duration,

    /// How long answers under way may take after that
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "20s", value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// Where operators and probes reach this process; each process of a host needs its own
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9182")]
    pub admin_addr: ListenAddr,

    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub database: DatabaseArgs,

    #[command(flatten)]
    pub delegation: DelegationArgs,

    #[command(flatten)]
    pub log: LogArgs,

    #[command(flatten)]
    pub collector: CollectorArgs,
}

fn parse_address(text: &str) -> Result<(String, IpAddr), &'static str> {
    let (name, ip) = text.trim().split_once('=').ok_or("expected name=ip")?;
    Ok((name.to_owned(), ip.parse().map_err(|_| "expected name=ip")?))
}
