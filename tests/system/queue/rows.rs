//! What the database itself refuses, whatever the code does.

use super::*;

fn placed() -> OrderEvent {
    let at = OffsetDateTime::UNIX_EPOCH;
    OrderEvent::Placed {
        placement: Placement {
            directory: "https://ca.example/dir".to_owned(),
            acme_url: "https://ca.example/order/1".to_owned(),
            placed_at: at,
            deadline_at: at,
        },
        authorizations: vec![Authorization {
            identifier: "shop-1.example.com".to_owned(),
            wildcard: false,
            url: "https://ca.example/authz/1".to_owned(),
            challenge_url: "https://ca.example/chall/1".to_owned(),
            token: "token".to_owned(),
            txt_value: "x".repeat(43),
            proved_at: None,
        }],
    }
}

async fn load(conn: &mut PgConnection, order: i64) -> Order {
    orders::load(conn, order).await.unwrap().unwrap()
}

/// State and revision of the order, status of its domain, and how many events the order has.
async fn standing(conn: &mut PgConnection, order: i64) -> (String, i64, String, i64) {
    let text = "SELECT o.state, o.revision, d.status, (SELECT count(*) FROM order_events e WHERE e.order_id = o.id)
                  FROM orders o JOIN domains d ON d.id = o.domain_id WHERE o.id = $1";
    sqlx::query_as(text).bind(order).fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn an_event_computed_from_an_older_revision_is_refused() {
    let (_, mut conn) = empty_queue().await;
    let id = order(&mut conn, 1).await;
    let loaded = load(&mut conn, id).await;
    let after = loaded.clone().apply(&placed()).unwrap();
    assert!(orders::record(&mut conn, &after, &placed(), "worker-1").await.unwrap());
    let once = ("placed".to_owned(), 1, "certificate_pending".to_owned(), 2);
    assert_eq!(standing(&mut conn, id).await, once);

    let problem = OrderProblem::new(ProblemCode::DomainDeleted, &loaded.domain_name);
    let cancelled = OrderEvent::Cancelled { at: OffsetDateTime::UNIX_EPOCH, problem };
    for late in [placed(), cancelled] {
        let after = loaded.clone().apply(&late).unwrap();
        assert!(!orders::record(&mut conn, &after, &late, "worker-2").await.unwrap(), "{}", late.name());
        assert_eq!(standing(&mut conn, id).await, once);
    }
}

#[tokio::test]
async fn an_advance_under_a_lost_lease_leaves_no_trace() {
    let (_, mut conn) = empty_queue().await;
    let (id, fence) = leased(&mut conn).await;
    end_lease(&mut conn, fence.id).await;
    assert_eq!(claim(&mut conn, "worker-2", 1, true).await.len(), 1);
    let before = standing(&mut conn, id).await;

    let after = load(&mut conn, id).await.apply(&placed()).unwrap();
    let mut tx = conn.begin().await.unwrap();
    assert!(orders::record(&mut tx, &after, &placed(), "worker-1").await.unwrap());
    assert!(!jobs::settle(&mut tx, fence, &Outcome::Keep { has_failed: false }).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(standing(&mut conn, id).await, before);
    assert_eq!(before, ("accepted".to_owned(), 0, "verified".to_owned(), 1));
}

#[tokio::test]
async fn a_certificate_row_takes_one_key_and_one_chain() {
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let [first, second] = [certificate(&mut conn, 1, domain).await, certificate(&mut conn, 2, domain).await];
    let key = |text: &str| StoredKeyAndCsr {
        private_key: AtRest::Plain(Secret::new(format!("key {text}"))),
        csr_pem: format!("CSR {text}"),
    };
    for id in [first, second] {
        assert!(certificates::store_key(&mut conn, id, &key("one")).await.unwrap());
        assert!(!certificates::store_key(&mut conn, id, &key("two")).await.unwrap());
        assert_eq!(certificates::key(&mut conn, &KeyRing::default(), id).await.unwrap().unwrap().csr_pem, "CSR one");
    }
    let at = OffsetDateTime::UNIX_EPOCH;
    let issued = |serial: &str| countersign_shared::model::certificate::IssuedCertificate {
        chain_pem: format!("chain {serial}"),
        not_before: at,
        not_after: at,
        serial_number: serial.to_owned(),
        fingerprint_sha256: serial.repeat(32),
        issuer: "Test CA".to_owned(),
    };
    assert!(certificates::store_issued(&mut conn, first, at, &issued("aa")).await.unwrap());
    assert!(!certificates::store_issued(&mut conn, first, at, &issued("bb")).await.unwrap());
    let shown = certificates::newest_issued(&mut conn, &[domain]).await.unwrap().remove(&domain).unwrap();
    assert_eq!(shown.serial_number, "aa");
    let twice = certificates::store_issued(&mut conn, second, at, &issued("aa")).await;
    assert_conflict(twice, "certificates_fingerprint_sha256_key");
}

#[tokio::test]
async fn a_domain_and_a_certificate_have_one_open_order() {
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let first = certificate(&mut conn, 1, domain).await;
    let second = certificate(&mut conn, 2, domain).await;
    let id = insert_order(&mut conn, 1, domain, first).await.unwrap();
    let twice = insert_order(&mut conn, 2, domain, second).await;
    assert_conflict(twice, orders::ONE_OPEN_PER_DOMAIN);
    let other_domain = verified_domain(&mut conn, 2).await;
    let shared = insert_order(&mut conn, 2, other_domain, first).await;
    assert_conflict(shared, "orders_one_open_per_certificate");

    sql(&mut conn, &format!("UPDATE orders SET state = 'cancelled', ended_at = now() WHERE id = {id}")).await.unwrap();
    insert_order(&mut conn, 2, domain, second).await.unwrap();
}

/// The documented moves, and the two that were decided here.
const MOVES: [(DomainStatus, DomainStatus); 7] = {
    use DomainStatus::{Active, CertificatePending, Failed, Pending, Verified};
    [
        (Pending, Verified),
        (Verified, CertificatePending),
        (CertificatePending, Active),
        (CertificatePending, Failed),
        (Failed, Verified),
        (Failed, CertificatePending),
        (Active, Verified),
    ]
};

#[tokio::test]
async fn the_database_refuses_every_other_move_of_a_domains_status() {
    use DomainStatus::{Active, CertificatePending, Failed, Pending, Verified};
    let (_, mut conn) = empty_queue().await;
    let domain = verified_domain(&mut conn, 1).await;
    let all = [Pending, Verified, CertificatePending, Active, Failed];
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        let mut tx = conn.begin().await.unwrap();
        let from_text = from.as_str();
        sql(&mut tx, "ALTER TABLE domains DISABLE TRIGGER domains_status_moves").await.unwrap();
        sql(&mut tx, &format!("UPDATE domains SET status = '{from_text}'")).await.unwrap();
        sql(&mut tx, "ALTER TABLE domains ENABLE TRIGGER domains_status_moves").await.unwrap();
        let moved = domains::move_status(&mut tx, domain, to).await;
        if from == to || MOVES.contains(&(from, to)) {
            moved.unwrap_or_else(|error| panic!("{from:?} -> {to:?}: {error:?}"));
        } else {
            assert_conflict(moved, "domains_status_moves");
        }
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn rows_that_make_no_sense_cannot_be_stored() {
    let (_, mut conn) = empty_queue().await;
    let (order, job) = enqueued(&mut conn, 1).await;
    enqueued(&mut conn, 2).await;
    let url = "https://ca.example/order/1";
    let placed = format!("directory = 'd', acme_url = '{url}', placed_at = now(), deadline_at = now()");
    sql(&mut conn, &format!("UPDATE orders SET {placed} WHERE id <> {order}")).await.unwrap();
    let of_order = |change: &str| format!("UPDATE orders SET {change} WHERE id = {order}");
    let of_job = |change: &str| format!("UPDATE jobs SET {change} WHERE id = {job}");
    for (statement, constraint) in [
        (of_order("state = 'placed'"), "orders_past_accepted_are_placed"),
        (of_order("directory = 'd', placed_at = now(), deadline_at = now()"), "orders_placed_is_whole"),
        (
            of_order(&placed.replace(url, "elsewhere").replace("directory =", "state = 'unheard_of', directory =")),
            "orders_state_check",
        ),
        (of_order("state = 'cancelled'"), "orders_ended_has_time"),
        (of_order("ended_at = now()"), "orders_ended_has_time"),
        (of_order("state = 'failed', ended_at = now()"), "orders_failed_has_problem"),
        (of_order("cleaned_up_at = now()"), "orders_clean_up_comes_last"),
        (of_order(&placed), orders::ACME_URL_OPEN_KEY),
        (of_job("parked_at = now(), leased_by = 'worker-1'"), "jobs_parked_is_not_leased"),
        (of_job("attempts = -1"), "jobs_attempts_check"),
        (of_job("lane = 4"), "jobs_lane_check"),
        (of_job("order_id = NULL"), "jobs_order_iff_poll_challenge"),
        (format!("INSERT INTO jobs (kind, order_id, lane) VALUES ('poll-challenge', {order}, 1)"), "jobs_order_id_key"),
        ("INSERT INTO jobs (kind, lane) VALUES ('sweep', 2), ('sweep', 2)".to_owned(), "jobs_scheduled_once"),
        ("UPDATE domains SET verified_at = NULL".to_owned(), "domains_verified_before_issuance"),
        ("UPDATE domains SET public_id = upper(public_id) || 'X'".to_owned(), "domains_public_id_check"),
        ("UPDATE domains SET name = 'Upper.example.com'".to_owned(), "domains_name_check"),
        ("UPDATE domains SET name = 'same.example.com'".to_owned(), domains::NAME_KEY),
        ("UPDATE certificates SET csr = 'CSR'".to_owned(), "certificates_key_comes_with_csr"),
        ("UPDATE certificates SET state = 'issued'".to_owned(), "certificates_issued_is_whole"),
        ("UPDATE certificates SET certificate_pem = 'chain'".to_owned(), "certificates_chain_only_when_issued"),
        (
            "INSERT INTO acme_accounts (directory, private_key_pem, kid) VALUES ('d', 'key', 'kid')".to_owned(),
            "acme_accounts_registered_has_time",
        ),
    ] {
        let refused = sql(&mut conn, &statement).await;
        assert!(refused.as_ref().is_err_and(|error| error.is_conflict_on(constraint)), "{statement}: {refused:?}");
    }
}
