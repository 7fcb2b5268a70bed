//! An HTTPS proxy between the workers and Pebble that makes the CA say, or not say, what Pebble itself cannot be made to.
//!
//! [`StackBuilder::acme_front`](crate::stack::StackBuilder::acme_front) gives it to the workers as their `ACME_DIRECTORY`. The Host header
//! is passed on: Pebble makes its URLs with the front's address and accepts the `url` that the workers sign. A test says what becomes of
//! the next requests of a [`Kind`], can hold them, and reads how many arrived here and how many reached the CA. The front runs on a thread
//! of its own, so that a test that blocks blocks nobody else.

mod proxy;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

use crate::stack::pebble::HttpsIdentity;
use proxy::{Shared, serve};

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
    Other,
}

impl Kind {
    fn of(path: &str, body: &[u8]) -> Self {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match first {
            "dir" => Self::Directory,
            "nonce-plz" => Self::NewNonce,
            "sign-me-up" => Self::NewAccount,
            "order-plz" => Self::NewOrder,
            "my-order" => Self::Order,
            "authZ" if deactivates(body) => Self::Deactivation,
            "authZ" => Self::Authorization,
            "chalZ" => Self::Challenge,
            "finalize-order" => Self::Finalize,
            "certZ" => Self::Certificate,
            _ => Self::Other,
        }
    }
}

fn deactivates(jws: &[u8]) -> bool {
    let payload = || -> Option<Value> {
        let jws: Value = serde_json::from_slice(jws).ok()?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jws["payload"].as_str()?).ok()?).ok()
    };
    payload().is_some_and(|payload| payload["status"] == "deactivated")
}

/// An answer of the CA, real or not.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { status, headers, body: body.into() }
    }

    /// A problem document (RFC 8555 section 6.7); `name` without the prefix of the URN.
    pub fn problem(status: u16, name: &str, detail: &str) -> Self {
        let problem = json!({"type": format!("urn:ietf:params:acme:error:{name}"), "detail": detail, "status": status});
        Self::new(status, "application/problem+json", problem.to_string())
    }

    /// What a proxy in front of a CA says.
    pub fn html(status: u16) -> Self {
        Self::new(status, "text/html", "<html><body>Our servers are <b>busy</b>.</body></html>")
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("a header's value"));
        self
    }

    /// The same answer with its JSON changed.
    #[must_use]
    pub fn with_json(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        change(&mut body);
        self.body = body.to_string().into();
        self
    }
}

/// What becomes of a request.
#[derive(Clone)]
pub enum Fault {
    /// This answer; the CA is not asked.
    Answer(Reply),
    /// The connection is closed; the CA is not asked.
    HangUp,
    /// The CA's answer, changed; `None` closes the connection instead.
    Change(Arc<dyn Fn(Reply) -> Option<Reply> + Send + Sync>),
}

impl Fault {
    pub fn change(change: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Self {
        Self::Change(Arc::new(move |reply| Some(change(reply))))
    }

    /// The CA does what it was asked, and nobody hears of it.
    pub fn lose_answer() -> Self {
        Self::Change(Arc::new(|_| None))
    }
}

/// A running front. It ends when it is dropped.
pub struct AcmeFront {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AcmeFront {
    /// Serves with the identity of `upstream`, an `https://host:port` whose certificate also holds for 127.0.0.1.
    pub(crate) fn start(upstream: &str, identity: &HttpsIdentity) -> Result<Self> {
        let certificates = CertificateDer::pem_slice_iter(&identity.certificate).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&identity.key)?;
        let tls =
            ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let tls = TlsAcceptor::from(Arc::new(tls.with_no_client_auth().with_single_cert(certificates, key)?));
        // Not HTTP/2, which has no Host header to pass on.
        let roots = Certificate::from_pem_bundle(&identity.root)?;
        let client = Client::builder().no_proxy().tls_certs_only(roots).http1_only().build()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (state, held) = (Mutex::default(), watch::Sender::default());
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), client, state, held });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, tls, serving) => served.expect("the front can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, shared, stop: Some(stop), thread: Some(thread) })
    }

    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// What becomes of the next `times` requests of a kind, after those that something was said about before.
    pub fn next(&self, times: usize, kind: Kind, fault: Fault) {
        self.shared.state().faults.entry(kind).or_default().push_back((times, fault));
    }

    /// What becomes of all further requests of a kind, until [`Self::heal`].
    pub fn always(&self, kind: Kind, fault: Fault) {
        self.next(usize::MAX, kind, fault);
    }

    /// Forgets all faults; what is held stays so.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    /// The kinds of which some `next` request has not come yet.
    pub fn unused(&self) -> Vec<Kind> {
        self.shared.state().faults.iter().filter(|(_, faults)| !faults.is_empty()).map(|(kind, _)| *kind).collect()
    }

    /// Holds requests of a kind, before the CA sees them, until [`Self::release`].
    pub fn hold(&self, kind: Kind) {
        self.shared.held.send_if_modified(|held| held.insert(kind));
    }

    /// Lets go all that is held.
    pub fn release(&self) {
        self.shared.held.send_modify(BTreeSet::clear);
    }

    /// Requests that came here, also those that are held or never reached the CA.
    pub fn arrived(&self, kind: Kind) -> usize {
        self.shared.state().arrived.get(&kind).copied().unwrap_or(0)
    }

    /// Requests that were sent on to the CA.
    pub fn reached_ca(&self, kind: Kind) -> usize {
        self.shared.state().forwarded.get(&kind).copied().unwrap_or(0)
    }
}

impl Drop for AcmeFront {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
