//! What a version left in the database: rows of orders in every state, jobs of every kind, keys in the clear. The
//! programs of now carry all of it to its end.

use countersign_tests::api_client::Domain;
use countersign_tests::receiver::Receiver;
use countersign_tests::release::{CA, RECEIVER, Release};
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, Account, ctl};
use rcgen::{KeyPair, PublicKeyData as _};
use sqlx::{AssertSqlSafe, PgConnection};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::acme::Acme;
use crate::databases::connect;
use crate::facts::SOON;

/// The states that an order has left, as words of SQL.
const RESPONDED: [&str; 4] = ["responded", "authorized", "prepared", "finalizing"];

/// An order that the CA of the older version knew.
#[derive(sqlx::FromRow)]
struct Placed {
    id: i64,
    state: String,
    domain: String,
    names: Vec<String>,
    csr: Option<String>,
}

const PLACED: &str = "
    SELECT o.id, o.state, d.name AS domain, c.csr,
        array_agg(CASE WHEN a.wildcard THEN '*.' ELSE '' END || a.identifier ORDER BY a.identifier) AS names
    FROM orders o JOIN domains d ON d.id = o.domain_id JOIN certificates c ON c.id = o.certificate_id
        JOIN authorizations a ON a.order_id = o.id
    WHERE o.state NOT IN ('issued', 'failed', 'cancelled') GROUP BY o.id, d.name, c.csr";

/// As if it had been written a moment ago.
async fn fill(connection: &mut PgConnection, rows: &str, ca: &str, receiver: &str) {
    let taken_at = rows.lines().find_map(|line| line.strip_prefix("-- taken at ")).unwrap();
    let rows = rows.replace(CA, ca).replace(RECEIVER, receiver);
    let of_ours =
        "SELECT format('%I', relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                   AND relname <> '_sqlx_migrations'";
    let tables: Vec<String> = sqlx::query_scalar(of_ours).fetch_all(&mut *connection).await.unwrap();
    let empty = format!("TRUNCATE {}", tables.join(", "));
    let times = "SELECT format('UPDATE %I SET %s;', c.relname, string_agg(
                     format('%1$I = %1$I + (now() - $then$THEN$then$)', a.attname), ', '))
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> '_sqlx_migrations'
                    AND a.atttypid = 'timestamptz'::regtype AND NOT a.attisdropped GROUP BY c.relname";
    let times: Vec<String> = sqlx::query_scalar(times).fetch_all(&mut *connection).await.unwrap();
    let later = times.concat().replace("$then$THEN$then$", &format!("timestamptz '{taken_at}'"));
    let all =
        format!("{empty}; {rows}; SET session_replication_role = replica; {later} RESET session_replication_role;");
    sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut *connection).await.unwrap();
}

/// Brings the CA, which is a new one, to where the older version's had been with each open order.
async fn tell_the_ca(stack: &Stack, connection: &mut PgConnection) {
    let key: String =
        sqlx::query_scalar("SELECT private_key_pem FROM acme_accounts").fetch_one(&mut *connection).await.unwrap();
    let acme = Acme::register(stack, &key).await;
    sqlx::query("UPDATE acme_accounts SET kid = $1").bind(&acme.kid).execute(&mut *connection).await.unwrap();
    let placed: Vec<Placed> = sqlx::query_as(PLACED).fetch_all(&mut *connection).await.unwrap();
    assert!(placed.len() >= 8, "only {} open orders were placed", placed.len());
    for Placed { id, state, domain, names, csr } in placed {
        let (url, authorizations) = acme.order(&names).await;
        sqlx::query("UPDATE orders SET acme_url = $1 WHERE id = $2")
            .bind(&url)
            .bind(id)
            .execute(&mut *connection)
            .await
            .unwrap();
        for authorization in &authorizations {
            let told = "UPDATE authorizations SET url = $1, challenge_url = $2, token = $3, txt_value = $4
                        WHERE order_id = $5 AND identifier = $6 AND wildcard = $7";
            let told = sqlx::query(told).bind(&authorization.url).bind(&authorization.challenge_url);
            let told = told.bind(&authorization.token).bind(&authorization.txt_value);
            let told = told.bind(id).bind(&authorization.identifier).bind(authorization.wildcard);
            assert_eq!(told.execute(&mut *connection).await.unwrap().rows_affected(), 1, "{domain}");
            // Published already, by the customer or by the older version.
            if state != "placed" && domain.split('.').next() == Some(&*state) && state != "presented" {
                let record = format!("_acme-challenge.{}", authorization.identifier);
                stack.dns().set_txt(&record, &authorization.txt_value).await.unwrap();
            }
        }
        if RESPONDED.contains(&&*state) {
            acme.respond(&url, &authorizations).await;
        }
        if state == "finalizing" {
            acme.finalize(&url, &csr.expect("a CSR was sent")).await;
        }
    }
}

