//! The pool of connections: what it gives out has just answered, and is in no transaction but its caller's own.
//!
//! It differs from sqlx's in three ways. That one pings and then sends BEGIN; here BEGIN is the ping. It does not know of a transaction whose
//! BEGIN was given up on; here that connection is closed. It waits without end for a connection that came back while a statement runs; here
//! for [`RETURN_WITHIN`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{Connection as _, Executor as _, Postgres};
use tokio::runtime::Handle;

use super::{StoreError, sessions};

/// For a connection that a caller gave back: until its transaction is undone, and it has shown that it still works.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// Cheap to clone; the clones share their connections.
#[derive(Clone)]
pub struct Pool(PgPool);

impl Pool {
    /// Connects lazily: an unreachable server is the first caller's error, not the start's.
    ///
    /// `acquire_for` bounds the wait for a free connection, and for its first answer.
    pub fn new(options: PgConnectOptions, max_connections: u32, acquire_for: Duration) -> Self {
        let pool = sessions()
            .max_connections(max_connections)
            .acquire_timeout(acquire_for)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Self(pool)
    }

    /// A connection for statements that are each a transaction of their own.
    pub async fn acquire(&self) -> Result<PoolConnection, StoreError> {
        self.answering(None).await
    }

    /// A transaction, undone when it is dropped before its commit.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(Transaction(self.answering(Some("BEGIN")).await?))
    }

    /// A transaction whose reads all see one moment.
    pub async fn begin_snapshot(&self) -> Result<Transaction, StoreError> {
        Ok(Transaction(self.answering(Some("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")).await?))
    }

    /// A connection that has answered `begin`, or else a ping. Those that do not are closed: after a fail-over that is what became of all
    /// that were open.
    async fn answering(&self, begin: Option<&'static str>) -> Result<PoolConnection, StoreError> {
        let mut ended = None;
        let asked = async {
            let mut tries = 0;
            loop {
                let mut conn = PoolConnection { conn: Some(self.0.acquire().await?), state: State::Unknown };
                let (answered, state) = match begin {
                    Some(begin) => (conn.execute(begin).await.map(drop), State::InTransaction),
                    None => (conn.ping().await, State::Idle),
                };
                match answered {
                    Ok(()) => {
                        conn.state = state;
                        return Ok(conn);
                    }
                    // As many may have been open. More are new ones.
                    Err(error) if tries == self.max_connections() => return Err(error),
                    Err(error) => {
                        tracing::info!(%error, "a connection to the database has ended: taking another one");
                        ended = Some(error);
                        tries += 1;
                    }
                }
            }
        };
        let answered = tokio::time::timeout(self.0.options().get_acquire_timeout(), asked).await;
        Ok(answered.unwrap_or_else(|_| Err(ended.unwrap_or(sqlx::Error::PoolTimedOut)))?)
    }

    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.0.connect_options()
    }

    pub fn max_connections(&self) -> u32 {
        self.0.options().get_max_connections()
    }

    /// Connections that are open.
    pub fn size(&self) -> u32 {
        self.0.size()
    }

    /// Open connections that nobody uses. Not read in the same moment as [`Self::size`].
    pub fn num_idle(&self) -> usize {
        self.0.num_idle()
    }
}

#[derive(Clone, Copy)]
enum State {
    /// A question was put, and not answered. Closed when it is dropped.
    Unknown,
    InTransaction,
    Idle,
}

/// A connection that goes back to its pool when it is dropped.
pub struct PoolConnection {
    /// None: it is on its way back.
    conn: Option<sqlx::pool::PoolConnection<Postgres>>,
    state: State,
}

impl Deref for PoolConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only on its way back")
    }
}

impl DerefMut for PoolConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only on its way back")
    }
}

impl Drop for PoolConnection {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        match (self.state, Handle::try_current()) {
            (State::Unknown, _) | (_, Err(_)) => drop(conn.detach()),
            (state, Ok(runtime)) => {
                let returning = Self { conn: Some(conn), state: State::Unknown };
                runtime.spawn(give_back(returning, matches!(state, State::InTransaction)));
            }
        }
    }
}

/// Wherever this is dropped, at its limit or with the runtime, the connection is closed. The server undoes its transaction then, as soon as
/// it is done with the statement under way.
async fn give_back(mut returning: PoolConnection, is_in_transaction: bool) {
    let returned = async {
        if is_in_transaction {
            let undone = match returning.execute("ROLLBACK").await {
                // Not this one, but the statement that was given up on, has failed.
                Err(sqlx::Error::Database(_)) => returning.execute("ROLLBACK").await,
                undone => undone,
            };
            if let Err(error) = undone {
                tracing::info!(%error, "a connection to the database that was given back does not answer: closed");
                return;
            }
        }
        if let Some(mut conn) = returning.conn.take() {
            conn.return_to_pool().await;
        }
    };
    if let Err(limit) = tokio::time::timeout(RETURN_WITHIN, returned).await {
        tracing::info!(error = %limit, "a connection to the database that was given back does not answer: closed");
    }
}

/// A transaction of its own connection. It has no savepoints.
pub struct Transaction(PoolConnection);

impl Transaction {
    /// After an error, nobody knows whether it was committed, unless the server says so.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.0.execute("COMMIT").await?;
        self.0.state = State::Idle;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
