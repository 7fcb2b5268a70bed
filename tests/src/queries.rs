//! Every PromQL query that is shipped (alert rules, dashboard, runbooks, autoscaler), and what each asks for.
//!
//! It reads names and labels out of a query and understands no more of it: whether it can be evaluated, Prometheus
//! says.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checkout;

pub const ALERTS: &str = "deploy/observability/alerts.yaml";
pub const DASHBOARD: &str = "deploy/observability/dashboard.json";
pub const RUNBOOKS: &str = "deploy/runbooks";
pub const SCALED_OBJECT: &str = "deploy/kubernetes/components/keda/scaled-object.yaml";

/// What the dashboard leaves to Grafana.
const INTERVAL: (&str, &str) = ("$__rate_interval", "5m");

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OTHER_WORDS: [&str; 8] = ["and", "or", "unless", "offset", "bool", "sum", "max", "min"];
const AGGREGATIONS: [&str; 4] = ["avg", "count", "topk", "quantile"];

/// One query and where it is written.
#[derive(Clone, Debug)]
pub struct Query {
    pub place: String,
    pub text: String,
    /// The labels that a legend shows.
    pub legend: Vec<String>,
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub selectors: Vec<Selector>,
    /// Labels that results are grouped or matched by.
    pub grouped_by: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
}

/// `label="value"`; the operator is one of `=`, `!=`, `=~`, `!~`.
#[derive(Debug, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    pub operator: String,
    pub value: String,
}

pub fn shipped() -> Result<Vec<Query>> {
    let root = checkout::root()?;
    let places = [of_alerts()?, of_dashboard(&root)?, of_autoscaler(&root)?, of_runbooks(&root)?];
    ensure!(places.iter().all(|queries| !queries.is_empty()), "a place where queries are written has none");
    Ok(places.concat())
}

/// The alert rules, as they are written.
pub fn alerts() -> Result<Vec<Value>> {
    let file: Value = read_yaml(&checkout::root()?.join(ALERTS))?;
    Ok(list(&file["groups"]).iter().flat_map(|group| list(&group["rules"])).cloned().collect())
}

fn of_alerts() -> Result<Vec<Query>> {
    let query = |rule: &Value| Query::new(format!("{ALERTS}, {}", text(&rule["alert"])), text(&rule["expr"]));
    Ok(alerts()?.iter().map(query).collect())
}

fn of_dashboard(root: &Path) -> Result<Vec<Query>> {
    let dashboard: Value = serde_json::from_slice(&fs::read(root.join(DASHBOARD))?).context(DASHBOARD)?;
    let panels = list(&dashboard["panels"]).iter().flat_map(|panel| {
        list(&panel["targets"]).iter().map(move |target| {
            let legend = text(&target["legendFormat"]).split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
            Query {
                legend: legend.map(|(label, _)| label.trim().to_owned()).collect(),
                ..Query::new(format!("{DASHBOARD}, {}", text(&panel["title"])), text(&target["expr"]))
            }
        })
    });
    let annotations = list(&dashboard["annotations"]["list"]).iter();
    let annotations = annotations.map(|one| Query::new(format!("{DASHBOARD}, annotations"), text(&one["expr"])));
    Ok(panels.chain(annotations).collect())
}

fn of_autoscaler(root: &Path) -> Result<Vec<Query>> {
    let object: Value = read_yaml(&root.join(SCALED_OBJECT))?;
    let triggers = list(&object["spec"]["triggers"]).iter();
    let query =
        |one: &Value| Query::new(format!("{SCALED_OBJECT}, {}", text(&one["name"])), text(&one["metadata"]["query"]));
    Ok(triggers.map(query).collect())
}

fn of_runbooks(root: &Path) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for entry in fs::read_dir(root.join(RUNBOOKS))? {
        let path = entry?.path();
        let place = format!("{RUNBOOKS}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        for block in blocks(&fs::read_to_string(&path)?, "promql") {
            queries.extend(statements(&block).into_iter().map(|query| Query::new(place.clone(), &query)));
        }
    }
    Ok(queries)
}

/// The contents of a page's code blocks of one language.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

