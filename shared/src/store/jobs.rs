//! `jobs`: the queue. Claims, renewals and fenced outcomes; see ARCHITECTURE.md, the life of a job.
//!
//! A lease is a visibility time-out: claiming moves `due_at` to the lease's end, so the row of a worker that died
//! becomes due by itself. Only the holder of the lease writes `due_at`, `lease` and `leased_by` of a leased row;
//! everybody else sets `woken`. Times are the database's.

pub mod overview;
mod waits;

use std::collections::HashMap;

use sqlx::PgConnection;
use strum::IntoStaticStr;
use time::OffsetDateTime;

use super::{StoreError, notifications};

pub use waits::{Waiting, wait_all};

/// Half of a job's identity is its id, the other half the number of the lease under which it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    pub id: i64,
    pub lease: i64,
}

/// Who claims.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Written to `leased_by`.
    pub name: String,
    /// A random number: two processes may have one name.
    pub process: i64,
}

/// Which jobs go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[repr(i16)]
pub enum Lane {
    /// Somebody waits: place, check.
    #[strum(to_string = "caller")]
    Waiting = 0,
    /// Polls and every later step of an order.
    Orders = 1,
    /// The scheduled jobs.
    #[strum(to_string = "scheduled")]
    Housekeeping = 2,
    /// Deliveries of events: how long they take is up to customers' servers.
    Deliveries = 3,
}

impl Lane {
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Orders, Self::Housekeeping, Self::Deliveries];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum JobKind {
    /// Advance the order with this internal key.
    PollChallenge { order_id: i64 },
    /// Tell a webhook of an event.
    DeliverEvent { delivery_id: i64 },
    /// Give orders without a job one.
    Sweep,
    /// Delete what is old.
    Purge,
    /// Renew certificates before they expire.
    RenewDue,
    /// Try what an account wants its TXT records to be published by.
    TryPresenter { proposal_id: i64 },
}

#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub fence: Fence,
    pub kind: JobKind,
    pub lane: Lane,
    /// Counted failures, this claim included when its row was lost by somebody.
    pub attempts: i32,
    /// Failures in a row, counted or not, for the backoff.
    pub failures: u32,
    /// The worker that had it and was lost.
    pub lost_by: Option<String>,
    /// The database's time at the claim.
    pub claimed_at: OffsetDateTime,
    /// How long it was due before, in seconds.
    pub lag_secs: f64,
    /// Id of the request that enqueued or last woke it.
    pub request_id: Option<String>,
    /// Its span, as W3C Trace Context names it.
    pub traceparent: Option<String>,
}

/// What enqueues or wakes a job.
#[derive(Clone, Debug)]
pub struct Cause<'a> {
    pub request_id: &'a str,
    /// As W3C Trace Context names a span; None where nothing is traced.
    pub traceparent: Option<String>,
}

/// Enqueues the job of an order; in [`Lane::Waiting`] the workers are told at once.
pub async fn enqueue(conn: &mut PgConnection, order_id: i64, lane: Lane, cause: &Cause<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO jobs (kind, order_id, lane, trace_context)
         VALUES ('poll-challenge', $1, $2, jsonb_strip_nulls(jsonb_build_object('request_id', $3::text, 'traceparent', $4::text)))",
        order_id,
        lane as i16,
        cause.request_id,
        cause.traceparent
    )
    .execute(&mut *conn)
    .await?;
    if lane == Lane::Waiting { notify(conn).await } else { Ok(()) }
}

async fn notify(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_notify($1, '')", notifications::JOBS).execute(conn).await?;
    Ok(())
}

