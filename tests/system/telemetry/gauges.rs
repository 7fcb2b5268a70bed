//! What the gauges count, and what counting costs where much has ended.

use countersign_shared::model::order::OrderState;
use countersign_shared::store::gauges::{self, Expiring, LaneGauges};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::databases::{connect, migrated};

/// Orders and certificates that have ended.
const ENDED: i64 = 50_000;

/// One certificate for each `n` of a list: `(n, not_after, renew_at, renewal_ended_at, successor_of)`.
fn certificates(of: &str) -> String {
    format!(
        "INSERT INTO certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem,
             issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, auto_renew, renew_at, renewal_ended_at, successor_of)
         OVERRIDING SYSTEM VALUE
         SELECT n, md5(n::text), CASE WHEN n = 7 THEN 2 ELSE 1 END, 'order', 'issued', 'rsa2048', 'x', 'x', 'x', now(), now(), not_after, 'ab',
             repeat(md5(n::text), 2), 'CA', true, renew_at, renewal_ended_at, successor_of
         FROM ({of}) AS c (n, not_after, renew_at, renewal_ended_at, successor_of)"
    )
}

async fn large_database() -> PgConnection {
    let mut conn = connect(&migrated().await).await;
    let domains = "INSERT INTO domains (id, public_id, name, supplied_name, verification_token, deleted_at) OVERRIDING SYSTEM VALUE VALUES
                       (1, md5('1'), 'shop.example.com', 'x', repeat(md5('1'), 2), NULL),
                       (2, md5('2'), 'gone.example.com', 'x', repeat(md5('2'), 2), now())";
    conn.execute(domains).await.unwrap();
    let live = certificates(
        "VALUES (1, now() - interval '1 day', NULL::timestamptz, NULL::timestamptz, NULL::bigint),
             (2, now() + interval '3 days', now() - interval '2 hours', NULL, NULL),
             (3, now() + interval '10 days', now() - interval '10 minutes', NULL, NULL),
             (4, now() + interval '20 days', NULL, NULL, NULL),
             (5, now() + interval '60 days', NULL, NULL, NULL),
             -- Its successor came.
             (6, now() + interval '2 days', NULL, now(), NULL),
             -- Of a deleted domain.
             (7, now() + interval '2 days', NULL, NULL, NULL),
             -- Nobody renewed it in time, and renew-due has given up.
             (8, now() - interval '2 days', NULL, now(), NULL),
             -- The same, and the successor came later.
             (9, now() - interval '3 days', NULL, now(), NULL),
             (10, now() + interval '80 days', NULL, NULL, 9),
             -- Long ago.
             (11, now() - interval '40 days', NULL, NULL, NULL),
             -- Revoked.
             (12, now() + interval '2 days', NULL, NULL, NULL)",
    );
    conn.execute(AssertSqlSafe(live)).await.unwrap();
    // Old ones with successors: within the days that are looked at, too.
    let ended = certificates(&format!(
        "SELECT 1000 + n, now() - interval '29 days' + make_interval(secs => n), NULL::timestamptz, now() - interval '50 days', NULL::bigint
         FROM generate_series(1, {ENDED}) AS n"
    ));
    conn.execute(AssertSqlSafe(ended)).await.unwrap();
    let orders = format!(
        "UPDATE certificates SET auto_renew = false WHERE id = 4;
         UPDATE certificates SET revoked_at = now(), revocation_reason = 1 WHERE id = 12;
         UPDATE domains SET delegated_at = now() WHERE id = 1;
         INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, ended_at, cleaned_up_at, problem)
         SELECT md5(n::text), 1, 1, 'order', 'failed', now(), now(), '{{}}' FROM generate_series(1, {ENDED}) AS n;
         INSERT INTO orders (public_id, domain_id, certificate_id, origin, state) VALUES (md5('a'), 1, 2, 'order', 'accepted');
         UPDATE jobs SET lease = 1, leased_by = 'worker-1', due_at = now() + interval '1 hour' WHERE kind = 'sweep';
         UPDATE jobs SET parked_at = now() WHERE kind = 'purge';
         UPDATE jobs SET due_at = now() - interval '30 seconds', last_result = '{{\"at\": \"2026-11-28T00:00:00Z\"}}'
             WHERE kind = 'renew-due';
         INSERT INTO acme_accounts (directory, private_key_pem, held_until) VALUES ('https://a', 'x', now() + interval '1 minute')"
    );
    conn.execute(AssertSqlSafe(orders)).await.unwrap();
    for table in ["orders", "certificates", "domains", "jobs"] {
        conn.execute(AssertSqlSafe(format!("VACUUM ANALYZE {table}"))).await.unwrap();
    }
    conn
}

#[tokio::test]
async fn gauges_count_what_lives_and_read_nothing_that_has_ended() {
    let mut conn = large_database().await;
    let gauges = gauges::measure(&mut conn).await.unwrap();
    assert_eq!(gauges.expiring, Expiring { automatic: [2, 3, 4, 4], by_hand: [0, 0, 0, 1] });
    assert_eq!(gauges.overdue_renewals, 1);
    for (state, count) in &gauges.open_orders {
        assert_eq!(*count, u64::from(*state == OrderState::Accepted), "{state:?}");
    }
    assert_eq!(gauges.open_orders.len(), OrderState::open().len());
    let [caller, orders, scheduled, deliveries] = gauges.lanes;
    let none = LaneGauges::default();
    assert_eq!((caller, orders, deliveries), (none, none, none));
    assert_eq!(LaneGauges { lag_secs: 0.0, ..scheduled }, LaneGauges { due: 1, leased: 1, parked: 1, ..none });
    assert!((30.0..90.0).contains(&scheduled.lag_secs), "{scheduled:?}");
    assert_eq!(gauges.last_successes, [("renew-due".to_owned(), 1_795_824_000.0)]);
    assert!((1.0..=60.0).contains(&gauges.held_secs), "{}", gauges.held_secs);

    // Also once the server has made one plan for all times.
    for _ in 0..8 {
        let mut tx = conn.begin().await.unwrap();
        gauges::measure(&mut tx).await.unwrap();
        for table in ["orders", "certificates"] {
            let reads = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = $1";
            let (scans, fetched): (i64, i64) = sqlx::query_as(reads).bind(table).fetch_one(&mut *tx).await.unwrap();
            assert!(scans == 0 && fetched < 100, "{table}: {scans} scans of all of it, {fetched} rows fetched");
        }
        tx.rollback().await.unwrap();
    }
}
