//! The migrated schema explains itself.

use countersign_shared::store::schema;
use countersign_tests::stack::postgres::PrivatePostgres;
use sqlx::{Connection, PgConnection};

/// Tables, views and columns of ours without a COMMENT.
const SILENT: &str = "
    SELECT c.relname || coalesce('.' || a.attname, '')
      FROM pg_class c
      LEFT JOIN LATERAL (
          SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
          UNION ALL SELECT NULL, 0) a ON true
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> '_sqlx_migrations'
       AND coalesce(trim(col_description(c.oid, nullif(a.attnum, 0))), trim(obj_description(c.oid, 'pg_class')) , '') = ''
     ORDER BY 1";

async fn silent(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(SILENT).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    let postgres = PrivatePostgres::start().await.unwrap();
    let url = postgres.create_database("countersign", None).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    schema::migrate(&mut connection).await.unwrap();
    let found = silent(&mut connection).await;
    assert!(found.is_empty(), "without a COMMENT: {found:?}");

    sqlx::raw_sql("CREATE TABLE mute (id bigint, word text); COMMENT ON COLUMN mute.id IS 'Internal key.'")
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(silent(&mut connection).await, ["mute", "mute.word"]);
}
