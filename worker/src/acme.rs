//! The CA, in our words: the only users of instant-acme.
//!
//! [`Acme`] is all that the steps see. Behind it `account` knows who we are, `transport` how a request is signed and sent,
//! `url_policy` whom we talk to, `problem` what a refusal means. Nothing in here waits for the CA: one request (or one short
//! run of them) per call, and the caller stores the outcome and comes back.

mod account;
mod client;
mod measured;
mod problem;
mod transport;
mod url_policy;

#[cfg(test)]
mod fake_ca;
#[cfg(test)]
mod pebble;

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

pub use account::{AccountKey, KeyPemError, generate_rsa_key_pem, parse_rsa_key_pem, rsa_key_pem_as_pkcs8};
pub use client::{
    Acme, AuthorizationStatus, AuthorizationView, Dns01, OrderStatus, OrderView, PlacedOrder, RenewalWindow, Revoked,
    Turn, certificate_id,
};
pub use problem::{AcmeError, ErrorClass, Problem, RequestKind, Subproblem, class_of_authorization_problem};
pub use transport::SetupError;

pub use crate::outward::UrlRefused;

/// How to reach one CA and who we are there. No `Debug`: it may hold a MAC key.
#[derive(Clone)]
pub struct Settings {
    pub directory: Url,
    /// E-mail address, without `mailto:`.
    pub contact: Option<String>,
    /// PEM file of roots that are trusted besides the platform's.
    pub ca_file: Option<PathBuf>,
    pub connect_timeout: Duration,
    /// For one request with everything it takes: nonces, repetitions, the answer's body.
    pub request_timeout: Duration,
    /// Concurrent newOrder calls. Pebble deadlocks above 1.
    pub new_order_limit: usize,
    pub external_account: Option<ExternalAccount>,
}

/// RFC 8555 §7.3.4. No `Debug`: the MAC key is a secret.
#[derive(Clone)]
pub struct ExternalAccount {
    pub key_id: String,
    /// Decoded.
    pub hmac_key: Zeroizing<Vec<u8>>,
}

/// The alphabet of tokens (RFC 8555 §8.3) and nonces (§6.5.1).
fn is_base64url(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
