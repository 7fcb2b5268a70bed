//! The polling lane: orders in flight whose record is absent. Each is looked up every 10 s, with a question to a real name server, and
//! rescheduled durably by one worker: 20,000 with the settings it has by default, 100,000 with more slots.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use countersign_tests::stack::waiting::pause_until;
use futures::future::join_all;
use sqlx::PgPool;

use crate::chart::Chart;
use crate::meter::Meter;
use crate::readings::{INTERVAL_SECS, Lane, Reading, Span, WORKER};
use crate::report::{Figure, Goal, MIB, Section, Unit};
use crate::rows;

const WARM_UP: Duration = Duration::from_secs(30);
const HELD_FOR: Duration = Duration::from_secs(120);
/// Between the points of the chart.
const SAMPLE: Duration = Duration::from_secs(5);
const YARDSTICK_FOR: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let held = hold(20_000, None, Goal::must_be_at_most(2.0), None).await?;
    let more = hold(100_000, Some("512"), Goal::aims_at_most(1.0), Some(Goal::at_most(20.0 * MIB, 5.0 * MIB))).await?;
    Ok(vec![held, more])
}

/// `slots`: another `WORKER_SLOTS` than the default. `lag`, `memory_goal`: what is asked of the 99th percentile, and of the memory beyond that
/// of an idle worker.
async fn hold(orders: i64, slots: Option<&str>, lag: Goal, memory_goal: Option<Goal>) -> Result<Section> {
    let lane = Lane::start(|builder| match slots {
        Some(slots) => builder.setting("WORKER_SLOTS", slots),
        None => builder,
    });
    let lane = lane.await?;
    pause_until(Instant::now() + Duration::from_secs(5)).await;
    let idle = Meter::of_stack(&lane.stack, WORKER)?.read()?;
    rows::awaiting(&lane.stack, orders, 5.0, INTERVAL_SECS).await?;
    pause_until(Instant::now() + WARM_UP).await;

    let readings = lane.readings(HELD_FOR, SAMPLE).await?;
    let (whole, memory) = (Span::whole(&readings)?, readings[readings.len() - 1].worker.memory);
    lane.stack.kill(WORKER);
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE order_id IS NOT NULL AND parked_at IS NULL")
        .fetch_one(lane.stack.pool())
        .await?;
    ensure!(open == orders, "{open} of {orders} orders are still in flight");
    let bare = bare_loop(lane.stack.pool()).await?;
    let answers = lane.knot.most_answers().await?;

    let rate = whole.cycles / whole.seconds;
    let needed = orders as f64 / INTERVAL_SECS;
    let mut figures = vec![
        Figure::new("cycles (look-up and wait)", Unit::PerSecond, rate).beside("due", needed),
        Figure::new("lag from due to claimed, p99", Unit::Seconds, whole.lag_p99).goal(lag),
        Figure::new("lag from due to claimed, p50", Unit::Seconds, whole.lag_p50),
        Figure::new("beside claim + wait in bare SQL", Unit::PerSecond, rate)
            .beside("2 connections, 100 rows each", bare),
        Figure::new("beside the name server alone", Unit::PerSecond, rate).beside("dnsperf", answers),
    ];
    for (what, cpu) in [("the worker", whole.worker), ("Postgres", whole.postgres), ("the name server", whole.knot)] {
        figures.push(Figure::new(format!("CPU of {what}"), Unit::Cores, cpu / whole.seconds));
        figures.push(Figure::new(format!("CPU of {what} for a cycle"), Unit::SecondsEach, cpu / whole.cycles));
    }
    figures.push(Figure::new("WAL for a cycle", Unit::BytesEach, whole.wal_bytes / whole.cycles));
    figures.push(Figure::new("memory of the worker", Unit::Bytes, memory as f64));
    let more = memory.saturating_sub(idle.memory) as f64;
    let more = Figure::new("more than idle", Unit::Bytes, more);
    figures.push(match memory_goal {
        Some(goal) => more.goal(goal),
        None => more,
    });
    Ok(Section {
        name: format!("lane-{orders}"),
        title: format!("{orders} orders in flight, each looked up every 10 s"),
        setting: format!(
            "one worker, {}, held for {HELD_FOR:?} after {WARM_UP:?}; record absent (NXDOMAIN from Knot)",
            slots.map_or("default settings".to_owned(), |slots| format!("WORKER_SLOTS={slots}"))
        ),
        figures,
        chart: Some(chart(&readings)?),
    })
}

fn chart(readings: &[Reading]) -> Result<Chart> {
    let (mut p50, mut p99, mut at) = (Vec::new(), Vec::new(), 0.0);
    for span in Span::each(readings)? {
        at += span.seconds;
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