/// One a line, but for those whose parentheses go on.
fn statements(block: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = 0;
    for line in block.lines() {
        match found.last_mut().filter(|_| open > 0) {
            Some(last) => *last = format!("{last} {}", line.trim()),
            None => found.push(line.to_owned()),
        }
        open += line.matches(['(', '{']).count();
        open = open.saturating_sub(line.matches([')', '}']).count());
    }
    found
}

impl Query {
    fn new(place: String, text: &str) -> Self {
        Self { place, text: text.replace(INTERVAL.0, INTERVAL.1), legend: Vec::new() }
    }
}

/// Reads a query of ours. What is no PromQL gives some answer, too.
pub fn asked(query: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = query;
    while let Some(next) = rest.chars().next() {
        rest = match next {
            '"' => string(rest).1,
            '[' => rest.split_once(']').map_or("", |(_, after)| after),
            '{' => {
                // A selector by labels alone.
                let (matchers, after) = matchers(rest);
                asked.selectors.push(Selector { metric: String::new(), matchers });
                after
            }
            c if c.is_ascii_digit() => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.'),
            c if is_in_word(c) => {
                let (word, after) = word(rest);
                let after = after.trim_start();
                if GROUPING.contains(&word) {
                    let labels = after.strip_prefix('(').and_then(|inside| inside.split_once(')'));
                    let (labels, after) = labels.unwrap_or(("", after));
                    let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
                    asked.grouped_by.extend(labels.map(ToOwned::to_owned));
                    after
                } else if OTHER_WORDS.contains(&word) || AGGREGATIONS.contains(&word) || after.starts_with('(') {
                    after
                } else {
                    let (matchers, after) = if after.starts_with('{') { matchers(after) } else { (Vec::new(), after) };
                    asked.selectors.push(Selector { metric: word.to_owned(), matchers });
                    after
                }
            }
            other => &rest[other.len_utf8()..],
        };
    }
    asked
}

/// What is in braces, and what comes after them.
fn matchers(text: &str) -> (Vec<Matcher>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches('{');
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        let (label, after) = word(rest);
        if label.is_empty() {
            return (found, rest.strip_prefix('}').unwrap_or(rest));
        }
        let after = after.trim_start();
        let (operator, after) = after.split_at(after.find('"').unwrap_or(after.len()));
        let (value, after) = string(after);
        found.push(Matcher {
            label: label.to_owned(),
            operator: operator.trim().to_owned(),
            value: value.trim_matches('"').to_owned(),
        });
        rest = after;
    }
}

fn is_in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_in_word(c)).unwrap_or(text.len()))
}

/// A string with its quotes, and what comes after it. Ours hold no escaped quotes.
fn string(text: &str) -> (&str, &str) {
    let end = text.get(1..).and_then(|inside| inside.find('"')).map_or(text.len(), |at| at + 2);
    text.split_at(end)
}

fn read_yaml(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    yaml_serde::from_str(&text).with_context(|| path.display().to_string())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(metric: &str, matchers: &[(&str, &str, &str)]) -> Selector {
        let matchers = matchers.iter().map(|(label, operator, value)| Matcher {
            label: (*label).to_owned(),
            operator: (*operator).to_owned(),
            value: (*value).to_owned(),
        });
        Selector { metric: metric.to_owned(), matchers: matchers.collect() }
    }

    #[test]
    fn metrics_matchers_and_groups_are_read_and_nothing_else() {
        let asked = asked(
            r#"histogram_quantile(0.95, sum by (le, lane) (rate(lag_bucket{lane=~"a|b", x!="}"}[5m]))) > 1e3
               or (time() - max without (pod) (last offset 15m) unless on (namespace) up{ job = "w" }) / 2"#,
        );
        assert_eq!(
            asked.selectors,
            [
                selector("lag_bucket", &[("lane", "=~", "a|b"), ("x", "!=", "}")]),
                selector("last", &[]),
                selector("up", &[("job", "=", "w")])
            ]
        );
        assert_eq!(asked.grouped_by, ["le", "lane", "pod", "namespace"]);
    }

    #[test]
    fn a_query_goes_on_while_its_parentheses_are_open() {
        assert_eq!(statements("up\nsum(\n  up{a=\"b\"}\n)\nmax(up)\n"), ["up", "sum( up{a=\"b\"} )", "max(up)"]);
        assert_eq!(blocks("a\n```sh\nls\n```\n```sql\nSELECT 1\n```\n", "sql"), ["SELECT 1\n"]);
    }
}
