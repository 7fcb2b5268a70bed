//! Databases for tests that need no more of a stack: one private cluster, a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use countersign_shared::store::schema;
use countersign_tests::stack::postgres::PrivatePostgres;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::OnceCell;

const TEMPLATE: &str = "migrated";

/// The URL of a new database that nobody else uses, empty.
pub(crate) async fn empty() -> String {
    create(None).await
}

/// The same with the schema of this version.
pub(crate) async fn migrated() -> String {
    create(Some(TEMPLATE)).await
}

pub(crate) async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn create(template: Option<&str>) -> String {
    static CREATED: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", CREATED.fetch_add(1, Ordering::Relaxed));
    cluster().await.create_database(&name, template).await.unwrap()
}

/// Never dropped: its watchdog removes it with this process.
async fn cluster() -> &'static PrivatePostgres {
    static CLUSTER: OnceCell<PrivatePostgres> = OnceCell::const_new();
    let start = async || {
        let cluster = PrivatePostgres::start().await.unwrap();
        let mut connection = connect(&cluster.create_database(TEMPLATE, None).await.unwrap()).await;
        schema::migrate(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        cluster
    };
    CLUSTER.get_or_init(start).await
}
