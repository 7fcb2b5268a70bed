//! Sealing and rotating a thousand rows while certificates are issued and keys are read; twice at once; killed in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::api_client::ApiClient;
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use reqwest::Method;
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use super::{command, ctl, held, key, sql};
use crate::databases::{connect, migrated};
use crate::facts::SOON;

const ROWS: i64 = 1000;

/// Copies of an issued certificate, as plain rows.
const COPIES: &str = "
    INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem,
        issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, common_name)
    SELECT md5(n::text), domain_id, 'order', 'issued', algorithm, csr, private_key_pem, certificate_pem, issued_at,
        not_before, not_after, serial_number, encode(sha256(n::text::bytea), 'hex'), issuer, common_name
    FROM certificates, generate_series(1, 1000) n WHERE id = (SELECT min(id) FROM certificates)";

/// Reads one private key after the other until it is told to stop; every answer must be the right key.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    task: JoinSet<()>,
}

async fn read(api: &ApiClient, id: i64) -> String {
    let path = format!("/v2/1/domains/shop.example.com/certificates/{id}/private_key");
    let shown = api.send(api.request(Method::GET, &path)).await.unwrap().expect(200);
    shown["data"]["private_key"].as_str().unwrap().to_owned()
}

impl Reader {
    fn start(api: &ApiClient, ids: &[i64], pem: &str) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (api, ids, pem) = (api.clone(), ids.to_vec(), pem.to_owned());
        let (is_over, count) = (Arc::clone(&stop), Arc::clone(&reads));
        let mut task = JoinSet::new();
        task.spawn(async move {
            // A stride that meets every row: those before and behind where the batches are.
            let all = ids.iter().cycle().step_by(7);
            for id in all.take_while(|_| !is_over.load(Ordering::Relaxed)) {
                assert!(read(&api, *id).await == pem, "certificate {id} has another key");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, reads, task }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_all().await;
        self.reads.load(Ordering::Relaxed)
    }
}

async fn restart(stack: &mut Stack, ring: &str) {
    for replica in ["api-1", "worker-1"] {
        stack.restart_with(replica, "ENCRYPTION_KEYS", ring).await;
    }
}

/// Seals or rotates while keys are read and certificates are issued.
async fn under_load(stack: &Stack, ring: &str, verb: &str, api: &ApiClient, ids: &[i64], pem: &str) {
    let reader = Reader::start(api, ids, pem);
    let name = |number: usize| format!("{verb}-{number}.example.com");
    let (first, order) = stack.pending_domain(&name(1)).await;
    let url = stack.database_url();
    let args = ["keys", verb, "--json"];
    let (done, again, ()) = tokio::join!(ctl(&url, ring, &args), ctl(&url, ring, &args), async {
        stack.publish_value(&order).await;
        stack.active_domain(&name(2)).await;
    });
    stack.becomes_active(&first.id).await;
    let sealed = |said: super::Said| -> i64 {
        let report = said.ended(0).json();
        report["columns"].as_array().unwrap().iter().map(|column| column["sealed"].as_i64().unwrap()).sum()
    };
    let (one, other) = (sealed(done), sealed(again));
    assert!(one + other >= ROWS, "{one} and {other} rows");
    let enough = reader.reads.load(Ordering::Relaxed) + 20;
    let read_on = async || (reader.reads.load(Ordering::Relaxed) > enough).then_some(());
    stack.wait_until("keys are read afterwards", SOON, read_on).await;
    println!("{verb}: {one} and {other} rows; {} keys read meanwhile", reader.end().await);
}

#[tokio::test]
async fn a_thousand_rows_are_sealed_and_rotated_under_load_and_the_old_key_can_go() {
    let mut stack = Stack::builder().setting("RATE_LIMIT", "0").start().await;
    stack.active_domain("shop.example.com").await;
    for program in ["api-1", "worker-1"] {
        assert!(stack.log(program).contains("stored unencrypted"), "{program} does not warn of plain keys");
    }
    let token = stack.token(DEFAULT, ALL_SCOPES).secret;
    let api = stack.api().with_token(Some(&token));
    let url = stack.database_url();
    let mut conn = connect(&url).await;
    assert_eq!(sql(&mut conn, COPIES).await, 1000);
    let ids: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM certificates ORDER BY id").fetch_all(&mut conn).await.unwrap();
    let pem = read(&api, ids[0]).await;
    let (old, new) = (key("k1"), key("k2"));

    // A fleet that is replaced one by one reads first, then seals.
    restart(&mut stack, &format!("plain,{old}")).await;
    assert_eq!(held(&url, &["k1"]).await, (ROWS + 2, vec![0]));
    restart(&mut stack, &old).await;
    let dry = ctl(&url, &old, &["keys", "seal", "--dry-run", "--json"]).await.ended(0).json();
    assert_eq!(held(&url, &["k1"]).await, (ROWS + 2, vec![0]), "{dry}");
    under_load(&stack, &old, "seal", &api, &ids, &pem).await;
    // Besides the copies: the account, the certificate they are of, and two more.
    assert_eq!(held(&url, &["k1"]).await, (0, vec![ROWS + 4]));

    restart(&mut stack, &format!("{old},{new}")).await;
    let both = format!("{new},{old}");
    restart(&mut stack, &both).await;
    under_load(&stack, &both, "rotate", &api, &ids, &pem).await;
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![0, ROWS + 6]));

    restart(&mut stack, &new).await;
    stack.active_domain("afterwards.example.com").await;
    for id in ids.iter().step_by(9) {
        assert!(read(&api, *id).await == pem, "certificate {id}");
    }
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![0, ROWS + 7]));
    stack.finish().await;
}

