//! What can go wrong with the database, in the words its callers decide by.

use thiserror::Error;

use crate::sealed::SealedError;

#[derive(Debug, Error)]
pub enum StoreError {
    /// Unreachable, shutting down, or no free connection in time: nobody's fault, try again.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// A unique or check constraint refused the row.
    #[error("the database refused the row by its constraint {constraint}")]
    Conflict {
        constraint: String,
        #[source]
        source: sqlx::Error,
    },
    /// A stored value that this version cannot read.
    #[error("cannot read the stored {column}")]
    Corrupt { column: &'static str },
    /// A secret that cannot be opened, or sealed.
    #[error("a stored secret cannot be read")]
    Sealed(#[from] SealedError),
    /// Nothing of ours works there reliably, so nobody begins.
    #[error(
        "the database is behind a pooler in transaction mode, where prepared statements, LISTEN, and the settings and \
         locks of a session do not work; set it to session mode (PgBouncer: pool_mode = session), or lead \
         DATABASE_URL past it"
    )]
    TransactionMode,
    #[error("the database answered with an error")]
    Failed(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether waiting helps: no order and no caller is to blame.
    pub fn is_outage(&self) -> bool {
        // A key that this process has not been given yet is no fault of the row's.
        matches!(self, Self::Unavailable(_) | Self::Sealed(SealedError::UnknownKey { .. }))
    }

    /// Whether the row exists already, by the named constraint or unique index.
    pub fn is_conflict_on(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint, .. } if constraint == name)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Protocol(_) => {
                Self::Unavailable(error)
            }
            E::Database(database) => match database.code().as_deref() {
                // Class 08 connection, 53 resources, 57P administrator shutdown, crash recovery, starting up;
                // 40001, 40P01 and 55P03 are lost races between transactions; 25P03 is a transaction that was left alone
                // for too long; 25006 is a standby not yet promoted.
                Some(code) if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
                    Self::Unavailable(error)
                }
                Some("40001" | "40P01" | "55P03" | "25P03" | "25006") => Self::Unavailable(error),
                Some(code) if code.starts_with("23") => {
                    let constraint = database.constraint().unwrap_or("?").to_owned();
                    Self::Conflict { constraint, source: error }
                }
                _ => Self::Failed(error),
            },
            _ => Self::Failed(error),
        }
    }
}
