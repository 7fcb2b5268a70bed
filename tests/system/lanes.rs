//! A caller who waits goes before every poll that is due, however many there are.

use countersign_tests::stack::Stack;

use crate::facts::SOON;

/// 500 open orders that wait for a record that never comes, all due.
const POLLS: &str = "
    WITH d AS (
        INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
        SELECT md5('d' || n), name, name, 'certificate_pending', md5('v' || n) || md5('w' || n), now()
        FROM generate_series(1, 500) AS n, format('poll-%s.example.com', n) AS name
        RETURNING id, name
    ), c AS (
        INSERT INTO certificates (public_id, domain_id, origin, state, algorithm)
        SELECT md5('c' || id), id, 'challenge', 'requesting', 'rsa2048' FROM d
        RETURNING id, domain_id
    ), o AS (
        INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, directory, acme_url, placed_at, deadline_at)
        SELECT md5('o' || id), domain_id, id, 'challenge', 'presented', $1, $1 || '/order/' || id, now(), now() + interval '1 day'
        FROM c RETURNING id, domain_id, acme_url
    ), a AS (
        INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value)
        SELECT o.id, d.id, d.name, o.acme_url || '/authz', o.acme_url || '/challenge', 'token', repeat('x', 43)
        FROM o JOIN d ON d.id = o.domain_id
    )
    INSERT INTO jobs (kind, order_id, lane, due_at) SELECT 'poll-challenge', id, 1, now() - interval '1 minute' FROM o";

const WITHOUT_POLLS: [&str; 4] = [
    "DELETE FROM jobs WHERE order_id IN (SELECT o.id FROM orders o JOIN domains d ON d.id = o.domain_id WHERE d.name LIKE 'poll-%')",
    "DELETE FROM orders WHERE domain_id IN (SELECT id FROM domains WHERE name LIKE 'poll-%')",
    "DELETE FROM certificates WHERE domain_id IN (SELECT id FROM domains WHERE name LIKE 'poll-%')",
    "DELETE FROM domains WHERE name LIKE 'poll-%'",
];

#[tokio::test]
async fn a_new_order_is_placed_before_500_polls_that_were_due_earlier() {
    let stack =
        Stack::builder().setting("WORKER_SLOTS", "4").setting("POLL_INTERVAL", "5m").setting("POLL_TIMEOUT", "1h");
    let stack = stack.setting("PLACE_WAIT", "25s").start().await;
    // The account exists from here on, so that placing is quick.
    let (first, _) = stack.pending_domain("first.example.com").await;
    let domain = stack.verified_domain("shop.example.com").await;
    stack.terminate("worker-1", SOON).await;
    sqlx::query(POLLS).bind(stack.ca().directory()).execute(stack.pool()).await.unwrap();

    // From here on DNS is silent, so that a poll keeps its slot for seconds.
    stack.pause("dns");
    // Enqueued last, while nobody is there to take anything.
    let enqueued = async || {
        let query =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM jobs WHERE lane = 0 AND lease = 0)").fetch_one(stack.pool());
        query.await.unwrap_or(false).then_some(())
    };
    let worker_comes = async {
        stack.wait_until("the new order is enqueued", SOON, enqueued).await;
        stack.restart("worker-1").await;
    };
    let issued_and_left = async {
        stack.api().issue(&domain.id).await;
        let query = "SELECT count(*) FROM jobs WHERE lane = 1 AND lease = 0";
        let left: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        left
    };
    let (left, ()) = tokio::join!(issued_and_left, worker_comes);
    assert!(left >= 500 - 3, "{} polls were claimed before the order, though it needs one of four slots", 500 - left);

    stack.resume("dns");
    stack.terminate("worker-1", SOON).await;
    for statement in WITHOUT_POLLS {
        sqlx::query(statement).execute(stack.pool()).await.unwrap();
    }
    stack.restart("worker-1").await;
    for domain in [first, domain] {
        stack.api().delete(&domain.id).await;
    }
}