#[tokio::test]
async fn a_process_that_lacks_a_key_waits_for_it_and_blames_no_order() {
    let (old, new) = (key("k1"), key("k2"));
    let mut stack = Stack::builder().acme_front().setting("ENCRYPTION_KEYS", &old).start().await;
    stack.active_domain("shop.example.com").await;
    let api = stack.api().with_token(Some(&stack.token(DEFAULT, ALL_SCOPES).secret));
    let id: i64 = sqlx::query_scalar("SELECT id FROM certificates").fetch_one(stack.pool()).await.unwrap();
    let pem = read(&api, id).await;
    // Its key is made and stored, its chain is not.
    stack.front().hold(Kind::Certificate);
    let (domain, order) = stack.pending_domain("waits.example.com").await;
    stack.publish_value(&order).await;
    let held = async || (stack.front().held(Kind::Certificate, Moment::Before) > 0).then_some(());
    stack.wait_until("the chain is fetched", SOON, held).await;

    // Too early: nobody else has the new key yet.
    let url = stack.database_url();
    ctl(&url, &format!("{new},{old}"), &["keys", "rotate"]).await.ended(0);
    stack.front().release();
    let waits = async || {
        let saw = "SELECT last_result -> 'failure' ->> 'detail' FROM jobs j JOIN orders o ON o.id = j.order_id";
        let saw: Option<Option<String>> = sqlx::query_scalar(saw).fetch_optional(stack.pool()).await.unwrap();
        saw.flatten()
    };
    stack.wait_until("the worker has met a key that it lacks", SOON, waits).await;
    assert_eq!(crate::facts::attempts(&stack).await.unwrap(), 0, "a failure is counted");
    let path = format!("/v2/1/domains/shop.example.com/certificates/{id}/private_key");
    api.send(api.request(Method::GET, &path)).await.unwrap().expect(503);

    restart(&mut stack, &format!("{old},{new}")).await;
    stack.becomes_active(&domain.id).await;
    assert!(read(&api, id).await == pem);
    stack.finish().await;
}

