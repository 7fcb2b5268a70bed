//! A CA that costs little: an ACME server (RFC 8555) that takes every account and every order at once, keeps nothing, checks no
//! signature, and knows no more of the protocol than placing an order needs.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, head, post};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use countersign_tests::stack::pebble::HttpsIdentity;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const NONCE: HeaderName = HeaderName::from_static("replay-nonce");

/// A running one. It ends when it is dropped.
pub(crate) struct StubCa {
    base: String,
    folder: TempDir,
    ca: Arc<Ca>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Ca {
    base: String,
    /// Numbers what must differ: nonces and orders.
    next: AtomicU64,
    orders: AtomicU64,
}

impl StubCa {
    /// On a thread of its own.
    pub(crate) fn start() -> Result<Self> {
        let identity = HttpsIdentity::make()?;
        let folder = TempDir::with_prefix("countersign-stub-ca-")?;
        std::fs::write(folder.path().join("root.pem"), &identity.root)?;
        let tls = identity.acceptor()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let base = format!("https://127.0.0.1:{}", listener.local_addr()?.port());
        let ca = Arc::new(Ca { base: base.clone(), next: AtomicU64::new(1), orders: AtomicU64::new(0) });
        let router = router(Arc::clone(&ca));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, tls, router) => served.expect("the stub can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { base, folder, ca, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn directory(&self) -> String {
        format!("{}/dir", self.base)
    }

    /// The root of its HTTPS certificate (PEM).
    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// How many orders were placed so far.
    pub(crate) fn orders(&self) -> u64 {
        self.ca.orders.load(Ordering::Relaxed)
    }
}

impl Drop for StubCa {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            // An error is what hanging up looks like from here.
            if let Ok(stream) = tls.accept(stream).await {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn router(ca: Arc<Ca>) -> Router {
    Router::new()
        .route("/dir", get(directory))
        .route("/nonce", head(async |State(ca): State<Arc<Ca>>| ca.answer(StatusCode::OK, None, &Value::Null)))
        .route("/account", post(new_account))
        .route("/account/{id}", post(account))
        .route("/order", post(new_order))
        .route("/authorization/{order}/{name}", post(authorization))
        .with_state(ca)
}

impl Ca {
    /// Of nonces and orders there are no two alike.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn answer(&self, status: StatusCode, location: Option<String>, body: &Value) -> Response {
        let nonce = AppendHeaders([(NONCE, format!("nonce{}", self.number()))]);
        let location = AppendHeaders(location.map(|url| (LOCATION, url)));
        (status, nonce, location, axum::Json(body)).into_response()
    }
}

async fn directory(State(ca): State<Arc<Ca>>) -> Response {
    let base = &ca.base;
    let body = json!({
        "newNonce": format!("{base}/nonce"),
        "newAccount": format!("{base}/account"),
        "newOrder": format!("{base}/order"),
    });
    ca.answer(StatusCode::OK, None, &body)
}

async fn new_account(State(ca): State<Arc<Ca>>) -> Response {
    let url = format!("{}/account/1", ca.base);
    ca.answer(StatusCode::CREATED, Some(url), &json!({ "status": "valid" }))
}

async fn account(State(ca): State<Arc<Ca>>) -> Response {
    ca.answer(StatusCode::OK, None, &json!({ "status": "valid" }))
}

async fn new_order(State(ca): State<Arc<Ca>>, body: Bytes) -> Response {
    let Ok(payload) = payload(&body) else {
        return ca.answer(StatusCode::BAD_REQUEST, None, &json!({ "type": "urn:ietf:params:acme:error:malformed" }));
    };
    let identifiers = &payload["identifiers"];
    let (base, number) = (&ca.base, ca.number());
    let names = identifiers.as_array().into_iter().flatten().filter_map(|identifier| identifier["value"].as_str());
    let authorizations: Vec<String> = names.map(|name| format!("{base}/authorization/{number}/{name}")).collect();
    let body = json!({
        "status": "pending",
        "identifiers": identifiers,
        "authorizations": authorizations,
        "finalize": format!("{base}/order/{number}/finalize"),
    });
    ca.orders.fetch_add(1, Ordering::Relaxed);
    ca.answer(StatusCode::CREATED, Some(format!("{base}/order/{number}")), &body)
}

async fn authorization(State(ca): State<Arc<Ca>>, Path((order, name)): Path<(u64, String)>) -> Response {
    let body = json!({
        "status": "pending",
        "identifier": { "type": "dns", "value": name },
        "challenges": [{
            "type": "dns-01",
            "status": "pending",
            "url": format!("{}/challenge/{order}", ca.base),
            "token": BASE64URL.encode(format!("token of order {order:018}")),
        }],
    });
    ca.answer(StatusCode::OK, None, &body)
}

/// That of a JWS (RFC 7515), whoever signed it.
fn payload(body: &[u8]) -> Result<Value> {
    let jws: Value = serde_json::from_slice(body)?;
    let encoded = jws["payload"].as_str().context("not a flattened JWS")?;
    Ok(serde_json::from_slice(&BASE64URL.decode(encoded)?)?)
}
