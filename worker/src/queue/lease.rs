//! Leases that this process holds: who renews them, when they end, and how a run's outcome is written under one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_shared::model::order::Order;
use countersign_shared::store::jobs::{self, ClaimedJob, Fence, Outcome, Renewal, Waiting};
use countersign_shared::store::{Pool, StoreError, in_time};
use countersign_shared::telemetry::labels::JobOutcome;
use countersign_shared::telemetry::{chain, metrics, spans};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::slots::Slot;
use super::waits::{Stored, Waits};

/// Looks at what is to be renewed in the time of a lease.
const LOOKS: u32 = 12;
/// Pause between tries to write an outcome while the database is away.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The leases of this process, by fence, each with the time it ends by the monotonic clock.
pub struct Leases {
    pool: Pool,
    lease_for: Duration,
    waits: Waits,
    held: Mutex<HashMap<Fence, Held>>,
    /// Outcomes refused because the lease was somebody else's by then.
    refused: AtomicU64,
}

struct Held {
    ends: watch::Sender<Instant>,
    /// Its run is writing what ends it: a row that is not found any more is what was written.
    is_ending: bool,
}

/// A claimed job and the right to run it. Dropping it without an outcome leaves the row to run out.
pub struct Lease {
    pub job: ClaimedJob,
    /// Where it could be read right after the claim: one statement for many.
    pub read: Option<Read>,
    leases: Arc<Leases>,
    ends: watch::Receiver<Instant>,
    claimed: Instant,
    /// The order has advanced under this lease: the failures before that no longer count.
    forgiven: AtomicBool,
    /// An answer of the database was lost: what was written may have been stored.
    is_unsure: AtomicBool,
    /// The slot is free again once the outcome is written.
    _slot: Slot,
}

/// What was read for a job right after the claim.
pub struct Read {
    pub order: Order,
    pub hold: Hold,
}

/// Whether the CA has asked to be left alone.
#[derive(Clone, Copy)]
pub enum Hold {
    NotRead,
    No,
    Until(OffsetDateTime),
}

impl From<Option<OffsetDateTime>> for Hold {
    fn from(until: Option<OffsetDateTime>) -> Self {
        until.map_or(Self::No, Self::Until)
    }
}

impl Leases {
    pub fn new(pool: Pool, lease_for: Duration, waits: Waits) -> Arc<Self> {
        Arc::new(Self { pool, lease_for, waits, held: Mutex::default(), refused: AtomicU64::default() })
    }

    pub fn lease_for(&self) -> Duration {
        self.lease_for
    }

    /// `sent_at`: when the claim was sent, so that our idea of the lease's end is never later than the database's.
    pub(super) fn hold(self: &Arc<Self>, job: ClaimedJob, sent_at: Instant, slot: Slot) -> Lease {
        let (sender, ends) = watch::channel(sent_at + self.lease_for);
        self.held().insert(job.fence, Held { ends: sender, is_ending: false });
        Lease {
            job,
            read: None,
            leases: Arc::clone(self),
            ends,
            claimed: Instant::now(),
            forgiven: AtomicBool::new(false),
            is_unsure: AtomicBool::new(false),
            _slot: slot,
        }
    }

    /// Renews what is held, until `stop`. What could not be renewed, as while its own run commits, is asked for at the next look.
    pub async fn renew(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = tokio::time::interval(self.lease_for / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_told = false;
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let fences = self.to_renew(Instant::now());
            if fences.is_empty() {
                continue;
            }
            let sent_at = Instant::now();
            match self.renew_once(&fences).await {
                Ok(still_held) => {
                    self.extend(&fences, &still_held, sent_at);
                    is_told = false;
                }
                // The leases go on running out; the runs stop by themselves when they have.
                Err(error) if !is_told => {
                    tracing::warn!(error = chain(&error), "leases not renewed");
                    is_told = true;
                }
                Err(_) => {}
            }
        }
    }