/// Claims at most `limit` due rows of one lane, of the kinds that this release knows, for `lease_secs`. A row whose holder was lost counts an attempt, and is
/// taken only if that was so at `lost_at` already, a time of the database's: a claim that comes late, after an outage that has ended
/// everybody's leases, must not take them for lost.
pub async fn claim(
    conn: &mut PgConnection,
    lane: Lane,
    worker: &Worker,
    lease_secs: f64,
    limit: i64,
    lost_at: Option<OffsetDateTime>,
) -> Result<Vec<ClaimedJob>, StoreError> {
    let rows = sqlx::query!(
        r#"WITH due AS MATERIALIZED (
               SELECT id, due_at FROM jobs
               WHERE lane = $1 AND parked_at IS NULL AND due_at <= now() AND (leased_by IS NULL OR due_at <= $5)
                 AND kind IN ('poll-challenge', 'deliver-event', 'sweep', 'purge', 'renew-due', 'try-presenter')
               ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED
           ), claimed AS (
               UPDATE jobs SET lease = lease + 1, leased_by = $2, lease_process = $6,
                   due_at = now() + make_interval(secs => $3), woken = false,
                   attempts = attempts + (leased_by IS NOT NULL)::int,
                   last_result = CASE WHEN leased_by IS NULL THEN last_result
                       ELSE coalesce(last_result, '{}') || jsonb_build_object('lost', jsonb_build_object('at', now(), 'by', leased_by)) END
               WHERE id = ANY(ARRAY(SELECT id FROM due))
               RETURNING id, kind, order_id, delivery_id, proposal_id, lease, attempts, last_result, trace_context)
           SELECT id AS "id!", kind AS "kind!", order_id, delivery_id, proposal_id, lease AS "lease!", attempts AS "attempts!",
               (last_result ->> 'failures')::int AS failures,
               CASE WHEN (last_result #>> '{lost,at}')::timestamptz = now() THEN last_result #>> '{lost,by}' END AS lost_by,
               now() AS "claimed_at!", extract(epoch FROM now() - due.due_at)::float8 AS "lag_secs!",
               trace_context ->> 'request_id' AS request_id, trace_context ->> 'traceparent' AS traceparent
           FROM claimed JOIN due USING (id)"#,
        lane as i16,
        worker.name,
        lease_secs,
        limit,
        lost_at,
        worker.process
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = match (row.kind.as_str(), row.order_id, row.delivery_id, row.proposal_id) {
                ("poll-challenge", Some(order_id), None, None) => JobKind::PollChallenge { order_id },
                ("deliver-event", None, Some(delivery_id), None) => JobKind::DeliverEvent { delivery_id },
                ("sweep", None, None, None) => JobKind::Sweep,
                ("purge", None, None, None) => JobKind::Purge,
                ("renew-due", None, None, None) => JobKind::RenewDue,
                ("try-presenter", None, None, Some(proposal_id)) => JobKind::TryPresenter { proposal_id },
                _ => return Err(StoreError::Corrupt { column: "jobs.kind" }),
            };
            Ok(ClaimedJob {
                fence: Fence { id: row.id, lease: row.lease },
                kind,
                lane,
                attempts: row.attempts,
                failures: row.failures.and_then(|failures| failures.try_into().ok()).unwrap_or(0),
                lost_by: row.lost_by,
                claimed_at: row.claimed_at,
                lag_secs: row.lag_secs,
                request_id: row.request_id,
                traceparent: row.traceparent,
            })
        })
        .collect()
}

/// Gives back, without an attempt, the rows leased to this process that it does not hold: the answer to its claim was lost. Reads
/// the whole queue.
pub async fn release_unheld(conn: &mut PgConnection, worker: &Worker, held: &[Fence]) -> Result<u64, StoreError> {
    let (ids, leases): (Vec<i64>, Vec<i64>) = held.iter().map(|fence| (fence.id, fence.lease)).unzip();
    let released = sqlx::query!(
        "UPDATE jobs j SET leased_by = NULL, due_at = now()
         WHERE j.leased_by = $1 AND j.lease_process = $4 AND NOT EXISTS (
             SELECT FROM unnest($2::bigint[], $3::bigint[]) AS held (id, lease)
             WHERE held.id = j.id AND held.lease = j.lease)",
        worker.name,
        &ids,
        &leases,
        worker.process
    )
    .execute(conn)
    .await?;
    Ok(released.rows_affected())
}

/// What became of a lease at a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// Somebody has the row locked: still held, not extended.
    Locked,
}

/// Extends the leases that are still held, but for rows that somebody has locked: one of those must not cost all others theirs.
/// Returns what is still held.
pub async fn renew(
    conn: &mut PgConnection,
    fences: &[Fence],
    lease_secs: f64,
) -> Result<HashMap<Fence, Renewal>, StoreError> {
    let (ids, leases): (Vec<i64>, Vec<i64>) = fences.iter().map(|fence| (fence.id, fence.lease)).unzip();
    let rows = sqlx::query!(
        r#"WITH held AS (
               SELECT j.id, j.lease FROM jobs j JOIN unnest($1::bigint[], $2::bigint[]) AS asked (id, lease) USING (id, lease)
               WHERE j.leased_by IS NOT NULL
           ), free AS (
               SELECT j.id FROM jobs j JOIN held USING (id, lease) WHERE j.leased_by IS NOT NULL FOR UPDATE OF j SKIP LOCKED
           ), renewed AS (
               UPDATE jobs j SET due_at = now() + make_interval(secs => $3) FROM free WHERE j.id = free.id RETURNING j.id
           )
           SELECT held.id, held.lease, renewed.id IS NOT NULL AS "is_renewed!" FROM held LEFT JOIN renewed USING (id)"#,
        &ids,
        &leases,
        lease_secs
    )
    .fetch_all(conn)
    .await?;
    let renewal = |is_renewed: bool| if is_renewed { Renewal::Renewed } else { Renewal::Locked };
    Ok(rows.into_iter().map(|row| (Fence { id: row.id, lease: row.lease }, renewal(row.is_renewed))).collect())
}

