//! Issuance as fast as it goes: 500 orders at once whose records are there as soon as they are placed, beside a bare loop that does the
//! same at the same CA.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_tests::stack::Stack;
use countersign_tests::stack::waiting;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

use crate::bare_acme::BareAcme;
use crate::chart::Chart;
use crate::meter::Meter;
use crate::production;
use crate::readings::WORKER;
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows::{self, Algorithm, ZONE};
use crate::scrape::Scrape;
use crate::statistics::Runs;

const ORDERS: i64 = 500;
const WARM_UP: i64 = 50;
const ROUNDS: usize = 3;
/// As many as a worker has slots.
const CONCURRENCY: usize = 32;
const WITHIN: Duration = Duration::from_secs(120);
/// Pebble's store can lock itself up for good, where a newOrder and a finalization meet while somebody reads authorizations. Then all is
/// begun again with another one.
const ATTEMPTS: usize = 3;

const METERED: [&str; 4] = [WORKER, "postgres", "pebble", "dns"];
const REQUESTS: &str = "countersign_acme_request_duration_seconds_count";

pub(crate) async fn run() -> Result<Vec<Section>> {
    Ok(vec![measure(Algorithm::Ecdsa).await?, measure(Algorithm::Rsa).await?])
}

/// The CA rejects no nonce and re-uses no authorization, for both sides: the bare loop has three tries only.
async fn stack() -> Result<Stack> {
    let builder = production::stack().apis(0).pebble("PEBBLE_WFE_NONCEREJECT", "0").pebble("PEBBLE_AUTHZREUSE", "0");
    builder.try_start().await
}

/// What a run came to: the certificates a second, when each was there, and what one cost.
#[derive(Debug)]
struct Run {
    rate: f64,
    issued_after: Vec<f64>,
    /// CPU seconds for one certificate, in the order of [`METERED`].
    cpu: [f64; METERED.len()],
    /// CPU seconds of this program, which is where the bare loop runs.
    own_cpu: f64,
    requests: f64,
}

async fn measure(algorithm: Algorithm) -> Result<Section> {
    let mut attempt = 1;
    loop {
        let stack = stack().await?;
        let error = match measure_on(&stack, algorithm).await {
            Ok(section) => {
                stack.finish().await;
                return Ok(section);
            }
            Err(error) => error,
        };
        stack.abandon();
        let hangs = timeout(Duration::from_secs(5), BareAcme::register(&stack)).await.is_err();
        if !hangs || attempt == ATTEMPTS {
            return Err(error);
        }
        eprintln!("{}: Pebble hangs, so once more from the beginning: {error:#}", algorithm.name());
        attempt += 1;
    }
}

async fn measure_on(stack: &Stack, algorithm: Algorithm) -> Result<Section> {
    let bare = BareAcme::register(stack).await?;
    by_us(stack, "warm", WARM_UP, algorithm, true).await?;
    by_loop(stack, &bare, "warm", WARM_UP, algorithm).await?;
    let (mut awaited, mut unawaited, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        awaited.push(by_us(stack, &format!("awaited{round}"), ORDERS, algorithm, true).await?);
        alone.push(by_loop(stack, &bare, &format!("bare{round}"), ORDERS, algorithm).await?);
        unawaited.push(by_us(stack, &format!("unawaited{round}"), ORDERS, algorithm, false).await?);
        let rate = |runs: &[Run]| runs[round].rate;
        eprintln!(
            "{}: {:.1}/s, {:.1}/s where nobody waits, {:.1}/s by the bare loop",
            algorithm.name(),
            rate(&awaited),
            rate(&unawaited),
            rate(&alone)
        );
    }
    let of = |runs: &[Run], value: &dyn Fn(&Run) -> f64| Runs::new(runs.iter().map(value).collect());
    let rate = |run: &Run| run.rate;
    let (ours, bare) = (of(&awaited, &rate), of(&alone, &rate).median());
    const BARE: &str = "bare instant-acme loop";
    let mut figures = vec![
        Figure::of_runs("certificates", Unit::PerSecond, &ours).beside(BARE, bare).goal(Goal::ratio_at_least(0.7, 0.9)),
        Figure::of_runs("certificates that nobody waits for", Unit::PerSecond, &of(&unawaited, &rate))
            .beside(BARE, bare),
    ];
    for (number, process) in METERED.iter().enumerate() {
        let cpu = |run: &Run| run.cpu[number];
        let figure = Figure::of_runs(format!("CPU of {process} for one"), Unit::SecondsEach, &of(&awaited, &cpu));
        figures.push(match *process {
            WORKER => figure.beside(BARE, of(&alone, &|run| run.own_cpu).median()),
            "postgres" => figure,
            _ => figure.beside(BARE, of(&alone, &cpu).median()),
        });
    }
    let requests = |run: &Run| run.requests;
    figures.push(
        Figure::of_runs("requests to the CA for one", Unit::Count, &of(&awaited, &requests))
            .beside(BARE, of(&alone, &requests).median()),
    );
    Ok(Section {
        name: format!("throughput-{}", algorithm.name().to_lowercase()),
        title: format!("{ORDERS} {} certificates at once", algorithm.name()),
        setting: format!(
            "one worker, default settings, without API; test-dns publishes and removes the records, as the bare loop does with \
             {CONCURRENCY} orders at a time, one newOrder at a time and a P-256 account key; the CA rejects no nonce and re-uses no \
             authorization; {ROUNDS} rounds by turns after {WARM_UP} orders each"
        ),
        figures,
        chart: Some(chart(&awaited, &alone)),
    })
}

