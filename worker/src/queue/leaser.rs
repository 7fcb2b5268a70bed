//! The claim loop: a task of its own that outlives every outage of the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_shared::model::order::Order;
use countersign_shared::store::jobs::{self, ClaimedJob, JobKind, Lane, Outcome, Worker};
use countersign_shared::store::{Pool, PoolConnection, StoreError, acme_accounts, in_time, orders};
use countersign_shared::telemetry::{chain, metrics};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{Hold, Lease, Leases, Read};
use super::slots::Slots;
use crate::steps;

/// Without a notification the queue is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks while there is work, but for a notification: what becomes due meanwhile is claimed by one statement.
const BREATH: Duration = Duration::from_millis(5);

pub struct Leaser {
    pub pool: Pool,
    pub worker: Worker,
    pub leases: Arc<Leases>,
    pub slots: Arc<Slots>,
    /// Of the CA that this worker speaks to.
    pub directory: Arc<str>,
    /// Says that a lane-0 job is there.
    pub notified: broadcast::Receiver<String>,
    /// To the backend. Nothing waits for a slot under lease: a job is claimed only for a free one.
    pub claimed: mpsc::UnboundedSender<Lease>,
}

impl Leaser {
    /// Claims until `stop`. Errors are logged and outlived.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut handing_out = JoinSet::new();
        // Kept from one look to the next: a pool asks every connection that it hands out, or gets back, whether it lives.
        let mut kept = None;
        let mut reach = Reach::new(self.leases.lease_for(), Instant::now());
        while !stop.is_cancelled() {
            let rest = match self.claim_what_is_due(&mut kept, &mut reach, &mut handing_out).await {
                Ok(rest) => rest,
                Err(error) => {
                    kept = None;
                    if reach.lost() {
                        tracing::warn!(error = chain(&error), "cannot claim jobs");
                    }
                    Rest { until_due: LOOK_EVERY, is_full: false }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = rest.over(&self.slots) => {}
                () = something_arrived(&mut self.notified) => {}
            }
            while let Some(handed_out) = handing_out.try_join_next() {
                if let Err(error) = handed_out {
                    tracing::error!(error = chain(&error), "claimed jobs were dropped: their leases run out");
                }
            }
        }
        handing_out.join_all().await;
    }

    /// What it claims is on its way to the backend as a task of `handing_out`.
    async fn claim_what_is_due(
        &mut self,
        kept: &mut Option<PoolConnection>,
        reach: &mut Reach,
        handing_out: &mut JoinSet<()>,
    ) -> Result<Rest, StoreError> {
        let conn = match kept {
            Some(conn) => conn,
            None => kept.insert(in_time(self.pool.acquire()).await?),
        };
        let release = reach.is_time_to_release();
        let due_in = in_time(async {
            if release {
                let released = jobs::release_unheld(conn, &self.worker, &self.leases.fences()).await?;
                if released > 0 {
                    tracing::warn!(released, "given back: jobs whose claim was stored and not answered");
                }
            }
            jobs::next_due_in(conn).await
        });
        let (now, due_in) = due_in.await?;
        reach.succeeded(Instant::now());
        reach.released(release);
        let lost_at = reach.is_steady().then_some(now);
        let mut rest = Rest { until_due: LOOK_EVERY, is_full: false };
        for (lane, due_in) in Lane::ALL.into_iter().zip(due_in) {
            match due_in {
                Some(secs) if secs <= 0.0 => {}
                Some(secs) => {
                    rest.until_due = rest.until_due.min(Duration::from_secs_f64(secs));
                    continue;
                }
                None => continue,
            }
            let free = self.slots.free_for(lane);
            if free == 0 {
                rest.is_full = true;
                continue;
            }
            let sent_at = Instant::now();
            let lease_secs = self.leases.lease_for().as_secs_f64();
            let claim = jobs::claim(conn, lane, &self.worker, lease_secs, free as i64, lost_at);
            let jobs = in_time(claim).await?;
            rest.claimed(jobs.len(), free);
            let hold = |job: ClaimedJob| {
                metrics::job_claimed(lane, job.lag_secs);
                self.leases.hold(job, sent_at, self.slots.take(lane))
            };
            let leases: Vec<Lease> = jobs.into_iter().map(hold).collect();
            if !leases.is_empty() {
                handing_out.spawn(hand_out(
                    self.pool.clone(),
                    Arc::clone(&self.directory),
                    leases,
                    self.claimed.clone(),
                ));
            }
        }
        Ok(rest)
    }
}

/// The pause before the next look.
struct Rest {
    /// Until something is due.
    until_due: Duration,
    /// Something is due and there is no slot for it.
    is_full: bool,
}

impl Rest {
    /// Takes into account what was claimed of a lane where something is due.
    fn claimed(&mut self, count: usize, free: usize) {
        if count == free {
            self.is_full = true;
        } else if count > 0 {
            // The next of this lane is due who knows when.
            self.until_due = Duration::ZERO;
        }
        // Nothing to be had: it is locked, or somebody's who is not known to be lost, or of a kind that a newer worker runs. To look at
        // once would be to look without a pause.
    }

    /// What becomes due, or free, within a breath is dealt with by one look.
    async fn over(self, slots: &Slots) {
        let due = Instant::now() + self.until_due;
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = slots.freed(), if self.is_full => {}
        }
    }
}

