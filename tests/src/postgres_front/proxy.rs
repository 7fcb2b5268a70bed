//! What the front does with one connection.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::AtCommit;

/// How a transaction's end looks on the wire: a simple query of Postgres' protocol.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What the connections and the test share.
pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    pub(super) rules: watch::Sender<Rules>,
    pub(super) commits: Mutex<VecDeque<AtCommit>>,
}

#[derive(Default)]
pub(super) struct Rules {
    /// Connections are numbered from 0.
    pub(super) accepted: u64,
    pub(super) cut_below: u64,
    pub(super) stranded_below: u64,
    pub(super) refuses: bool,
    pub(super) frozen: bool,
    pub(super) delay: Duration,
}

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> Result<()> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let mut listener = tokio::net::TcpListener::from_std(listener)?;
    let mut rules = shared.rules.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted?.0),
            refuses = rules.wait_for(|rules| rules.refuses) => {
                refuses.map_err(Error::other)?;
                None
            }
        };
        let Some(client) = accepted else {
            drop(listener);
            rules.wait_for(|rules| !rules.refuses).await.map_err(Error::other)?;
            listener = tokio::net::TcpListener::bind(address).await?;
            continue;
        };
        let mut number = None;
        shared.rules.send_modify(|rules| {
            if !rules.refuses {
                number = Some(rules.accepted);
                rules.accepted += 1;
            }
        });
        match number {
            Some(number) => drop(connections.spawn(connection(client, number, Arc::clone(&shared)))),
            // It came in a moment before the listener went.
            None => client.set_zero_linger()?,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    let mut rules = shared.rules.subscribe();
    let relayed = tokio::select! {
        _ = rules.wait_for(|rules| number < rules.cut_below) => Err(ErrorKind::ConnectionReset.into()),
        relayed = relay(&mut client, number, &shared) => relayed,
    };
    if relayed.is_err() {
        // An error is what cutting is here: the client gets a reset and not an orderly end.
        let _ = client.set_zero_linger();
    }
}

async fn relay(client: &mut TcpStream, number: u64, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(shared.upstream).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let answer_is_lost = AtomicBool::new(false);
    let questions = Pipe { number, shared, answer_is_lost: &answer_is_lost, reads_commits: true };
    let answers = Pipe { reads_commits: false, ..questions };
    tokio::try_join!(questions.pass(from_client, to_server), answers.pass(from_server, to_client))?;
    Ok(())
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Pipe<'a> {
    number: u64,
    shared: &'a Shared,
    answer_is_lost: &'a AtomicBool,
    reads_commits: bool,
}

impl Pipe<'_> {
    async fn pass(self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<()> {
        let mut rules = self.shared.rules.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            let data = &buffer[..length];
            let delay = rules.borrow().delay;
            tokio::time::sleep(delay).await;
            let passes = rules.wait_for(|rules| !rules.frozen && rules.stranded_below <= self.number).await;
            drop(passes.map_err(Error::other)?);
            if length == 0 {
                return to.shutdown().await;
            }
            if self.reads_commits {
                self.meet_commit(data).await?;
            } else if self.answer_is_lost.load(Ordering::Relaxed) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            to.write_all(data).await?;
        }
    }

    async fn meet_commit(self, data: &[u8]) -> Result<()> {
        if !data.windows(COMMIT.len()).any(|window| window == COMMIT) {
            return Ok(());
        }
        let fault = self.shared.commits().pop_front();
        match fault {
            None => Ok(()),
            Some(AtCommit::Lose) => Err(ErrorKind::ConnectionReset.into()),
            Some(AtCommit::LoseAnswer) => {
                self.answer_is_lost.store(true, Ordering::Relaxed);
                Ok(())
            }
            Some(AtCommit::Strand) => std::future::pending().await,
        }
    }
}

impl Shared {
    pub(super) fn commits(&self) -> MutexGuard<'_, VecDeque<AtCommit>> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
