//! How much an account may ask for in an hour, and the headers that say so on every answer.
//!
//! Every process counts for itself and tells the others once a second, by way of the database: an account that asks many
//! processes at once may get as much more as it asks them in a second. Without the database each process goes on by its own
//! count.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use countersign_shared::store::{Pool, StoreError, in_time, request_counts};
use countersign_shared::telemetry::chain;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TELL_EVERY: Duration = Duration::from_secs(1);
const HOUR: i64 = 3600;
/// What is shown where nothing limits.
const UNLIMITED: u64 = 1_000_000;

pub(super) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

pub(crate) struct Rates {
    /// Requests of an account in an hour; 0: as many as it likes.
    limit: u64,
    /// The database's time at the start, and when that was.
    clock: (OffsetDateTime, Instant),
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Start of the hour, in seconds since the epoch.
    hour: i64,
    /// By account: what was counted here and not told yet, and the total as last heard.
    accounts: HashMap<i64, Count>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    untold: u64,
    told: u64,
}

/// What is left to an account, for the headers of one answer.
pub(super) struct Quota {
    limit: u64,
    used: u64,
    reset: i64,
    now: i64,
}

impl Rates {
    /// `now`: the database's time.
    pub(crate) fn new(now: OffsetDateTime, limit: u64) -> Self {
        Self { limit, clock: (now, Instant::now()), counts: Mutex::default() }
    }

    /// Counts a request of an account.
    pub(super) fn count(&self, account_id: i64) -> Quota {
        let now = self.now();
        let mut counts = self.counts();
        counts.enter(now - now % HOUR);
        let count = counts.accounts.entry(account_id).or_default();
        count.untold += 1;
        let used = count.told + count.untold;
        self.quota(now, used)
    }

    /// For an answer to somebody unknown.
    pub(super) fn nobodys(&self) -> Quota {
        self.quota(self.now(), 0)
    }

    /// Tells the other processes, and hears of them, until `stop`.
    pub(crate) async fn share(&self, pool: &Pool, stop: CancellationToken) {
        let mut is_reported = false;
        while stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_some() {
            match self.share_once(pool).await {
                Ok(()) => is_reported = false,
                Err(error) if !std::mem::replace(&mut is_reported, true) => {
                    tracing::warn!(error = chain(&error), "requests are counted by each process for itself");
                }
                Err(_) => {}
            }
        }
    }

    async fn share_once(&self, pool: &Pool) -> Result<(), StoreError> {
        let (hour, untold): (i64, HashMap<i64, u64>) = {
            let counts = self.counts();
            let untold = counts.accounts.iter().filter(|(_, count)| count.untold > 0);
            (counts.hour, untold.map(|(&account, count)| (account, count.untold)).collect())
        };
        if untold.is_empty() {
            return Ok(());
        }
        let told: Vec<(i64, i64)> = untold.iter().map(|(&account, &requests)| (account, requests as i64)).collect();
        let totals = in_time(async { request_counts::add(&mut *pool.acquire().await?, hour, &told).await }).await?;
        let mut counts = self.counts();
        if counts.hour != hour {
            return Ok(());
        }
        for (account, total) in totals {
            let count = counts.accounts.entry(account).or_default();
            count.untold -= untold.get(&account).copied().unwrap_or(0).min(count.untold);
            count.told = total.unsigned_abs();
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        (self.clock.0 + self.clock.1.elapsed()).unix_timestamp()
    }

    fn quota(&self, now: i64, used: u64) -> Quota {
        Quota { limit: self.limit, used, reset: now - now % HOUR + HOUR, now }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Single additions: no panic can leave the counts half-written.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn enter(&mut self, hour: i64) {
        if self.hour != hour {
            self.hour = hour;
            self.accounts.clear();
        }
    }
}

impl Quota {
    pub(super) fn is_exceeded(&self) -> bool {
        self.limit > 0 && self.used > self.limit
    }

    /// Adds the headers.
    pub(super) fn on(&self, mut response: Response) -> Response {
        let limit = if self.limit == 0 { UNLIMITED } else { self.limit };
        let remaining = if self.limit == 0 { UNLIMITED } else { limit.saturating_sub(self.used) };
        let headers = response.headers_mut();
        headers.insert(LIMIT, limit.into());
        headers.insert(REMAINING, remaining.into());
        headers.insert(RESET, HeaderValue::from(self.reset));
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(self.reset - self.now));
        }
        response
    }
}
