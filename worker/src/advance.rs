//! The life of one wake-up of an order: load, step, commit, and again under the same lease, until there is something to
//! wait for.
//!
//! Steps run with no transaction open. One transaction commits what a step did: order, event, domain status, and the
//! job row's fenced outcome.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use countersign_shared::model::order::{IllegalTransition, Order, OrderEvent, OrderOrigin};
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::model::schedule::{after_hold, backoff};
use countersign_shared::store::jobs::{self, JobKind, Outcome};
use countersign_shared::store::{StoreError, acme_accounts, in_time, order_events, orders};
use countersign_shared::telemetry::labels::JobOutcome;
use countersign_shared::telemetry::{chain, metrics, spans};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::queue::{Hold, Lease, Read};
use crate::steps::{self, Step, StepError, StepOutcome, Tools};

/// A wait up to this long is spent under the lease; anything longer is `due_at`.
const WAIT_HERE: Duration = Duration::from_secs(1);
/// Characters of an error's own words that are stored.
const LONGEST_CAUSE: usize = 2000;

pub struct Advance {
    pub tools: Tools,
    /// Name of this worker, for the order's events.
    pub worker: String,
    /// How long ended orders are kept.
    pub retain_for: Duration,
    /// A stop was asked for: finish the step under way, start no other.
    pub stopping: CancellationToken,
    /// The grace is over: leave the step where it is.
    pub abandon: CancellationToken,
}

/// What a commit came to.
enum Committed {
    /// Stored; the order as it is now.
    Stored(Box<Order>),
    /// Somebody changed the order meanwhile: the step's result is dropped, the order loaded again.
    Stale,
    /// The job is somebody else's now.
    LeaseLost,
}

/// An event, and the order after it.
struct Move<'a> {
    after: Order,
    event: Cow<'a, OrderEvent>,
}

/// What one commit stores: the event, and what is true with it.
struct Moves<'a> {
    first: Move<'a>,
    then: Option<Move<'a>>,
}

impl<'a> Moves<'a> {
    fn new(before: &Order, event: &'a OrderEvent) -> Result<Self, IllegalTransition> {
        let first = Move { after: before.clone().apply(event)?, event: Cow::Borrowed(event) };
        let then = match steps::follows(&first.after) {
            Some(event) => Some(Move { after: first.after.clone().apply(&event)?, event: Cow::Owned(event) }),
            None => None,
        };
        Ok(Self { first, then })
    }

    fn iter(&self) -> impl Iterator<Item = &Move<'a>> {
        std::iter::once(&self.first).chain(&self.then)
    }

    fn after(&self) -> &Order {
        &self.then.as_ref().unwrap_or(&self.first).after
    }

    fn count(&self) {
        self.iter().for_each(|Move { after, event }| metrics::order_moved(after, event));
    }
}

impl Advance {
    /// Advances the order as far as it goes now, from what was `read` of it right after the claim. The outcome is written
    /// before this returns, unless the lease was lost.
    pub async fn run(self: &Arc<Self>, lease: &Lease, order_id: i64, read: Option<Read>) {
        if let Some(lost_by) = &lease.job.lost_by {
            Box::pin(self.tell(order_id, "worker_lost", serde_json::json!({ "worker": lost_by }))).await;
        }
        if lease.job.attempts >= self.tools.max_attempts {
            return Box::pin(self.park(lease, order_id)).await;
        }
        let run = self.run_steps(lease, order_id, read);
        let outcome = tokio::select! {
            biased;
            // From here on the run starts no outside effect: the step is dropped where it is.
            () = lease.ended() => {
                tracing::warn!("the lease ended before the run did");
                Some(Outcome::Release)
            }
            () = self.abandon.cancelled() => Some(Outcome::Release),
            outcome = run => outcome,
        };
        if let Some(outcome) = outcome {
            self.settle(lease, outcome).await;
        }
    }

