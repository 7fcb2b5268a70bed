//! Who publishes TXT records: the kinds, and the settings of those that need some.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use strum::{EnumIter, EnumString, IntoStaticStr};

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
