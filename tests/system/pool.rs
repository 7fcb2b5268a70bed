//! The pool of connections, on a database of its own: what is given up on, dropped or ended is nobody else's trouble.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use countersign_shared::store::Pool;
use countersign_tests::postgres_front::PostgresFront;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::databases;
use crate::facts::SOON;

/// What the next one writes there would never be committed.
#[tokio::test]
async fn a_begin_that_was_given_up_leaves_no_transaction_to_the_next_caller() {
    let options: PgConnectOptions = databases::empty().await.parse().unwrap();
    let mut direct = PgConnection::connect_with(&options).await.unwrap();
    let front = PostgresFront::start((Ipv4Addr::LOCALHOST, options.get_port()).into()).unwrap();
    let pool = Pool::new(options.port(front.address().port()), 1, SOON);
    for _ in 0..3 {
        drop(pool.acquire().await.unwrap());
        idle(&pool, 1).await;
        front.delay(Duration::from_millis(100));
        {
            let mut begin = std::pin::pin!(pool.begin());
            // It is sent, and cannot be answered yet.
            assert!(is_pending(begin.as_mut()).await);
            let statement = async {
                let begun = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = 'BEGIN'";
                while sqlx::raw_sql(begun).fetch_optional(&mut direct).await.unwrap().is_none() {}
            };
            tokio::time::timeout(SOON, statement).await.expect("the server begins");
        }
        front.heal();
        assert!(is_outside(&mut pool.acquire().await.unwrap()).await, "the connection is inside of a transaction");
    }
}

/// Whether it has no result after one poll.
async fn is_pending(mut future: Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

/// Returns when so many connections are back.
async fn idle(pool: &Pool, count: usize) {
    let back = async {
        while pool.num_idle() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, back).await.expect("they come back");
}

async fn is_outside(conn: &mut PgConnection) -> bool {
    let now = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(conn).await.unwrap();
    now.get(0)
}

async fn backend(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_undone_and_its_connection_used_again() {
    let options = databases::empty().await.parse().unwrap();
    let pool = Pool::new(options, 1, SOON);
    let first = backend(&mut pool.acquire().await.unwrap()).await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE undone ()").execute(&mut *tx).await.unwrap();
    drop(tx);
    let mut failed = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT * FROM undone").execute(&mut *failed).await.unwrap_err();
    drop(failed);
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept ()").execute(&mut *tx).await.unwrap();
    {
        // Sent, and given up on.
        let mut sleeps = std::pin::pin!(sqlx::raw_sql("SELECT pg_sleep(0.5)").execute(&mut *tx));
        assert!(is_pending(sleeps.as_mut()).await);
    }
    tx.commit().await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    assert!(is_outside(&mut conn).await);
    sqlx::raw_sql("SELECT * FROM kept").execute(&mut *conn).await.unwrap();
    assert_eq!(backend(&mut conn).await, first, "a connection that works was closed");
}

/// Whoever comes next must not write into it, nor wait for it.
#[tokio::test]
async fn a_transaction_that_is_dropped_during_a_long_statement_is_closed_and_its_place_is_free() {
    let options = databases::empty().await.parse().unwrap();
    let pool = Pool::new(options, 1, SOON);
    let mut tx = pool.begin().await.unwrap();
    let first = backend(&mut tx).await;
    {
        let mut sleeps = std::pin::pin!(sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut *tx));
        assert!(is_pending(sleeps.as_mut()).await);
    }
    drop(tx);
    let mut next = pool.acquire().await.unwrap();
    assert_ne!(backend(&mut next).await, first);
    assert!(is_outside(&mut next).await);
    let query = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
    let slept: i64 = sqlx::query_scalar(query).bind(first).fetch_one(&mut *next).await.unwrap();
    assert_eq!((slept, pool.size()), (1, 1));
}

#[tokio::test]
async fn of_connections_that_have_all_ended_none_is_given_out() {
    let url = databases::empty().await;
    let pool = Pool::new(url.parse().unwrap(), 5, SOON);
    let mut other = PgConnection::connect(&url).await.unwrap();
    for begins in [false, true] {
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(pool.acquire().await.unwrap());
        }
        drop(open);
        idle(&pool, 5).await;
        let query = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let ended: i64 = sqlx::query_scalar(query).fetch_one(&mut other).await.unwrap();
        assert_eq!(ended, 5);
        if begins {
            pool.begin().await.unwrap().commit().await.unwrap();
        } else {
            assert!(is_outside(&mut pool.acquire().await.unwrap()).await);
        }
    }
}
