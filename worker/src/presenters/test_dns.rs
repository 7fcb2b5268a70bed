//! Publishes at a pebble-challtestsrv, by its management interface: for tests and trials on one host.
//!
//! That server removes all values of a name at once.

use std::time::Duration;

use anyhow::ensure;
use reqwest::Client;
use serde_json::json;
use url::{Host, Url};

use super::PresenterError;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct TestDns {
    management: Url,
    http: Client,
}

impl TestDns {
    /// Anything but a loopback address is refused: whoever reaches that server writes what others validate by.
    pub(super) fn new(management: &Url) -> anyhow::Result<Self> {
        let is_loopback = match management.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        ensure!(is_loopback, "TEST_DNS_MANAGEMENT_URL must have a loopback address");
        let http = Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
        Ok(Self { management: management.clone(), http })
    }

    /// Adds a value at an owner name (with the final dot).
    pub async fn present(&self, owner_name: &str, value: &str) -> Result<(), PresenterError> {
        self.post("set-txt", json!({ "host": owner_name, "value": value })).await
    }

    /// Removes all that is at an owner name.
    pub async fn remove_all(&self, owner_name: &str) -> Result<(), PresenterError> {
        self.post("clear-txt", json!({ "host": owner_name })).await
    }

    async fn post(&self, what: &str, body: serde_json::Value) -> Result<(), PresenterError> {
        let url = self.management.join(what).expect("a plain word is a relative URL");
        let answer = self.http.post(url).json(&body).send().await.map_err(PresenterError::TestDns)?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(PresenterError::TestDnsRefused(answer.status().as_u16()))
        }
    }
}