    /// None when the outcome is stored already, or not ours to write. What a poll that finds nothing does not need is in
    /// boxes: it is not to carry the room for it.
    async fn run_steps(&self, lease: &Lease, order_id: i64, read: Option<Read>) -> Option<Outcome> {
        let mut hold = read.as_ref().map_or(Hold::NotRead, |read| read.hold);
        let mut order = match read.map(|read| read.order).filter(|order| order.cleaned_up_at.is_none()) {
            Some(order) => order,
            None => match Box::pin(self.load(order_id)).await {
                Ok(Some(order)) => order,
                Ok(None) => return Some(Outcome::Done),
                Err(error) => return Some(self.retry(lease, error.into())),
            },
        };
        let span = tracing::Span::current();
        span.record("order.id", order.public_id.as_str()).record("domain.name", order.domain_name.as_str());
        spans::about("order.id", order.public_id.as_str());
        spans::about("domain.name", order.domain_name.as_str());
        loop {
            match self.step(lease, &order, std::mem::replace(&mut hold, Hold::NotRead)).await {
                Ok(StepOutcome::Advance(event)) => match Box::pin(self.commit(lease, &order, &event)).await {
                    Ok(Committed::Stored(after)) if after.cleaned_up_at.is_some() => return None,
                    Ok(Committed::Stored(after)) => order = *after,
                    Ok(Committed::Stale) => match Box::pin(self.load(order_id)).await {
                        Ok(Some(again)) => order = again,
                        Ok(None) => return Some(Outcome::Done),
                        Err(error) => return Some(self.retry(lease, error.into())),
                    },
                    Ok(Committed::LeaseLost) => {
                        Box::pin(lease.refused("result of this step")).await;
                        return None;
                    }
                    Err(error) => return Some(self.retry(lease, error)),
                },
                Ok(StepOutcome::WaitUntil(until, saw)) => {
                    let pause = Duration::try_from(until - lease.now()).unwrap_or_default();
                    if saw.is_some() || pause > WAIT_HERE || self.stopping.is_cancelled() {
                        return Some(Outcome::Wait { until, saw });
                    }
                    tokio::time::sleep(pause).await;
                    // Cancelled or deleted meanwhile? The commit would find out, but the CA would be bothered before.
                    match Box::pin(self.load(order_id)).await {
                        Ok(Some(again)) => order = again,
                        Ok(None) => return Some(Outcome::Done),
                        Err(error) => return Some(self.retry(lease, error.into())),
                    }
                }
                Err(error) => return Box::pin(self.settle_failure(lease, &order, error)).await,
            }
            if self.stopping.is_cancelled() {
                return Some(Outcome::Release);
            }
        }
    }

    /// `hold`: of the CA, if that was read a moment ago.
    async fn step(&self, lease: &Lease, order: &Order, hold: Hold) -> Result<StepOutcome, StepError> {
        if steps::calls_ca(order) {
            let hold = match hold {
                Hold::NotRead => Box::pin(self.hold()).await?,
                read => read,
            };
            if let Hold::Until(until) = hold {
                return Ok(self.held_back(lease, order, until));
            }
        }
        let step = Step { tools: &self.tools, order, lease };
        let began = spans::now();
        let outcome = steps::run(&step).await;
        spans::step(steps::name(order.state), began, outcome.is_err());
        outcome
    }