/// The database's time, and the seconds from then until the next row of each lane is due, in the order of [`Lane::ALL`]; negative when
/// one is overdue, None where there is none.
pub async fn next_due_in(conn: &mut PgConnection) -> Result<(OffsetDateTime, [Option<f64>; 4]), StoreError> {
    let row = sqlx::query!(
        r#"SELECT extract(epoch FROM (SELECT min(due_at) FROM jobs WHERE lane = 0 AND parked_at IS NULL) - now())::float8 AS waiting,
               extract(epoch FROM (SELECT min(due_at) FROM jobs WHERE lane = 1 AND parked_at IS NULL) - now())::float8 AS orders,
               extract(epoch FROM (SELECT min(due_at) FROM jobs WHERE lane = 2 AND parked_at IS NULL) - now())::float8 AS housekeeping,
               extract(epoch FROM (SELECT min(due_at) FROM jobs WHERE lane = 3 AND parked_at IS NULL) - now())::float8 AS deliveries,
               now() AS "now!""#
    )
    .fetch_one(conn)
    .await?;
    Ok((row.now, [row.waiting, row.orders, row.housekeeping, row.deliveries]))
}

/// The end of a run, or of one step of it. Each is one statement fenced on `(id, lease)`; false means that the lease is
/// lost and that the caller must roll back and stop.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Stay leased, for as long as it is, and go on: the order has advanced, so its failures are forgotten where it has any.
    Keep { has_failed: bool },
    /// Too early; not an attempt. With something that was seen the run came to its end, so the failures before it are
    /// forgotten. A row woken meanwhile is due within a second instead.
    Wait { until: OffsetDateTime, saw: Option<serde_json::Value> },
    /// Failed; `counted` unless the fault is not the order's. What the last look-up saw stays beside it. A row woken
    /// meanwhile is due within a second instead.
    Retry { after_secs: f64, counted: bool, saw: serde_json::Value },
    /// Given back untouched, due at once.
    Release,
    /// Nothing is left to do.
    Done,
    /// Stopped for a person, unless somebody has woken the row meanwhile: then due at once.
    Park { saw: serde_json::Value },
}

pub async fn settle(conn: &mut PgConnection, fence: Fence, outcome: &Outcome) -> Result<bool, StoreError> {
    let settled = match outcome {
        Outcome::Keep { has_failed: true } => {
            sqlx::query!(
                "UPDATE jobs SET attempts = 0, last_result = last_result - 'failures' - 'failure'
                 WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
                fence.id,
                fence.lease
            )
            .execute(conn)
            .await?
        }
        // Nobody claims it before this transaction ends.
        Outcome::Keep { has_failed: false } => {
            let held = sqlx::query_scalar!(
                "SELECT id FROM jobs WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL FOR NO KEY UPDATE",
                fence.id,
                fence.lease
            );
            return Ok(held.fetch_optional(conn).await?.is_some());
        }
        Outcome::Wait { until, saw } => {
            sqlx::query!(
                "UPDATE jobs SET leased_by = NULL, woken = false, lane = CASE lane WHEN 0 THEN 1 ELSE lane END,
                     due_at = CASE WHEN woken THEN least($3, now() + interval '1 second') ELSE $3 END,
                     attempts = CASE WHEN $4::jsonb IS NULL THEN attempts ELSE 0 END,
                     last_result = coalesce($4, last_result - 'failures' - 'failure')
                 WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
                fence.id,
                fence.lease,
                until,
                saw.as_ref()
            )
            .execute(conn)
            .await?
        }
        Outcome::Retry { after_secs, counted, saw } => {
            sqlx::query!(
                "UPDATE jobs SET leased_by = NULL, woken = false, attempts = attempts + $4::boolean::int,
                     due_at = now() + CASE WHEN woken THEN least(make_interval(secs => $3), interval '1 second')
                                           ELSE make_interval(secs => $3) END,
                     last_result = coalesce(last_result, '{}') || $5
                 WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
                fence.id,
                fence.lease,
                after_secs,
                counted,
                saw
            )
            .execute(conn)
            .await?
        }
        Outcome::Release => sqlx::query!(
            "UPDATE jobs SET leased_by = NULL, due_at = now() WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
            fence.id,
            fence.lease
        )
        .execute(conn)
        .await?,
        Outcome::Done => {
            sqlx::query!(
                "DELETE FROM jobs WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
                fence.id,
                fence.lease
            )
            .execute(conn)
            .await?
        }
        Outcome::Park { saw } => {
            sqlx::query!(
                "UPDATE jobs SET leased_by = NULL, woken = false, last_result = coalesce(last_result, '{}') || $3,
                     parked_at = CASE WHEN woken THEN NULL ELSE now() END,
                     due_at = CASE WHEN woken THEN now() ELSE due_at END
                 WHERE id = $1 AND lease = $2 AND leased_by IS NOT NULL",
                fence.id,
                fence.lease,
                saw
            )
            .execute(conn)
            .await?
        }
    };
    Ok(settled.rows_affected() == 1)
}

