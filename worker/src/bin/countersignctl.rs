//! The operator's tool. One file per verb in `ctl`.

use std::process::ExitCode;

use countersign_shared::config;
use countersign_shared::telemetry::chain;
use countersign_worker::ctl::Command;

#[tokio::main]
async fn main() -> ExitCode {
    match config::parse::<Command>().run().await {
        Ok(ended) => ended.into(),
        Err(error) => {
            eprintln!("countersignctl: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
