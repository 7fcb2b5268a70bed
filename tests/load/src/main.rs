//! `make bench`: what Countersign does in a second, and beside what others do on the same machine in the same run.
//!
//! Every scenario starts a stack of its own, with the binaries of the profile that this program was built in. README.md has the
//! method and what was learnt.

mod api;
mod bare_acme;
mod chart;
mod growth;
mod idle;
mod knot;
mod lane;
mod latency;
mod meter;
mod other_clients;
mod pgbench;
mod production;
mod readings;
mod report;
mod rows;
mod scrape;
mod start;
mod starvation;
mod statistics;
mod stub_ca;
mod takeover;
mod throughput;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use countersign_tests::checkout;

use report::{Report, Section};

#[derive(Parser)]
#[command(about = "Measure Countersign beside what others reach on this machine")]
struct Arguments {
    /// Which scenarios to run, separated by commas; all of them when empty
    #[arg(env = "SCENARIO", value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Where the report and the charts go; target/bench when not given
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// The polling lane: 20,000 and 100,000 orders whose record is absent
    Lane,
    /// The polling lane beside up to a million certificates and ended orders, and 100,000 orders that rest
    Growth,
    /// One order whose record is set, beside 50,000 whose records never will be
    Starvation,
    /// Until another worker has the jobs of one that was killed
    Takeover,
    /// From being started to being of use, for each program
    Start,
    /// Each process with nothing to do
    Idle,
    /// From a record that is there to the certificate, one order at a time, beside uacme and lego
    Latency,
    /// 500 orders whose records are there, beside a bare instant-acme loop
    Throughput,
    /// The API: registering, fetching and issuing at 1, 16 and 128 connections
    Api,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().expect("no scenario is hidden").get_name().to_owned()
    }

    async fn run(self) -> Result<Vec<Section>> {
        match self {
            Self::Lane => lane::run().await,
            Self::Growth => growth::run().await,
            Self::Starvation => starvation::run().await,
            Self::Takeover => takeover::run().await,
            Self::Start => start::run().await,
            Self::Idle => idle::run().await,
            Self::Latency => latency::run().await,
            Self::Throughput => throughput::run().await,
            Self::Api => api::run().await,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let out = match arguments.out {
        Some(folder) => folder,
        None => checkout::root()?.join("target/bench"),
    };
    let chosen = if arguments.scenarios.is_empty() { Scenario::value_variants() } else { &arguments.scenarios };
    let mut report = Report::begin()?;
    for scenario in chosen {
        let name = scenario.name();
        let began = Instant::now();
        eprintln!("== {name}");
        let sections = scenario.run().await.with_context(|| format!("the scenario {name}"))?;
        eprintln!("== {name} took {:.0?}", began.elapsed());
        for section in sections {
            report.add(section);
        }
        // After each, so that a failure of a later one costs nothing.
        report.write(&out)?;
    }
    println!("{report}");
    println!("{}", out.join("report.json").display());
    Ok(())
}
