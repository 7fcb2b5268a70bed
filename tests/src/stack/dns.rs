//! pebble-challtestsrv: the DNS server that the CA and our own resolvers ask, with records that tests write.
//!
//! It answers NODATA for unknown names and NOTIMP for NS and SOA, so it shows neither NXDOMAIN nor authoritative checks.

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::processes::{Launch, Processes};
use super::{local_http, ports, ready};

pub(crate) const NAME: &str = "dns";

/// Where the server listens; it survives the process that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsServer {
    port: u16,
    management_port: u16,
}

impl DnsServer {
    pub fn new() -> Result<Self> {
        Ok(Self { port: ports::free()?, management_port: ports::free()? })
    }

    /// `host:port`, by UDP and TCP.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// Starts it, without any records.
    pub async fn start(&self, processes: &Processes) -> Result<()> {
        let management = format!("127.0.0.1:{}", self.management_port);
        let launch = Launch::new(NAME, "pebble-challtestsrv")
            .args(["-dns01", &self.address(), "-management", &management])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        processes.start(&launch)?;
        let client = Dns::new(self)?;
        ready(processes, NAME, async || client.clear_txt("ready.invalid").await.is_ok()).await
    }
}

/// Writes the server's records. Names may come with or without the final dot.
#[derive(Clone)]
pub struct Dns {
    url: String,
    http: Client,
}

impl Dns {
    pub fn new(server: &DnsServer) -> Result<Self> {
        Ok(Self { url: server.management_url(), http: local_http::client(None)? })
    }

    /// Adds one value; earlier ones stay.
    pub async fn set_txt(&self, name: &str, value: &str) -> Result<()> {
        self.post("set-txt", json!({"host": absolute(name), "value": value})).await
    }

    /// Removes all values.
    pub async fn clear_txt(&self, name: &str) -> Result<()> {
        self.post("clear-txt", json!({"host": absolute(name)})).await
    }

    pub async fn set_cname(&self, name: &str, target: &str) -> Result<()> {
        self.post("set-cname", json!({"host": absolute(name), "target": absolute(target)})).await
    }

    pub async fn clear_cname(&self, name: &str) -> Result<()> {
        self.post("clear-cname", json!({"host": absolute(name)})).await
    }

    /// Every question about this name is answered SERVFAIL from now on.
    pub async fn set_servfail(&self, name: &str) -> Result<()> {
        self.post("set-servfail", json!({"host": absolute(name)})).await
    }

    pub async fn clear_servfail(&self, name: &str) -> Result<()> {
        self.post("clear-servfail", json!({"host": absolute(name)})).await
    }

    /// How many questions were asked about this name so far, by the CA and by us.
    pub async fn questions_about(&self, name: &str) -> Result<usize> {
        // Here, and only here, the server knows names without the final dot.
        let body = json!({"host": name.trim_end_matches('.')});
        let answer = self.http.post(format!("{}/dns-request-history", self.url)).json(&body).send().await?;
        let questions: Option<Vec<Value>> = answer.json().await?;
        Ok(questions.map_or(0, |questions| questions.len()))
    }

    async fn post(&self, what: &str, body: Value) -> Result<()> {
        let answer =
            self.http.post(format!("{}/{what}", self.url)).json(&body).send().await.context("asking the DNS server")?;
        ensure!(answer.status() == 200, "the DNS server answered {} to {what} {body}", answer.status());
        Ok(())
    }
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}