    async fn hold(&self) -> Result<Hold, StoreError> {
        in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            Ok(acme_accounts::held_until(&mut conn, self.tools.acme.directory()).await?.into())
        })
        .await
    }

    /// The CA limits our rate. A caller who waits for the order to be placed is told so; everybody else waits, but not for
    /// ever.
    fn held_back(&self, lease: &Lease, order: &Order, until: OffsetDateTime) -> StepOutcome {
        let now = lease.now();
        let place_by = order.place_by.filter(|_| order.placement.is_none());
        if place_by.is_some_and(|place_by| until >= place_by) || steps::waits_in_vain(order, now) {
            let problem = OrderProblem::new(ProblemCode::RateLimited, &order.domain_name);
            return StepOutcome::Advance(OrderEvent::GaveUp { at: now, problem });
        }
        // Those that somebody waits for take turns as it is, and have no time to lose.
        let random = if place_by.is_some() { 0.0 } else { rand::random() };
        StepOutcome::WaitUntil(after_hold(now, until, random), None)
    }

    /// None when nothing is left to do for it.
    async fn load(&self, order_id: i64) -> Result<Option<Order>, StoreError> {
        let order = in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            orders::load(&mut conn, order_id).await
        });
        Ok(order.await?.filter(|order| order.cleaned_up_at.is_none()))
    }

    /// Stores what a step did, and tries again while the database is away: the fence and the revision decide whether it
    /// still counts.
    async fn commit(&self, lease: &Lease, before: &Order, event: &OrderEvent) -> Result<Committed, StepError> {
        let moves = Moves::new(before, event).map_err(|error| StepError::counted("an internal error", &error))?;
        let after = moves.after();
        let outcome = match after.cleaned_up_at {
            Some(_) => {
                lease.set_ending(true);
                Outcome::Done
            }
            None => Outcome::Keep { has_failed: lease.attempts() > 0 || lease.failures() > 0 },
        };
        let mut is_unsure = false;
        loop {
            match in_time(self.commit_once(lease, &moves, &outcome)).await {
                Ok(Committed::Stored(stored)) => {
                    for Move { after, event } in moves.iter() {
                        let problem = after.problem.as_ref();
                        tracing::info!(
                            order.state = after.state.as_str(),
                            failure.code = problem.map(|problem| problem.code.as_str()),
                            failure.detail = problem.map(|problem| problem.detail.as_str()),
                            "{}",
                            event.name()
                        );
                    }
                    if after.origin == OrderOrigin::Renewal && matches!(event, OrderEvent::GaveUp { .. }) {
                        tracing::warn!(certificate.id = after.certificate_id, "a certificate could not be renewed");
                    }
                    lease.forgive();
                    moves.count();
                    if after.cleaned_up_at.is_some() {
                        lease.count(JobOutcome::Done);
                    }
                    return Ok(Committed::Stored(stored));
                }
                Ok(other) => {
                    lease.set_ending(false);
                    if is_unsure && self.is_stored(after).await {
                        moves.count();
                    }
                    return Ok(other);
                }
                Err(error) if error.is_outage() => {
                    tracing::warn!(error = chain(&error), event = event.name(), "event not stored yet");
                    is_unsure = true;
                    lease.answer_lost();
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => {
                    lease.set_ending(false);
                    return Err(error.into());
                }
            }
        }
    }

    /// Whether a commit whose answer was lost is what made the order stale. For the metrics alone: an order that has moved
    /// on since, or a database that does not answer, leaves it uncounted.
    async fn is_stored(&self, after: &Order) -> bool {
        let stored = in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            orders::load(&mut conn, after.id).await
        });
        let stored = stored.await.ok().flatten();
        stored.is_some_and(|stored| stored.revision == after.revision && stored.state == after.state)
    }

    async fn commit_once(&self, lease: &Lease, moves: &Moves<'_>, outcome: &Outcome) -> Result<Committed, StoreError> {
        let mut tx = self.tools.pool.begin().await?;
        for Move { after, event } in moves.iter() {
            if !orders::record(&mut tx, after, event, &self.worker).await? {
                return Ok(Committed::Stale);
            }
        }
        if !jobs::settle(&mut tx, lease.job.fence, outcome).await? {
            return Ok(Committed::LeaseLost);
        }
        tx.commit().await?;
        Ok(Committed::Stored(Box::new(Order { changed_at: lease.now(), ..moves.after().clone() })))
    }

    async fn settle_failure(&self, lease: &Lease, order: &Order, error: StepError) -> Option<Outcome> {
        let (hold_for, because) = match error {
            StepError::HoldBack { hold_for, because } => (hold_for, because),
            error @ StepError::Retry { .. } => return Some(self.retry(lease, error)),
        };
        tracing::warn!(order.state = order.state.as_str(), cause = because, ?hold_for, "the CA limits our rate");
        let held = in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            acme_accounts::hold_back(&mut conn, self.tools.acme.directory(), hold_for.as_secs_f64(), &because).await
        });
        if let Err(error) = held.await {
            return Some(self.retry(lease, error.into()));
        }
        match self.held_back(lease, order, lease.now() + hold_for) {
            StepOutcome::WaitUntil(until, saw) => Some(Outcome::Wait { until, saw }),
            StepOutcome::Advance(event) => match self.commit(lease, order, &event).await {
                // Clean-up is the next run's.
                Ok(Committed::Stored(_) | Committed::Stale) => Some(Outcome::Release),
                Ok(Committed::LeaseLost) => None,
                Err(error) => Some(self.retry(lease, error)),
            },
        }
    }

    /// The end of a run that failed: when to try again, and what to show meanwhile.
    fn retry(&self, lease: &Lease, error: StepError) -> Outcome {
        let failures = lease.failures().saturating_add(1);
        let (after, counted, detail, cause) = match error {
            StepError::Retry { after, counted, detail, cause } => (after, counted, detail, cause),
            // Stored nowhere, so only this order waits for it.
            StepError::HoldBack { hold_for, because } => {
                (Some(hold_for), false, "the CA limits our rate".to_owned(), because)
            }
        };
        let after = backoff(failures, rand::random()).max(after.unwrap_or_default());
        tracing::warn!(job.attempt = lease.attempts(), counted, cause, ?after, "step failed: {detail}");
        let at = lease.now().format(&Rfc3339).unwrap_or_default();
        // Whatever a CA or a library says: no NUL, which `jsonb` refuses, and not without end.
        let cause: String = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_CAUSE).collect();
        let failure = serde_json::json!({ "at": at, "detail": detail, "cause": cause, "by": self.worker });
        let saw = serde_json::json!({ "failures": failures, "failure": failure });
        Outcome::Retry { after_secs: after.as_secs_f64(), counted, saw }
    }

    /// Writes how a run ended; a counted failure is told in the order's timeline, too. What is not counted is not: an outage
    /// must not fill the table.
    async fn settle(&self, lease: &Lease, outcome: Outcome) {
        if let (JobKind::PollChallenge { order_id }, Outcome::Retry { counted: true, saw, .. }) =
            (lease.job.kind, &outcome)
        {
            let failure = &saw["failure"];
            let detail = serde_json::json!({ "detail": failure["detail"], "cause": failure["cause"] });
            Box::pin(self.tell(order_id, "step_failed", detail)).await;
        }
        lease.settle(outcome).await;
    }

    /// Adds to an order's timeline what is true whatever becomes of the lease. In a statement of its own: it must not hold up
    /// the job, and the row of the order is locked before that of the job.
    async fn tell(&self, order_id: i64, event: &str, detail: serde_json::Value) {
        let told = in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            order_events::tell(&mut conn, order_id, event, &self.worker, detail).await
        });
        if let Err(error) = told.await {
            tracing::warn!(error = chain(&error), event, "missing in the timeline");
        }
    }

    /// A panic is a counted failure like any other, written by the runtime and not left to the lease.
    pub async fn settle_panic(&self, lease: &Lease) {
        lease.count(JobOutcome::Panicked);
        self.settle(lease, self.retry(lease, StepError::panicked())).await;
    }

    /// Attempts are used up: the order fails, and its job stops for a person. Nothing outside is touched.
    async fn park(&self, lease: &Lease, order_id: i64) {
        let parked = in_time(async {
            let mut tx = self.tools.pool.begin().await?;
            let mut gave_up = None;
            // An order that this release cannot read is parked all the same.
            let order = match orders::load(&mut tx, order_id).await {
                Err(StoreError::Corrupt { column }) => {
                    tracing::error!(column, "the order cannot be read");
                    None
                }
                loaded => loaded?,
            };
            if let Some(order) = order
                && order.state.is_open()
            {
                let problem = OrderProblem::new(ProblemCode::Internal, &order.domain_name);
                let event = OrderEvent::GaveUp { at: lease.now(), problem };
                let Ok(after) = order.apply(&event) else { return Ok(None) };
                if !orders::record(&mut tx, &after, &event, &self.worker).await? {
                    return Ok(None);
                }
                gave_up = Some((after, event));
            }
            let saw = serde_json::json!({ "parked": "attempts used up" });
            if !jobs::settle(&mut tx, lease.job.fence, &Outcome::Park { saw }).await? {
                return Ok(None);
            }
            tx.commit().await?;
            Ok(Some(gave_up))
        });
        match parked.await {
            Ok(Some(gave_up)) => {
                tracing::error!(job.attempt = lease.job.attempts, "attempts used up: parked for a person");
                lease.count(JobOutcome::Parked);
                if let Some((after, event)) = gave_up {
                    metrics::order_moved(&after, &event);
                }
            }
            // Changed or taken meanwhile: whoever claims the row next decides again.
            Ok(None) => tracing::warn!("not parked: the order or the lease has changed"),
            Err(error) => tracing::warn!(error = chain(&error), "not parked yet"),
        }
    }
}
