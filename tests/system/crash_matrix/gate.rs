//! A gate in the database at which the transactions that store one kind of event wait: a trigger on `order_events` and an advisory lock
//! that the test holds.

use countersign_tests::acme_front::Moment;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::Mutex;

/// The locks are shared, so that the transactions do not wait for one another afterwards.
const FUNCTION: &str = "CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$";
const WAITING: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted AND mode = 'ShareLock'";

pub(super) struct Gate(Mutex<PgConnection>);

impl Gate {
    pub(super) async fn new(database_url: &str) -> Self {
        let mut connection = PgConnection::connect(database_url).await.unwrap();
        sqlx::query(FUNCTION).execute(&mut connection).await.unwrap();
        Self(Mutex::new(connection))
    }

    /// From now on every transaction that stores `event` waits: with its rows written and COMMIT not sent, or in the middle of COMMIT.
    pub(super) async fn close(&self, event: &str, moment: Moment) {
        let trigger = match moment {
            Moment::Before => "CREATE TRIGGER gate BEFORE INSERT ON order_events",
            Moment::After => {
                "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON order_events DEFERRABLE INITIALLY DEFERRED"
            }
        };
        let trigger =
            format!("{trigger} FOR EACH ROW WHEN (NEW.event = '{event}') EXECUTE FUNCTION wait_at_the_gate()");
        self.execute("SELECT pg_advisory_lock(4711)").await;
        self.execute(&trigger).await;
    }

    /// How many wait.
    pub(super) async fn waiting(&self) -> usize {
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&mut *self.0.lock().await).await.unwrap();
        waiting.try_into().unwrap()
    }

    /// They go on, whether or not anybody is there to hear what becomes of them.
    pub(super) async fn open(&self) {
        self.execute("SELECT pg_advisory_unlock(4711)").await;
    }

    pub(super) async fn remove(&self) {
        self.execute("DROP TRIGGER IF EXISTS gate ON order_events").await;
    }

    async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::query(statement).execute(&mut *self.0.lock().await).await.unwrap();
    }
}
