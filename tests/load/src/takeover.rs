//! One of two workers is killed by SIGKILL under load: until when has the other one all of its jobs?

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_tests::dns_front::DnsFault;
use countersign_tests::stack::waiting::pause_until;

use crate::readings::{INTERVAL_SECS, Lane, WORKER};
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows;
use crate::statistics::Runs;

/// Looked up as in the polling lane.
const QUICK: i64 = 5_000;
/// So many of them are answered late, so that both workers have some under lease at any moment.
const SLOW: i64 = 100;
const SLOWNESS: Duration = Duration::from_secs(2);
const BLOWS: usize = 5;
/// Between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Section>> {
    // The default, and what whoever cannot wait may set.
    Ok(vec![blows("9s", Goal::at_most(12.0, 5.0)).await?, blows("3s", Goal::at_most(12.0, 5.0)).await?])
}

async fn blows(lease_for: &str, goal: Goal) -> Result<Section> {
    let lane = Lane::start(|builder| builder.workers(2).dns_front().setting("LEASE_FOR", lease_for)).await?;
    for number in 0..SLOW {
        let name = format!("_acme-challenge.d{number}.{}", rows::ZONE);
        lane.stack.dns_front().fault(&name, DnsFault::After(SLOWNESS));
    }
    rows::awaiting(&lane.stack, QUICK, 5.0, INTERVAL_SECS).await?;
    // The other one takes lost jobs only after one lease without a gap.
    pause_until(Instant::now() + Duration::from_secs(20)).await;

    let (mut times, mut counts, mut blows_left) = (Vec::new(), Vec::new(), 3 * BLOWS);
    while times.len() < BLOWS {
        blows_left = blows_left.checked_sub(1).context("the worker hardly ever holds a job")?;
        let blow = Instant::now();
        lane.stack.kill(WORKER);
        let lost = leased_by_it(&lane).await?;
        let mut left = lost;
        while left > 0 {
            ensure!(blow.elapsed() < TAKEN_WITHIN, "{left} of {lost} jobs were not taken");
            pause_until(Instant::now() + LOOK_EVERY).await;
            left = leased_by_it(&lane).await?;
        }
        let seconds = blow.elapsed().as_secs_f64();
        eprintln!("{lost} jobs taken after {seconds:.2} s");
        lane.stack.restart(WORKER).await;
        pause_until(Instant::now() + Duration::from_secs(6)).await;
        // Struck while it held nothing: no take-over.
        if lost > 0 {
            times.push(seconds);
            counts.push(lost as f64);
        }
    }
    let figures = vec![
        Figure::of_runs("from the blow until all jobs are taken", Unit::Seconds, &Runs::new(times)).goal(goal),
        Figure::of_runs("jobs under lease at the blow", Unit::Count, &Runs::new(counts)),
    ];
    Ok(Section {
        name: format!("takeover-{lease_for}"),
        title: format!("A worker killed under load, LEASE_FOR={lease_for}"),
        setting: format!(
            "{BLOWS} blows; two workers, {QUICK} orders in flight, of which {SLOW} are answered by DNS after {SLOWNESS:?} only; LEASE_FOR \
             is 9s by default"
        ),
        figures,
        chart: None,
    })
}

/// How many jobs are leased by the one that was killed. Nobody but whoever takes them changes that.
async fn leased_by_it(lane: &Lane) -> Result<i64> {
    let query = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE leased_by = $1").bind(WORKER);
    Ok(query.fetch_one(lane.stack.pool()).await?)
}
