//! HTTP clients for servers on this machine: no proxy, no trust in the system's certificates, short time-outs.

use std::time::Duration;

use anyhow::Result;
use reqwest::{Certificate, Client};

/// A client that trusts `roots` (PEM) and nobody else; with none, it is for plain HTTP.
pub fn client(roots: Option<&[u8]>) -> Result<Client> {
    let roots = roots.map(Certificate::from_pem_bundle).transpose()?.unwrap_or_default();
    Ok(Client::builder().no_proxy().tls_certs_only(roots).timeout(Duration::from_secs(40)).build()?)
}

/// Whether `url` answers 200 now.
pub async fn answers(client: &Client, url: &str) -> bool {
    let answer = client.get(url).timeout(Duration::from_secs(2)).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}
