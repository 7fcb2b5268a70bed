//! ACME renewal information (RFC 9773), which Pebble does not have: when to renew a certificate, and orders that replace one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::asked::{Asked, Kind};
use super::habits::Habit;
use super::reply::Reply;

const PATH: &str = "/renewal-info";

/// The same window for every certificate. A copy given to [`AcmeFront::habit`](super::AcmeFront::habit) obeys the one that the test
/// keeps.
#[derive(Clone)]
pub struct RenewalInfo(Arc<Mutex<State>>);

struct State {
    start: OffsetDateTime,
    end: OffsetDateTime,
    /// Seconds.
    retry_after: Option<u64>,
    asked: Vec<String>,
    replaced: BTreeSet<String>,
}

impl RenewalInfo {
    /// Renewal between `start` and `end` from now.
    pub fn suggesting(start: Duration, end: Duration) -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        let state = State {
            start: now + start,
            end: now + end,
            retry_after: None,
            asked: Vec::new(),
            replaced: BTreeSet::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Another window from now on.
    pub fn suggest(&self, start: Duration, end: Duration) {
        let now = OffsetDateTime::from(SystemTime::now());
        let mut state = self.state();
        (state.start, state.end) = (now + start, now + end);
    }

    /// The seconds of `Retry-After` from now on.
    pub fn ask_again_after(&self, secs: u64) {
        self.state().retry_after = Some(secs);
    }

    /// From now on an order that replaces this certificate is refused with `alreadyReplaced`.
    pub fn is_replaced(&self, certificate: &str) {
        self.state().replaced.insert(certificate.to_owned());
    }

    /// The certificates that somebody has asked about, each time.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Habit for RenewalInfo {
    fn before(&mut self, asked: &Asked) -> Option<Reply> {
        let mut state = self.state();
        match asked.kind {
            Kind::RenewalInfo => {
                state.asked.push(asked.url.rsplit('/').next().unwrap_or_default().to_owned());
                let at = |at: OffsetDateTime| at.format(&Rfc3339).expect("a year of four digits");
                let window = json!({"start": at(state.start), "end": at(state.end)});
                let reply = Reply::new(200, "application/json", json!({"suggestedWindow": window}).to_string());
                Some(match state.retry_after {
                    Some(secs) => reply.header("retry-after", &secs.to_string()),
                    None => reply,
                })
            }
            Kind::NewOrder if asked.replaces().is_some_and(|replaced| state.replaced.contains(&replaced)) => {
                Some(Reply::problem(409, "alreadyReplaced", "the certificate has a successor"))
            }
            _ => None,
        }
    }

    fn adding(&mut self, asked: &Asked, reply: Reply) -> Reply {
        match asked.kind {
            Kind::Directory if reply.is_success() => {
                let url = asked.url.replace("/dir", PATH);
                reply.with_json(|directory| directory["renewalInfo"] = url.into())
            }
            Kind::NewOrder if reply.is_success() => match asked.replaces() {
                Some(replaced) => reply.with_json(|order| order["replaces"] = Value::from(replaced)),
                None => reply,
            },
            _ => reply,
        }
    }

    fn after(&mut self, asked: &Asked, of_ca: &Reply, _: &Reply) {
        if let Some(replaced) = asked.replaces().filter(|_| asked.kind == Kind::NewOrder && of_ca.is_success()) {
            self.state().replaced.insert(replaced);
        }
    }
}
