//! What the front does with one connection and one request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Fault, Kind, Reply};

/// What the requests and the test share.
pub(super) struct Shared {
    /// `https://host:port`
    pub(super) upstream: String,
    pub(super) client: Client,
    pub(super) state: Mutex<State>,
    pub(super) held: watch::Sender<BTreeSet<Kind>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) faults: BTreeMap<Kind, VecDeque<(usize, Fault)>>,
    pub(super) arrived: BTreeMap<Kind, usize>,
    pub(super) forwarded: BTreeMap<Kind, usize>,
}

pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let service = service_fn(|request| shared.answer(request));
            // An error is what hanging up looks like from here.
            if let Ok(stream) = tls.accept(stream).await {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error closes the connection without an answer.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let kind = Kind::of(head.uri.path(), &body);
        *self.state().arrived.entry(kind).or_default() += 1;
        self.held.subscribe().wait_for(|held| !held.contains(&kind)).await?;
        let reply = match self.next_fault(kind) {
            Some(Fault::Answer(reply)) => Some(reply),
            Some(Fault::HangUp) => None,
            Some(Fault::Change(change)) => change(self.forward(kind, head, body).await?),
            None => Some(self.forward(kind, head, body).await?),
        };
        let Some(reply) = reply else { bail!("hanging up") };
        let mut response = Response::builder().status(reply.status).body(Full::new(reply.body))?;
        *response.headers_mut() = reply.headers;
        Ok(response)
    }

    fn next_fault(&self, kind: Kind) -> Option<Fault> {
        let mut state = self.state();
        let faults = state.faults.get_mut(&kind)?;
        let (left, fault) = faults.front_mut()?;
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            faults.pop_front();
        }
        Some(fault)
    }

    async fn forward(&self, kind: Kind, head: request::Parts, body: Bytes) -> Result<Reply> {
        *self.state().forwarded.entry(kind).or_default() += 1;
        let url = format!("{}{}", self.upstream, head.uri);
        let request = self.client.request(head.method, url).headers(without_framing(head.headers)).body(body);
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), without_framing(answer.headers().clone()));
        Ok(Reply { status, headers, body: answer.bytes().await? })
    }
}

/// Both sides frame their bodies themselves.
fn without_framing(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
