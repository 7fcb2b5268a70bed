//! The polling lane: orders in flight whose record is absent. Each is looked up every 10 s, with a question to a real name server, and
//! rescheduled durably. One worker with the settings it has by default.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_tests::stack::Stack;
use countersign_tests::stack::waiting::pause_until;
use futures::future::join_all;
use sqlx::PgPool;

use crate::chart::Chart;
use crate::knot::Knot;
use crate::meter::{Meter, Usage};
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows;
use crate::scrape::Scrape;

/// The pause between look-ups of an order, in seconds: the default.
const INTERVAL_SECS: f64 = 10.0;
const WARM_UP: Duration = Duration::from_secs(30);
const HELD_FOR: Duration = Duration::from_secs(120);
/// Between the points of the chart.
const SAMPLE: Duration = Duration::from_secs(5);
const YARDSTICK_FOR: Duration = Duration::from_secs(10);

const WORKER: &str = "worker-1";
const LAG: &str = "countersign_job_claim_lag_seconds";
const ORDERS_LANE: &[&str] = &["lane=\"orders\""];
const WAITED: &[&str] = &["kind=\"poll-challenge\"", "outcome=\"waited\""];

pub(crate) async fn run() -> Result<Vec<Section>> {
    Ok(vec![hold(20_000, Goal::at_most(2.0, 1.0)).await?, hold(100_000, Goal::at_most(2.0, 1.0)).await?])
}

/// A stack as production has it: Postgres waits for the disk, and no process has settings that it would not have by default.
async fn stack(knot: &Knot) -> Result<Stack> {
    let builder = Stack::builder()
        .apis(0)
        .durable()
        .postgres("shared_buffers", "1GB")
        .postgres("max_wal_size", "4GB")
        .resolver(knot.address())
        .setting("POLL_INTERVAL", "10s")
        .setting("POLL_TIMEOUT", "5m")
        .leftovers_allowed();
    builder.try_start().await
}

/// All that is read at one moment.
struct Reading {
    at: Instant,
    scrape: Scrape,
    worker: Usage,
    postgres: Usage,
    knot: Usage,
    wal: f64,
}

struct Lane {
    stack: Stack,
    knot: Knot,
    idle: Usage,
}

