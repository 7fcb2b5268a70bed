//! What alert rules, dashboard, runbooks and autoscaler ask for is there in a live scrape, and `make observe` answers
//! its questions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use countersign_tests::queries::{self, RUNBOOKS, Selector, asked};
use countersign_tests::stack::Stack;
use countersign_tests::{checkout, observe, prometheus};

use crate::facts::SOON;

/// Gauges that are read from the database are measured every 15 s.
const MEASURED_WITHIN: Duration = Duration::from_secs(45);

/// What Prometheus itself makes, and the labels that a scrape adds.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
const OF_THE_SCRAPE: [&str; 4] = ["job", "instance", "namespace", "alertname"];

/// Values that would need a fault: no answer of the CA.
const NOT_PROVOKED: [(&str, &str); 1] = [("status", "error")];

/// Metrics, their labels, and the values these were seen with.
#[derive(Default)]
struct Seen(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Seen {
    async fn add(&mut self, url: &str) {
        let text =
            reqwest::get(format!("{url}/metrics")).await.unwrap().error_for_status().unwrap().text().await.unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // A sample is written as a query for it would be.
            let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
            for Selector { metric, matchers } in asked(series).selectors {
                let labels = self.0.entry(metric).or_default();
                for matcher in matchers {
                    labels.entry(matcher.label).or_default().insert(matcher.value);
                }
            }
        }
    }

    /// What a query asks for and has not been seen.
    fn lacks(&self, query: &str, legend: &[String]) -> Vec<String> {
        let asked = asked(query);
        let mut missing = Vec::new();
        let mut labels: BTreeSet<&str> = OF_THE_SCRAPE.into();
        if asked.selectors.is_empty() {
            missing.push("it selects nothing".to_owned());
        }
        for Selector { metric, matchers } in &asked.selectors {
            if OF_PROMETHEUS.contains(&metric.as_str()) {
                continue;
            }
            let Some(seen) = self.0.get(metric) else {
                missing.push(metric.clone());
                continue;
            };
            labels.extend(seen.keys().map(String::as_str));
            for matcher in matchers.iter().filter(|one| !OF_THE_SCRAPE.contains(&one.label.as_str())) {
                let Some(values) = seen.get(&matcher.label) else {
                    missing.push(format!("{metric} with a label {}", matcher.label));
                    continue;
                };
                let words = matcher.value.split('|').filter(|word| !word.contains(['.', '[', '*']));
                let unseen = words
                    .filter(|word| !values.contains(*word) && !NOT_PROVOKED.contains(&(matcher.label.as_str(), word)));
                missing.extend(unseen.map(|word| format!("{metric}{{{}={word:?}}}", matcher.label)));
            }
        }
        let unknown = asked.grouped_by.iter().chain(legend).filter(|label| !labels.contains(label.as_str()));
        missing.extend(unknown.map(|label| format!("a label {label}")));
        let shown = legend.iter().filter(|label| !asked.grouped_by.contains(label));
        missing.extend(shown.map(|label| format!("{label} in its legend, by which it does not group")));
        missing
    }
}

/// A small run in which everything happens that a query asks for.
async fn small_run() -> Stack {
    let stack = Stack::builder().responders(1).not_yet("worker-1").setting("PLACE_WAIT", "200ms").start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    // Nobody places it in time.
    stack.api().try_issue(&domain.id).await.unwrap().expect(500);
    stack.restart("worker-1").await;
    let issued = async || (stack.api().try_issue(&domain.id).await.unwrap().status == 202).then_some(());
    stack.wait_until("a worker places the order", SOON, issued).await;
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    let value = shown["expected_txt_value"].as_str().unwrap();
    stack.dns().set_txt("_acme-challenge.shop.example.com", value).await.unwrap();
    stack.becomes_active(&domain.id).await;

    // Our name server is asked.
    let delegated = stack.api().try_register("blog.example.com").await.unwrap().expect(201);
    let record = |field: &str| delegated["delegation"][field].as_str().unwrap().to_owned();
    stack.dns().set_cname(&record("record_name"), &record("cname_target")).await.unwrap();
    stack.api().try_verify(delegated["id"].as_str().unwrap()).await.unwrap().expect(200);
    stack
}

