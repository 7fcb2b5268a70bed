//! What an operator selects orders and jobs by: on the command line, in a query, or in a body, always with the same words.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use strum::{EnumIter, EnumString, IntoEnumIterator, IntoStaticStr};

use super::order::OrderState;
use super::problem::ProblemCode;

/// How many a list shows unless it is told.
pub const DEFAULT_LIMIT: u16 = 100;
/// How many can be listed or changed at once.
pub const MOST: u16 = 1000;

/// Every condition that is given must hold.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrderFilter {
    /// States, separated by commas: accepted, placed, …, issued, failed, cancelled
    #[arg(long, value_delimiter = ',', value_parser = word::<OrderState>, value_name = "STATES")]
    #[serde(deserialize_with = "words")]
    pub state: Vec<OrderState>,

    /// Failure code, such as ca_refused
    #[arg(long, value_parser = word::<ProblemCode>)]
    #[serde(deserialize_with = "optional_word")]
    pub code: Option<ProblemCode>,

    /// Exact name of the domain
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Changed within this time, such as 2h
    #[arg(long, value_parser = length, value_name = "TIME")]
    #[serde(deserialize_with = "optional_length")]
    pub since: Option<Duration>,

    /// Only orders whose job is parked
    #[arg(long)]
    pub parked: bool,

    /// Only the newest order of each domain
    #[arg(long)]
    pub newest: bool,

    /// Only orders older than this one: the page after it
    #[arg(long, value_name = "ORDER")]
    pub before: Option<String>,

    /// At most this many, 1 to 1000 [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    #[serde(deserialize_with = "limit")]
    pub limit: Option<u16>,
}

impl OrderFilter {
    /// Whether it selects orders of every domain, a page of them at a time.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.code.is_none() && self.domain.is_none() && self.since.is_none() && !self.parked
    }
}

/// Where a job stands. No column of its own: it follows from `parked_at`, `leased_by` and `due_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum JobState {
    /// May be claimed.
    Due,
    /// Its time has not come.
    Waiting,
    /// A worker runs it.
    Leased,
    /// The worker that ran it is gone; the next claim counts an attempt.
    Lost,
    /// Stopped for a person.
    Parked,
}

/// Every condition that is given must hold.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobFilter {
    /// Where they stand, separated by commas: due, waiting, leased, lost, parked
    #[arg(long, value_delimiter = ',', value_parser = word::<JobState>, value_name = "STATES")]
    #[serde(deserialize_with = "words")]
    pub state: Vec<JobState>,

    /// poll-challenge, or the name of a scheduled job
    #[arg(long)]
    pub kind: Option<String>,

    /// 0 somebody waits, 1 polls and later steps, 2 housekeeping, 3 deliveries
    #[arg(long, value_parser = clap::value_parser!(i16).range(0..=3))]
    pub lane: Option<i16>,

    /// Leased by this worker
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,

    /// Exact name of the order's domain
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Only jobs whose last run failed
    #[arg(long)]
    pub failing: bool,

    /// Only jobs with a greater id: the page after it
    #[arg(long, value_name = "JOB", default_value_t = 0)]
    pub after: i64,

    /// At most this many, 1 to 1000 [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    #[serde(deserialize_with = "limit")]
    pub limit: Option<u16>,
}

impl JobFilter {
    /// Whether it selects every job, a page of them at a time.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty()
            && self.kind.is_none()
            && self.lane.is_none()
            && self.worker.is_none()
            && self.domain.is_none()
            && !self.failing
    }
}

/// One word of a closed set; the error names them all.
pub fn word<T: FromStr + IntoEnumIterator + Into<&'static str>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| {
        let known: Vec<&str> = T::iter().map(Into::into).collect();
        format!("expected one of {}", known.join(", "))
    })
}

fn words<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + IntoEnumIterator + Into<&'static str>,
{
    String::deserialize(from)?.split(',').map(|text| word(text).map_err(D::Error::custom)).collect()
}

fn optional_word<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + IntoEnumIterator + Into<&'static str>,
{
    word(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn optional_length<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    length(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn length(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a length of time such as 2h or 30min".to_owned())
}

fn limit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(from)? {
        limit @ 1..=1000 => Ok(Some(limit)),
        _ => Err(D::Error::custom("limit must be between 1 and 1000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_commas_and_unknown_ones_are_named_with_the_known() {
        let filter: OrderFilter =
            serde_json::from_str(r#"{"state":"failed, cancelled","code":"ca_refused","since":"2h"}"#).unwrap();
        assert_eq!(filter.state, [OrderState::Failed, OrderState::Cancelled]);
        assert_eq!((filter.code, filter.since), (Some(ProblemCode::CaRefused), Some(Duration::from_secs(7200))));
        assert!(!filter.is_empty() && OrderFilter::default().is_empty());

        for bad in [r#"{"state":"stuck"}"#, r#"{"state":""}"#, r#"{"stat":"due"}"#, r#"{"lane":"x"}"#] {
            assert!(serde_json::from_str::<JobFilter>(bad).is_err(), "{bad}");
        }
        let said = serde_json::from_str::<JobFilter>(r#"{"state":"stuck"}"#).unwrap_err().to_string();
        assert!(said.contains("due, waiting, leased, lost, parked"), "{said}");
    }
}