impl Lane {
    async fn read(&self) -> Result<Reading> {
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
}

/// What happened between two readings.
struct Span {
    seconds: f64,
    cycles: f64,
    lag_p50: f64,
    lag_p99: f64,
}

impl Span {
    fn between(before: &Reading, after: &Reading) -> Result<Self> {
        let lag = after.scrape.histogram_since(&before.scrape, LAG, ORDERS_LANE);
        let waited = |reading: &Reading| reading.scrape.sum("countersign_job_outcomes_total", WAITED);
        Ok(Self {
            seconds: (after.at - before.at).as_secs_f64(),
            cycles: waited(after) - waited(before),
            lag_p50: lag.percentile(0.5).context("no job was claimed")?,
            lag_p99: lag.percentile(0.99)?,
        })
    }
}

async fn hold(orders: i64, goal: Goal) -> Result<Section> {
    let knot = Knot::start().await?;
    let stack = stack(&knot).await?;
    pause_until(Instant::now() + Duration::from_secs(5)).await;
    let idle = Meter::of_stack(&stack, WORKER)?.read()?;
    let lane = Lane { stack, knot, idle };
    rows::awaiting(&lane.stack, orders, 5.0, INTERVAL_SECS).await?;
    pause_until(Instant::now() + WARM_UP).await;

    let first = lane.read().await?;
    let mut readings = vec![lane.read().await?];
    while readings[readings.len() - 1].at < first.at + HELD_FOR {
        let last = readings[readings.len() - 1].at;
        pause_until(last + SAMPLE).await;
        readings.push(lane.read().await?);
        let [.., before, after] = readings.as_slice() else { unreachable!("there are two") };
        let span = Span::between(before, after)?;
        eprintln!(
            "{:>8.0} cycles/s  lag p50 {:.3} s  p99 {:.3} s",
            span.cycles / span.seconds,
            span.lag_p50,
            span.lag_p99
        );
    }
    let last = &readings[readings.len() - 1];
    let whole = Span::between(&first, last)?;
    lane.stack.kill(WORKER);
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE order_id IS NOT NULL AND parked_at IS NULL")
        .fetch_one(lane.stack.pool())
        .await?;
    ensure!(open == orders, "{open} of {orders} orders are still in flight");
    let bare = bare_loop(lane.stack.pool()).await?;
    let answers = lane.knot.most_answers().await?;

    let rate = whole.cycles / whole.seconds;
    let needed = orders as f64 / INTERVAL_SECS;
    let cpu = |of: fn(&Reading) -> Usage| (of(last).cpu - of(&first).cpu).as_secs_f64();
    let mut figures = vec![
        Figure::new("cycles (look-up and wait)", Unit::PerSecond, rate)
            .beside("asked for", needed)
            .goal(Goal::ratio_at_least(0.97, 0.99)),
        Figure::new("lag from due to started, p99", Unit::Seconds, whole.lag_p99).goal(goal),
        Figure::new("lag from due to started, p50", Unit::Seconds, whole.lag_p50),
        Figure::new("beside claim + wait in bare SQL", Unit::PerSecond, rate)
            .beside("2 connections, 100 rows each", bare),
        Figure::new("beside the name server alone", Unit::PerSecond, rate).beside("dnsperf", answers),
    ];
    let parts: [(&str, fn(&Reading) -> Usage); 3] =
        [("the worker", |r| r.worker), ("Postgres", |r| r.postgres), ("the name server", |r| r.knot)];
    for (what, of) in parts {
        figures.push(Figure::new(format!("CPU of {what}"), Unit::Cores, cpu(of) / whole.seconds));
        figures.push(Figure::new(format!("CPU of {what} for a cycle"), Unit::SecondsEach, cpu(of) / whole.cycles));
    }
    figures.push(Figure::new("WAL for a cycle", Unit::BytesEach, (last.wal - first.wal) / whole.cycles));
    figures.push(Figure::new("memory of the worker", Unit::Bytes, last.worker.memory as f64));
    let more = last.worker.memory.saturating_sub(lane.idle.memory) as f64;
    figures.push(
        Figure::new("more than idle", Unit::Bytes, more).goal(Goal::at_most(20.0 * 1_048_576.0, 5.0 * 1_048_576.0)),
    );
    Ok(Section {
        name: format!("lane-{orders}"),
        title: format!("{orders} orders in flight, each looked up every 10 s"),
        setting: format!(
            "one worker, default settings, held for {HELD_FOR:?} after {WARM_UP:?}; record absent (NXDOMAIN from Knot)"
        ),
        figures,
        chart: Some(chart(&first, &readings)?),
    })
}

fn chart(first: &Reading, readings: &[Reading]) -> Result<Chart> {
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for pair in readings.windows(2) {
        let span = Span::between(&pair[0], &pair[1])?;
        let at = (pair[1].at - first.at).as_secs_f64();
        p50.push((at, span.lag_p50));
        p99.push((at, span.lag_p99));
    }
    Ok(Chart { x: "seconds", y: "lag in seconds", lines: vec![("p50".to_owned(), p50), ("p99".to_owned(), p99)] })
}

/// Claims rows of the same table and lets them wait, two statements for a hundred rows, by one connection for each core. Cycles per
/// second.
async fn bare_loop(pool: &PgPool) -> Result<f64> {
    const CONNECTIONS: usize = 2;
    sqlx::query("UPDATE jobs SET due_at = now() - interval '1 hour', leased_by = NULL WHERE order_id IS NOT NULL")
        .execute(pool)
        .await?;
    sqlx::raw_sql("VACUUM (ANALYZE) jobs").execute(pool).await?;
    let began = Instant::now();
    let loops = (0..CONNECTIONS).map(|number| async move {
        let mut conn = pool.acquire().await?;
        let mut cycles = 0;
        while began.elapsed() < YARDSTICK_FOR {
            let claimed: Vec<(i64, i64)> = sqlx::query_as(
                "UPDATE jobs SET lease = lease + 1, leased_by = $1, due_at = now() + interval '9 s'
                 WHERE id = ANY(ARRAY(SELECT id FROM jobs WHERE lane = 1 AND parked_at IS NULL AND due_at <= now()
                     ORDER BY due_at LIMIT 100 FOR UPDATE SKIP LOCKED)) RETURNING id, lease",
            )
            .bind(format!("bare-{number}"))
            .fetch_all(&mut *conn)
            .await?;
            let (ids, leases): (Vec<i64>, Vec<i64>) = claimed.into_iter().unzip();
            let waiting = sqlx::query(
                "UPDATE jobs SET leased_by = NULL, due_at = now() - interval '30 min', last_result = jsonb_build_object('at', now())
                 FROM unnest($1::bigint[], $2::bigint[]) AS held (id, lease)
                 WHERE jobs.id = held.id AND jobs.lease = held.lease AND leased_by IS NOT NULL",
            );
            cycles += waiting.bind(ids).bind(leases).execute(&mut *conn).await?.rows_affected();
        }
        anyhow::Ok(cycles)
    });
    let mut cycles = 0;
    for done in join_all(loops).await {
        cycles += done?;
    }
    Ok(cycles as f64 / began.elapsed().as_secs_f64())
}
