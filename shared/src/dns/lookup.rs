//! TXT look-ups through recursive resolvers: never from a cache, CNAMEs followed, bounded in time and number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::telemetry::labels::{LookupOutcome, Resolver};
use crate::telemetry::metrics;

/// Look-ups under way at once in one process: beyond about 100 the time-outs begin.
const CONCURRENT_LOOKUPS: usize = 100;
/// One question to one server; the whole look-up takes at most [`LOOKUP_TIMEOUT`].
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
const TIMED_OUT: &str = "no answer in time";

/// DNS did not answer the question. NXDOMAIN and an empty answer are answers: no values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct LookupError(String);

impl LookupError {
    /// The mnemonic that an operator knows from dig: SERVFAIL, REFUSED, ...
    fn code(code: ResponseCode) -> Self {
        Self(format!("{code:?}").to_uppercase())
    }
}

#[derive(Debug, Error)]
#[error("cannot set up the DNS resolver")]
pub struct SetupError(#[source] pub(super) NetError);

/// Cheap to clone.
#[derive(Clone)]
pub struct TxtLookup {
    resolver: Arc<TokioResolver>,
    slots: Arc<Semaphore>,
}

/// What one look-up saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxtAnswer {
    /// The strings of one record are joined.
    pub values: Vec<String>,
    /// Targets of the CNAMEs that led to them, lower-case, with the final dot.
    pub aliases: Vec<String>,
}

impl TxtLookup {
    /// Asks the given recursive resolvers, or the system's when there are none.
    pub fn new(resolvers: &[SocketAddr]) -> Result<Self, SetupError> {
        let mut builder = if resolvers.is_empty() {
            TokioResolver::builder_tokio().map_err(SetupError)?
        } else {
            let servers = resolvers.iter().copied().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        // A cached NXDOMAIN would hide the record that the customer has just set.
        options.cache_size = 0;
        options.timeout = SERVER_TIMEOUT;
        options.attempts = 1;
        options.try_tcp_on_error = true;
        Ok(Self {
            resolver: Arc::new(builder.build().map_err(SetupError)?),
            slots: Arc::new(Semaphore::new(CONCURRENT_LOOKUPS)),
        })
    }

    /// What is at `owner` (absolute, with the trailing dot).
    pub async fn txt(&self, owner: &str) -> Result<TxtAnswer, LookupError> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let began = Instant::now();
        let answer = self.ask(owner).await;
        let outcome = match &answer {
            Ok(answer) if answer.values.is_empty() => LookupOutcome::Absent,
            Ok(_) => LookupOutcome::Found,
            Err(LookupError(reason)) if reason == TIMED_OUT => LookupOutcome::TimedOut,
            Err(_) => LookupOutcome::Failed,
        };
        metrics::dns_lookup(Resolver::Recursive, outcome, began.elapsed());
        answer
    }

    async fn ask(&self, owner: &str) -> Result<TxtAnswer, LookupError> {
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, self.resolver.lookup(owner, RecordType::TXT)).await;
        match lookup {
            Ok(Ok(found)) => Ok(TxtAnswer {
                values: found.answers().iter().filter_map(|record| txt_value(&record.data)).collect(),
                aliases: found.answers().iter().filter_map(|record| alias(&record.data)).collect(),
            }),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(TxtAnswer::default()),
                code => Err(LookupError::code(code)),
            },
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Err(LookupError::code(code)),
            Ok(Err(NetError::Timeout)) | Err(_) => Err(LookupError(TIMED_OUT.to_owned())),
            Ok(Err(error)) => {
                tracing::debug!(%error, name = owner, "DNS look-up failed");
                Err(LookupError("no DNS server could be reached".to_owned()))
            }
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

pub(super) fn alias(data: &RData) -> Option<String> {
    match data {
        RData::CNAME(target) => Some(target.to_lowercase().to_ascii()),
        _ => None,
    }
}

pub(super) fn txt_value(data: &RData) -> Option<String> {
    match data {
        RData::TXT(txt) => Some(txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()),
        _ => None,
    }
}
