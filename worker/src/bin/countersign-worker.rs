//! The worker process: settings, schema check, runtime.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use countersign_shared::telemetry::{Telemetry, metrics};
use countersign_shared::{config, lifecycle, ops};
use countersign_worker::runtime;
use countersign_worker::settings::Settings;
use countersign_worker::steps::Tools;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For as long as the worker runs.
const KEPT_CONNECTIONS: u32 = 2;

fn main() -> ExitCode {
    lifecycle::run("countersign-worker", run())
}

async fn run() -> anyhow::Result<()> {
    let settings: Settings = config::parse();
    let telemetry = Telemetry::start("countersign-worker", &settings.log, &settings.collector)?;

    ensure!(
        settings.database.database_max_connections > KEPT_CONNECTIONS,
        "DATABASE_MAX_CONNECTIONS must be at least {} for a worker: it keeps one for notifications and one for claims",
        KEPT_CONNECTIONS + 1
    );
    let pool = settings.database.pool()?;
    let listener = settings.database.listener()?;
    metrics::observe_pool(&pool);
    let ring = settings.keys.ring()?;
    let tools = Tools::new(&settings, pool.clone(), ring.clone())?;
    // Nothing here asks for it yet but the rule that such an address needs one.
    settings.admin.token(&settings.admin_addr)?;
    let admin_listener = settings.admin_addr.bind().await?;

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(lifecycle::stop_on_signal(stop.clone()).context("cannot register signal handlers")?);
    let started = ops::Started::default();
    tasks.spawn(ops::watch(pool.clone(), started.clone(), stop.clone()));
    let router = ops::router(pool.clone(), started.clone(), stop.clone(), telemetry.exposition());
    tasks.spawn(ops::serve(admin_listener, router));
    if !lifecycle::await_schema(&pool, &stop).await? {
        return Ok(());
    }
    if !lifecycle::await_keys(&pool, &ring, &stop).await? {
        return Ok(());
    }
    let worker = settings.name();
    tracing::info!(worker, directory = tools.acme.directory(), version = env!("CARGO_PKG_VERSION"), "ready");
    metrics::begin_worker_series();
    started.set();
    runtime::run(&settings, pool, listener, tools, stop).await?;
    telemetry.finish().await;
    tracing::info!("stopped");
    Ok(())
}
