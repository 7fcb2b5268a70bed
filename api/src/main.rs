//! The HTTP API: writes rows, enqueues jobs, and waits for workers to place orders.
//!
//! It holds no CA account key and never talks to the CA. Start reading at [`routes`].

mod auth;
mod lifecycle;
mod request_id;
mod routes;
mod settings;

use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use countersign_shared::config::secret;
use countersign_shared::{lifecycle as process, ops, store::notifications, telemetry};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::App;
use crate::settings::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    telemetry::start(&settings.log).context("LOG_LEVEL cannot be understood")?;

    let pool = settings.database.pool()?;
    let auth_token = secret("AUTH_TOKEN", settings.auth_token.as_ref(), settings.auth_token_file.as_deref())?;
    if auth_token.is_none() {
        tracing::warn!("AUTH_TOKEN is not set: anyone who reaches {} may use the API", settings.server_addr);
    }
    let listener = settings.server_addr.bind().await?;
    let admin_listener = settings.admin_addr.bind().await?;

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(process::stop_on_signal(stop.clone()).context("cannot register signal handlers")?);
    let (orders_moved, _) = broadcast::channel(1024);
    tasks.spawn(notifications::forward(pool.clone(), notifications::ORDERS, orders_moved.clone(), stop.clone()));
    let started = ops::Started::default();
    let admin = ops::serve(admin_listener, ops::router(pool.clone(), started.clone()), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = admin.await {
            tracing::error!(%error, "the operators' listener ended");
        }
    });

    process::await_schema(&pool, &stop).await?;

    let app = Arc::new(App {
        lookup: settings.dns.lookup()?,
        pool,
        orders_moved,
        place_wait: settings.place_wait,
        allow_special_use_names: settings.allow_special_use_names,
    });
    tracing::info!(address = %settings.server_addr, version = env!("CARGO_PKG_VERSION"), "ready");
    started.set();
    let server = axum::serve(listener, routes::router(app, auth_token))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(settings.shutdown_grace).await;
    };
    tokio::select! {
        served = server => served.context("the public listener ended")?,
        () = overdue => tracing::warn!("SHUTDOWN_GRACE is over: dropping the requests still under way"),
    }
    tracing::info!("stopped");
    Ok(())
}
