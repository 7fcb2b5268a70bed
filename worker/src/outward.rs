//! HTTPS to servers that somebody else names: the CA's URLs, customers' webhooks. Which addresses are connected to, and which
//! roots are trusted besides the system's.
//!
//! Names are judged by the resolver that connects, so that a name cannot change its mind between a check and the connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_shared::model::address::is_inward;
use reqwest::Certificate;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

#[derive(Debug, thiserror::Error)]
pub enum UrlRefused {
    #[error("not a URL: `{0}`")]
    NotAUrl(String),
    #[error("not https: `{0}`")]
    NotHttps(String),
    #[error("user name or password in a URL of `{0}`")]
    Userinfo(String),
    #[error("`{0}` is inside our network")]
    Inward(String),
}

/// Which of a name's addresses may be connected to; an error when none.
pub(crate) trait Admits: Send + Sync + 'static {
    fn admitted(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, UrlRefused>;
}

/// A policy as reqwest's resolver.
pub(crate) struct JudgingResolver<P>(pub(crate) Arc<P>);

impl<P: Admits> Resolve for JudgingResolver<P> {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = policy.admitted(name.as_str(), addresses)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// The addresses of the public internet among these.
pub(crate) fn outward_only(name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, UrlRefused> {
    let outward: Vec<_> = addresses.into_iter().filter(|address| !is_inward(address.ip())).collect();
    if outward.is_empty() { Err(UrlRefused::Inward(name.to_owned())) } else { Ok(outward) }
}

pub(crate) fn https_host(url: &Url) -> Result<Host<&str>, UrlRefused> {
    let host = url.host().ok_or_else(|| UrlRefused::NotAUrl(url.scheme().to_owned()))?;
    if url.scheme() != "https" {
        return Err(UrlRefused::NotHttps(host.to_string()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlRefused::Userinfo(host.to_string()));
    }
    Ok(host)
}

#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("`{path}` cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is no PEM file of certificates")]
    NotPem { path: PathBuf, source: reqwest::Error },
    #[error("`{0}` holds no certificate")]
    Empty(PathBuf),
}

/// The certificates of a PEM file.
pub(crate) fn roots(path: &Path) -> Result<Vec<Certificate>, RootsError> {
    let pem = std::fs::read(path).map_err(|source| RootsError::Unreadable { path: path.to_owned(), source })?;
    let roots =
        Certificate::from_pem_bundle(&pem).map_err(|source| RootsError::NotPem { path: path.to_owned(), source })?;
    if roots.is_empty() { Err(RootsError::Empty(path.to_owned())) } else { Ok(roots) }
}
