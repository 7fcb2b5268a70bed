//! That Postgres keeps the plans of what is asked for by an array of keys: to make one takes ten times longer than to run it.

use countersign_shared::store::jobs::{Waiting, wait_all};
use countersign_shared::store::orders::of_domains;

use super::*;

/// So often a statement is planned for its very parameters before Postgres compares.
const TRIED: usize = 5;

/// 20,000 orders whose record is awaited. Keys are counted from 1.
const ORDERS: &str = "
    WITH domain AS (
        INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
        SELECT md5('domain' || n), format('d%s.example.com', n), format('d%s.example.com', n), 'certificate_pending',
            md5('token' || n) || md5('token' || n), now()
        FROM generate_series(1, 20000) AS n RETURNING id, name
    ), certificate AS (
        INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, common_name)
        SELECT md5('certificate' || id), id, 'challenge', 'requesting', 'ecdsa_p256', name FROM domain RETURNING id, domain_id
    ), placed AS (
        INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, placed_at, deadline_at)
        SELECT md5('order' || id), domain_id, id, 'challenge', 'presented', 2, 'https://ca.example', 'https://ca.example/order/' || id,
            now(), now() + interval '1 day'
        FROM certificate RETURNING id, domain_id
    ), awaited AS (
        INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value)
        SELECT placed.id, domain_id, name, 'https://ca.example/authorization/' || placed.id, 'https://ca.example/challenge/' || placed.id,
            md5('token' || placed.id), left(md5(name) || md5(name), 43)
        FROM placed JOIN domain ON domain.id = domain_id
    )
    INSERT INTO jobs (kind, order_id, lane, due_at) SELECT 'poll-challenge', id, 1, now() + interval '1 hour' FROM placed";

#[tokio::test]
async fn a_statement_with_an_array_of_keys_is_not_planned_each_time() {
    let (_, mut conn) = empty_queue().await;
    sql(&mut conn, ORDERS).await.unwrap();
    sql(&mut conn, "ANALYZE").await.unwrap();
    for _ in 0..=TRIED {
        let waiting = Waiting { fence: Fence { id: 1, lease: 1 }, until: OffsetDateTime::UNIX_EPOCH, saw: None };
        assert_eq!(orders::load_all(&mut conn, &[1]).await.unwrap().len(), 1);
        assert_eq!(of_domains::pending(&mut conn, &[1]).await.unwrap().len(), 1);
        assert!(of_domains::failures(&mut conn, &[1]).await.unwrap().is_empty());
        assert!(certificates::newest_issued(&mut conn, &[1]).await.unwrap().is_empty());
        assert!(wait_all(&mut conn, &[waiting]).await.unwrap().is_empty());
    }
    let plans: Vec<(String, i64)> = sqlx::query_as(
        "SELECT statement, generic_plans FROM pg_prepared_statements WHERE '{bigint[]}' <@ parameter_types::text[]",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(plans.len(), 6, "{plans:#?}");
    for (statement, kept) in plans {
        assert!(kept > 0, "planned each time: {statement}");
    }
}
