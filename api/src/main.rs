//! The HTTP API: writes rows, enqueues jobs, and waits for workers to place orders.
//!
//! It holds no CA account key and never talks to the CA. Start reading at [`routes`].

mod auth;
mod diagnosis;
mod docs;
mod idempotency;
mod json;
mod lifecycle;
mod limits;
mod openapi;
mod ops;
mod request_id;
mod routes;
mod settings;
mod v2;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use countersign_shared::config::{self, secret};
use countersign_shared::doctor::Doctor;
use countersign_shared::model::identifier::SUFFIX_LIST;
use countersign_shared::store::notifications;
use countersign_shared::telemetry::{Telemetry, metrics};
use countersign_shared::{lifecycle as process, ops as health, serve};
use time::OffsetDateTime;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::diagnosis::Practice;
use crate::lifecycle::App;
use crate::limits::Places;
use crate::settings::Settings;
use crate::v2::{Rates, V2};

fn main() -> ExitCode {
    process::run("countersign-api", run())
}

async fn run() -> anyhow::Result<()> {
    let settings: Settings = config::parse();
    if settings.print_openapi {
        print!("{}", openapi::document());
        return Ok(());
    }
    let telemetry = Telemetry::start("countersign-api", &settings.log, &settings.collector)?;

    let pool = settings.database.pool()?;
    let listener = settings.database.listener()?;
    metrics::observe_pool(&pool);
    let ring = settings.keys.ring()?.withholding_account_key();
    let auth_token = secret("AUTH_TOKEN", settings.auth_token.as_ref(), settings.auth_token_file.as_deref())?;
    if auth_token.is_none() {
        tracing::warn!("AUTH_TOKEN is not set: anyone who reaches {} may use the API", settings.server_addr);
    }
    let admin_token = settings.admin.token(&settings.admin_addr)?;
    let admin_listener = settings.admin_addr.bind().await?;

    let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(process::stop_on_signal(leaving.clone()).context("cannot register signal handlers")?);
    let (delay, grace) = (settings.shutdown_delay, settings.shutdown_grace);
    tasks.spawn(process::stop_later(leaving.clone(), delay, stop.clone()));
    let started = health::Started::default();
    tasks.spawn(health::watch(pool.clone(), started.clone(), leaving.clone()));
    let operators = health::router(pool.clone(), started.clone(), leaving.clone(), telemetry.exposition());
    let operators = operators.merge(ops::router(pool.clone(), admin_token));
    tasks.spawn(health::serve(admin_listener, operators));

    if !process::await_schema(&pool, &leaving).await? || !process::await_keys(&pool, &ring, &leaving).await? {
        return Ok(());
    }
    let (orders_moved, _) = broadcast::channel(1024);
    tasks.spawn(listener.forward(notifications::ORDERS, orders_moved.clone(), stop.clone()));
    let Some(now) = process::await_time(&pool, &leaving).await.context("cannot read the database's time")? else {
        return Ok(());
    };
    report_suffix_list(now);
    // Not before: a caller would wait for an answer that nobody gives.
    let listener = settings.server_addr.bind().await?;

    let practice = Arc::new(Practice::new(Doctor {
        authoritative: settings.dns.authoritative()?,
        challenge_zone: settings.delegation.challenge_zone.clone(),
        caa_identities: settings.caa.caa_identities.clone(),
    }));
    let app = Arc::new(App {
        lookup: settings.dns.lookup()?,
        pool: pool.clone(),
        orders_moved,
        place_wait: settings.place_wait,
        allow_special_use_names: settings.allow_special_use_names,
        challenge_zone: settings.delegation.challenge_zone.clone(),
        practice: Arc::clone(&practice),
    });
    let rates = Arc::new(Rates::new(now, settings.rate_limit));
    metrics::begin_api_series();
    tracing::info!(address = %settings.server_addr, version = env!("CARGO_PKG_VERSION"), "ready");
    started.set();
    tasks.spawn({
        let (rates, pool, stop) = (Arc::clone(&rates), pool.clone(), stop.clone());
        async move { rates.share(&pool, stop).await }
    });
    let v2 = Arc::new(V2 {
        pool,
        ring,
        rates,
        allow_special_use_names: settings.allow_special_use_names,
        challenge_zone: settings.delegation.challenge_zone,
        allow_manual: settings.allow_manual,
        require_verified: settings.require_verified,
        allow_private_webhooks: settings.webhooks.webhook_allow_private,
        practice,
    });
    let router = routes::public(&settings.public_apis, app, auth_token, v2, Places::new(settings.max_requests.into()));
    let until = serve::Until { leaving, stop, grace };
    serve::serve(listener, router, settings.max_connections.into(), until).await;
    telemetry.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// An old public suffix list accepts names that a CA refuses, or the other way round.
fn report_suffix_list(now: OffsetDateTime) {
    const OLD_AFTER_DAYS: i64 = 180;
    let (version, released) = SUFFIX_LIST;
    let age_days = (now.date() - released).whole_days();
    if age_days > OLD_AFTER_DAYS {
        tracing::warn!(version, age_days, "the public suffix list is old: run a newer release");
    } else {
        tracing::info!(version, age_days, "public suffix list");
    }
}