/// Whether nobody has claimed the row since, so that a write under this fence may have been stored though nothing was heard of
/// it.
pub async fn is_unclaimed_since(conn: &mut PgConnection, fence: Fence) -> Result<bool, StoreError> {
    let unclaimed = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE id = $1 AND lease = $2) AS "unclaimed!""#,
        fence.id,
        fence.lease
    );
    Ok(unclaimed.fetch_one(conn).await?)
}

/// Asks for a look-up now, at most one a second: somebody says that the record is set. Returns when it is due.
///
/// An order that awaits no record any more is left alone: what it waits for is the CA, at the pace the CA asked for.
pub async fn wake_for_check(conn: &mut PgConnection, order_id: i64) -> Result<Option<OffsetDateTime>, StoreError> {
    let due_at = sqlx::query_scalar!(
        r#"UPDATE jobs j SET
               woken = j.woken OR o.awaits_record,
               lane = CASE WHEN o.awaits_record AND j.leased_by IS NULL THEN 0 ELSE j.lane END,
               due_at = CASE WHEN o.awaits_record AND j.leased_by IS NULL
                   THEN least(j.due_at, greatest(now(), (j.last_result ->> 'at')::timestamptz + interval '1 second'))
                   ELSE j.due_at END
           FROM (SELECT id, state IN ('placed', 'presented') AND seen_at IS NULL AS awaits_record FROM orders) AS o
           WHERE j.order_id = $1 AND o.id = $1 AND j.parked_at IS NULL
           RETURNING CASE WHEN j.leased_by IS NULL THEN greatest(j.due_at, now()) ELSE now() END AS "due_at!""#,
        order_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    notify(conn).await?;
    Ok(due_at)
}

/// Makes an order's job due now, parked or not, with all attempts before it, or enqueues one.
pub async fn wake(conn: &mut PgConnection, order_id: i64, cause: &Cause<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO jobs (kind, order_id, lane, trace_context)
         VALUES ('poll-challenge', $1, 1, jsonb_strip_nulls(jsonb_build_object('request_id', $2::text, 'traceparent', $3::text)))
         ON CONFLICT (order_id) DO UPDATE SET woken = true, parked_at = NULL, attempts = 0,
             trace_context = excluded.trace_context,
             due_at = CASE WHEN jobs.leased_by IS NULL THEN now() ELSE jobs.due_at END",
        order_id,
        cause.request_id,
        cause.traceparent
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What the last run of an order's job left behind, and whether any worker ever took it.
#[derive(Clone, Debug)]
pub struct LastRun {
    pub was_claimed: bool,
    pub last_result: Option<serde_json::Value>,
}

pub async fn last_run(conn: &mut PgConnection, order_id: i64) -> Result<Option<LastRun>, StoreError> {
    let run = sqlx::query_as!(
        LastRun,
        r#"SELECT lease > 0 AS "was_claimed!", last_result FROM jobs WHERE order_id = $1"#,
        order_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(run)
}

/// Gives every order that is open, or ended but not cleaned up, a job if it has none. Returns how many had none.
pub async fn enqueue_missing(conn: &mut PgConnection) -> Result<u64, StoreError> {
    let inserted = sqlx::query!(
        "INSERT INTO jobs (kind, order_id, lane)
         SELECT 'poll-challenge', o.id, 1 FROM orders o
         WHERE o.cleaned_up_at IS NULL AND NOT EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id)
         ORDER BY o.id LIMIT 1000
         ON CONFLICT (order_id) DO NOTHING"
    )
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected())
}
