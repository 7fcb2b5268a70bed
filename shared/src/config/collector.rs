//! Settings of the collector that telemetry is pushed to, in the words of OpenTelemetry's specification.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr as _;

use axum::http::{HeaderName, HeaderValue};
use clap::Args;
use url::Url;

use super::{ConfigError, Secret, secret};

/// Where telemetry is pushed to.
#[derive(Args)]
#[command(next_help_heading = "Telemetry")]
pub struct CollectorArgs {
    /// Collector that spans and metrics are pushed to, by OTLP over HTTP, such as http://collector:4318; none when empty
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<Url>,

    /// Headers of every push, as name=value, separated by commas, percent-encoded
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true)]
    pub otel_exporter_otlp_headers: Option<Secret>,

    /// File that holds the headers
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS_FILE", value_name = "PATH")]
    pub otel_exporter_otlp_headers_file: Option<PathBuf>,

    /// What this process is called at the collector; the program's name when empty
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otel_service_name: Option<String>,
}

/// A collector, and what it wants to be told with every push. No `Debug`: the headers are secret.
pub struct Collector {
    endpoint: Url,
    headers: HashMap<String, String>,
}

impl CollectorArgs {
    /// None where telemetry is not pushed.
    pub fn collector(&self) -> Result<Option<Collector>, ConfigError> {
        const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let headers =
            secret(HEADERS, self.otel_exporter_otlp_headers.as_ref(), self.otel_exporter_otlp_headers_file.as_deref())?;
        let Some(endpoint) = self.otel_exporter_otlp_endpoint.clone() else { return Ok(None) };
        if !["http", "https"].contains(&endpoint.scheme()) || endpoint.query().is_some() {
            return Err(ConfigError::Invalid("OTEL_EXPORTER_OTLP_ENDPOINT"));
        }
        let headers = match &headers {
            Some(headers) => parse_headers(headers.expose()).ok_or(ConfigError::Invalid(HEADERS))?,
            None => HashMap::new(),
        };
        Ok(Some(Collector { endpoint, headers }))
    }
}

impl Collector {
    /// Of one signal, such as `v1/traces`.
    pub fn url(&self, signal: &str) -> String {
        format!("{}/{signal}", self.endpoint.as_str().trim_end_matches('/'))
    }

    pub fn headers(&self) -> HashMap<String, String> {
        self.headers.clone()
    }
}

/// `name=value,name=value`, the values percent-encoded, as OpenTelemetry has it.
fn parse_headers(text: &str) -> Option<HashMap<String, String>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
            HeaderName::from_str(name.trim()).ok()?;
            HeaderValue::from_str(&value).ok()?;
            Some((name.trim().to_owned(), value.into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_a_push_are_pairs() {
        let headers = parse_headers("api-key=s%2Cecret=, x-scope = a b ,").unwrap();
        let expected = [("api-key", "s,ecret="), ("x-scope", "a b")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for bad in ["api-key", "a b=c", "=c", "x=a%0ab", "x=%ff"] {
            assert!(parse_headers(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_signal_goes_below_the_collectors_url() {
        let url = |endpoint: &str| {
            let collector = Collector { endpoint: endpoint.parse().unwrap(), headers: HashMap::new() };
            collector.url("v1/traces")
        };
        assert_eq!(url("http://collector:4318"), "http://collector:4318/v1/traces");
        assert_eq!(url("https://otlp.example/push/"), "https://otlp.example/push/v1/traces");
    }
}