    async fn renew_once(&self, fences: &[Fence]) -> Result<HashMap<Fence, Renewal>, StoreError> {
        in_time(async {
            let mut conn = self.pool.acquire().await?;
            jobs::renew(&mut conn, fences, self.lease_for.as_secs_f64()).await
        })
        .await
    }

    fn extend(&self, asked: &[Fence], still_held: &HashMap<Fence, Renewal>, sent_at: Instant) {
        let held = self.held();
        for fence in asked {
            let Some(Held { ends, is_ending }) = held.get(fence) else { continue };
            match still_held.get(fence) {
                Some(Renewal::Renewed) => drop(ends.send_replace(sent_at + self.lease_for)),
                // It goes on running out.
                Some(Renewal::Locked) => {}
                None if *is_ending => {}
                // Taken by somebody else.
                None => drop(ends.send_replace(sent_at)),
            }
        }
    }

    /// Nothing, until a third of some lease has passed; then with it all of which a sixth has, so that one statement is soon for all.
    fn to_renew(&self, now: Instant) -> Vec<Fence> {
        let held = self.held();
        let passed = |held: &Held, part: Duration| *held.ends.borrow() <= now + self.lease_for - part;
        if !held.values().any(|held| passed(held, self.lease_for / 3)) {
            return Vec::new();
        }
        held.iter().filter(|(_, held)| passed(held, self.lease_for / 6)).map(|(fence, _)| *fence).collect()
    }

