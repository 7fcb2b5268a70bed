//! An HTTPS server that plays a customer's webhook: records what comes, and answers, hangs, redirects or floods as a test wants.
//!
//! It runs on a thread of its own, so that a test that blocks blocks nobody else. Its root goes to a file for `WEBHOOK_CA_FILE`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::stack::dns::Dns;
use crate::stack::pebble::HttpsIdentity;

/// What comes back from a path.
#[derive(Clone)]
pub enum Manner {
    /// This status with this body.
    Answer(u16, String),
    /// 307 to another URL.
    Redirect(String),
    /// Nothing, ever; the connection stays open.
    Hang,
    /// This status with a body of so many bytes.
    Flood(u16, u64),
    /// 200, once the value that the body names was published at this DNS server.
    Publish(Dns),
    /// 200, once the value that the body names was removed there, and no other.
    Withdraw(Dns),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    /// Byte by byte.
    pub body: Vec<u8>,
}

impl Received {
    /// # Panics
    /// If the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("the header is text")).unwrap_or_default()
    }
}

#[derive(Default)]
struct State {
    manners: BTreeMap<String, Manner>,
    received: Vec<Received>,
    sent: u64,
    /// By owner name.
    published: BTreeMap<String, Vec<String>>,
    publishing: Arc<tokio::sync::Mutex<()>>,
}

/// A running receiver. It ends when it is dropped.
pub struct Receiver {
    port: u16,
    folder: TempDir,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start() -> Result<Self> {
        let identity = HttpsIdentity::make()?;
        let folder = TempDir::with_prefix("countersign-receiver-")?;
        std::fs::write(folder.path().join("root.pem"), &identity.root)?;
        let tls = identity.acceptor()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let state: Arc<Mutex<State>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, tls, shared) => served.expect("the receiver can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, folder, state, stop: Some(stop), thread: Some(thread) })
    }

    /// PEM.
    pub fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// From now on; before that a path answers 200 without a body.
    pub fn behave(&self, path: &str, manner: Manner) {
        self.state().manners.insert(path.to_owned(), manner);
    }

    /// Plays a DNS provider's service below a path, in the shape of lego's `httpreq`.
    pub fn publish_at(&self, dns: &Dns, path: &str) {
        self.behave(&format!("{path}/present"), Manner::Publish(dns.clone()));
        self.behave(&format!("{path}/cleanup"), Manner::Withdraw(dns.clone()));
    }

    /// What came to a path, in the order in which it came.
    pub fn received(&self, path: &str) -> Vec<Received> {
        self.state().received.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// Bytes of floods that were taken from us.
    pub fn flooded(&self) -> u64 {
        self.state().sent
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&state)));
            // An error is what hanging up looks like from here.
            if let Ok(stream) = tls.accept(stream).await {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Answer>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    let path = head.uri.path().to_owned();
    let received = Received { method: head.method, path: path.clone(), headers: head.headers, body };
    let manner = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let manner = state.manners.get(&path).cloned();
        state.received.push(received.clone());
        manner.unwrap_or(Manner::Answer(200, String::new()))
    };
    let response = Response::builder();
    let whole = |text: String| Answer { left: Bytes::from(text), more: 0, state: None };
    Ok(match manner {
        Manner::Answer(status, body) => response.status(status).body(whole(body))?,
        Manner::Redirect(to) => response.status(307).header(LOCATION, to).body(whole(String::new()))?,
        Manner::Hang => std::future::pending().await,
        Manner::Flood(status, bytes) => {
            response.status(status).body(Answer { left: Bytes::new(), more: bytes, state: Some(state) })?
        }
        Manner::Publish(dns) => {
            publish(&dns, &state, &received.json(), true).await?;
            response.body(whole(String::new()))?
        }
        Manner::Withdraw(dns) => {
            publish(&dns, &state, &received.json(), false).await?;
            response.body(whole(String::new()))?
        }
    })
}

/// That server can only empty a name, so the values that stay are published again.
async fn publish(dns: &Dns, state: &Mutex<State>, body: &Value, is_there: bool) -> Result<()> {
    let [owner, value] = ["fqdn", "value"].map(|field| body[field].as_str().unwrap_or_default().to_owned());
    let one_at_a_time = Arc::clone(&state.lock().unwrap_or_else(PoisonError::into_inner).publishing);
    let _turn = one_at_a_time.lock().await;
    let (was_there, values) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let values = state.published.entry(owner.clone()).or_default();
        let was_there = values.contains(&value);
        values.retain(|other| *other != value);
        values.extend(is_there.then(|| value.clone()));
        (was_there, values.clone())
    };
    match (was_there, is_there) {
        (false, true) => dns.set_txt(&owner, &value).await?,
        (true, false) => {
            dns.clear_txt(&owner).await?;
            for other in values {
                dns.set_txt(&owner, &other).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// A text, or so many bytes of nothing.
struct Answer {
    left: Bytes,
    more: u64,
    state: Option<Arc<Mutex<State>>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BLANK: [u8; 16 << 10] = [b' '; 16 << 10];
        let chunk = match self.more.min(BLANK.len() as u64) {
            0 => std::mem::take(&mut self.left),
            length => {
                self.more -= length;
                if let Some(state) = &self.state {
                    state.lock().unwrap_or_else(PoisonError::into_inner).sent += length;
                }
                Bytes::from_static(&BLANK[..length as usize])
            }
        };
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }
}
