//! The stack on the command line: what the Makefile calls.

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};
use countersign_tests::{demo, sql_metadata, up};

#[derive(Parser)]
#[command(about = "Countersign with its own Postgres, CA and DNS server")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring one domain to its certificate, and show every step
    Demo,
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
    Down,
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
        Verb::Up { api_replicas, workers, fresh } => up::up(api_replicas, workers, fresh).await?,
        Verb::Down => up::down().await?,
        Verb::SqlMetadata { check } => {
            let queries = if check { sql_metadata::check().await? } else { sql_metadata::rewrite().await? };
            println!("The metadata of {queries} queries in .sqlx is current.");
        }
    }
    Ok(())
}
