//! The polling lane beside rows that only lie there: certificates and ended orders, orders that are parked or due far in the future.
//!
//! The lane is below what it can do, so its rate says nothing: what a cycle costs is compared.

use std::time::{Duration, Instant};

use anyhow::Result;
use countersign_tests::stack::waiting::pause_until;
use sqlx::PgPool;

use crate::chart::Chart;
use crate::readings::{INTERVAL_SECS, Lane, Span, WORKER};
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows;
use crate::statistics::Runs;

const IN_FLIGHT: i64 = 20_000;
/// Certificates with their ended orders.
const ENDED: [i64; 3] = [10_000, 100_000, 1_000_000];
/// Open orders that nobody looks at: one half parked, the other due in a month. They come last.
const RESTING: i64 = 100_000;
const WARM_UP: Duration = Duration::from_secs(20);
const HELD_FOR: Duration = Duration::from_secs(40);
const SAMPLE: Duration = Duration::from_secs(10);

/// What was measured beside so many rows.
struct Step {
    beside: String,
    ended: i64,
    whole: Span,
    /// CPU of worker and Postgres for a cycle, in each sample.
    cost: Runs,
    /// In Postgres, for a cycle, of all statements.
    executing: f64,
    /// Of one claim, in Postgres.
    claim: f64,
}

impl Step {
    fn cost(&self) -> f64 {
        cost(&self.whole)
    }
}

fn cost(span: &Span) -> f64 {
    (span.worker + span.postgres) / span.cycles
}

pub(crate) async fn run() -> Result<Vec<Section>> {
    let lane = Lane::start(|builder| builder.postgres("shared_preload_libraries", "pg_stat_statements")).await?;
    sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(lane.stack.pool()).await?;
    lane.stack.kill(WORKER);
    rows::awaiting(&lane.stack, IN_FLIGHT, 0.0, INTERVAL_SECS).await?;
    let (mut steps, mut written) = (Vec::new(), 0);
    for ended in ENDED {
        rows::ended(&lane.stack, written..ended).await?;
        written = ended;
        steps.push(measure(&lane, ended, format!("{ended} certificates")).await?);
    }
    rows::resting(&lane.stack, written..written + RESTING).await?;
    steps.push(measure(&lane, written, format!("{written} and {RESTING} resting")).await?);

    let mut figures = Vec::new();
    let first = &steps[0];
    for (number, step) in steps.iter().enumerate() {
        let of_first = |figure: Figure, value: f64| figure.beside(format!("at {}", first.beside), value);
        let figure = Figure::of_runs(
            format!("CPU of worker and Postgres for a cycle, {}", step.beside),
            Unit::SecondsEach,
            &step.cost,
        );
        figures.push(match number {
            0 => figure,
            _ => of_first(figure, first.cost.median()).goal(Goal::ratio_at_most(1.10, 1.03)),
        });
        figures.push(of_first(Figure::new("  of all samples", Unit::SecondsEach, step.cost()), first.cost()));
        let executing = Figure::new("  executing statements", Unit::SecondsEach, step.executing);
        figures.push(of_first(executing, first.executing));
        figures.push(of_first(Figure::new("  a claim in Postgres", Unit::SecondsEach, step.claim), first.claim));
        let rate = Figure::new("  cycles", Unit::PerSecond, step.whole.cycles / step.whole.seconds);
        figures.push(rate.beside("asked for", IN_FLIGHT as f64 / INTERVAL_SECS));
        figures.push(of_first(Figure::new("  lag p99", Unit::Seconds, step.whole.lag_p99), first.whole.lag_p99));
    }
    Ok(vec![Section {
        name: "growth".to_owned(),
        title: format!("{IN_FLIGHT} orders in flight beside rows that lie there"),
        setting: format!(
            "one worker, default settings; each step held for {HELD_FOR:?} after {WARM_UP:?} on one growing database, vacuumed before; \
             of the resting orders one half is parked, the other due in a month"
        ),
        chart: Some(chart(&steps)),
        figures,
    }])
}

fn chart(steps: &[Step]) -> Chart {
    let line = |of: fn(&Span) -> f64| {
        let points = steps.iter().take(ENDED.len());
        points.map(|step| (step.ended as f64, of(&step.whole) / step.whole.cycles * 1e6)).collect()
    };
    let lines =
        vec![("worker".to_owned(), line(|span| span.worker)), ("Postgres".to_owned(), line(|span| span.postgres))];
    Chart { x: "certificates and ended orders", y: "CPU for a cycle in µs", lines }
}

/// The worker is not running before, nor after.
async fn measure(lane: &Lane, ended: i64, beside: String) -> Result<Step> {
    eprintln!("beside {beside}");
    let pool = lane.stack.pool();
    // As if placed just now: later they are looked up more rarely.
    rows::begin_again(&lane.stack, 3.0, INTERVAL_SECS).await?;
    // What was just written is on disk, so that nobody has to write it while cycles are counted.
    sqlx::raw_sql("CHECKPOINT").execute(pool).await?;
    lane.stack.restart(WORKER).await;
    pause_until(Instant::now() + WARM_UP).await;
    sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(pool).await?;
    let readings = lane.readings(HELD_FOR, SAMPLE).await?;
    let whole = Span::whole(&readings)?;
    let executing = statements(pool, "%").await?.1 / whole.cycles;
    let (claims, claiming) = statements(pool, "%jobs SET lease = lease + 1%").await?;
    lane.stack.kill(WORKER);
    let cost = Runs::new(Span::each(&readings)?.iter().map(cost).collect());
    Ok(Step { beside, ended, whole, cost, executing, claim: claiming / claims })
}

/// Calls of the statements that are like this, and the seconds they took.
async fn statements(pool: &PgPool, like: &str) -> Result<(f64, f64)> {
    let query = sqlx::query_as(
        "SELECT coalesce(sum(calls), 0)::float8, coalesce(sum(total_exec_time), 0) / 1000 FROM pg_stat_statements
         WHERE query LIKE $1",
    );
    Ok(query.bind(like).fetch_one(pool).await?)
}
