//! What the front does with one connection and one request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use http_body_util::BodyExt as _;
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

use super::asked::{Asked, Kind};
use super::faults::Fault;
use super::habits::Habit;
use super::record::{Number, Record};
use super::reply::{Reply, ReplyBody};

/// What the requests and the test share.
pub(super) struct Shared {
    /// `https://host:port`
    pub(super) upstream: String,
    pub(super) client: Client,
    pub(super) state: Mutex<State>,
    pub(super) gate: watch::Sender<Gate>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) faults: BTreeMap<Kind, VecDeque<(usize, Fault)>>,
    pub(super) habits: Vec<Box<dyn Habit>>,
    pub(super) record: Record,
    /// How many are held now.
    pub(super) held: BTreeMap<(Kind, Moment), usize>,
}

/// When a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The CA has not seen it.
    Before,
    /// The CA has done it; its answer is kept back.
    After,
}

#[derive(Default)]
pub(super) struct Gate {
    pub(super) held: BTreeSet<(Kind, Moment)>,
    /// How often all that was held then was lost.
    pub(super) losses: usize,
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
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<ReplyBody>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let asked = Asked::new(&head, &body);
        let number = self.state().record.arrived(&asked);
        self.pass(asked.kind, Moment::Before).await?;
        let mut fault = self.next_fault(&asked);
        while let Fault::Late(by, then) = fault {
            tokio::time::sleep(by).await;
            fault = *then;
        }
        let kind = asked.kind;
        let reply = match fault {
            Fault::Answer(reply) => Some(reply),
            Fault::HangUp => None,
            fault => {
                let forwarded = Arc::clone(self).forward(number, asked, head, body, fault);
                // A client that has gone does not call back what the CA was sent.
                #[expect(clippy::disallowed_methods, reason = "awaited unless the client has gone; then nobody asks")]
                tokio::spawn(forwarded).await??
            }
        };
        self.pass(kind, Moment::After).await?;
        Ok(reply.context("hanging up")?.into_response()?)
    }

    /// Waits while requests of this kind are held at this moment; an error if it is lost instead.
    async fn pass(&self, kind: Kind, moment: Moment) -> Result<()> {
        let here = (kind, moment);
        let mut gate = self.gate.subscribe();
        let losses = gate.borrow_and_update().losses;
        if !gate.borrow().held.contains(&here) {
            return Ok(());
        }
        let _counted = Held::new(self, here);
        let lost = gate.wait_for(|gate| !gate.held.contains(&here) || gate.losses > losses).await?.losses > losses;
        if lost {
            bail!("lost");
        }
        Ok(())
    }

    /// What the test has planned, or else what the habits of the CA make of it.
    fn next_fault(&self, asked: &Asked) -> Fault {
        let state = &mut *self.state();
        if let Some(faults) = state.faults.get_mut(&asked.kind)
            && let Some((left, fault)) = faults.front_mut()
        {
            let fault = fault.clone();
            *left -= 1;
            if *left == 0 {
                faults.pop_front();
            }
            return fault;
        }
        state.habits.iter_mut().find_map(|habit| habit.before(asked)).map_or(Fault::None, Fault::Answer)
    }

    async fn forward(
        self: Arc<Self>,
        number: Number,
        asked: Asked,
        head: request::Parts,
        body: Bytes,
        fault: Fault,
    ) -> Result<Option<Reply>> {
        self.state().record.reaches_ca(number);
        let url = format!("{}{}", self.upstream, head.uri);
        let request = self.client.request(head.method, url).headers(without_framing(head.headers)).body(body);
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), without_framing(answer.headers().clone()));
        let of_ca = Reply::of_ca(status, headers, answer.bytes().await?);
        let shown = match fault {
            Fault::Change(change) => change(&asked, of_ca.clone()),
            _ => Some(of_ca.clone()),
        };
        let state = &mut *self.state();
        let shown = shown.map(|shown| state.habits.iter_mut().fold(shown, |shown, habit| habit.adding(&asked, shown)));
        state.record.answered(number, &of_ca);
        state.habits.iter_mut().for_each(|habit| habit.after(&asked, &of_ca, shown.as_ref().unwrap_or(&of_ca)));
        Ok(shown)
    }
}

/// One held request, as long as its client waits.
struct Held<'a>(&'a Shared, (Kind, Moment));

impl<'a> Held<'a> {
    fn new(shared: &'a Shared, here: (Kind, Moment)) -> Self {
        *shared.state().held.entry(here).or_default() += 1;
        Self(shared, here)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.0.state().held.get_mut(&self.1) {
            *held -= 1;
        }
    }
}

/// Both sides frame their bodies themselves.
fn without_framing(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
