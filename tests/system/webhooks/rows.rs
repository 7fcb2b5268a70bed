//! The rows: what the purge takes, and what the constraints refuse.

use countersign_shared::store::deliveries::purge;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::databases::{connect, migrated};

async fn sql(conn: &mut PgConnection, text: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(AssertSqlSafe(text.to_owned())).execute(conn).await?.rows_affected())
}

#[tokio::test]
async fn events_of_more_than_thirty_days_go_unless_somebody_is_still_to_be_told() {
    let mut conn = connect(&migrated().await).await;
    for statement in [
        "INSERT INTO webhooks (account_id, url, deleted_at)
         SELECT 1, 'https://shop.example/' || n, CASE WHEN n > 1 THEN now() END FROM generate_series(1, 3) AS n",
        "INSERT INTO events (request_identifier, account_id, name, payload, created_at)
         SELECT gen_random_uuid(), 1, 'domain.create', '{}', now() - make_interval(days => days)
         FROM unnest(ARRAY[29, 31, 31, 32]) AS days",
        "INSERT INTO deliveries (event_id, webhook_id, delivered_at)
         SELECT e.id, w.id, CASE WHEN e.id <> 2 THEN now() END FROM events e, webhooks w WHERE w.id < 3 AND (e.id > 1 OR w.id = 1)",
        "INSERT INTO jobs (kind, delivery_id, lane) SELECT 'deliver-event', id, 2 FROM deliveries WHERE event_id = 2",
    ] {
        sql(&mut conn, statement).await.unwrap();
    }
    assert_eq!(purge(&mut conn, 1).await.unwrap(), 1);
    assert_eq!(purge(&mut conn, 100).await.unwrap(), 1);
    let left = async |conn: &mut PgConnection, table: &str| -> Vec<i64> {
        let query = AssertSqlSafe(format!("SELECT id FROM {table} ORDER BY id"));
        sqlx::query_scalar(query).fetch_all(conn).await.unwrap()
    };
    assert_eq!(left(&mut conn, "events").await, [1, 2]);
    assert_eq!(left(&mut conn, "webhooks").await, [1, 2], "one without deliveries is gone, the other is named");
    sql(&mut conn, "DELETE FROM jobs WHERE kind = 'deliver-event'").await.unwrap();
    assert_eq!(purge(&mut conn, 100).await.unwrap(), 1);
    assert_eq!(left(&mut conn, "webhooks").await, [1]);
    assert_eq!(left(&mut conn, "deliveries").await.len(), 1);
}

#[tokio::test]
async fn a_delivery_has_one_job_and_a_job_of_this_kind_a_delivery() {
    let mut conn = connect(&migrated().await).await;
    for statement in [
        "INSERT INTO webhooks (account_id, url) VALUES (1, 'https://shop.example/')",
        "INSERT INTO events (request_identifier, account_id, name, payload) VALUES (gen_random_uuid(), 1, 'domain.create', '{}')",
        "INSERT INTO deliveries (event_id, webhook_id) VALUES (1, 1)",
        "INSERT INTO jobs (kind, delivery_id, lane) VALUES ('deliver-event', 1, 2)",
    ] {
        sql(&mut conn, statement).await.unwrap();
    }
    for (statement, constraint) in [
        ("INSERT INTO jobs (kind, delivery_id, lane) VALUES ('deliver-event', 1, 2)", "jobs_delivery_id_key"),
        ("INSERT INTO jobs (kind, lane) VALUES ('deliver-event', 2)", "jobs_delivery_iff_deliver_event"),
        ("INSERT INTO jobs (kind, lane) VALUES ('sweep', 2)", "jobs_scheduled_once"),
        ("UPDATE deliveries SET delivered_at = now(), failed_at = now()", "deliveries_end_one_way"),
        ("INSERT INTO webhooks (account_id, url) VALUES (1, 'http://shop.example/')", "webhooks_url_check"),
    ] {
        let refused = sql(&mut conn, statement).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().constraint(), Some(constraint), "{statement}");
    }
}
