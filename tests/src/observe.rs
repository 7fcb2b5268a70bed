//! `make observe`: a stack under load that Prometheus scrapes, and five questions an operator has, each answered by a
//! metric.
//!
//! All that is printed comes from Prometheus; the database is asked only whether the run is over, and moved in time for
//! what takes months.

mod load;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::chaos::narrator::Narrator;
use crate::prometheus::{self, Prometheus, Sample};
use crate::stack::{Stack, StackBuilder, waiting};

/// Gauges that are read from the database are up to 15 s old; the rest is a scrape behind.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// What an operator asks, and the queries that answer.
struct Question {
    text: &'static str,
    parts: &'static [Part],
}

struct Part {
    /// What the numbers are.
    title: &'static str,
    /// The labels that tell one number from the next.
    labels: &'static [&'static str],
    unit: Unit,
    query: &'static str,
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Count,
}

/// Over the whole run, and so without `rate`: dashboard and alerts have the same questions about the last minutes.
const QUESTIONS: [Question; 5] = [
    Question {
        text: "How long do customers wait?",
        parts: &[
            Part::seconds(
                "from the call to the order at the CA, p95",
                &["outcome"],
                "histogram_quantile(0.95, sum by (le, outcome) (countersign_order_place_duration_seconds_bucket))",
            ),
            Part::seconds(
                "from the 202 to the record seen, p50",
                &[],
                "histogram_quantile(0.5, sum by (le) (countersign_order_seen_duration_seconds_bucket))",
            ),
            Part::seconds(
                "from the 202 to the record seen, p95",
                &[],
                "histogram_quantile(0.95, sum by (le) (countersign_order_seen_duration_seconds_bucket))",
            ),
            Part::seconds(
                "from the record seen to the certificate, p50",
                &[],
                "histogram_quantile(0.5, sum by (le) (countersign_order_issuance_duration_seconds_bucket))",
            ),
            Part::seconds(
                "from the record seen to the certificate, p95",
                &[],
                "histogram_quantile(0.95, sum by (le) (countersign_order_issuance_duration_seconds_bucket))",
            ),
        ],
    },
    Question {
        text: "Does the queue keep up?",
        parts: &[
            Part::seconds(
                "the oldest due job waited at most for",
                &["lane"],
                "max by (lane) (max_over_time(countersign_jobs_lag_seconds[10m]))",
            ),
            Part::seconds(
                "from due to started, p95",
                &["lane"],
                "histogram_quantile(0.95, sum by (le, lane) (countersign_job_claim_lag_seconds_bucket))",
            ),
            Part::count("jobs now", &["state"], JOBS),
        ],
    },
    Question {
        text: "What fails, and why?",
        parts: &[
            Part::count(
                "orders ended",
                &["outcome", "code"],
                "sum by (outcome, code) (countersign_orders_ended_total) > 0",
            ),
            Part::count("calls of the API answered with", &["http_response_status_code"], API_ANSWERS),
        ],
    },
    Question {
        text: "How does the CA behave?",
        parts: &[
            Part::count(
                "requests",
                &["kind", "status"],
                "sum by (kind, status) (countersign_acme_request_duration_seconds_count)",
            ),
            Part::seconds(
                "duration, p95",
                &["kind"],
                "histogram_quantile(0.95, sum by (le, kind) (countersign_acme_request_duration_seconds_bucket))",
            ),
            Part::seconds("held back for another", &[], "max(countersign_acme_hold_seconds)"),
        ],
    },
    Question {
        text: "Do renewals run, and what expires soon?",
        parts: &[
            Part::seconds(
                "since the last success",
                &["kind"],
                "time() - max by (kind) (countersign_scheduled_last_success_timestamp_seconds)",
            ),
            Part::count("overdue renewals", &[], "max(countersign_renewals_overdue)"),
            Part::count(
                "certificates in use that expire",
                &["renewal", "within"],
                "max by (renewal, within) (countersign_certificates_expiring)",
            ),
        ],
    },
];

const API_ANSWERS: &str = "sum by (http_response_status_code) (http_server_request_duration_seconds_count)";
const JOBS: &str = "sum by (state) (max by (lane, state) (countersign_jobs))";
const ORDERS_ENDED: &str = "sum(countersign_orders_ended_total)";
const ALERTS: &str = "ALERTS{alertstate=\"firing\"}";

