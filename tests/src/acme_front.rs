//! An HTTPS proxy between the workers and Pebble that makes the CA say, or not say, what Pebble itself cannot be made to.
//!
//! [`StackBuilder::acme_front`](crate::stack::StackBuilder::acme_front) gives it to the workers as their `ACME_DIRECTORY`. The Host header
//! is passed on: Pebble makes its URLs with the front's address and accepts the `url` that the workers sign. A test says what becomes of
//! the next requests of a [`Kind`], can hold them before or after the CA has acted, can give the CA a [`Habit`], and reads what came, what
//! reached the CA and what became of each of its orders. README.md beside the modules is the manual.
//!
//! The front runs on a thread of its own, so that a test that blocks blocks nobody else.

mod asked;
mod faults;
mod habits;
mod limits;
mod proxy;
mod record;
mod renewal_info;
mod reply;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::Result;
use reqwest::{Certificate, Client};
use tokio::sync::{oneshot, watch};

pub use asked::{Asked, Kind};
pub use faults::{Fault, PROBLEMS, RetryAfter};
pub use habits::{Habit, OrderReuse};
pub use limits::{Limits, Rule};
pub use proxy::Moment;
pub use record::{Arrival, CaOrder};
pub use renewal_info::RenewalInfo;
pub use reply::Reply;

use crate::stack::pebble::HttpsIdentity;
use proxy::{Shared, serve};

/// A running front. It ends when it is dropped.
pub struct AcmeFront {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AcmeFront {
    /// Serves before `upstream`, the `https://host:port` of a CA. `identity.root` is what the CA's certificate leads to, the rest is what
    /// clients see: a certificate for 127.0.0.1.
    ///
    /// # Errors
    /// When the identity cannot be read, or nothing can be listened on.
    pub fn start(upstream: &str, identity: &HttpsIdentity) -> Result<Self> {
        let tls = identity.acceptor()?;
        // Not HTTP/2, which has no Host header to pass on.
        let roots = Certificate::from_pem_bundle(&identity.root)?;
        let client = Client::builder().no_proxy().tls_certs_only(roots).http1_only().build()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (state, gate) = (Mutex::default(), watch::Sender::default());
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), client, state, gate });
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

    /// Forgets all faults; what is held stays so, and habits stay.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    /// The kinds of which some `next` request has not come yet.
    pub fn unused(&self) -> Vec<Kind> {
        self.shared.state().faults.iter().filter(|(_, faults)| !faults.is_empty()).map(|(kind, _)| *kind).collect()
    }

    /// The CA has this habit from now on, besides those it has: it applies where no fault is said.
    pub fn habit(&self, habit: impl Habit + 'static) {
        self.shared.state().habits.push(Box::new(habit));
    }

    /// The CA has no habits any more.
    pub fn drop_habits(&self) {
        self.shared.state().habits.clear();
    }

    /// Holds requests of a kind, before the CA sees them, until [`Self::release`]. One whose client goes away meanwhile never reaches the
    /// CA.
    pub fn hold(&self, kind: Kind) {
        self.hold_at(kind, Moment::Before);
    }

    /// Lets requests of a kind reach the CA and keeps the answers back until [`Self::release`] or [`Self::lose_held`].
    pub fn hold_answers(&self, kind: Kind) {
        self.hold_at(kind, Moment::After);
    }

    pub fn hold_at(&self, kind: Kind, moment: Moment) {
        self.shared.gate.send_if_modified(|gate| gate.held.insert((kind, moment)));
    }

    /// How many requests are held now; one whose client has gone is not.
    pub fn held(&self, kind: Kind, moment: Moment) -> usize {
        self.shared.state().held.get(&(kind, moment)).copied().unwrap_or(0)
    }

    /// Lets go all that is held, and holds no more.
    pub fn release(&self) {
        self.shared.gate.send_modify(|gate| gate.held.clear());
    }

    /// Closes the connections of all that is held now; what comes next is held on.
    pub fn lose_held(&self) {
        self.shared.gate.send_modify(|gate| gate.losses += 1);
    }

    /// Requests that came here, also those that are held or never reached the CA.
    pub fn arrived(&self, kind: Kind) -> usize {
        self.shared.state().record.arrivals().iter().filter(|arrival| arrival.kind == kind).count()
    }

    /// Requests that were sent on to the CA.
    pub fn reached_ca(&self, kind: Kind) -> usize {
        let state = self.shared.state();
        state.record.arrivals().iter().filter(|arrival| arrival.kind == kind && arrival.reached_ca).count()
    }

    /// All requests, in the order in which they came.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.state().record.arrivals().to_vec()
    }

    /// The CA's orders, by their URLs.
    pub fn orders(&self) -> BTreeMap<String, CaOrder> {
        self.shared.state().record.orders().clone()
    }
}

impl Drop for AcmeFront {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
