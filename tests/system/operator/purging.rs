//! The purge: what goes after `RETAIN_FOR`, what stays whatever its age, and deleted domains.

use countersign_shared::model::certificate::KeyAlgorithm;
use countersign_shared::model::certificate_names::CertificateNames;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::store::certificates::ordered;
use countersign_shared::store::idempotency_keys::{self, Begun, KeyOf};
use countersign_shared::store::orders::purge::{self, Cursor};
use countersign_shared::store::presenter_configs;
use countersign_shared::store::renewals::{self, NewRenewal, Renewable};
use countersign_tests::acme_front::Kind;
use countersign_tests::stack::waiting;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{ctl_on, domain, everything, job, order, sql};
use crate::databases::{connect, migrated};
use crate::facts::{SOON, certificates_stored, is_cleaned_up};
use crate::failures::{arrives, fails, fronted, publish_alone};
use crate::schema::{Programs, service};

const YEAR: f64 = 365.25 * 86_400.0;

async fn age(conn: &mut PgConnection, order_id: &str, days: u32) {
    let text = format!(
        "UPDATE orders SET ended_at = now() - interval '{days} days', cleaned_up_at = now() - interval '{days} days'
         WHERE public_id = '{order_id}'"
    );
    assert_eq!(sql(conn, &text).await, 1);
}

/// A whole run in batches: how many went, and in how many batches.
async fn batches(conn: &mut PgConnection, retain_secs: f64, limit: i64) -> (u64, u64) {
    let (mut deleted, mut batches) = (0, 0);
    let mut after = Some(Cursor::default());
    while let Some(cursor) = after {
        let (went, next) = purge::orders(conn, retain_secs, cursor, limit).await.unwrap();
        deleted += went;
        batches += 1;
        after = next;
    }
    (deleted, batches)
}

async fn column(conn: &mut PgConnection, query: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(conn).await.unwrap()
}

#[tokio::test]
async fn old_orders_go_with_all_that_hangs_on_them_and_the_rest_stays() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let active = domain(&mut conn, "active.example.com", "active").await;
    let failed = domain(&mut conn, "failed.example.com", "failed").await;
    let verified = domain(&mut conn, "verified.example.com", "verified").await;
    let pending = domain(&mut conn, "pending.example.com", "certificate_pending").await;
    let old = [
        order(&mut conn, active, "failed", Some("ca_refused")).await,
        order(&mut conn, active, "issued", None).await,
        order(&mut conn, failed, "cancelled", Some("cancelled_by_operator")).await,
        order(&mut conn, verified, "failed", Some("record_not_seen")).await,
    ];
    let shown_as_failure = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let never_placed = order(&mut conn, failed, "failed", Some("rate_limited")).await;
    let unplaced =
        "UPDATE orders SET directory = NULL, acme_url = NULL, placed_at = NULL, deadline_at = NULL WHERE public_id = ";
    sql(&mut conn, &format!("{unplaced}'{never_placed}'")).await;
    let young = order(&mut conn, active, "failed", Some("ca_refused")).await;
    let untidy = order(&mut conn, verified, "cancelled", Some("cancelled_by_operator")).await;
    let with_job = order(&mut conn, verified, "failed", Some("internal")).await;
    job(&mut conn, &with_job, "parked_at", "now()").await;
    let open = order(&mut conn, pending, "presented", None).await;
    for id in old.iter().chain([&shown_as_failure, &never_placed, &untidy, &with_job]) {
        age(&mut conn, id, 366).await;
    }
    age(&mut conn, &young, 365).await;
    sql(&mut conn, &format!("UPDATE orders SET cleaned_up_at = NULL WHERE public_id = '{untidy}'")).await;
    let retries = format!(
        "UPDATE orders SET retry_of = (SELECT id FROM orders WHERE public_id = '{}') WHERE public_id IN ('{young}', '{}')",
        old[0], old[1]
    );
    sql(&mut conn, &retries).await;
    sql(
        &mut conn,
        "INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value)
         SELECT id, domain_id, 'x.example.com', acme_url || '/a', acme_url || '/c', 'token', repeat('x', 43)
         FROM orders WHERE acme_url IS NOT NULL",
    )
    .await;

    assert_eq!(batches(&mut conn, 2.0 * YEAR, 100).await, (0, 1));
    // Seven are old enough and tidy; what stays is read once and not again.
    assert_eq!(batches(&mut conn, YEAR, 2).await, (5, 4), "batches of two, and those that stay are in them");
    assert_eq!(batches(&mut conn, YEAR, 100).await, (0, 1));
    let kept = column(&mut conn, "SELECT public_id FROM orders ORDER BY id").await;
    assert_eq!(kept, [&shown_as_failure, &young, &untidy, &with_job, &open].map(Clone::clone));
    let orphans = "SELECT count(*)::text FROM order_events UNION ALL SELECT count(*)::text FROM authorizations";
    assert_eq!(column(&mut conn, orphans).await, ["5", "5"]);
    let certificates = "SELECT state FROM certificates ORDER BY id";
    assert_eq!(
        column(&mut conn, certificates).await,
        ["issued", "failed", "failed", "cancelled", "failed", "requesting"]
    );
    assert_eq!(column(&mut conn, "SELECT public_id FROM orders WHERE retry_of IS NOT NULL").await, [""; 0]);
    assert_eq!(column(&mut conn, "SELECT name FROM domains").await.len(), 4);
}

