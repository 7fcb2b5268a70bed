//! The check that a test left no work behind: no lease, and no job of an order. Scheduled jobs stay.

use std::time::Duration;

use anyhow::{Result, bail};
use sqlx::{Connection, PgConnection};

use super::waiting;

/// Clean-up after the last order may still be running when a test ends.
const PATIENCE: Duration = Duration::from_secs(10);

const LEFT: &str = "SELECT format('job %s (%s) of order %s, leased by %s, last result %s',
           id, kind, coalesce(order_id::text, '-'), coalesce(leased_by, '-'), coalesce(last_result::text, '-'))
      FROM jobs
     WHERE leased_by IS NOT NULL OR kind = 'poll-challenge'
     ORDER BY id";

pub(super) async fn none(database_url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(database_url).await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('jobs') IS NOT NULL").fetch_one(&mut connection).await?;
    if !exists {
        return Ok(());
    }
    let mut left: Result<Vec<String>, sqlx::Error> = Ok(Vec::new());
    let gone = waiting::poll(PATIENCE, async || {
        left = sqlx::query_scalar(LEFT).fetch_all(&mut connection).await;
        left.as_ref().is_ok_and(Vec::is_empty).then_some(())
    });
    if gone.await.is_none() {
        bail!("the test leaves work behind:\n{}", left?.join("\n"));
    }
    Ok(())
}

/// The same for `Drop`, which may itself run inside of a runtime.
pub(super) fn none_blocking(database_url: String) -> Result<()> {
    let check = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(none(&database_url))
    });
    check.join().unwrap_or_else(|_| bail!("the check for work left behind panicked"))
}
