//! The name server process: settings, schema check, answers.

use std::process::ExitCode;

use anyhow::Context as _;
use countersign_shared::{config, lifecycle, ops, telemetry};
use countersign_worker::responder::{self, Settings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::report_fatal("countersign-dns", error.as_ref());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let settings: Settings = config::parse();
    telemetry::start(&settings.log).context("LOG_LEVEL cannot be understood")?;

    let pool = settings.database.pool()?;
    // Nothing here asks for it yet but the rule that such an address needs one.
    settings.admin.token(&settings.admin_addr)?;
    let admin_listener = settings.admin_addr.bind().await?;

    let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(lifecycle::stop_on_signal(leaving.clone()).context("cannot register signal handlers")?);
    let started = ops::Started::default();
    tasks.spawn(lifecycle::stop_later(leaving.clone(), settings.shutdown_delay, stop.clone()));
    tasks.spawn(ops::serve(admin_listener, ops::router(pool.clone(), started.clone(), leaving)));
    responder::run(&settings, pool, started, stop).await?;
    tracing::info!("stopped");
    Ok(())
}