impl Part {
    const fn seconds(title: &'static str, labels: &'static [&'static str], query: &'static str) -> Self {
        Self { title, labels, unit: Unit::Seconds, query }
    }

    const fn count(title: &'static str, labels: &'static [&'static str], query: &'static str) -> Self {
        Self { title, labels, unit: Unit::Count, query }
    }

    fn told(&self, sample: &Sample) -> String {
        let names: Vec<&str> = self.labels.iter().map(|label| sample.label(label)).collect();
        let value = match self.unit {
            Unit::Seconds => format!("{:.2} s", sample.value),
            Unit::Count => format!("{}", sample.value),
        };
        format!("{:<44} {:<28} {value:>10}", self.title, names.join(" "))
    }
}

/// Runs it to its end, or with `keep` until Ctrl-C; the stack is gone when this returns.
pub async fn run(orders: usize, keep: bool) -> Result<()> {
    let program = prometheus::program("prometheus")?.context("there is nothing to observe with")?;
    let (stack, prometheus) = under_load(program, orders).await?;
    let told = tell(&prometheus).await;
    if let Err(error) = told {
        bail!("{error:#}\n\nThe ends of the logs:\n{}", stack.abandon());
    }
    if keep {
        println!("\nPrometheus: {}   The API: {}   Ctrl-C ends everything.", prometheus.url(), stack.api().url());
        std::future::pending::<()>().await;
    }
    drop(prometheus);
    stack.finish().await;
    Ok(())
}

/// A stack on which so many orders have ended, and a Prometheus that has seen them all.
pub async fn under_load(program: PathBuf, orders: usize) -> Result<(Stack, Prometheus)> {
    ensure!((9..=300).contains(&orders), "ORDERS: 9 to 300");
    let narrator = Narrator::new();
    narrator.say("starting Postgres, Pebble, DNS, 2 APIs, 2 workers, a name server, and Prometheus");
    let stack = stack().try_start().await?;
    let prometheus = Prometheus::start(program, &stack).await?;
    narrator.say(&format!("Prometheus is at {}", prometheus.url()));
    load::run(&stack, orders, narrator).await?;
    let seen = async || {
        let ended: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE ended_at IS NOT NULL")
            .fetch_one(stack.pool())
            .await
            .ok()?;
        let seen = prometheus.query(ORDERS_ENDED).await.ok()?;
        let expiring = prometheus
            .query("countersign_certificates_expiring{within=\"7d\", renewal=\"automatic\"} > 0")
            .await
            .ok()?;
        (seen.first()?.value == ended as f64 && !expiring.is_empty()).then_some(())
    };
    if waiting::poll(SETTLES_WITHIN, seen).await.is_none() {
        let seen = prometheus.query(ORDERS_ENDED).await;
        bail!("Prometheus has not seen every order end: {seen:?}\n{}", stack.abandon());
    }
    narrator.say("Prometheus has seen every order end");
    Ok((stack, prometheus))
}

fn stack() -> StackBuilder {
    Stack::builder()
        .apis(2)
        .workers(2)
        .responders(1)
        .setting("POLL_INTERVAL", "1s")
        .setting("POLL_TIMEOUT", format!("{}s", load::POLL_TIMEOUT.as_secs()))
        .setting("PLACE_WAIT", "5s")
        // The CA takes a moment to look at a record, as CAs do.
        .pebble("PEBBLE_VA_NOSLEEP", "0")
        .pebble("PEBBLE_VA_SLEEPTIME", "2")
}

/// Every question with the lines of its answer.
///
/// # Errors
/// Where a query fails, or answers nothing.
pub async fn answers(prometheus: &Prometheus) -> Result<Vec<(&'static str, Vec<String>)>> {
    let mut answers = Vec::new();
    for question in &QUESTIONS {
        let mut lines = Vec::new();
        for part in question.parts {
            let mut samples = prometheus.query(part.query).await?;
            ensure!(!samples.is_empty(), "{} Nothing answers: {}", question.text, part.query);
            samples.sort_by(|one, other| one.labels.cmp(&other.labels));
            lines.extend(samples.iter().map(|sample| part.told(sample)));
            lines.push(format!("  {}", part.query));
        }
        answers.push((question.text, lines));
    }
    Ok(answers)
}

async fn tell(prometheus: &Prometheus) -> Result<()> {
    for (number, (question, lines)) in (1..).zip(answers(prometheus).await?) {
        println!("\n{number}. {question}");
        lines.iter().for_each(|line| println!("   {line}"));
    }
    let firing = prometheus.query(ALERTS).await?;
    let names: Vec<&str> = firing.iter().map(|alert| alert.label("alertname")).collect();
    println!("\nAlerts that fire: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    Ok(())
}