#[tokio::test]
async fn a_rotation_that_is_killed_goes_on_where_it_was() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    sql(
        &mut conn,
        "INSERT INTO domains (public_id, name, supplied_name, verification_token)
        VALUES (repeat('a', 32), 'shop.example.com', 'shop.example.com', repeat('b', 64))",
    )
    .await;
    sql(
        &mut conn,
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, csr, private_key_pem)
        SELECT md5(n::text), d.id, 'challenge', 'requesting', 'rsa2048', 'csr', 'key ' || n
        FROM domains d, generate_series(1, 1000) n",
    )
    .await;
    sql(
        &mut conn,
        "INSERT INTO webhooks (account_id, url, secret)
        SELECT 1, 'https://a.example', 'whsec_' || n FROM generate_series(1, 250) n",
    )
    .await;
    let (old, new) = (key("k1"), key("k2"));
    let both = format!("{new},{old}");
    ctl(&url, &old, &["keys", "seal"]).await.ended(0);
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![1250, 0]));

    // Held in its first batch of webhooks, which come last, with rows locked and nothing committed; and killed there.
    let mut other = connect(&url).await;
    sql(&mut other, "BEGIN").await;
    sql(&mut other, "LOCK TABLE webhooks IN SHARE ROW EXCLUSIVE MODE").await;
    let mut rotation = command(&url, &both, &["keys", "rotate"]).spawn().unwrap();
    let stuck = "SELECT count(*) FROM pg_locks WHERE relation = 'webhooks'::regclass AND NOT granted";
    let is_stuck = async || {
        let waiting: i64 = sqlx::query_scalar(stuck).fetch_one(&mut conn).await.unwrap();
        (waiting > 0).then_some(())
    };
    assert!(countersign_tests::stack::waiting::poll(SOON, is_stuck).await.is_some(), "it does not reach the webhooks");
    rotation.kill().unwrap();
    rotation.wait().unwrap();
    sql(&mut other, "ROLLBACK").await;
    let gone = async || {
        let backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'
                        AND pid <> pg_backend_pid()";
        let left: i64 = sqlx::query_scalar(backends).fetch_one(&mut connect(&url).await).await.unwrap();
        (left == 0).then_some(())
    };
    assert!(countersign_tests::stack::waiting::poll(SOON, gone).await.is_some(), "its transaction does not end");
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![250, 1000]));

    // It is told from a whole one, and the next one does the rest.
    let dry = ctl(&url, &both, &["keys", "rotate", "--dry-run", "--json"]).await.ended(0).json();
    let selected: i64 = dry["columns"].as_array().unwrap().iter().map(|c| c["selected"].as_i64().unwrap()).sum();
    assert_eq!(selected, 250);
    ctl(&url, &both, &["keys", "rotate"]).await.ended(0);
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![0, 1250]));
    let said = ctl(&url, &new, &["keys", "rotate"]).await.ended(0);
    assert!(said.out.contains("0 sealed"), "{}", said.out);
}

#[tokio::test]
async fn what_somebody_has_locked_and_what_cannot_be_opened_is_told_and_left_as_it_is() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    sql(
        &mut conn,
        "INSERT INTO webhooks (account_id, url, secret)
        SELECT 1, 'https://a.example', 'whsec_' || n FROM generate_series(1, 3) n",
    )
    .await;
    let (old, new) = (key("k1"), key("k2"));
    ctl(&url, &old, &["keys", "seal"]).await.ended(0);
    // Copied from another row: it does not open here.
    let copied = "UPDATE webhooks SET secret_sealed = (SELECT secret_sealed FROM webhooks WHERE id = 1) WHERE id = 2";
    assert_eq!(sql(&mut conn, copied).await, 1);
    sql(&mut conn, "BEGIN").await;
    sql(&mut conn, "SELECT id FROM webhooks WHERE id = 3 FOR UPDATE").await;
    let both = format!("{new},{old}");
    let report = ctl(&url, &both, &["keys", "rotate", "--json"]).await.ended(4).json();
    let webhooks = report["columns"].as_array().unwrap().iter().find(|c| c["table"] == "webhooks").unwrap().clone();
    assert_eq!((&webhooks["sealed"], &webhooks["left"]), (&1.into(), &1.into()), "{webhooks}");
    assert_eq!(webhooks["unreadable"], serde_json::json!(["2"]));
    sql(&mut conn, "COMMIT").await;
    ctl(&url, &both, &["keys", "rotate"]).await.ended(4);
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![1, 2]));
    // As long as one row needs it, nothing starts without the old key.
    let said = ctl(&url, &new, &["keys", "seal"]).await.ended(1);
    assert!(said.err.contains("`k1`"), "{}", said.err);
    let id: String = sqlx::query_scalar(AssertSqlSafe("SELECT sealed_by(secret_sealed) FROM webhooks WHERE id = 2"))
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(id, "k1");
}
