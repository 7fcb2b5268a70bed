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
pub mod pooling;
pub mod presenter_configs;
pub mod presenter_proposals;
pub mod renewals;
pub mod request_counts;
pub mod schema;
pub mod sorting;
pub mod webhooks;

pub use error::StoreError;
pub use sqlx::Connection;
pub use sqlx::postgres::{PgConnection, PgPool};

/// A connection that goes back to its pool.
pub type PoolConnection = sqlx::pool::PoolConnection<sqlx::Postgres>;

use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What does not answer for this long is as good as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For a connection that a caller gave back, to show that it still works, and is in no transaction.
const PING_WITHIN: Duration = Duration::from_secs(2);

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
        pooling::refuse_transaction_mode(options).await?;
        Ok(PgConnection::connect_with(options).await?)
    };
    tokio::time::timeout(CONNECT_WITHIN, connection).await.unwrap_or_else(|_| Err(timed_out().into()))
}

/// Makes a tool's connection as careful as those of the pool. Not for migrations, which wait for each other.
pub async fn with_limits(conn: &mut PgConnection) -> Result<(), StoreError> {
    conn.execute(SESSION).await?;
    Ok(())
}

/// Begins a transaction whose reads all see one moment. One statement alone, as every BEGIN: the pool would not see a transaction that
/// was given up on after it had failed.
pub const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// Connects lazily: an unreachable server is the first caller's error, not the start's.
///
/// `acquire_for` bounds the wait for a free connection and for a new one.
pub fn pool(options: PgConnectOptions, max_connections: u32, acquire_for: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(acquire_for)
        .after_connect(|conn, _| Box::pin(async { conn.execute(SESSION).await.map(drop) }))
        // The pool itself would wait without end for one that its caller gave up on, and keep its place. And whoever gives up on a
        // BEGIN leaves a transaction of which sqlx does not know: what the next one writes there would never be committed.
        .after_release(|conn, _| {
            Box::pin(async {
                // An empty statement, whose answer says whether a transaction is open. One that failed is not seen: some statement failed
                // after its BEGIN, and of that sqlx knows.
                let is_open = tokio::time::timeout(PING_WITHIN, conn.begin_with("")).await;
                match is_open.unwrap_or_else(|_| Err(timed_out())) {
                    Err(sqlx::Error::BeginFailed) => Ok(true),
                    is_open => is_open.map(|_| false),
                }
            })
        })
        .connect_lazy_with(options)
}