#[tokio::test]
async fn deleted_domains_go_whole_once_they_are_cleaned_up_and_nobody_elses_rows_with_them() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let neighbour = domain(&mut conn, "neighbour.example.com", "active").await;
    order(&mut conn, neighbour, "failed", Some("ca_refused")).await;
    order(&mut conn, neighbour, "issued", None).await;
    let before = everything(&url).await;
    let deleted = async |conn: &mut PgConnection, label: &str, state: Option<&str>| -> Option<String> {
        let id =
            domain(conn, &format!("{label}.example.com"), if state.is_some() { "active" } else { "pending" }).await;
        let order = match state {
            Some(state) => Some(order(conn, id, state, (state != "issued").then_some("domain_deleted")).await),
            None => None,
        };
        sql(conn, &format!("UPDATE domains SET deleted_at = now() WHERE id = {id}")).await;
        order
    };
    deleted(&mut conn, "without-orders", None).await;
    deleted(&mut conn, "issued", Some("issued")).await;
    deleted(&mut conn, "cancelled", Some("cancelled")).await;
    assert_eq!(purge::domains(&mut conn, 2).await.unwrap(), 2, "a batch is no larger than it may be");
    assert_eq!(purge::domains(&mut conn, 100).await.unwrap(), 1);
    assert_eq!(everything(&url).await, before);

    let untidy = deleted(&mut conn, "untidy", Some("cancelled")).await.unwrap();
    sql(&mut conn, &format!("UPDATE orders SET cleaned_up_at = NULL WHERE public_id = '{untidy}'")).await;
    let parked = deleted(&mut conn, "parked", Some("cancelled")).await.unwrap();
    job(&mut conn, &parked, "parked_at", "now()").await;
    // Something of it may still live at the CA, which must be known for whose it was.
    let left_over = deleted(&mut conn, "left-over", Some("cancelled")).await.unwrap();
    sql(
        &mut conn,
        &format!(
            r#"INSERT INTO order_events (order_id, event, state, actor, detail)
               SELECT id, 'cleaned_up', state, 'worker-1', '{{"finding": "the CA was away"}}' FROM orders WHERE public_id = '{left_over}'"#
        ),
    )
    .await;
    assert_eq!(purge::domains(&mut conn, 100).await.unwrap(), 0);
    age(&mut conn, &untidy, 1).await;
    sql(&mut conn, "DELETE FROM jobs WHERE order_id IS NOT NULL").await;
    age(&mut conn, &left_over, 89).await;
    assert_eq!(purge::domains(&mut conn, 100).await.unwrap(), 2);
    age(&mut conn, &left_over, 91).await;
    assert_eq!(purge::domains(&mut conn, 100).await.unwrap(), 1);
    assert_eq!(everything(&url).await, before);
}

