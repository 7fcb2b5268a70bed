//! Orders in flight, their worker and a real name server: what is read at one moment, and what happened between two.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use countersign_tests::stack::waiting::pause_until;
use countersign_tests::stack::{Stack, StackBuilder};

use crate::knot::Knot;
use crate::meter::{Meter, Usage};
use crate::production;
use crate::scrape::Scrape;

/// The pause between look-ups of an order, in seconds: the default.
pub(crate) const INTERVAL_SECS: f64 = 10.0;
pub(crate) const WORKER: &str = "worker-1";

const LAG: &str = "countersign_job_claim_lag_seconds";
const ORDERS_LANE: &[&str] = &["lane=\"orders\""];
const WAITED: &[&str] = &["kind=\"poll-challenge\"", "outcome=\"waited\""];

pub(crate) struct Lane {
    pub(crate) stack: Stack,
    pub(crate) knot: Knot,
}

/// All that is read at one moment.
pub(crate) struct Reading {
    pub(crate) at: Instant,
    scrape: Scrape,
    pub(crate) worker: Usage,
    postgres: Usage,
    knot: Usage,
    wal: f64,
}

/// What happened between two readings. Of CPU, seconds.
pub(crate) struct Span {
    pub(crate) seconds: f64,
    pub(crate) cycles: f64,
    pub(crate) lag_p50: f64,
    pub(crate) lag_p99: f64,
    pub(crate) worker: f64,
    pub(crate) postgres: f64,
    pub(crate) knot: f64,
    pub(crate) wal_bytes: f64,
}

impl Lane {
    /// A stack as production has it, with `changes`: Postgres waits for the disk, and no process has settings that it would not have by
    /// default.
    pub(crate) async fn start(changes: impl FnOnce(StackBuilder) -> StackBuilder) -> Result<Self> {
        let knot = Knot::start().await?;
        let builder = production::stack().apis(0).resolver(knot.address()).leftovers_allowed();
        Ok(Self { stack: changes(builder).try_start().await?, knot })
    }

    pub(crate) async fn read(&self) -> Result<Reading> {
        let wal = sqlx::query_scalar("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8");
        Ok(Reading {
            at: Instant::now(),
            scrape: Scrape::of(&self.stack, WORKER).await?,
            worker: Meter::of_stack(&self.stack, WORKER)?.read()?,
            postgres: Meter::of_stack(&self.stack, "postgres")?.read()?,
            knot: self.knot.meter()?.read()?,
            wal: wal.fetch_one(self.stack.pool()).await?,
        })
    }

    /// Readings every `pause`, until `held_for` is over. There are two at least. Each span is told on the standard error.
    pub(crate) async fn readings(&self, held_for: Duration, pause: Duration) -> Result<Vec<Reading>> {
        let first = self.read().await?;
        let (mut last, ends_at) = (first.at, first.at + held_for);
        let mut readings = vec![first];
        while last < ends_at {
            pause_until(last + pause).await;
            let reading = self.read().await?;
            let span = Span::between(&readings[readings.len() - 1], &reading)?;
            eprintln!(
                "{:>8.0} cycles/s  lag p50 {:.3} s  p99 {:.3} s",
                span.cycles / span.seconds,
                span.lag_p50,
                span.lag_p99
            );
            last = reading.at;
            readings.push(reading);
        }
        Ok(readings)
    }
}

impl Span {
    pub(crate) fn between(before: &Reading, after: &Reading) -> Result<Self> {
        let lag = after.scrape.histogram_since(&before.scrape, LAG, ORDERS_LANE);
        let waited = |reading: &Reading| reading.scrape.sum("countersign_job_outcomes_total", WAITED);
        let cpu = |of: fn(&Reading) -> Usage| of(after).cpu.saturating_sub(of(before).cpu).as_secs_f64();
        Ok(Self {
            seconds: (after.at - before.at).as_secs_f64(),
            cycles: waited(after) - waited(before),
            lag_p50: lag.percentile(0.5).context("no job was claimed")?,
            lag_p99: lag.percentile(0.99)?,
            worker: cpu(|reading| reading.worker),
            postgres: cpu(|reading| reading.postgres),
            knot: cpu(|reading| reading.knot),
            wal_bytes: after.wal - before.wal,
        })
    }

    /// From the first reading to the last.
    pub(crate) fn whole(readings: &[Reading]) -> Result<Self> {
        let (first, last) = (readings.first(), readings.last());
        Self::between(first.context("nothing was read")?, last.context("nothing was read")?)
    }

    /// Those between neighbours.
    pub(crate) fn each(readings: &[Reading]) -> Result<Vec<Self>> {
        readings.windows(2).map(|pair| Self::between(&pair[0], &pair[1])).collect()
    }
}
