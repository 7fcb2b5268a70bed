//! Who publishes TXT records: the kinds, and the settings of those that need some.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, EnumString, IntoStaticStr};

use super::secret::Secret;
use super::webhook;

/// Who publishes an order's TXT records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "kebab-case")]
pub enum Presenter {
    /// The customer, who reads what to publish.
    Manual,
    /// Our own name servers answer, because the customer's challenge name is an alias of the domain's delegation target.
    Delegated,
    /// Dynamic updates to the zone's primary (RFC 2136).
    Rfc2136,
    /// An HTTP service, in the shape of lego's `httpreq`.
    Webhook,
    /// We do, at a pebble-challtestsrv: for tests and trials.
    TestDns,
}

impl Presenter {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether a worker writes the records somewhere.
    pub fn writes(self) -> bool {
        match self {
            Self::Manual | Self::Delegated => false,
            Self::Rfc2136 | Self::Webhook | Self::TestDns => true,
        }
    }

    /// Whether records are published without anybody's doing, so that a certificate can be renewed unattended.
    pub fn is_automatic(self) -> bool {
        self != Self::Manual
    }
}

/// Who publishes the records of an order, and with which settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBy {
    pub presenter: Presenter,
    /// Of `presenter_configs`; None where none is needed.
    pub config_id: Option<i64>,
}

impl PublishedBy {
    pub const CUSTOMER: Self = Self { presenter: Presenter::Manual, config_id: None };
}

/// What an account or a domain is configured with. Secrets are stored beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PresenterSettings {
    Manual {},
    Rfc2136(Rfc2136Settings),
    Webhook(WebhookSettings),
}

/// Where dynamic updates go, and how they are signed (RFC 2136, RFC 8945). The key itself is the secret, in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rfc2136Settings {
    /// The zone's primary.
    pub server: SocketAddr,
    /// The zone to update, with the final dot; found by its SOA when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    pub key_name: String,
    #[serde(default)]
    pub algorithm: TsigAlgorithm,
    #[serde(default)]
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum TsigAlgorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Transport {
    Udp,
    #[default]
    Tcp,
}

/// Where `/present` and `/cleanup` are, and as whom they are called. The password or token is the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSettings {
    /// `https://…`; `/present` and `/cleanup` are appended.
    pub url: String,
    /// For basic authentication; bearer authentication without, none without a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Further headers of every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl PresenterSettings {
    pub fn presenter(&self) -> Presenter {
        match self {
            Self::Manual {} => Presenter::Manual,
            Self::Rfc2136(_) => Presenter::Rfc2136,
            Self::Webhook(_) => Presenter::Webhook,
        }
    }
}

/// What is wrong with a field, in words that go behind its name.
pub type Fault = (&'static str, &'static str);

/// Headers that are ours to set, or that would show a secret wherever the settings are shown.
const RESERVED_HEADERS: [&str; 7] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "proxy-authorization",
    "transfer-encoding",
];
const MOST_HEADERS: usize = 20;
const LONGEST_TEXT: usize = 1024;

impl PresenterSettings {
    /// All that can be told without asking anybody.
    pub fn faults(&self, secret: Option<&Secret>) -> Vec<Fault> {
        match self {
            Self::Manual {} => secret.map(|_| ("secret", "is not needed")).into_iter().collect(),
            Self::Rfc2136(settings) => settings.faults(secret),
            Self::Webhook(settings) => settings.faults(secret),
        }
    }
}

impl Rfc2136Settings {
    fn faults(&self, secret: Option<&Secret>) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.server.port() == 0 {
            faults.push(("server", "must be an address with a port"));
        }
        if self.zone.as_deref().is_some_and(|zone| !is_name(zone)) {
            faults.push(("zone", "must be a DNS name"));
        }
        if !is_name(&self.key_name) {
            faults.push(("key_name", "must be a DNS name"));
        }
        match secret {
            None => faults.push(("secret", "can't be blank")),
            Some(secret) if tsig_key(secret).is_none() => faults.push(("secret", "must be the TSIG key in base64")),
            Some(_) => {}
        }
        faults
    }
}