async fn domain(stack: &Stack, label: &str) -> Domain {
    let query =
        sqlx::query_scalar("SELECT public_id FROM domains WHERE name = $1").bind(format!("{label}.example.com"));
    let id: String = query.fetch_one(stack.pool()).await.unwrap();
    stack.api().fetch(&id).await
}

async fn text(stack: &Stack, query: &'static str) -> String {
    let text: Option<String> = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    text.unwrap_or_default()
}

/// The customer publishes what the older version has told, which the new one shows again.
async fn publish(stack: &Stack, label: &str) -> Domain {
    let domain = domain(stack, label).await;
    let [owner, value] = ["challenge_domain", "expected_txt_value"].map(|field| domain.more[field].as_str().unwrap());
    stack.dns().set_txt(owner, value).await.unwrap();
    domain
}

const KINDS: &str = "SELECT string_agg(DISTINCT kind, ' ' ORDER BY kind) FROM jobs";
const STATES: &str = "SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM orders WHERE cleaned_up_at IS NULL";
const OLD_KEYS: &str =
    "SELECT string_agg(c.private_key_pem, '' ORDER BY d.name) FROM certificates c JOIN domains d ON d.id = c.domain_id
    WHERE d.name IN ('prepared.example.com', 'finalizing.example.com', 'active.example.com')";

#[tokio::test]
async fn what_the_version_before_left_is_carried_to_its_end() {
    for release in Release::all().unwrap() {
        carry_on(&release).await;
    }
}

