//! What may stand between us and Postgres: a pooler must leave each connection its own session.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Row as _};

use super::StoreError;

/// Behind two poolers that share an address, two of three are at the same one.
const CONNECTIONS: usize = 3;

/// An error where the connections of `options` get another session for every transaction: there prepared statements,
/// the settings of a session, its locks and LISTEN would be somebody else's.
///
/// In sessions of their own, connections that are open at once have different server processes, and keep them. A pooler
/// in transaction mode that is idle gives one process to them all; one that is busy, or gives them out in turn, changes
/// them.
pub async fn refuse_transaction_mode(options: &PgConnectOptions) -> Result<(), StoreError> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(PgConnection::connect_with(options).await?);
    }
    let mut processes: Vec<i32> = Vec::new();
    for connection in &mut connections {
        let process = server_process(connection).await?;
        if processes.contains(&process) {
            return Err(StoreError::TransactionMode);
        }
        processes.push(process);
    }
    // Backwards: given out in turn, as many processes as connections would come to the same ones again.
    for (connection, process) in connections.iter_mut().zip(processes).rev() {
        if server_process(connection).await? != process {
            return Err(StoreError::TransactionMode);
        }
    }
    for connection in connections {
        connection.close().await?;
    }
    Ok(())
}

/// Not a prepared statement: whether those work is what is asked.
async fn server_process(connection: &mut PgConnection) -> Result<i32, StoreError> {
    Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)?)
}
