//! The stack on the command line: what the Makefile calls.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{ArgAction, Parser, Subcommand};
use countersign_tests::chaos::{self, Options};
use countersign_tests::recursor::{self, Recursor};
use countersign_tests::{demo, observe, release, sql_metadata, up};
use hickory_proto::rr::Name;

#[derive(Parser)]
#[command(about = "Countersign with its own Postgres, CA and DNS server")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring three names to their certificates, and show every step
    Demo,
    /// Kill and restart everything of ours while customers order certificates, and say what became of each order
    Chaos {
        #[arg(long, env = "ORDERS", default_value_t = 300)]
        orders: usize,
        /// Who is struck when, and which records appear when; a random one if not given
        #[arg(long, env = "SEED")]
        seed: Option<u64>,
    },
    /// Put a load on a stack that Prometheus scrapes, and answer an operator's questions from its metrics
    Observe {
        #[arg(long, env = "ORDERS", default_value_t = 40)]
        orders: usize,
        /// Leave everything running until Ctrl-C, to look around in Prometheus
        #[arg(long, env = "KEEP", action = ArgAction::Set, default_value = "0", num_args = 0..=1, default_missing_value = "1",
              value_parser = clap::builder::BoolishValueParser::new())]
        keep: bool,
    },
    /// Start a stack in the background, or what has died of it
    Up {
        #[arg(long, env = "API_REPLICAS", default_value_t = 2)]
        api_replicas: usize,
        #[arg(long, env = "WORKERS", default_value_t = 2)]
        workers: usize,
        /// Start from nothing: with an empty database and a new CA
        #[arg(long, env = "FRESH", action = ArgAction::Set, default_value = "0", num_args = 0..=1, default_missing_value = "1",
              value_parser = clap::builder::BoolishValueParser::new())]
        fresh: bool,
    },
    /// Stop that stack
    Down {
        /// And remove its database
        #[arg(long, env = "FRESH", action = ArgAction::Set, default_value = "0", num_args = 0..=1, default_missing_value = "1",
              value_parser = clap::builder::BoolishValueParser::new())]
        fresh: bool,
    },
    /// Answer DNS for a stack that has name servers of ours
    #[command(hide = true)]
    Recursor {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        upstream: SocketAddr,
        #[arg(long)]
        zone: Name,
        #[arg(long = "name-server")]
        name_servers: Vec<SocketAddr>,
    },
    /// Write what the next version is tested against: rows and statements of this one (tests/releases)
    Release,
    /// Rewrite the committed metadata of our SQL (.sqlx)
    SqlMetadata {
        /// Change nothing; fail if it is stale
        #[arg(long)]
        check: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().verb).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo => demo::run().await?,
        Verb::Chaos { orders, seed } => {
            let seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
            println!("SEED={seed} ORDERS={orders}\n");
            let report = chaos::run(&Options::new(orders, seed)).await?;
            println!("\n{report}");
            ensure!(report.verdict.is_clean(), "not every order came through (seed {seed})");
        }
        Verb::Observe { orders, keep } => observe::run(orders, keep).await?,
        Verb::Up { api_replicas, workers, fresh } => up::up(api_replicas, workers, fresh).await?,
        Verb::Down { fresh } => up::down(fresh).await?,
        Verb::Recursor { port, upstream, mut zone, name_servers } => {
            zone.set_fqdn(true);
            recursor::serve(port, Recursor { upstream, zone, name_servers }).await?;
        }
        Verb::Release => println!("{} is written", release::write().await?.display()),
        Verb::SqlMetadata { check } => {
            let queries = if check { sql_metadata::check().await? } else { sql_metadata::rewrite().await? };
            println!("The metadata of {queries} queries in .sqlx is current.");
        }
    }
    Ok(())
}
