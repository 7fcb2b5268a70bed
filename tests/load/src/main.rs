//! `make bench`: what Countersign does in a second, and beside what others do on the same machine in the same run.
//!
//! Every scenario starts a stack of its own, with the binaries of the profile that this program was built in. README.md has the
//! method and what was learnt.

mod api;
mod chart;
mod knot;
mod lane;
mod meter;
mod pgbench;
mod report;
mod rows;
mod scrape;
mod statistics;
mod stub_ca;
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
