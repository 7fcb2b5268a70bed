//! `make chaos`: many orders while workers, API replicas and Postgres are killed and restarted, and a verdict on what became of each.
//!
//! A run is made from a seed ([`plan`]): the same seed deals the same blows to the same processes at the same moments, and sends the same
//! customers with the same records. What the processes make of it depends on the machine, too.

pub mod customers;
pub mod evidence;
pub mod narrator;
pub mod plan;
pub mod report;
pub mod storm;
pub mod takeovers;
pub mod verdict;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use sqlx::{Connection, PgConnection};
use tokio::task::{JoinError, JoinSet, LocalSet};

use crate::checkout;
use crate::stack::waiting::poll;
use crate::stack::{Stack, StackBuilder};
use customers::{Patience, Story, visit};
use narrator::Narrator;
use plan::Plan;
use report::Report;
use storm::{Absences, strike};
use takeovers::{ROWS, Row, Takeover, Watch, described, longest, too_late};

/// After the storm, how much longer than a record is awaited everything may take to end.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// After the storm, how long a customer who has no order yet goes on trying.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// How often the state of the orders is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Tables that are kept after a failure. Not `certificates` and `acme_accounts`, which hold keys.
const KEPT_TABLES: [&str; 5] = ["domains", "orders", "authorizations", "order_events", "jobs"];

/// How large a run is, and how its times relate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Customers, each with one domain.
    pub orders: usize,
    pub seed: u64,
    pub apis: usize,
    pub workers: usize,
    pub lease_for: Duration,
    pub poll_timeout: Duration,
    pub place_wait: Duration,
    /// Customers come during this time, …
    pub arrivals_for: Duration,
    /// … and publish their records within that much of learning the value.
    pub records_within: Duration,
    /// No blow falls later.
    pub storm_for: Duration,
}

impl Options {
    /// With the lease that workers have by default.
    pub fn new(orders: usize, seed: u64) -> Self {
        let arrivals_for = Duration::from_secs((orders as u64 / 5).max(20));
        Self {
            orders,
            seed,
            apis: 2,
            workers: 3,
            lease_for: Duration::from_secs(9),
            poll_timeout: Duration::from_secs(90),
            // Short, so that some orders are not placed in time.
            place_wait: Duration::from_secs(5),
            arrivals_for,
            records_within: Duration::from_secs(25),
            storm_for: arrivals_for + Duration::from_secs(40),
        }
    }

    /// For a test: all times are short.
    pub fn small(orders: usize, seed: u64) -> Self {
        Self {
            lease_for: Duration::from_secs(2),
            poll_timeout: Duration::from_secs(12),
            place_wait: Duration::from_secs(2),
            arrivals_for: Duration::from_secs(5),
            records_within: Duration::from_secs(4),
            storm_for: Duration::from_secs(12),
            ..Self::new(orders, seed)
        }
    }

    fn stack(&self) -> StackBuilder {
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        Stack::builder()
            .apis(self.apis)
            .workers(self.workers)
            .setting("POLL_INTERVAL", "1s")
            .setting("POLL_TIMEOUT", seconds(self.poll_timeout))
            .setting("PLACE_WAIT", seconds(self.place_wait))
            .setting("LEASE_FOR", seconds(self.lease_for))
            // So many that a lost row waits for the lease and not for a free place, also when one worker is left for everything.
            .setting("WORKER_SLOTS", "256")
            // The CA takes up to 3 s to look at a record, so that blows meet leases.
            .pebble("PEBBLE_VA_NOSLEEP", "0")
            .pebble("PEBBLE_VA_SLEEPTIME", "3")
    }

    fn worker_names(&self) -> Vec<String> {
        (1..=self.workers).map(|number| format!("worker-{number}")).collect()
    }

    fn replica_names(&self) -> Vec<String> {
        (1..=self.apis).map(|number| format!("api-{number}")).chain(self.worker_names()).collect()
    }
}

/// Runs it on a stack of its own, which is gone when this returns. What is wrong with the orders is in the report; an error means that
/// there is none. Logs and tables are kept in `target/chaos/`: those of the last good run in `last`, those of others by their seed.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.orders >= 3, "a run needs at least 3 orders: one whose record comes, one wrong, one never");
    let plan = Plan::new(options);
    let stack = Arc::new(options.stack().try_start().await?);
    // On this thread, because futures that borrow what they wait with (`poll`) cannot be shown to be `Send`.
    let outcome = LocalSet::new().run_until(live_through(&stack, options, plan)).await;
    let name = match &outcome {
        Ok(report) if report.verdict.is_clean() => {
            stack.finish().await;
            "last".to_owned()
        }
        _ => options.seed.to_string(),
    };
    let kept = keep(&stack, &name).await;
    stack.abandon();
    match (outcome, kept) {
        // Another run at the same time may be writing there; that is no fault of this one.
        (Ok(report), kept) => Ok(Report { kept: kept.ok(), ..report }),
        (Err(error), Ok(kept)) => {
            let kept = kept.display();
            Err(error.context(format!("seed {} ended early; logs and tables are in {kept}", options.seed)))
        }
        (Err(error), Err(_)) => Err(error.context(format!("seed {} ended early", options.seed))),
    }
}

