//! Postgres: one file per table with all its SQL. The only place that knows SQL.
//!
//! Every function states one intent and takes a connection; callers own the transaction. Lock order, everywhere:
//! domain row, order row, job row.
//!
//! What is asked often, and by an array of keys, reads it as `(SELECT $1::bigint[])`, after `ANY` cast once more, or it would be rows. The
//! length of a bare `$1` is a reason for Postgres to plan anew each time, which takes ten times longer than to run it.

pub mod accounts;
pub mod acme_accounts;
pub mod api_tokens;
pub mod audit;
pub mod authorizations;
pub mod certificates;
pub mod delegations;
pub mod deliveries;
pub mod domains;
pub mod encryption_keys;
mod error;
pub mod events;
pub mod gauges;
pub mod idempotency_keys;
pub mod jobs;
pub mod notifications;
pub mod order_events;
pub mod orders;
mod pool;
pub mod pooler;
pub mod presenter_configs;
pub mod presenter_proposals;
pub mod renewals;
pub mod request_counts;
pub mod schema;
pub mod sorting;
pub mod webhooks;

pub use error::StoreError;
pub use pool::{Pool, PoolConnection, Transaction};
pub use sqlx::Connection;
pub use sqlx::postgres::PgConnection;

use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What does not answer for this long is as good as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A process that vanishes, with its host or network, must not keep its locks, nor its place among the connections: the
/// server learns of it by these and not by the end of the connection. Not as start-up parameters, which poolers refuse.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s';
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3";

/// Bounds one piece of work with the database, from taking the connection to the last statement: a connection whose other end
/// has silently gone would be waited for without end. What the piece had changed is undone, or was committed after all.
pub async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(ANSWER_WITHIN, work).await.unwrap_or_else(|_| Err(timed_out().into()))
}

fn timed_out() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// One connection, for a tool: it fails at once, and with the server's own reason.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let connection = async {
        pooler::refuse_transaction_mode(options).await?;
        Ok(PgConnection::connect_with(options).await?)
    };
    tokio::time::timeout(CONNECT_WITHIN, connection).await.unwrap_or_else(|_| Err(timed_out().into()))
}

/// Makes a tool's connection as careful as those of the pool. Not for migrations, which wait for each other.
pub async fn with_limits(conn: &mut PgConnection) -> Result<(), StoreError> {
    conn.execute(SESSION).await?;
    Ok(())
}

/// For pools whose connections are as careful.
fn sessions() -> PgPoolOptions {
    PgPoolOptions::new().after_connect(|conn, _| Box::pin(async { conn.execute(SESSION).await.map(drop) }))
}