    /// What this process runs, or has not settled yet.
    pub(super) fn fences(&self) -> Vec<Fence> {
        self.held().keys().copied().collect()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Fence, Held>> {
        // Single insertions, changes and removals: no panic can leave the map half-written.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The database's time, as far as this process can tell: never ahead of it.
    pub fn now(&self) -> OffsetDateTime {
        self.job.claimed_at + self.claimed.elapsed()
    }

    /// Counted failures since the order last advanced.
    pub fn attempts(&self) -> i32 {
        if self.forgiven.load(Ordering::Relaxed) { 0 } else { self.job.attempts }
    }

    /// Failures in a row since the order last advanced, counted or not.
    pub fn failures(&self) -> u32 {
        if self.forgiven.load(Ordering::Relaxed) { 0 } else { self.job.failures }
    }

    /// Says and counts that the lease was lost: what the run did is not stored. Where the answer to an earlier write was lost
    /// it may have been that one, and nothing is lost.
    pub async fn refused(&self, what: &str) {
        if self.is_unsure.load(Ordering::Relaxed) && self.is_unclaimed_since().await {
            tracing::info!("the {what} was stored after all");
            return;
        }
        let refused_so_far = self.leases.refused.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(refused_so_far, "lease lost: the {what} was refused");
        metrics::lease_lost();
        self.count(JobOutcome::Lost);
    }

    /// Counts how the run has ended. Its outcome is stored, or refused.
    pub fn count(&self, outcome: JobOutcome) {
        metrics::job_ended(self.job.kind, outcome);
    }

    async fn is_unclaimed_since(&self) -> bool {
        let asked = in_time(async {
            let mut conn = self.leases.pool.acquire().await?;
            jobs::is_unclaimed_since(&mut conn, self.job.fence).await
        });
        asked.await.unwrap_or(false)
    }

    /// Says that the order has advanced.
    pub fn forgive(&self) {
        spans::tell();
        self.forgiven.store(true, Ordering::Relaxed);
    }

    /// Ends when the lease has, by the monotonic clock: from then on this run must start no outside effect.
    pub async fn ended(&self) {
        let mut ends = self.ends.clone();
        loop {
            let end = *ends.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                changed = ends.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Says whether the run is writing what ends it: then it might hear of its lease's end before it hears of that.
    pub fn set_ending(&self, is_ending: bool) {
        if let Some(held) = self.leases.held().get_mut(&self.job.fence) {
            held.is_ending = is_ending;
        }
    }

    /// Says that a write under this lease may have been stored though no answer came.
    pub fn answer_lost(&self) {
        self.is_unsure.store(true, Ordering::Relaxed);
    }

    /// Writes how the run ended, and tries again while the database is away. The fence decides whether it still counts:
    /// a late outcome is right as long as nobody else has claimed the row.
    pub async fn settle(&self, outcome: Outcome) {
        if let Outcome::Wait { until, saw } = &outcome {
            let waiting = Waiting { fence: self.job.fence, until: *until, saw: saw.clone() };
            match self.leases.waits.store(waiting).await {
                Stored::Yes => return self.count_stored(&outcome),
                Stored::No => {}
                Stored::Unknown => self.answer_lost(),
            }
        }
        Box::pin(self.settle_alone(outcome)).await;
    }

    async fn settle_alone(&self, outcome: Outcome) {
        loop {
            let written = in_time(async {
                let mut conn = self.leases.pool.acquire().await?;
                jobs::settle(&mut conn, self.job.fence, &outcome).await
            });
            match written.await {
                Ok(true) => return self.count_stored(&outcome),
                // Deleted by a write of this run whose answer was lost.
                Ok(false) if matches!(outcome, Outcome::Done) && self.is_unsure.load(Ordering::Relaxed) => {
                    return self.count_stored(&outcome);
                }
                Ok(false) => return self.refused("outcome of this run").await,
                Err(error) if error.is_outage() => {
                    tracing::warn!(error = chain(&error), "outcome not written yet");
                    self.answer_lost();
                    tokio::time::sleep(WRITE_AGAIN_AFTER).await;
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "outcome cannot be written; the lease runs out instead");
                    return;
                }
            }
        }
    }

    fn count_stored(&self, outcome: &Outcome) {
        match outcome {
            // The run goes on.
            Outcome::Keep { .. } => {}
            Outcome::Wait { .. } => self.count(JobOutcome::Waited),
            Outcome::Retry { .. } => self.count(JobOutcome::Retried),
            Outcome::Release => self.count(JobOutcome::Released),
            Outcome::Done => self.count(JobOutcome::Done),
            Outcome::Park { .. } => self.count(JobOutcome::Parked),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.job.fence);
    }
}

#[cfg(test)]
mod tests {
    use countersign_shared::store::jobs::{JobKind, Lane};

    use super::*;
    use crate::queue::Slots;

    #[tokio::test]
    async fn what_was_not_renewed_is_asked_for_again_at_once() {
        let pool = Pool::new("postgres://unreachable.invalid".parse().unwrap(), 1, Duration::from_secs(1));
        let leases = Leases::new(pool.clone(), Duration::from_secs(9), Waits::new(pool).0);
        let began = Instant::now();
        let at = |secs: u64| began + Duration::from_secs(secs);
        let [locked, renewed, young] = [1, 2, 3].map(|id| Fence { id, lease: 1 });
        let slots = Slots::new(8);
        let claimed = [(locked, began), (renewed, began), (young, at(2))];
        let _held = claimed.map(|(fence, sent_at)| leases.hold(job(fence), sent_at, slots.take(Lane::Orders)));
        let to_renew = |now| {
            let mut ids: Vec<i64> = leases.to_renew(now).iter().map(|fence| fence.id).collect();
            ids.sort_unstable();
            ids
        };

        assert!(to_renew(at(2)).is_empty());
        assert_eq!(to_renew(at(3)), [1, 2]);
        let answer = HashMap::from([(locked, Renewal::Locked), (renewed, Renewal::Renewed)]);
        leases.extend(&[locked, renewed], &answer, at(3));
        assert_eq!(to_renew(began + Duration::from_millis(3200)), [1], "the one that was missed");
        assert_eq!(to_renew(at(4)), [1, 3], "with what would be due soon");
    }

    fn job(fence: Fence) -> ClaimedJob {
        ClaimedJob {
            fence,
            kind: JobKind::Sweep,
            lane: Lane::Orders,
            attempts: 0,
            failures: 0,
            lost_by: None,
            claimed_at: OffsetDateTime::UNIX_EPOCH,
            lag_secs: 0.0,
            request_id: None,
            traceparent: None,
        }
    }
}