async fn live_through(stack: &Arc<Stack>, options: &Options, plan: Plan) -> Result<Report> {
    let narrator = Narrator::new();
    narrator.say(&format!(
        "{} customers, {} APIs, {} workers; blows for {} s from seed {}",
        options.orders,
        options.apis,
        options.workers,
        options.storm_for.as_secs(),
        options.seed
    ));
    let absences = Absences::default();
    let over = Arc::new(AtomicBool::new(false));
    let mut observer = JoinSet::new();
    observer.spawn_local(observe(stack.database_url(), narrator, Arc::clone(&over)));
    let mut blows = JoinSet::new();
    for (victim, dealt) in plan.blows {
        blows.spawn_local(strike(Arc::clone(stack), narrator, absences.clone(), victim, dealt));
    }
    let apis: Vec<_> = (1..=options.apis).map(|number| stack.api_replica(number).clone()).collect();
    let patience = Patience { until: narrator.began() + options.storm_for + LAST_PATIENCE };
    let mut visits = JoinSet::new();
    for customer in plan.customers {
        visits.spawn_local(visit(apis.clone(), stack.dns().clone(), customer, narrator.began(), patience));
    }
    let healed = async {
        let unexplained = joined(blows).await?;
        narrator.say("the storm is over, everything serves again");
        Ok(unexplained.concat())
    };
    let (stories, mut unexplained): (Vec<Story>, Vec<String>) = tokio::try_join!(joined(visits), healed)?;
    narrator.say("every customer has been served; waiting until every order has ended");
    everything_ends(stack, options.poll_timeout + SETTLES_WITHIN).await;
    let ended = options.replica_names().into_iter().filter(|replica| !stack.is_running(replica));
    unexplained.extend(ended.map(|replica| format!("{replica} ended by itself")));

    over.store(true, Ordering::Relaxed);
    let takeovers: Vec<Takeover> = joined(observer).await?.concat();
    let absences = absences.all();
    let longest = longest(&takeovers, &absences, &options.worker_names(), options.lease_for);
    unexplained.extend(too_late(&longest[1]));
    let evidence = evidence::gather(stack, stories, unexplained).await?;
    Ok(Report::new(options, &evidence, &absences, longest, narrator.began().elapsed()))
}

/// Waits until no order is open and no order's job is left; if that does not come, the verdict will say so.
async fn everything_ends(stack: &Stack, within: Duration) {
    const UNFINISHED: &str = "SELECT (SELECT count(*) FROM orders WHERE ended_at IS NULL)
                                     + (SELECT count(*) FROM jobs WHERE kind = 'poll-challenge')";
    let nothing_left = async || {
        let unfinished: i64 = sqlx::query_scalar(UNFINISHED).fetch_one(stack.pool()).await.ok()?;
        (unfinished == 0).then_some(())
    };
    poll(within, nothing_left).await;
}

/// Watches the queue until it is over, and tells from time to time how far the orders are.
async fn observe(database_url: String, narrator: Narrator, over: Arc<AtomicBool>) -> Result<Vec<Takeover>> {
    let mut watch = Watch::default();
    let mut connection: Option<PgConnection> = None;
    let mut progress_told = Instant::now();
    let look = async || {
        if connection.is_none() {
            connection = PgConnection::connect(&database_url).await.ok();
        }
        if let Some(open) = &mut connection {
            match sqlx::query_as::<_, Row>(ROWS).fetch_all(&mut *open).await {
                Ok(rows) => {
                    let told = watch.takeovers.len();
                    watch.look(Instant::now(), &rows);
                    described(&watch.takeovers[told..]).iter().for_each(|line| narrator.say(line));
                }
                Err(_) => connection = None,
            }
        }
        if let Some(open) = &mut connection
            && progress_told.elapsed() >= PROGRESS_EVERY
            && let Ok(progress) = sqlx::query_scalar::<_, String>(PROGRESS).fetch_one(open).await
        {
            narrator.say(&progress);
            progress_told = Instant::now();
        }
        over.load(Ordering::Relaxed).then_some(())
    };
    poll(Duration::MAX / 4, look).await;
    Ok(watch.takeovers)
}

const PROGRESS: &str =
    "SELECT format('           orders: %s stored, %s issued, %s failed, %s cancelled; jobs: %s, %s of them leased',
           count(*), count(*) FILTER (WHERE state = 'issued'), count(*) FILTER (WHERE state = 'failed'),
           count(*) FILTER (WHERE state = 'cancelled'), (SELECT count(*) FROM jobs),
           (SELECT count(*) FROM jobs WHERE leased_by IS NOT NULL))
      FROM orders";

/// Everything that tasks return; the first error or panic of one ends the others.
async fn joined<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut outcomes = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        outcomes.push(ended.map_err(panicked)??);
    }
    Ok(outcomes)
}

fn panicked(error: JoinError) -> anyhow::Error {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            // Its other lines are the ends of the logs, which were printed with the panic.
            let first = text.or(panic.downcast_ref::<&str>().copied()).and_then(|text| text.lines().next());
            anyhow!("{}", first.unwrap_or("a task panicked"))
        }
        Err(error) => error.into(),
    }
}

/// Copies the logs and, if the database answers, the tables that tell the orders' story.
async fn keep(stack: &Stack, name: &str) -> Result<PathBuf> {
    let folder = checkout::root()?.join("target/chaos").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let logs = folder.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    for log in fs::read_dir(stack.plan().folder.join("logs"))? {
        let log = log?;
        fs::copy(log.path(), logs.join(log.file_name()))?;
    }
    if let Ok(mut connection) = PgConnection::connect(&stack.database_url()).await {
        for table in KEPT_TABLES {
            let query = sqlx::AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM {table} t"));
            let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
            fs::write(folder.join(format!("{table}.jsonl")), rows.join("\n"))?;
        }
    }
    Ok(folder)
}
