//! The name server process: settings, schema check, answers.

use std::process::ExitCode;

use anyhow::Context as _;
use countersign_shared::telemetry::{Telemetry, metrics};
use countersign_shared::{config, lifecycle, ops};
use countersign_worker::responder::{self, Settings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    lifecycle::run("countersign-dns", run())
}

async fn run() -> anyhow::Result<()> {
    let settings: Settings = config::parse();
    let telemetry = Telemetry::start("countersign-dns", &settings.log, &settings.collector)?;

    let pool = settings.database.pool()?;
    metrics::observe_pool(&pool);
    // Nothing here asks for it yet but the rule that such an address needs one.
    settings.admin.token(&settings.admin_addr)?;
    let admin_listener = settings.admin_addr.bind().await?;

    let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(lifecycle::stop_on_signal(leaving.clone()).context("cannot register signal handlers")?);
    let started = ops::Started::default();
    tasks.spawn(lifecycle::stop_later(leaving.clone(), settings.shutdown_delay, stop.clone()));
    tasks.spawn(ops::watch(pool.clone(), started.clone(), leaving.clone()));
    let router = ops::router(pool.clone(), started.clone(), leaving, telemetry.exposition());
    tasks.spawn(ops::serve(admin_listener, router));
    responder::run(&settings, pool, started, stop).await?;
    telemetry.finish().await;
    tracing::info!("stopped");
    Ok(())
}
