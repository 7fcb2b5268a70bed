//! What the stack takes from our own environment: the only place of this crate that reads it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// All that a process of the stack inherits; everything else it is given by name.
const INHERITED: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE"];

/// Settings of our own binaries that are passed on to all of them.
const OURS: [&str; 21] = [
    "POLL_INTERVAL",
    "POLL_TIMEOUT",
    "CONFIRM_GRACE",
    "DNS_AUTHORITATIVE_CHECK",
    "PLACE_WAIT",
    "MAX_REQUESTS",
    "MAX_CONNECTIONS",
    "LOG_FORMAT",
    "LEASE_FOR",
    "MAX_ATTEMPTS",
    "WORKER_SLOTS",
    "ACME_NEW_ORDER_LIMIT",
    "ACME_REQUEST_TIMEOUT",
    "DATABASE_MAX_CONNECTIONS",
    "SHUTDOWN_DELAY",
    "SHUTDOWN_GRACE",
    "AUTH_TOKEN",
    "ENCRYPTION_KEYS",
    "RATE_LIMIT",
    "LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Settings of Pebble's that are passed on to it.
const PEBBLES: [&str; 3] = ["PEBBLE_VA_NOSLEEP", "PEBBLE_WFE_NONCEREJECT", "PEBBLE_AUTHZREUSE"];

pub type Settings = BTreeMap<String, String>;

pub fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| INHERITED.iter().any(|inherited| name == inherited))
}

/// The settings of our binaries that somebody gave to this process. An empty one counts as not given.
pub fn our_settings() -> Settings {
    given(&OURS)
}

pub fn pebble_settings() -> Settings {
    given(&PEBBLES)
}

/// Whether colours are unwanted: <https://no-color.org>.
pub fn forbids_colour() -> bool {
    !given(&["NO_COLOR"]).is_empty()
}

/// Whether this is a machine of continuous integration, where nothing may be left out.
pub fn is_ci() -> bool {
    given(&["CI"]).get("CI").is_some_and(|value| value == "true")
}

/// A build of `countersign-dns` to be measured in place of the one beside the tests.
pub fn responder() -> Option<PathBuf> {
    given(&["RESPONDER"]).remove("RESPONDER").map(PathBuf::from)
}

pub fn program_folders() -> Vec<PathBuf> {
    let path = std::env::vars_os().find(|(name, _)| name == "PATH");
    path.map(|(_, path)| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn given(names: &[&str]) -> Settings {
    let set =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    set.filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty()).collect()
}
