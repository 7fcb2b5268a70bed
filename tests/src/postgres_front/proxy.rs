//! What the front does with one connection.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Pieces of data from clients until one meets its end; 0: none does.
    pub(super) until_cut: AtomicU64,
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
    let at_commit = Mutex::new(None);
    let questions = Pipe { number, shared, at_commit: &at_commit, is_to_server: true };
    let answers = Pipe { is_to_server: false, ..questions };
    tokio::try_join!(questions.pass(from_client, to_server), answers.pass(from_server, to_client))?;
    Ok(())
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Pipe<'a> {
    number: u64,
    shared: &'a Shared,
    /// What becomes of the answer to a COMMIT that has passed.
    at_commit: &'a Mutex<Option<AtCommit>>,
    is_to_server: bool,
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
            if self.is_to_server {
                self.meet_cut()?;
                self.meet_commit(data).await?;
            } else {
                self.meet_answer().await?;
            }
            to.write_all(data).await?;
        }
    }

    fn meet_cut(self) -> Result<()> {
        let count_down = |left: u64| left.checked_sub(1);
        match self.shared.until_cut.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down) {
            Ok(1) => Err(ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        }
    }

    async fn meet_commit(self, data: &[u8]) -> Result<()> {
        if !data.windows(COMMIT.len()).any(|window| window == COMMIT) {
            return Ok(());
        }
        let fault = self.shared.commits().pop_front();
        match fault {
            Some(AtCommit::Lose) => Err(ErrorKind::ConnectionReset.into()),
            Some(AtCommit::Strand) => std::future::pending().await,
            of_the_answer => {
                *lock(self.at_commit) = of_the_answer;
                Ok(())
            }
        }
    }

    async fn meet_answer(self) -> Result<()> {
        let fault = lock(self.at_commit).take();
        match fault {
            Some(AtCommit::LoseAnswer) => return Err(ErrorKind::ConnectionReset.into()),
            Some(AtCommit::AnswerLate(by)) => tokio::time::sleep(by).await,
            _ => {}
        }
        Ok(())
    }
}

impl Shared {
    pub(super) fn commits(&self) -> MutexGuard<'_, VecDeque<AtCommit>> {
        lock(&self.commits)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