#[tokio::test]
async fn what_nobody_issues_for_thirty_days_is_given_up_and_its_certificate_can_be_renewed_again() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let shop = domain(&mut conn, "shop.example.com", "active").await;
    let issued = order(&mut conn, shop, "issued", None).await;
    order(&mut conn, shop, "cancelled", Some("cancelled_by_operator")).await;
    let query = "SELECT certificate_id FROM orders WHERE public_id = $1";
    let old: i64 = sqlx::query_scalar(query).bind(&issued).fetch_one(&mut conn).await.unwrap();
    let mut renewed = 0;
    let mut renew = async |conn: &mut PgConnection| {
        renewed += 1;
        let public_id = PublicId::from_random([renewed; 16]);
        let new = NewRenewal {
            old_certificate_id: old,
            public_id: &public_id,
            algorithm: None,
            auto_renew: false,
            is_automatic: false,
        };
        renewals::insert(conn, &new).await.unwrap()
    };
    let idle = renew(&mut conn).await;
    for (name, days) in [("idle", 31), ("young", 29)] {
        let names = CertificateNames {
            name: name.to_owned(),
            common_name: format!("{name}.shop.example.com"),
            alternate_names: Vec::new(),
        };
        let public_id = PublicId::from_random([days; 16]);
        let algorithm = KeyAlgorithm::EcdsaP256;
        let new = ordered::insert(&mut conn, &public_id, shop, &names, algorithm, false).await.unwrap();
        let age = format!("UPDATE certificates SET created_at = now() - interval '{days} days' WHERE id = {}", new.id);
        sql(&mut conn, &age).await;
    }
    assert_eq!(ordered::cancel_idle(&mut conn, 10).await.unwrap(), 1);
    assert_eq!(renewals::renewable(&mut conn, old).await.unwrap(), Renewable::Underway);
    let age = format!(
        "UPDATE certificates SET created_at = now() - interval '31 days' WHERE id = {} OR state = 'issued'",
        idle.new_certificate_id
    );
    sql(&mut conn, &age).await;
    // Somebody is about to start the renewal, whose row is locked first: nobody waits for it with the lock that comes second.
    let mut starting = connect(&url).await;
    sql(&mut starting, "BEGIN").await;
    sql(&mut starting, "SELECT id FROM renewals FOR UPDATE").await;
    sql(&mut conn, "SET lock_timeout = '1s'").await;
    assert_eq!(ordered::cancel_idle(&mut conn, 10).await.unwrap(), 0);
    sql(&mut starting, "ROLLBACK").await;
    assert_eq!(ordered::cancel_idle(&mut conn, 10).await.unwrap(), 1);
    assert_eq!(ordered::cancel_idle(&mut conn, 10).await.unwrap(), 0);
    let states = "SELECT state FROM certificates ORDER BY id";
    assert_eq!(column(&mut conn, states).await, ["issued", "cancelled", "cancelled", "cancelled", "new"]);
    assert!(!renewals::start(&mut conn, idle.id).await.unwrap());
    assert_eq!(renewals::renewable(&mut conn, old).await.unwrap(), Renewable::Yes);
    renew(&mut conn).await;
    assert_eq!(column(&mut conn, "SELECT state FROM renewals ORDER BY id").await, ["cancelled", "new"]);

    assert_eq!(ordered::purge_cancelled(&mut conn, YEAR, 10).await.unwrap(), 0);
    sql(&mut conn, "UPDATE certificates SET updated_at = now() - interval '366 days'").await;
    assert_eq!(ordered::purge_cancelled(&mut conn, YEAR, 1).await.unwrap(), 1);
    assert_eq!(ordered::purge_cancelled(&mut conn, YEAR, 10).await.unwrap(), 1);
    assert_eq!(column(&mut conn, states).await, ["issued", "cancelled", "new", "new"], "one has an order");
    assert_eq!(column(&mut conn, "SELECT state FROM renewals").await, ["new"]);
}

#[tokio::test]
async fn idempotency_keys_are_forgotten_after_a_day() {
    let mut conn = connect(&migrated().await).await;
    for key in ["old", "older", "young"] {
        let of = KeyOf { caller: "domains", path: "path", key };
        let Begun::Run(run) = idempotency_keys::begin(&mut conn, &of, &[7; 32], 30.0).await.unwrap() else {
            panic!("{key} is taken");
        };
        assert!(idempotency_keys::keep(&mut conn, &of, run, 201, b"{}").await.unwrap());
    }
    let age = "UPDATE idempotency_keys SET created_at = now() - CASE key WHEN 'young' THEN interval '23 hours' ELSE interval '25 hours' END";
    sql(&mut conn, age).await;
    assert_eq!(idempotency_keys::purge(&mut conn, 1).await.unwrap(), 1);
    assert_eq!(idempotency_keys::purge(&mut conn, 10).await.unwrap(), 1);
    assert_eq!(column(&mut conn, "SELECT key FROM idempotency_keys").await, ["young"]);
}