/// Reads the orders of claimed jobs together, and passes the jobs on. Beside the next look, which need not wait for it.
async fn hand_out(pool: Pool, directory: Arc<str>, mut leases: Vec<Lease>, claimed: mpsc::UnboundedSender<Lease>) {
    let order_id = |lease: &Lease| match lease.job.kind {
        JobKind::PollChallenge { order_id } => Some(order_id),
        _ => None,
    };
    let ids: Vec<i64> = leases.iter().filter_map(order_id).collect();
    if !ids.is_empty() {
        let loaded = in_time(async {
            let mut conn = pool.acquire().await?;
            // One that cannot be read is its run's to tell of.
            let loaded = orders::load_all(&mut conn, &ids).await?;
            let orders: HashMap<i64, Order> =
                loaded.into_iter().filter_map(|(id, order)| Some((id, order.ok()?))).collect();
            let hold = match orders.values().any(steps::calls_ca) {
                true => acme_accounts::held_until(&mut conn, &directory).await.map_or(Hold::NotRead, Hold::from),
                false => Hold::NotRead,
            };
            Ok((orders, hold))
        });
        match loaded.await {
            Ok((mut orders, hold)) => {
                for lease in &mut leases {
                    let order = order_id(lease).and_then(|id| orders.remove(&id));
                    lease.read = order.map(|order| Read { order, hold });
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "orders not read together: each run reads its own"),
        }
    }
    for lease in leases {
        // Stopped meanwhile: given back, like what the backend had not started.
        if let Err(mpsc::error::SendError(lease)) = claimed.send(lease) {
            lease.settle(Outcome::Release).await;
        }
    }
}

/// A hint to look again. Without LISTEN this never ends, and the queue is polled.
async fn something_arrived(notified: &mut broadcast::Receiver<String>) {
    if let Err(RecvError::Closed) = notified.recv().await {
        std::future::pending::<()>().await;
    }
    // One look is for all that has arrived by then.
    while !matches!(notified.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
}

/// Since when the database was reached without a gap. Rows that others seem to have lost are taken only after one
/// lease time of that, so that an outage, which loses everybody's leases, burns nobody's attempts.
struct Reach {
    lease_for: Duration,
    since: Instant,
    last: Instant,
    reported: bool,
    /// A claim may have been stored without our knowledge, or may yet be.
    doubt: Doubt,
}

impl Reach {
    fn new(lease_for: Duration, now: Instant) -> Self {
        Self { lease_for, since: now, last: now, reported: false, doubt: Doubt::None }
    }

    fn succeeded(&mut self, now: Instant) {
        // A pause of this process, or a slow database, is a gap too.
        if self.reported || now - self.last > self.lease_for / 2 {
            self.since = now;
        }
        self.last = now;
        self.reported = false;
    }

    /// True the first time after a success.
    fn lost(&mut self) -> bool {
        self.doubt = Doubt::Fresh;
        !std::mem::replace(&mut self.reported, true)
    }

    /// Whether to give back what is leased to us and not held: as soon as the database is back, and again one lease time later,
    /// for a claim that arrived late. Not after a start: nothing can be leased to this process yet.
    fn is_time_to_release(&self) -> bool {
        match self.doubt {
            Doubt::None => false,
            Doubt::Fresh => true,
            Doubt::Late => self.is_steady(),
        }
    }

    fn released(&mut self, was_time: bool) {
        self.doubt = match self.doubt {
            Doubt::Fresh if was_time => Doubt::Late,
            Doubt::Late if was_time => Doubt::None,
            doubt => doubt,
        };
    }

    fn is_steady(&self) -> bool {
        self.last - self.since >= self.lease_for
    }
}

/// Whether claims may be stored that we do not know of.
#[derive(Clone, Copy)]
enum Doubt {
    None,
    /// The database was lost a moment ago.
    Fresh,
    /// It is back, for less than a lease time.
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_and_cannot_be_claimed_is_not_looked_at_without_a_pause() {
        let after = |count| {
            let mut rest = Rest { until_due: LOOK_EVERY, is_full: false };
            rest.claimed(count, 8);
            (rest.until_due, rest.is_full)
        };
        assert_eq!(after(0), (LOOK_EVERY, false));
        assert_eq!(after(7), (Duration::ZERO, false));
        assert_eq!(after(8), (LOOK_EVERY, true));
    }

    #[test]
    fn lost_rows_are_taken_only_after_one_lease_time_without_a_gap() {
        let lease = Duration::from_secs(9);
        let mut now = Instant::now();
        let mut reach = Reach::new(lease, now);
        let look_for = |seconds: u64, reach: &mut Reach, now: &mut Instant| {
            for _ in 0..seconds * 2 {
                *now += LOOK_EVERY;
                reach.succeeded(*now);
            }
            reach.is_steady()
        };
        assert!(!look_for(8, &mut reach, &mut now));
        assert!(look_for(1, &mut reach, &mut now) && !reach.is_time_to_release());
        assert!(reach.lost() && !reach.lost(), "an outage is reported once");
        assert!(!look_for(8, &mut reach, &mut now), "the wait begins again after an outage");
        assert!(reach.is_time_to_release());
        reach.released(true);
        assert!(!reach.is_time_to_release());
        assert!(look_for(2, &mut reach, &mut now) && reach.is_time_to_release());
        reach.released(true);
        assert!(!reach.is_time_to_release());
        now += lease;
        assert!(!look_for(8, &mut reach, &mut now), "and after a pause of this process");
    }
}