/// One run, with the CPU that it took. `work` returns when each certificate was there, in seconds, and the requests to the CA.
async fn metered(stack: &Stack, count: i64, work: impl Future<Output = Result<(Vec<f64>, f64)>>) -> Result<Run> {
    let read = || -> Result<Vec<f64>> {
        METERED.iter().map(|name| Ok(Meter::of_stack(stack, name)?.read()?.cpu.as_secs_f64())).collect()
    };
    let own = || -> Result<f64> { Ok(Meter::of(rustix::process::getpid()).read()?.cpu.as_secs_f64()) };
    let (before, own_before) = (read()?, own()?);
    let (mut issued_after, requests) = work.await?;
    let (after, own_after) = (read()?, own()?);
    issued_after.sort_by(f64::total_cmp);
    let took = issued_after.last().context("nothing was issued")?;
    Ok(Run {
        rate: count as f64 / took,
        cpu: std::array::from_fn(|number| (after[number] - before[number]) / count as f64),
        own_cpu: (own_after - own_before) / count as f64,
        requests: requests / count as f64,
        issued_after,
    })
}

async fn by_us(stack: &Stack, series: &str, count: i64, algorithm: Algorithm, are_awaited: bool) -> Result<Run> {
    metered(stack, count, async {
        let before = Scrape::of(stack, WORKER).await?;
        let began: f64 =
            sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8").fetch_one(stack.pool()).await?;
        rows::accepted(stack, series, count, algorithm, are_awaited).await?;
        let like = format!("{series}-%.{ZONE}").trim_end_matches('.').to_owned();
        // Cleaned up, too: that is work for the same machine.
        let done = waiting::poll(WITHIN, async || {
            let is_open = "SELECT EXISTS (SELECT FROM jobs WHERE order_id IS NOT NULL)";
            let is_open: bool = sqlx::query_scalar(is_open).fetch_one(stack.pool()).await.ok()?;
            (!is_open).then_some(())
        });
        done.await.with_context(|| format!("not all orders ended within {WITHIN:?}"))?;
        // When the next event began, its own was committed.
        let issued: Vec<f64> = sqlx::query_scalar(
            "SELECT extract(epoch FROM cleaned.at)::float8 - $2 FROM domains JOIN orders ON domain_id = domains.id
             JOIN order_events issued ON issued.order_id = orders.id AND issued.event = 'issued'
             JOIN order_events cleaned ON cleaned.order_id = orders.id AND cleaned.event = 'cleaned_up'
             WHERE domains.name LIKE $1",
        )
        .bind(&like)
        .bind(began)
        .fetch_all(stack.pool())
        .await?;
        ensure!(issued.len() as i64 == count, "{} of {count} orders were issued", issued.len());
        let requests = Scrape::of(stack, WORKER).await?.sum(REQUESTS, &[]) - before.sum(REQUESTS, &[]);
        Ok((issued, requests))
    })
    .await
}

async fn by_loop(stack: &Stack, bare: &BareAcme, series: &str, count: i64, algorithm: Algorithm) -> Result<Run> {
    metered(stack, count, async {
        let (before, began) = (bare.requests(), Instant::now());
        let issued = stream::iter(0..count)
            .map(|number| async move {
                bare.certificate(&format!("{series}-{number}.bare.test"), algorithm).await?;
                anyhow::Ok(began.elapsed().as_secs_f64())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok((issued, bare.requests() - before))
    })
    .await
}

/// Certificates over time, in the last round.
fn chart(ours: &[Run], bare: &[Run]) -> Chart {
    let line = |runs: &[Run]| {
        let issued_after = runs.last().map(|run| run.issued_after.as_slice()).unwrap_or_default();
        let points = issued_after.iter().enumerate().map(|(number, after)| (*after, (number + 1) as f64));
        // Enough for a line.
        points.step_by(10).collect()
    };
    let lines = vec![("Countersign".to_owned(), line(ours)), ("bare loop".to_owned(), line(bare))];
    Chart { x: "seconds", y: "certificates", lines }
}