/// Makes the purge due, waits until it has run, and returns what it says it found.
async fn purged(pool: &PgPool) -> Value {
    const RUN: &str = "SELECT last_result FROM jobs
                       WHERE kind = 'purge' AND leased_by IS NULL AND due_at > now() + interval '10 minutes'";
    let at_rest = async || sqlx::query_scalar::<_, Option<Value>>(RUN).fetch_optional(pool).await.unwrap();
    waiting::poll(SOON, at_rest).await.expect("the purge of the start has not come to an end");
    sqlx::query("UPDATE jobs SET due_at = now() WHERE kind = 'purge'").execute(pool).await.unwrap();
    waiting::poll(SOON, at_rest).await.flatten().expect("the purge has not run")
}

#[tokio::test]
async fn the_scheduled_purge_goes_on_until_nothing_old_is_left() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let shop = domain(&mut conn, "shop.example.com", "verified").await;
    let first = order(&mut conn, shop, "failed", Some("ca_refused")).await;
    age(&mut conn, &first, 400).await;
    for statement in [
        "INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, ended_at, cleaned_up_at, problem)
         SELECT md5('order' || n), o.domain_id, o.certificate_id, 'challenge', 'failed', o.ended_at, o.ended_at, o.problem
         FROM orders o, generate_series(1, 1200) AS n",
        "INSERT INTO order_events (order_id, event, state, actor) SELECT id, 'gave_up', 'failed', 'worker-1' FROM orders",
        "INSERT INTO domains (public_id, name, supplied_name, verification_token, deleted_at)
         SELECT md5('domain' || n), 'shop-' || n || '.example.com', 'shop', repeat(md5(n::text), 2), now()
         FROM generate_series(1, 1100) AS n",
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, created_at)
         SELECT md5('idle' || n), d.id, 'order', 'new', 'rsa2048', 'www', 'www.shop.example.com', now() - interval '31 days'
         FROM domains d, generate_series(1, 1100) AS n WHERE d.deleted_at IS NULL",
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, updated_at)
         SELECT md5('given up' || n), d.id, 'order', 'cancelled', 'rsa2048', 'www', 'www.shop.example.com', now() - interval '2 years'
         FROM domains d, generate_series(1, 1100) AS n WHERE d.deleted_at IS NULL",
        "INSERT INTO idempotency_keys (caller, path, key, request_sha256, runs_until, created_at)
         SELECT 'domains', 'path', n::text, sha256(''), now(), now() - interval '25 hours' FROM generate_series(1, 1100) AS n",
    ] {
        sql(&mut conn, statement).await;
    }
    let programs = Programs::new();
    let (settings, ready) = service(&url);
    programs.start("worker", "countersign-worker", &[], &settings);
    programs.serves("worker", &ready).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_events) + (SELECT count(*) FROM certificates WHERE created_at > now() - interval '1 day')
                     + (SELECT count(*) FROM certificates WHERE state = 'new') + (SELECT count(*) FROM idempotency_keys)
                     + (SELECT count(*) FROM domains WHERE deleted_at IS NOT NULL)";
    let all_gone = async || (sqlx::query_scalar::<_, i64>(left).fetch_one(&pool).await.unwrap() == 0).then_some(());
    assert!(waiting::poll(SOON, all_gone).await.is_some(), "{}", programs.output("worker"));
    let again = purged(&pool).await;
    assert_eq!((&again["orders"], &again["domains"]), (&json!(0), &json!(0)));
    assert_eq!(column(&mut conn, "SELECT name FROM domains").await, ["shop.example.com"]);
}

