//! A TCP proxy between our processes and Postgres that cuts, refuses, delays and freezes their connections.
//!
//! [`StackBuilder::postgres_front`](crate::stack::StackBuilder::postgres_front) gives it to all of our processes as their `DATABASE_URL`,
//! [`StackBuilder::postgres_front_of`](crate::stack::StackBuilder::postgres_front_of) to one of them, so that this one is cut off while
//! the others go on. The test's own pool goes to Postgres directly. The front runs on a thread of its own.

mod proxy;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{oneshot, watch};

use crate::stack::ports;
use proxy::{Rules, Shared, serve};

/// What becomes of a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtCommit {
    /// The connection is cut before Postgres sees it.
    Lose,
    /// Postgres commits, and the connection is cut before anybody hears of it.
    LoseAnswer,
    /// Postgres commits, and whoever asked for it hears of it this much later.
    AnswerLate(Duration),
    /// The connection passes nothing from here on: Postgres waits, and holds the transaction's locks.
    Strand,
}

/// A running front. It ends when it is dropped, and all connections with it.
pub struct PostgresFront {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PostgresFront {
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        // Not any port: when nobody is let in it is free, and nobody else may take it.
        let port = ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let (rules, commits) = (watch::Sender::new(Rules::default()), Mutex::new(VecDeque::new()));
        let shared = Arc::new(Shared { upstream, rules, commits, until_cut: AtomicU64::new(0) });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, serving) => served.expect("the front can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, shared, stop: Some(stop), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Ends all connections with a reset. New ones are welcome.
    pub fn cut(&self) {
        self.shared.rules.send_modify(|rules| rules.cut_below = rules.accepted);
    }

    /// Refuses new connections until [`Self::heal`]; those that are there go on.
    pub fn refuse(&self) {
        self.shared.rules.send_modify(|rules| rules.refuses = true);
    }

    /// Delays every piece of data, both ways, until [`Self::heal`]: a round trip takes twice as long.
    pub fn delay(&self, each_way: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = each_way);
    }

    /// All connections, new ones too, stay open and pass nothing. [`Self::heal`] delivers what was sent meanwhile, also by those who
    /// have given up since.
    pub fn freeze(&self) {
        self.shared.rules.send_modify(|rules| rules.frozen = true);
    }

    /// The connections of now never pass anything again, nor does either side learn of it until [`Self::cut`]. New ones work.
    pub fn strand(&self) {
        self.shared.rules.send_modify(|rules| rules.stranded_below = rules.accepted);
    }

    /// What becomes of the next `times` COMMITs, after those that something was said about before.
    pub fn at_commit(&self, times: usize, fault: AtCommit) {
        self.shared.commits().extend(std::iter::repeat_n(fault, times));
    }

    /// How many COMMITs something was said about that have not come yet.
    pub fn commits_to_come(&self) -> usize {
        self.shared.commits().len()
    }

    /// Whoever sends the `piece`-th piece of data from now on, counted from 1 over all connections, is cut off before Postgres sees it;
    /// with 0 nobody.
    pub fn cut_at(&self, piece: u64) {
        self.shared.until_cut.store(piece, Ordering::Relaxed);
    }

    /// Whether that piece has not come yet.
    pub fn is_cut_to_come(&self) -> bool {
        self.shared.until_cut.load(Ordering::Relaxed) > 0
    }

    /// Everything passes again. What is stranded stays so, and what was said about COMMITs holds.
    pub fn heal(&self) {
        self.shared.rules.send_modify(|rules| {
            (rules.refuses, rules.frozen, rules.delay) = (false, false, Duration::ZERO);
        });
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.rules.borrow().accepted
    }
}

impl Drop for PostgresFront {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
