//! One request, taken apart: what it is, whose it is, and what it says.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::header::HOST;
use hyper::http::request;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What a request is, by Pebble's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Directory,
    NewNonce,
    NewAccount,
    NewOrder,
    Order,
    /// A look at an authorization.
    Authorization,
    /// The end of one.
    Deactivation,
    Challenge,
    Finalize,
    Certificate,
    /// RFC 9773; Pebble has none, the habit `RenewalInfo` answers.
    RenewalInfo,
    Other,
}

impl Kind {
    /// All that one certificate takes, in the order in which they first come.
    pub const OF_ONE_CERTIFICATE: [Self; 9] = [
        Self::Directory,
        Self::NewNonce,
        Self::NewAccount,
        Self::NewOrder,
        Self::Authorization,
        Self::Challenge,
        Self::Order,
        Self::Finalize,
        Self::Certificate,
    ];

    fn of(path: &str, payload: &Value) -> Self {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match first {
            "dir" => Self::Directory,
            "nonce-plz" => Self::NewNonce,
            "sign-me-up" => Self::NewAccount,
            "order-plz" => Self::NewOrder,
            "my-order" => Self::Order,
            "authZ" if payload["status"] == "deactivated" => Self::Deactivation,
            "authZ" => Self::Authorization,
            "chalZ" => Self::Challenge,
            "finalize-order" => Self::Finalize,
            "certZ" => Self::Certificate,
            "renewal-info" => Self::RenewalInfo,
            _ => Self::Other,
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: Kind,
    /// As the client wrote and signed it.
    pub url: String,
    /// The account's URL (`kid`); empty where none signed.
    pub account: String,
    /// Of the JWS; `null` for a POST-as-GET and for what is not signed.
    pub payload: Value,
}

impl Asked {
    pub(super) fn new(head: &request::Parts, body: &[u8]) -> Self {
        let jws: Value = serde_json::from_slice(body).unwrap_or_default();
        let part = |name: &str| -> Option<Value> {
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jws[name].as_str()?).ok()?).ok()
        };
        let payload = part("payload").unwrap_or_default();
        let account = part("protected").and_then(|header| header["kid"].as_str().map(ToOwned::to_owned));
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        Self {
            kind: Kind::of(head.uri.path(), &payload),
            url: format!("https://{host}{}", head.uri),
            account: account.unwrap_or_default(),
            payload,
        }
    }

    /// The names of a newOrder, sorted and in lower case.
    pub fn names(&self) -> Vec<String> {
        names(&self.payload)
    }

    /// The certificate that a newOrder says it replaces (RFC 9773 section 5).
    pub fn replaces(&self) -> Option<String> {
        self.payload["replaces"].as_str().map(ToOwned::to_owned)
    }

    /// SHA-256 of a finalize's CSR, lower-case hex.
    pub(super) fn csr_sha256(&self) -> Option<String> {
        let csr = BASE64_URL_SAFE_NO_PAD.decode(self.payload["csr"].as_str()?).ok()?;
        Some(Sha256::digest(csr).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The identifiers of a newOrder or of an order, sorted and in lower case.
pub(super) fn names(order: &Value) -> Vec<String> {
    let identifiers = order["identifiers"].as_array().into_iter().flatten();
    let mut names: Vec<String> =
        identifiers.filter_map(|identifier| Some(identifier["value"].as_str()?.to_ascii_lowercase())).collect();
    names.sort();
    names
}
