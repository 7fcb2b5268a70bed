//! wrk, of Debian's package: HTTP load from one thread, which costs little beside what it asks. Which requests, says a script in Lua.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// What wrk says at its end, as JSON on the last line.
const DONE: &str = r#"
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('\n{"requests": %d, "micros": %d, "errors": %d, "p50": %f, "p99": %f}\n',
        summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"#;

/// Requests, each made by Lua: `request()`, and what it needs.
pub(crate) struct Load<'a> {
    pub(crate) url: &'a str,
    pub(crate) lua: &'a str,
    /// What `init(args)` is given.
    pub(crate) arguments: &'a [String],
    pub(crate) connections: usize,
    pub(crate) seconds: u64,
}

/// What came of it: all answers were 2xx.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Answered {
    pub(crate) requests: u64,
    micros: u64,
    /// Connections that failed, answers that did not come, and answers of 400 and above.
    errors: u64,
    /// Seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Answered {
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / Duration::from_micros(self.micros).as_secs_f64()
    }
}

impl Load<'_> {
    /// An answer that is an error makes the whole run one.
    pub(crate) async fn run(&self, folder: &Path) -> Result<Answered> {
        let script = folder.join("load.lua");
        fs::write(&script, format!("{}{DONE}", self.lua))?;
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", &self.connections.to_string(), "-d", &format!("{}s", self.seconds), "-s"]);
        command.arg(&script).arg(self.url).arg("--").args(self.arguments).kill_on_drop(true);
        let output = command.output().await.context("running wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().rfind(|line| line.starts_with('{'));
        let answered: Answered = last
            .and_then(|line| serde_json::from_str(line).ok())
            .with_context(|| format!("wrk says no result: {said}{}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(answered.errors == 0, "{} of {} answers were errors: {said}", answered.errors, answered.requests);
        ensure!(answered.requests > 0, "there was no answer");
        Ok(answered)
    }
}
