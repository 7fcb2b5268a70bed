//! A DNS server between our processes and the stack's that makes DNS fail in the ways it fails out there.
//!
//! [`StackBuilder::dns_front`](crate::stack::StackBuilder::dns_front) gives it to our processes as their `DNS_RESOLVERS`; the CA asks the
//! stack's own server. A test says what becomes of questions about a name, or about every name; all others are passed on. The front runs
//! on a thread of its own.

mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;

pub use crate::dns_wire::Transport;
use crate::stack::ports;
use server::{Shared, State, serve};

/// What becomes of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFault {
    ServFail,
    Refused,
    /// No answer at all.
    Silence,
    /// By UDP an empty answer that is said to be cut short; by TCP the real one.
    Truncated,
    NxDomain,
    /// The name is an alias of another, which is an alias of the name.
    CnameLoop,
    /// The real answer, later.
    After(Duration),
}

/// A running front. It ends when it is dropped.
pub struct DnsFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsFront {
    /// `upstream` answers what nothing is said about.
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, ports::free()?).into(), upstream)
    }

    /// The same on an address of the caller's choice.
    pub(crate) fn start_at(address: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
        let shared = Arc::new(Shared { upstream, state: Mutex::new(State::default()) });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(udp, tcp, serving) => served.expect("the front can listen"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of questions about this name, until [`Self::heal`].
    pub fn fault(&self, name: &str, fault: DnsFault) {
        self.shared.state().faults.insert(canonical(name), fault);
    }

    /// What becomes of questions about all names of which nothing else is said, until [`Self::heal`].
    pub fn fault_everywhere(&self, fault: DnsFault) {
        self.shared.state().everywhere = Some(fault);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        (state.faults, state.everywhere) = (BTreeMap::new(), None);
    }

    /// Questions about this name that came so far.
    pub fn questions(&self, name: &str, by: Transport) -> usize {
        self.shared.state().questions.get(&(canonical(name), by)).copied().unwrap_or(0)
    }
}

impl Drop for DnsFront {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}
