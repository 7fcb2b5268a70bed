//! HTTPS to servers that somebody else names: the CA's URLs, customers' webhooks and DNS services. Which addresses are connected
//! to, and which roots are trusted besides the system's.
//!
//! Names are judged by the resolver that connects, so that a name cannot change its mind between a check and the connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_shared::model::address::{is_inward, is_inward_literal};
use countersign_shared::telemetry::chain;
use futures::future::BoxFuture;
use http::StatusCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, RequestBuilder};
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

/// From a name to its addresses.
pub(crate) type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As the system does it.
pub(crate) fn system_lookup() -> LookUp {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
}

/// A policy as reqwest's resolver.
pub(crate) struct JudgingResolver<P> {
    pub(crate) policy: Arc<P>,
    pub(crate) lookup: LookUp,
}

impl<P> JudgingResolver<P> {
    pub(crate) fn new(policy: Arc<P>) -> Self {
        Self { policy, lookup: system_lookup() }
    }
}

impl<P: Admits> Resolve for JudgingResolver<P> {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, addresses) = (Arc::clone(&self.policy), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let addresses = addresses.await?;
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

/// Of an answer, head excluded.
const MOST_READ: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("WEBHOOK_CA_FILE cannot be used")]
    CaFile(#[from] RootsError),
    #[error("the TLS client for webhooks cannot be made")]
    Tls(#[source] reqwest::Error),
}

/// Why there was no answer, in our words and without the URL, which may hold what only the receiver should know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("not a public address")]
    Inward,
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Failed(String),
}

/// Whether customers' servers may be in our own network.
struct Policy {
    allows_inward: bool,
}

impl Admits for Policy {
    fn admitted(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, UrlRefused> {
        if self.allows_inward { Ok(addresses) } else { outward_only(name, addresses) }
    }
}

/// POSTs to customers' servers: https only, no redirects, no proxies, addresses judged, and of an answer only the status counts.
pub(crate) struct OutwardHttp {
    client: reqwest::Client,
    policy: Arc<Policy>,
    within: Duration,
}

impl OutwardHttp {
    pub(crate) fn new(
        user_agent: &str,
        allows_inward: bool,
        ca_file: Option<&Path>,
        within: Duration,
    ) -> Result<Self, SetupError> {
        Self::with_lookup(user_agent, allows_inward, ca_file, within, system_lookup())
    }

    pub(crate) fn with_lookup(
        user_agent: &str,
        allows_inward: bool,
        ca_file: Option<&Path>,
        within: Duration,
        lookup: LookUp,
    ) -> Result<Self, SetupError> {
        let policy = Arc::new(Policy { allows_inward });
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .https_only(true)
            // Both would go round the policy.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(JudgingResolver { policy: Arc::clone(&policy), lookup })
            // Every request connects anew, to an address that was judged for it.
            .pool_max_idle_per_host(0)
            .timeout(within);
        if let Some(path) = ca_file.filter(|path| !path.as_os_str().is_empty()) {
            builder = builder.tls_certs_merge(roots(path)?);
        }
        Ok(Self { client: builder.build().map_err(SetupError::Tls)?, policy, within })
    }

    pub(crate) fn post(&self, url: Url) -> Result<RequestBuilder, NoAnswer> {
        // Names are the resolver's to judge.
        if !self.policy.allows_inward && url.host().as_ref().and_then(is_inward_literal) == Some(true) {
            return Err(NoAnswer::Inward);
        }
        Ok(self.client.post(url))
    }

    /// Reads a little of the body, so that the server can finish, and drops it.
    pub(crate) async fn status(&self, request: RequestBuilder) -> Result<StatusCode, NoAnswer> {
        let mut response = request.send().await.map_err(|error| self.reason(error))?;
        let status = response.status();
        let mut read = 0;
        while read < MOST_READ
            && let Ok(Some(chunk)) = response.chunk().await
        {
            read += chunk.len();
        }
        Ok(status)
    }

    fn reason(&self, error: reqwest::Error) -> NoAnswer {
        if error.is_timeout() {
            return NoAnswer::Late(self.within);
        }
        let is_refused = std::iter::successors(std::error::Error::source(&error), |cause| cause.source())
            .any(|cause| cause.downcast_ref::<UrlRefused>().is_some());
        if is_refused {
            return NoAnswer::Inward;
        }
        let text = chain(&error.without_url()).to_string();
        NoAnswer::Failed(text.chars().filter(|c| !c.is_control()).take(300).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_changed_its_mind_is_judged_by_the_address_that_is_connected_to() {
        let policy = Policy { allows_inward: false };
        let (public, inside) = ("93.184.215.14:443".parse().unwrap(), "127.0.0.1:443".parse().unwrap());
        assert_eq!(policy.admitted("hook.example", vec![public]).unwrap(), [public]);
        assert_eq!(policy.admitted("hook.example", vec![inside, public]).unwrap(), [public]);
        for inward in ["127.0.0.1:443", "169.254.169.254:443", "[::1]:443", "[fd00::1]:443", "[::ffff:10.0.0.1]:443"] {
            assert!(policy.admitted("hook.example", vec![inward.parse().unwrap()]).is_err(), "{inward}");
        }
        let lenient = Policy { allows_inward: true };
        assert_eq!(lenient.admitted("hook.example", vec![inside]).unwrap(), [inside]);
    }

    /// Fewer roots, or none but the system's, would trust whom the operator did not name.
    #[test]
    fn a_file_of_roots_that_cannot_be_used_is_an_error_and_never_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in
            [("missing", None), ("empty", Some("")), ("spoilt", Some("-----BEGIN CERTIFICATE-----\nx"))]
        {
            let path = folder.path().join(name);
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            assert!(roots(&path).is_err(), "{name}");
            assert!(OutwardHttp::new("test", false, Some(&path), Duration::from_secs(1)).is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn the_resolver_that_connects_refuses_names_of_our_own_network() {
        let resolver = JudgingResolver::new(Arc::new(Policy { allows_inward: false }));
        assert!(resolver.resolve("localhost".parse().unwrap()).await.is_err_and(|error| error.is::<UrlRefused>()));
    }
}
