//! Start and stop of a process.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::sealed::KeyRing;
use crate::store::encryption_keys::{self, KeysError};
use crate::store::schema::{self, SchemaError};
use crate::store::{self, Pool, StoreError, orders, pooler};
use crate::telemetry;

/// For blocking calls that outlast a process: a system's look-up of a name in a DNS that is silent takes longer.
const BLOCKING_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Runs `main`, all that `program` does, in a runtime, and says in its last words why it failed.
pub fn run<E: AsRef<dyn Error>>(program: &str, main: impl Future<Output = Result<(), E>>) -> ExitCode {
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().map(|runtime| {
        let ended = runtime.block_on(main);
        // Dropped, it would wait without end.
        runtime.shutdown_timeout(BLOCKING_ENDS_WITHIN);
        ended
    });
    match ended {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => telemetry::report_fatal(program, error.as_ref()),
        Err(error) => telemetry::report_fatal(program, &error),
    }
    ExitCode::FAILURE
}

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
pub async fn await_schema(pool: &Pool, stop: &CancellationToken) -> Result<bool, SchemaError> {
    let checked = await_database(pool, stop, async || {
        pooler::refuse_transaction_mode(&pool.connect_options()).await?;
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
pub async fn await_keys(pool: &Pool, ring: &KeyRing, stop: &CancellationToken) -> Result<bool, KeysError> {
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

/// The database's time, as soon as the database can be reached; None when a stop came first.
pub async fn await_time(pool: &Pool, stop: &CancellationToken) -> Result<Option<OffsetDateTime>, StoreError> {
    await_database(pool, stop, async || orders::now(&mut *pool.acquire().await?).await).await
}

/// What `check` finds, as soon as the database can be reached; None when a stop came first.
async fn await_database<T>(
    pool: &Pool,
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
                error = telemetry::chain(&outage),
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_blocking_call_that_does_not_return_does_not_keep_the_process() {
        let (returns, asked) = mpsc::channel::<()>();
        let (ended, has_ended) = mpsc::channel();
        let process = std::thread::spawn(move || {
            run("test", async {
                let (begins, has_begun) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    begins.send(()).unwrap();
                    let _ = asked.recv();
                });
                has_begun.await.unwrap();
                Ok::<_, Box<dyn Error>>(())
            });
            ended.send(()).unwrap();
        });
        let in_time = has_ended.recv_timeout(10 * BLOCKING_ENDS_WITHIN);
        drop(returns);
        process.join().unwrap();
        in_time.expect("it ends while the call still waits");
    }
}
