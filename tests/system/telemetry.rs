//! Telemetry as operators' tools see it: what `/metrics` says, what a collector gets, and that neither is ever in the way.

mod collector;
mod gauges;
mod metrics;
mod spans;

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_tests::stack::Stack;

/// What one scrape said.
#[derive(Debug)]
struct Scrape(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Of the operators' listener of a replica. A scraper has no token.
    async fn of(stack: &Stack, replica: &str) -> Self {
        let url = format!("{}/metrics", stack.admin_url(replica));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
        let answer = client.get(url).send().await.unwrap_or_else(|error| stack.fail(&format!("{replica}: {error}")));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
        Self::parse(&answer.text().await.unwrap())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(|line| Sample::parse(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|sample| sample.name.as_str())
    }

    /// The value of the one series that has these labels; None where there is none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<_> = self.0.iter().filter(|sample| sample.name == name && sample.has(labels)).collect();
        assert!(found.len() <= 1, "{name} {labels:?} is not one: {found:?}");
        found.first().map(|sample| sample.value)
    }

    /// Of all series that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0.iter().filter(|sample| sample.name == name && sample.has(labels)).map(|sample| sample.value).sum()
    }
}

impl Sample {
    /// `name value` or `name{label="value",…} value`; no value of ours holds a quote.
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
        let labels = pairs.map(|pair| {
            let (label, value) = pair.split_once("=\"")?;
            Some((label.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        Some(Self { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, value)| self.labels.get(*label).is_some_and(|found| found == value))
    }
}