async fn carry_on(release: &Release) {
    let receiver = Receiver::start().unwrap();
    let replicas = ["api-1", "worker-1", "worker-2", "dns-1"];
    let stack = Stack::builder().workers(2).responders(1).setting("LEASE_FOR", "2s").setting("POLL_TIMEOUT", "1h");
    let stack = stack
        .setting("WEBHOOK_ALLOW_PRIVATE", "true")
        .setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string());
    let stack = replicas.iter().fold(stack, |stack, replica| stack.not_yet(replica)).start().await;
    receiver.publish_at(stack.dns(), "/dns");

    let mut connection = connect(&stack.database_url()).await;
    release.migrate(&mut connection).await.unwrap();
    let ca = stack.ca().directory();
    let receivers = receiver.url("");
    fill(&mut connection, &release.rows().unwrap(), ca.strip_suffix("/dir").unwrap(), receivers.trim_end_matches('/'))
        .await;
    assert_eq!(text(&stack, KINDS).await, "deliver-event poll-challenge purge renew-due sweep try-presenter");
    let open = "accepted authorized cancelled confirmed finalizing issued placed prepared presented responded";
    assert_eq!(text(&stack, STATES).await, open);
    tell_the_ca(&stack, &mut connection).await;
    let keys = text(&stack, OLD_KEYS).await;
    let parked =
        text(&stack, "SELECT o.public_id FROM orders o JOIN jobs j ON j.order_id = o.id WHERE j.parked_at IS NOT NULL")
            .await;

    ctl(stack.plan(), &["migrate"]).unwrap();
    for replica in replicas {
        stack.restart(replica).await;
    }
    publish(&stack, "presented").await;
    publish(&stack, "parked").await;
    ctl(stack.plan(), &["orders", "retry", &parked]).unwrap();
    let failed = domain(&stack, "failed").await;
    assert_eq!(failed.status, "failed");
    stack.publish_value(&stack.api().retry(&failed.id).await).await;
    let ours =
        ["presented", "parked", "confirmed", "responded", "prepared", "finalizing", "issued", "active", "failed"];
    for label in ours {
        stack.becomes(&domain(&stack, label).await.id, "active", 2 * SOON).await;
    }
    // What was asked for through /v2: new ones, one with two names, one with a wildcard and an ECDSA key, and a
    // successor.
    let all_done = async || {
        let open =
            "SELECT string_agg(d.name || ' ' || o.state, ', ') FROM orders o JOIN domains d ON d.id = o.domain_id
                    WHERE o.cleaned_up_at IS NULL OR (o.state NOT IN ('issued', 'cancelled')
                        AND d.name NOT LIKE 'failed.%' AND d.name NOT LIKE 'blocked.%')";
        text(&stack, open).await.is_empty().then_some(())
    };
    stack.wait_until("no order is open, and all is cleaned up", 2 * SOON, all_done).await;
    assert_eq!(text(&stack, "SELECT string_agg(state, ' ' ORDER BY id) FROM renewals").await, "renewed renewed");

    // Its keys have become certificates, and those that had one are still there.
    assert!(text(&stack, OLD_KEYS).await == keys, "another key is stored");
    let pairs: Vec<(String, String)> =
        sqlx::query_as("SELECT private_key_pem, certificate_pem FROM certificates WHERE state = 'issued'")
            .fetch_all(stack.pool())
            .await
            .unwrap();
    assert!(pairs.len() >= 15, "only {} certificates", pairs.len());
    for (key, chain) in pairs {
        let pem = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap().1;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(certificate.public_key().raw, KeyPair::from_pem(&key).unwrap().subject_public_key_info());
    }

    // Its events arrive, with its signature, and its proposal is tried.
    sqlx::raw_sql("UPDATE jobs SET due_at = now() WHERE kind = 'deliver-event' AND leased_by IS NULL")
        .execute(stack.pool())
        .await
        .unwrap();
    let scheduled_only = async || (text(&stack, KINDS).await == "purge renew-due sweep").then_some(());
    stack.wait_until("the jobs of every other kind are done", 2 * SOON, scheduled_only).await;
    let told = receiver.received("/hook");
    assert!(told.iter().any(|event| !event.header("webhook-signature").is_empty()), "{} events", told.len());
    let in_force =
        "SELECT string_agg(d.name, ' ' ORDER BY d.name) FROM presenter_configs p JOIN domains d ON d.id = p.domain_id
                    WHERE p.replaced_at IS NULL AND NOT EXISTS (SELECT FROM presenter_proposals)";
    assert_eq!(text(&stack, in_force).await, "confirmed.example.com renewed.example.com", "the proposal was tried");
    assert!(receiver.received("/dns/cleanup").len() >= 2, "of the trial, and of what the older version had published");

    // Its idempotency key answers again, and its accounts are whose they were.
    let again = stack.api().request(reqwest::Method::POST, "/domains").header("idempotency-key", "of-the-old-release");
    let again =
        stack.api().send(again.json(&serde_json::json!({ "domain_name": "pending.example.com" }))).await.unwrap();
    assert_eq!(again.expect(201)["domain_name"], "pending.example.com");
    let account: i64 = sqlx::query_scalar("SELECT max(id) FROM accounts").fetch_one(stack.pool()).await.unwrap();
    let token = stack.token(Account { id: account }, ALL_SCOPES);
    let api = stack.api().with_token(Some(&token.secret));
    let path = format!("/v2/{account}/domains/renewed.example.com/certificates");
    let listed = api.send(api.request(reqwest::Method::GET, &path)).await.unwrap().expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    stack.finish().await;
}
