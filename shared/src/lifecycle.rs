//! Start and stop of a process.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::sealed::KeyRing;
use crate::store::encryption_keys::{self, KeysError};
use crate::store::schema::{self, SchemaError};
use crate::store::{self, PgPool, StoreError, pooling};

/// Cancels `stop` on SIGTERM or SIGINT; a second signal ends the process at once with status 130.
///
/// Errors when signals cannot be registered.
pub fn stop_on_signal(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("second signal: leaving at once, unfinished work is taken over when its leases end");
                std::process::exit(130);
            }
            tracing::info!("signal received: stopping");
            stop.cancel();
        }
    })
}

/// Cancels `stop` once `delay` is over after `leaving` was: until then requests that still come are answered, while
/// whoever sends them learns to send no more.
pub async fn stop_later(leaving: CancellationToken, delay: Duration, stop: CancellationToken) {
    leaving.cancelled().await;
    tokio::time::sleep(delay).await;
    stop.cancel();
}

/// Waits until the database can be reached, then checks the way there and its schema; false when a stop came first.
/// Only a wrong schema, and a pooler that must not be in between, is an error.
pub async fn await_schema(pool: &PgPool, stop: &CancellationToken) -> Result<bool, SchemaError> {
    let checked = await_database(pool, stop, async || {
        pooling::refuse_transaction_mode(&pool.connect_options()).await?;
        match schema::check(&mut *pool.acquire().await?).await {
            Err(SchemaError::Unreadable(error)) if error.is_outage() => Err(error),
            checked => Ok(checked),
        }
    });
    match checked.await.map_err(SchemaError::Database)? {
        Some(checked) => checked.map(|()| true),
        None => Ok(false),
    }
}

/// Waits until the database can be reached, then holds the ring against what is sealed there; false when a stop came first. Only
/// a ring that lacks a key, or has a wrong one, is an error. Warns where secrets will be stored plain.
pub async fn await_keys(pool: &PgPool, ring: &KeyRing, stop: &CancellationToken) -> Result<bool, KeysError> {
    let checked =
        await_database(pool, stop, async || match encryption_keys::announce(&mut *pool.acquire().await?, ring).await {
            Err(KeysError::Unreadable(error)) => Err(error),
            checked => Ok(checked),
        });
    match checked.await.map_err(KeysError::Unreadable)? {
        Some(checked) => {
            checked?;
            if ring.sealing_key().is_none() {
                tracing::warn!(
                    "ENCRYPTION_KEYS has no key to seal with: private keys and secrets are stored unencrypted"
                );
            }
            Ok(true)
        }
        None => Ok(false),
    }
}

/// What `check` finds, as soon as the database can be reached; None when a stop came first.
async fn await_database<T>(
    pool: &PgPool,
    stop: &CancellationToken,
    check: impl AsyncFn() -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut reported = false;
    loop {
        let outage = match store::in_time(check()).await {
            Err(error) if error.is_outage() => error,
            checked => return checked.map(Some),
        };
        if !reported {
            let server = pool.connect_options();
            tracing::warn!(
                error = crate::telemetry::chain(&outage),
                host = server.get_host(),
                port = server.get_port(),
                "waiting for the database"
            );
            reported = true;
        }
        if stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(500))).await.is_none() {
            return Ok(None);
        }
    }
}