impl WebhookSettings {
    fn faults(&self, secret: Option<&Secret>) -> Vec<Fault> {
        let mut faults = Vec::new();
        match webhook::target(&self.url) {
            Err(why) => faults.push(("url", why)),
            // The calls are appended to the path.
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                faults.push(("url", "must not have a query or a fragment"));
            }
            Ok(_) => {}
        }
        if self.username.as_deref().is_some_and(|name| name.contains(':') || !is_text(name)) {
            faults.push(("username", "must be text without a colon"));
        }
        if self.username.is_some() && secret.is_none() {
            faults.push(("secret", "can't be blank with a username"));
        }
        if secret.is_some_and(|secret| !is_text(secret.expose())) {
            faults.push(("secret", "must be text of one line"));
        }
        if self.headers.len() > MOST_HEADERS || !self.headers.iter().all(|(name, value)| is_header(name, value)) {
            faults.push(("headers", "must be at most 20 names of further headers with their values"));
        }
        faults
    }
}

/// The bytes of a TSIG key.
pub fn tsig_key(secret: &Secret) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(secret.expose()).ok().filter(|key| !key.is_empty())
}

fn is_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    labels.len() <= 253 && labels.split('.').all(is_label)
}

/// Goes into a header as it is.
fn is_text(text: &str) -> bool {
    (1..=LONGEST_TEXT).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn is_header(name: &str, value: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=64).contains(&name.len())
        && name.bytes().all(is_token)
        && !RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str())
        && is_text(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: serde_json::Value, secret: Option<&str>) -> Vec<&'static str> {
        let settings: PresenterSettings = serde_json::from_value(settings).unwrap();
        let secret = secret.map(|text| Secret::new(text.to_owned()));
        settings.faults(secret.as_ref()).into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn each_fault_names_its_field() {
        use serde_json::json;
        assert!(faults(json!({"kind": "manual"}), None).is_empty());
        assert_eq!(faults(json!({"kind": "manual"}), Some("x")), ["secret"]);

        let server = "192.0.2.1:53";
        let good = json!({"kind": "rfc2136", "server": server, "key_name": "k.", "zone": "_dyn.example.com."});
        assert!(faults(good.clone(), Some("c2VjcmV0")).is_empty());
        assert_eq!(faults(good.clone(), None), ["secret"]);
        assert_eq!(faults(good.clone(), Some("no base64!")), ["secret"]);
        assert_eq!(faults(good, Some("")), ["secret"]);
        let bad = json!({"kind": "rfc2136", "server": "192.0.2.1:0", "key_name": "", "zone": "a..b"});
        assert_eq!(faults(bad, Some("c2VjcmV0")), ["server", "zone", "key_name"]);

        let good = json!({"kind": "webhook", "url": "https://dns.example/v1", "headers": {"X-Zone": "a"}});
        assert!(faults(good.clone(), None).is_empty() && faults(good, Some("token")).is_empty());
        let bad = json!({"kind": "webhook", "url": "http://dns.example", "username": "a:b", "headers": {"Host": "a"}});
        assert_eq!(faults(bad, Some("line\nend")), ["url", "username", "secret", "headers"]);
        for url in ["https://dns.example/?key=1", "https://u:p@dns.example/", "dns.example"] {
            assert_eq!(faults(json!({"kind": "webhook", "url": url}), None), ["url"], "{url}");
        }
        for headers in [json!({"authorization": "Bearer x"}), json!({"A B": "x"}), json!({"A": "x\r\ny"})] {
            let bad = json!({"kind": "webhook", "url": "https://dns.example/", "headers": headers});
            assert_eq!(faults(bad, None), ["headers"], "{headers}");
        }
        let named = json!({"kind": "webhook", "url": "https://dns.example/", "username": "u"});
        assert_eq!(faults(named, None), ["secret"]);
    }
}
