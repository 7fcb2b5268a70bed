//! What the gauges of the whole installation show: counts and ages, read in one go by every worker, every so often.
//!
//! The queue holds live work only and is read whole. Everything else is the beginning of an index, however many orders have
//! ended and however many certificates there were.

use sqlx::PgConnection;
use strum::IntoEnumIterator as _;

use super::StoreError;
use super::jobs::Lane;
use crate::model::order::OrderState;

/// Days to expiry that certificates are counted by.
pub const EXPIRING_WITHIN_DAYS: [u16; 4] = [0, 7, 14, 30];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Of every open state, also where there is none.
    pub open_orders: Vec<(OrderState, u64)>,
    /// In the order of [`Lane::ALL`].
    pub lanes: [LaneGauges; 4],
    pub expiring: Expiring,
    /// Certificates due for renewal for more than an hour, with nothing under way.
    pub overdue_renewals: u64,
    /// Each scheduled job, and when it last succeeded, in seconds since 1970; without those that never have.
    pub last_successes: Vec<(String, f64)>,
    /// Seconds until the last CA that asked for it may be called again.
    pub held_secs: f64,
}

/// Issued certificates of live domains without a successor, by [`EXPIRING_WITHIN_DAYS`], each with those before it. Left out: what
/// was revoked, or expired more than 30 days ago; nobody uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expiring {
    /// Those that renew by themselves.
    pub automatic: [u64; 4],
    /// Those that a customer must renew, or publish records for.
    pub by_hand: [u64; 4],
}

/// The rows of one lane, each in one of these states.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LaneGauges {
    /// Could be claimed, and was not leased before.
    pub due: u64,
    /// Due later.
    pub waiting: u64,
    pub leased: u64,
    /// Leased, and the lease is over.
    pub lost: u64,
    /// Stopped for a person.
    pub parked: u64,
    /// Seconds since the oldest row that could be claimed was due.
    pub lag_secs: f64,
}

pub async fn measure(conn: &mut PgConnection) -> Result<Gauges, StoreError> {
    Ok(Gauges {
        open_orders: open_orders(conn).await?,
        lanes: lanes(conn).await?,
        expiring: expiring(conn).await?,
        overdue_renewals: overdue_renewals(conn).await?,
        last_successes: last_successes(conn).await?,
        held_secs: held_secs(conn).await?,
    })
}

async fn open_orders(conn: &mut PgConnection) -> Result<Vec<(OrderState, u64)>, StoreError> {
    let rows = sqlx::query!(r#"SELECT state, count(*) AS "count!" FROM orders WHERE ended_at IS NULL GROUP BY state"#)
        .fetch_all(conn)
        .await?;
    let found = |state: OrderState| rows.iter().find(|row| row.state == state.as_str()).map_or(0, |row| row.count);
    Ok(OrderState::iter().filter(|state| state.is_open()).map(|state| (state, found(state).unsigned_abs())).collect())
}

async fn lanes(conn: &mut PgConnection) -> Result<[LaneGauges; 4], StoreError> {
    let rows = sqlx::query!(
        r#"SELECT lane, count(*) FILTER (WHERE parked_at IS NULL AND leased_by IS NULL AND due_at <= now()) AS "due!",
               count(*) FILTER (WHERE parked_at IS NULL AND leased_by IS NULL AND due_at > now()) AS "waiting!",
               count(*) FILTER (WHERE leased_by IS NOT NULL AND due_at > now()) AS "leased!",
               count(*) FILTER (WHERE leased_by IS NOT NULL AND due_at <= now()) AS "lost!",
               count(*) FILTER (WHERE parked_at IS NOT NULL) AS "parked!",
               coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE parked_at IS NULL AND due_at <= now())), 0)::float8 AS "lag_secs!"
           FROM jobs GROUP BY lane"#
    )
    .fetch_all(conn)
    .await?;
    Ok(Lane::ALL.map(|lane| match rows.iter().find(|row| row.lane == lane as i16) {
        None => LaneGauges::default(),
        Some(row) => LaneGauges {
            due: row.due.unsigned_abs(),
            waiting: row.waiting.unsigned_abs(),
            leased: row.leased.unsigned_abs(),
            lost: row.lost.unsigned_abs(),
            parked: row.parked.unsigned_abs(),
            lag_secs: row.lag_secs,
        },
    }))
}

/// A certificate with a successor is found by `renewal_ended_at`, but where that came after the end of the certificate itself.
async fn expiring(conn: &mut PgConnection) -> Result<Expiring, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT c.auto_renew AND p.presenter <> 'manual' AS "is_automatic!",
               count(*) FILTER (WHERE c.not_after <= now()) AS "within_0!",
               count(*) FILTER (WHERE c.not_after <= now() + interval '7 days') AS "within_7!",
               count(*) FILTER (WHERE c.not_after <= now() + interval '14 days') AS "within_14!", count(*) AS "within_30!"
           FROM certificates c JOIN domains d ON d.id = c.domain_id JOIN domain_presenters p ON p.domain_id = c.domain_id
           WHERE c.state = 'issued' AND (c.renewal_ended_at IS NULL OR c.renewal_ended_at >= c.not_after) AND c.revoked_at IS NULL
             AND c.not_after > now() - interval '30 days' AND c.not_after <= now() + interval '30 days'
             AND d.deleted_at IS NULL AND NOT EXISTS (
                 SELECT FROM certificates successor WHERE successor.successor_of = c.id AND successor.state = 'issued')
           GROUP BY 1"#
    )
    .fetch_all(conn)
    .await?;
    let mut expiring = Expiring::default();
    for row in rows {
        let counts = if row.is_automatic { &mut expiring.automatic } else { &mut expiring.by_hand };
        *counts = [row.within_0, row.within_7, row.within_14, row.within_30].map(i64::unsigned_abs);
    }
    Ok(expiring)
}

async fn overdue_renewals(conn: &mut PgConnection) -> Result<u64, StoreError> {
    let overdue = sqlx::query_scalar!(
        r#"SELECT count(*) AS "overdue!" FROM certificates c
           WHERE c.auto_renew AND c.state = 'issued' AND c.renewal_ended_at IS NULL AND c.renew_at < now() - interval '1 hour'
             AND NOT EXISTS (SELECT FROM renewals r WHERE r.old_certificate_id = c.id AND r.state IN ('new', 'renewing'))"#
    )
    .fetch_one(conn)
    .await?;
    Ok(overdue.unsigned_abs())
}

async fn last_successes(conn: &mut PgConnection) -> Result<Vec<(String, f64)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT kind, extract(epoch FROM (last_result ->> 'at')::timestamptz)::float8 AS "at!" FROM jobs
           WHERE order_id IS NULL AND delivery_id IS NULL AND proposal_id IS NULL AND last_result ->> 'at' IS NOT NULL"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.at)).collect())
}

async fn held_secs(conn: &mut PgConnection) -> Result<f64, StoreError> {
    let secs = sqlx::query_scalar!(
        r#"SELECT coalesce(extract(epoch FROM max(held_until) - now()), 0)::float8 AS "secs!" FROM acme_accounts
           WHERE held_until > now()"#
    )
    .fetch_one(conn)
    .await?;
    Ok(secs)
}
