//! Prometheus, of Debian's package, scraping a stack, with our alert rules. It ends with its owner, as a stack does.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Url};
use serde_json::{Value, json};

use crate::checkout;
use crate::queries;
use crate::stack::environment;
use crate::stack::plan::Role;
use crate::stack::processes::{Launch, Lifetime, Processes};
use crate::stack::watchdog::Watchdog;
use crate::stack::{Stack, folder, local_http, ports, waiting};

const NAME: &str = "prometheus";
const START: Duration = Duration::from_secs(60);

pub struct Prometheus {
    url: String,
    client: Client,
    // Dropped before the watchdog, so that it only finds what is left.
    processes: Processes,
    _watchdog: Watchdog,
}

/// One element of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Where `promtool` or `prometheus` is. None, with the reason on the standard error, where it is not installed; under
/// `CI` that is an error.
pub fn program(name: &str) -> Result<Option<PathBuf>> {
    let mut places = environment::program_folders().into_iter().map(|folder| folder.join(name));
    let found = places.find(|path| path.is_file());
    if found.is_none() {
        let why = format!("{name} is not installed (Debian's package prometheus; tests/prepare all)");
        ensure!(!environment::is_ci(), why);
        eprintln!("skipped: {why}");
    }
    Ok(found)
}

impl Prometheus {
    /// Starts `program` and waits until every process of the stack has been scraped.
    pub async fn start(program: PathBuf, stack: &Stack) -> Result<Self> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let processes = Processes::new(&folder, Lifetime::Owned)?;
        let config = folder.join("prometheus.yaml");
        fs::write(&config, serde_json::to_vec_pretty(&settings(stack)?)?)?;
        let address = format!("127.0.0.1:{}", ports::free()?);
        let launch = Launch::new(NAME, program).args([
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={address}"),
        ]);
        processes.start(&launch)?;
        let url = format!("http://{address}");
        let prometheus = Self { url, client: local_http::client(None)?, processes, _watchdog: watchdog };
        let replicas = stack.plan().replicas.len();
        let scraped = async || {
            let up = prometheus.query("up == 1").await.ok()?;
            (up.len() == replicas).then_some(())
        };
        if waiting::poll(START, scraped).await.is_none() {
            bail!("Prometheus has not scraped the stack:\n{}", prometheus.processes.log_tail(NAME, 40));
        }
        Ok(prometheus)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What an instant query answers now; a scalar is one sample without labels.
    pub async fn query(&self, query: &str) -> Result<Vec<Sample>> {
        let url = Url::parse_with_params(&format!("{}/api/v1/query", self.url), [("query", query)])?;
        let answer: Value = self.client.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{query}: {}", answer["error"]);
        let data = &answer["data"];
        let sample = |element: &Value| {
            let labels = element.get("metric").cloned().unwrap_or_else(|| json!({}));
            let value = element["value"][1].as_str()?.parse().ok()?;
            Some(Sample { labels: serde_json::from_value(labels).ok()?, value })
        };
        let samples = match (data["resultType"].as_str(), data["result"].as_array()) {
            (Some("vector"), Some(elements)) => elements.iter().map(sample).collect(),
            (Some("scalar"), _) => sample(&json!({ "value": data["result"] })).map(|only| vec![only]),
            _ => None,
        };
        samples.with_context(|| format!("{query}: neither a vector nor a scalar: {data}"))
    }
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// YAML is a superset of JSON.
fn settings(stack: &Stack) -> Result<Value> {
    let scrape = |(job, role): (&str, Role)| {
        let replicas = stack.plan().replicas.values().filter(|replica| replica.role == role);
        let targets: Vec<String> = replicas.map(|replica| format!("127.0.0.1:{}", replica.admin_port)).collect();
        json!({ "job_name": job, "static_configs": [{ "targets": targets }] })
    };
    let jobs =
        [("countersign-api", Role::Api), ("countersign-worker", Role::Worker), ("countersign-dns", Role::Responder)];
    Ok(json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
        "rule_files": [checkout::root()?.join(queries::ALERTS)],
        "scrape_configs": jobs.map(scrape),
    }))
}
