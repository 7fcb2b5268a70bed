//! What a process of ours says at `/metrics`: counters, gauges, and percentiles of histograms.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use countersign_tests::stack::Stack;

/// One scrape: the value of each series, by its name with its labels.
pub(crate) struct Scrape(BTreeMap<String, f64>);

/// A histogram between two scrapes: how many were at most so long.
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Scrape {
    pub(crate) async fn of(stack: &Stack, replica: &str) -> Result<Self> {
        let url = format!("{}/metrics", stack.admin_url(replica));
        let text = reqwest::get(url).await?.error_for_status()?.text().await?;
        Ok(Self::parse(&text))
    }

    /// The Prometheus text format.
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of all series of this name that have all these labels (`lane="orders"`).
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name, labels).map(|(_, value)| value).sum()
    }

    fn series<'a>(&'a self, name: &'a str, labels: &'a [&str]) -> impl Iterator<Item = (&'a str, f64)> {
        let of_name =
            move |series: &str| series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        let found = self.0.iter().filter(move |(series, _)| of_name(series));
        let found = found.filter(move |(series, _)| labels.iter().all(|label| series.contains(label)));
        found.map(|(series, value)| (series.as_str(), *value))
    }

    /// What a histogram has counted since an earlier scrape.
    pub(crate) fn histogram_since(&self, before: &Self, name: &str, labels: &[&str]) -> Histogram {
        let buckets = format!("{name}_bucket");
        let mut counts: Vec<(f64, f64)> = Vec::new();
        for (series, count) in self.series(&buckets, labels) {
            let bound = series.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
            let count = count - before.0.get(series).copied().unwrap_or_default();
            counts.extend(bound.map(|bound| (bound, count)));
        }
        counts.sort_by(|one, other| one.0.total_cmp(&other.0));
        Histogram(counts)
    }
}

impl Histogram {
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// As PromQL's `histogram_quantile`: linear inside of a bucket; past the last bound, that bound.
    pub(crate) fn percentile(&self, part: f64) -> Result<f64> {
        let rank = part * self.count();
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank && count > below {
                return Ok(if bound.is_finite() {
                    lower + (bound - lower) * (rank - below) / (count - below)
                } else {
                    lower
                });
            }
            (lower, below) = (bound, count);
        }
        None.context("the histogram has counted nothing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_of_what_came_since() {
        let text = |a: u32, b: u32, c: u32| {
            format!(
                "# TYPE lag histogram\nlag_bucket{{lane=\"orders\",le=\"0.1\"}} {a}\nlag_bucket{{lane=\"orders\",le=\"0.2\"}} {b}\n\
                 lag_bucket{{lane=\"orders\",le=\"+Inf\"}} {c}\nlag_bucket{{lane=\"caller\",le=\"+Inf\"}} 99\nlags 5\n"
            )
        };
        let (before, after) = (Scrape::parse(&text(10, 10, 10)), Scrape::parse(&text(60, 110, 110)));
        let lag = after.histogram_since(&before, "lag", &["lane=\"orders\""]);
        assert_eq!(lag.count(), 100.0);
        assert!(
            (lag.percentile(0.5).unwrap() - 0.1).abs() < 1e-9 && (lag.percentile(0.75).unwrap() - 0.15).abs() < 1e-9
        );
        assert!(before.histogram_since(&before, "lag", &["lane=\"orders\""]).percentile(0.5).is_err());
        assert_eq!(after.sum("lags", &[]), 5.0);
        let late = Scrape::parse(&text(0, 0, 10)).histogram_since(&Scrape::parse(""), "lag", &["lane=\"orders\""]);
        assert_eq!(late.percentile(0.99).unwrap(), 0.2);
    }
}