#[tokio::test]
async fn every_query_that_is_shipped_asks_for_what_is_there() {
    let stack = small_run().await;
    let queries = queries::shipped().unwrap();
    assert!(queries.len() > 60, "only {} queries were found", queries.len());
    let mut missing = Vec::new();
    let all_there = async || {
        let mut seen = Seen::default();
        for replica in ["api-1", "worker-1", "dns-1"] {
            seen.add(&stack.admin_url(replica)).await;
        }
        missing = queries
            .iter()
            .flat_map(|query| {
                let lacks = seen.lacks(&query.text, &query.legend).into_iter();
                lacks.map(|what| format!("{} asks for {what}", query.place))
            })
            .collect();
        missing.is_empty().then_some(())
    };
    if countersign_tests::stack::waiting::poll(MEASURED_WITHIN, all_there).await.is_none() {
        stack.fail(&format!("not in any scrape:\n{}\n", missing.join("\n")));
    }

    let mut seen = Seen::default();
    seen.add(&stack.admin_url("worker-1")).await;
    let wrong = r#"sum by (lanes) (countersign_jobs{lane="nobody", colour="red"}) / countersign_job"#;
    assert_eq!(seen.lacks(wrong, &["lane".to_owned()]).len(), 5, "what is not there is noticed");
}

#[tokio::test]
async fn statements_in_runbooks_fit_the_schema() {
    let stack = Stack::builder().workers(0).start().await;
    let mut tried = 0;
    for entry in fs::read_dir(checkout::root().unwrap().join(RUNBOOKS)).unwrap() {
        let path = entry.unwrap().path();
        for block in queries::blocks(&fs::read_to_string(&path).unwrap(), "sql") {
            for statement in block.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {statement}"));
                let explained = sqlx::raw_sql(explain).execute(stack.pool()).await;
                explained.unwrap_or_else(|error| panic!("{}: {statement}: {error}", path.display()));
                tried += 1;
            }
        }
    }
    assert!(tried > 5, "only {tried} statements were found");
}

#[tokio::test]
#[ignore = "needs prometheus, and a minute: make test-all"]
async fn an_operators_questions_are_answered_by_metrics_that_agree_with_the_rows() {
    let Some(program) = prometheus::program("prometheus").unwrap() else { return };
    let (stack, prometheus) = observe::under_load(program, 15).await.unwrap();
    let answers = observe::answers(&prometheus).await.unwrap();
    assert_eq!(answers.len(), 5);

    let counted: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT state, coalesce(problem ->> 'code', 'none'), count(*) FROM orders WHERE ended_at IS NOT NULL GROUP BY 1, 2",
    )
    .fetch_all(stack.pool())
    .await
    .unwrap();
    let rows: BTreeMap<(String, String), f64> =
        counted.into_iter().map(|(state, code, count)| ((state, code), count as f64)).collect();
    let ended = prometheus.query("sum by (outcome, code) (countersign_orders_ended_total) > 0").await.unwrap();
    let metrics: BTreeMap<(String, String), f64> = ended
        .iter()
        .map(|sample| ((sample.label("outcome").to_owned(), sample.label("code").to_owned()), sample.value))
        .collect();
    assert_eq!(metrics, rows, "left: metrics, right: the table orders");
    assert!(metrics.keys().any(|(_, code)| code == "record_not_seen"), "{metrics:?}");

    for query in queries::shipped().unwrap() {
        prometheus.query(&query.text).await.unwrap_or_else(|error| panic!("{}: {error:#}", query.place));
    }
    stack.finish().await;
}