#[tokio::test]
async fn after_a_purge_failures_can_be_retried_certificates_are_there_and_deleted_domains_are_gone() {
    let stack = fronted().start().await;
    let mut conn = connect(&stack.database_url()).await;
    let active = stack.active_domain("active.example.com").await;
    let mut orders = Vec::new();
    for label in ["failed", "retried"] {
        let (domain, order) = stack.pending_domain(&format!("{label}.example.com")).await;
        let expire = format!(
            "UPDATE orders SET deadline_at = now(), revision = revision + 1 WHERE public_id = '{}'",
            order.order_id
        );
        sql(&mut conn, &expire).await;
        fails(&stack, &domain, ProblemCode::RecordNotSeen).await;
        orders.push((domain, order));
    }
    let [(failed, failed_order), (retried, retried_order)] = <[_; 2]>::try_from(orders).unwrap();
    let retry = stack.api().retry(&retried.id).await;
    let deleted = stack.active_domain("deleted.example.com").await;
    stack.front().hold(Kind::Deactivation);
    stack.api().delete(&deleted.id).await;
    arrives(&stack, Kind::Deactivation, 1).await;
    let ended =
        sql(&mut conn, "UPDATE orders SET ended_at = now() - interval '2 years' WHERE ended_at IS NOT NULL").await;
    assert_eq!(ended, 4);
    is_cleaned_up(&stack, &active.id).await;
    let failure = stack.api().fetch(&failed.id).await.more["failure"]["detail"].clone();

    let found = purged(stack.pool()).await;
    assert_eq!((&found["orders"], &found["domains"]), (&json!(2), &json!(0)));
    ctl_on(&stack, &["orders", "show", &retried_order.order_id]).await.ended(3);
    let shown = ctl_on(&stack, &["orders", "show", &retry.order_id, "--json"]).await.ended(0).json();
    assert_eq!((&shown["retry_of"], &shown["state"]), (&Value::Null, &json!("presented")));
    assert_eq!(certificates_stored(&stack, &deleted.id).await, 1, "it went before its clean-up");

    stack.front().release();
    is_cleaned_up(&stack, &deleted.id).await;
    let found = purged(stack.pool()).await;
    assert_eq!(found["domains"], 1);
    assert_eq!(column(&mut conn, "SELECT name FROM domains WHERE deleted_at IS NOT NULL").await, [""; 0]);

    assert_eq!(stack.api().fetch(&active.id).await.status, "active");
    stack.api().certificate(&active.id).await;
    let now = stack.api().fetch(&failed.id).await;
    assert_eq!((now.status.as_str(), &now.more["failure"]["detail"]), ("failed", &failure));
    let again = stack.api().retry(&failed.id).await;
    assert_eq!(again.expected_txt_value, failed_order.expected_txt_value);
    for (domain, order) in [(&failed, &again), (&retried, &retry)] {
        publish_alone(&stack, order).await;
        stack.becomes_active(&domain.id).await;
    }
    stack.finish().await;
}

#[tokio::test]
async fn replaced_settings_of_presenters_go_once_no_order_needs_them() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let shop = domain(&mut conn, "shop.example.com", "verified").await;
    let (needed, in_force) = (order(&mut conn, shop, "failed", Some("ca_refused")).await, "'manual', NULL");
    let config = async |conn: &mut PgConnection, kind_and_replaced: &str| {
        let insert = "INSERT INTO presenter_configs (account_id, kind, replaced_at) VALUES (1, ";
        let query = format!("{insert}{kind_and_replaced}) RETURNING id");
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(conn).await.unwrap()
    };
    let of_an_order = config(&mut conn, "'webhook', now() - interval '3 days'").await;
    sql(&mut conn, &format!("UPDATE orders SET presenter_config_id = {of_an_order} WHERE public_id = '{needed}'"))
        .await;
    let of_today = config(&mut conn, "'webhook', now() - interval '23 hours'").await;
    let current = config(&mut conn, in_force).await;
    for _ in 0..3 {
        config(&mut conn, "'webhook', now() - interval '25 hours'").await;
    }
    assert_eq!(presenter_configs::purge(&mut conn, 2).await.unwrap(), 2);
    assert_eq!(presenter_configs::purge(&mut conn, 100).await.unwrap(), 1);
    let left = column(&mut conn, "SELECT id::text FROM presenter_configs ORDER BY id").await;
    assert_eq!(left, [of_an_order, of_today, current].map(|id| id.to_string()));
    // A domain that goes takes its own along, and what was proposed for it.
    sql(&mut conn, &format!("UPDATE presenter_configs SET domain_id = {shop} WHERE id = {of_an_order}")).await;
    let proposal = format!(
        "INSERT INTO presenter_proposals (account_id, domain_id, trial_domain_id, settings) VALUES (1, {shop}, {shop}, '{{}}')"
    );
    sql(&mut conn, &proposal).await;
    sql(&mut conn, "INSERT INTO jobs (kind, proposal_id, lane) SELECT 'try-presenter', id, 2 FROM presenter_proposals")
        .await;
    sql(&mut conn, &format!("UPDATE domains SET deleted_at = now() WHERE id = {shop}")).await;
    assert_eq!(purge::domains(&mut conn, 100).await.unwrap(), 1);
    let left = column(&mut conn, "SELECT id::text FROM presenter_configs ORDER BY id").await;
    assert_eq!(left, [of_today, current].map(|id| id.to_string()));
    assert!(column(&mut conn, "SELECT kind FROM jobs WHERE kind = 'try-presenter'").await.is_empty());
}
