//! LISTEN/NOTIFY: hints that make waiters look sooner. Everything works without them, by polling, later.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{sessions, timed_out};

/// A lane-0 job was enqueued or woken.
pub const JOBS: &str = "countersign_jobs";
/// An order left the state `accepted`; the payload is its public id.
pub const ORDERS: &str = "countersign_orders";
/// What name servers answer for a domain has changed; the payload is its delegation label.
pub const CHALLENGES: &str = "countersign_challenges";

const PROVE_AFTER: Duration = Duration::from_secs(30);
const PROVE_WITHIN: Duration = Duration::from_secs(5);

/// Listens with a connection of its own.
pub struct Listener {
    pub options: PgConnectOptions,
    /// Bounds each try to listen.
    pub connect_within: Duration,
}

impl Listener {
    /// Forwards the payloads of `channel` until `stop`; comes back after every loss of the connection.
    pub async fn forward(self, channel: &'static str, to: broadcast::Sender<String>, stop: CancellationToken) {
        let listening = async {
            let mut reported = false;
            loop {
                let Err(error) = self.listen(channel, &to, &mut reported).await;
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(channel, %error, "not listening for notifications; waiters poll instead");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        stop.run_until_cancelled(listening).await;
    }

    /// `reported`: whether the loss of the connection was logged; forgotten once it is back.
    async fn listen(
        &self,
        channel: &str,
        to: &broadcast::Sender<String>,
        reported: &mut bool,
    ) -> Result<Infallible, sqlx::Error> {
        // A new pool for each try: a listener that is dropped sends UNLISTEN, and waits for its answer without end. On a way that leads
        // nowhere its connection stays, besides the new one, until the system gives it up.
        let pool = sessions()
            .max_connections(1)
            .acquire_timeout(self.connect_within)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(self.options.clone());
        let begun = tokio::time::timeout(self.connect_within, async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(channel).await.map(|()| listener)
        });
        let mut listener = begun.await.map_err(|_| timed_out())??;
        *reported = false;
        loop {
            match tokio::time::timeout(PROVE_AFTER, listener.try_recv()).await {
                // Nobody waiting is fine: a send without receivers is an error to ignore.
                Ok(notification) => match notification? {
                    Some(notification) => drop(to.send(notification.payload().to_owned())),
                    // The connection was lost and is back: something may have been missed, so wake everybody once.
                    None => drop(to.send(String::new())),
                },
                // Silence may mean that the other end has gone: a statement tells. It connects again where it must, and says
                // nothing of it, so everybody is woken in any case.
                Err(_) => {
                    let proved = tokio::time::timeout(PROVE_WITHIN, listener.execute("SELECT 1")).await;
                    proved.map_err(|_| timed_out())??;
                    drop(to.send(String::new()));
                }
            }
        }
    }
}
