//! Start and stop of a process.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::store::schema::{self, SchemaError};
use crate::store::{self, PgPool};

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

/// Waits until the database can be reached, then checks its schema; false when a stop came first. Only a wrong schema is
/// an error.
pub async fn await_schema(pool: &PgPool, stop: &CancellationToken) -> Result<bool, SchemaError> {
    let mut reported = false;
    loop {
        let checked = store::in_time(async {
            let mut conn = pool.acquire().await?;
            Ok(schema::check(&mut conn).await)
        });
        let outage = match checked.await {
            Ok(Err(SchemaError::Unreadable(error))) | Err(error) if error.is_outage() => error,
            Ok(checked) => return checked.map(|()| true),
            Err(error) => return Err(SchemaError::Unreadable(error)),
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
            return Ok(false);
        }
    }
}
