//! What the rows hold with a ring, and rings that do not fit the rows.

use countersign_tests::receiver::Receiver;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use reqwest::Method;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{ctl, held, key, sql};
use crate::databases::{connect, migrated};
use crate::schema::{Programs, refused};
use crate::webhooks::hooked;

const DIRECTORY: &str = "https://ca.example/directory";
const WEBHOOK_SECRET: &str = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5";
const PRESENTER_SECRET: &str = "canary-of-a-presenter";

#[tokio::test]
async fn with_a_ring_no_secret_is_plain_in_any_row_and_what_it_is_for_works() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("ENCRYPTION_KEYS", key("k1")).start().await;
    let token = stack.token(DEFAULT, ALL_SCOPES).secret;
    let api = stack.api().with_token(Some(&token));
    let hook = json!({ "url": receiver.url("/hook"), "secret": WEBHOOK_SECRET });
    api.send(api.request(Method::POST, "/v2/1/webhooks").json(&hook)).await.unwrap().expect(201);
    stack.active_domain("shop.example.com").await;
    // Proposed, tried and put in force by a worker: sealed for one row, then for another.
    receiver.publish_at(stack.dns(), "/dns");
    let presenter = json!({ "kind": "webhook", "url": receiver.url("/dns"), "secret": PRESENTER_SECRET });
    let path = "/v2/1/domains/shop.example.com/presenter";
    api.send(api.request(Method::PUT, path).json(&presenter)).await.unwrap().expect(202);
    let in_force = async || {
        let shown = api.send(api.request(Method::GET, path)).await.unwrap().expect(200);
        (shown["data"]["in_force"]["has_secret"] == true).then_some(())
    };
    stack.wait_until("the presenter is in force", crate::facts::SOON, in_force).await;
    let sent = receiver.received("/dns/present").pop().unwrap();
    assert_eq!(sent.header("authorization"), format!("Bearer {PRESENTER_SECRET}"));
    let signed = async || receiver.received("/hook").pop();
    let delivery = stack.wait_until("an event has come", crate::facts::SOON, signed).await;
    assert!(delivery.header("webhook-signature").starts_with("v1,"));

    let listed = api.send(api.request(Method::GET, "/v2/1/domains/shop.example.com/certificates")).await.unwrap();
    let id = listed.expect(200)["data"][0]["id"].as_i64().unwrap();
    let path = format!("/v2/1/domains/shop.example.com/certificates/{id}/private_key");
    let shown = api.send(api.request(Method::GET, &path)).await.unwrap().expect(200);
    let pem = shown["data"]["private_key"].as_str().unwrap();
    let (csr,): (String,) =
        sqlx::query_as("SELECT csr FROM certificates WHERE id = $1").bind(id).fetch_one(stack.pool()).await.unwrap();
    assert!(is_key_of(pem, &csr), "the key that is shown is not that of the certificate");

    let url = stack.database_url();
    assert_eq!(held(&url, &["k1"]).await, (0, vec![4]), "account, certificate, presenter, webhook");
    let tables = "SELECT table_name::text FROM information_schema.tables
                  WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(stack.pool()).await.unwrap();
    for table in tables {
        let rows = AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        for row in sqlx::query_scalar::<_, String>(rows).fetch_all(stack.pool()).await.unwrap() {
            for secret in ["PRIVATE KEY", WEBHOOK_SECRET, PRESENTER_SECRET] {
                assert!(!row.contains(secret), "{table} holds {secret} plain");
            }
        }
    }
    for log in ["api-1", "worker-1"] {
        assert!(!stack.log(log).contains("unencrypted"), "{log} warns of what is not so");
    }
    stack.finish().await;
}

/// Whether the modulus of an RSA key (PKCS#1) is in the CSR.
fn is_key_of(key_pem: &str, csr_pem: &str) -> bool {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateSigningRequestDer, PrivatePkcs1KeyDer};
    let key = PrivatePkcs1KeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let csr = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).unwrap();
    // version (3 octets after the header of 4), then the modulus: its header of 4, a sign octet, 256 octets.
    let modulus = &key.secret_pkcs1_der()[12..268];
    csr.windows(modulus.len()).any(|part| part == modulus)
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_refused_at_the_start_and_nothing_is_written() {
    let url = migrated().await;
    let (first, second, impostor) = (key("k1"), key("k2"), key("k1"));
    let programs = Programs::new();
    let pem = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap().serialize_pem();
    let file = programs.file("account.pem", &pem);
    let kid = "https://ca.example/account/1";
    let import = ["acme-account", "import", "--acme-directory", DIRECTORY, "--key-file", &file, "--kid", kid];
    ctl(&url, &first, &import).await.ended(0);
    assert_eq!(held(&url, &["k1"]).await, (0, vec![1]));
    let rows = "SELECT encode(private_key_sealed, 'hex') || (SELECT string_agg(k::text, '') FROM encryption_keys k)
                FROM acme_accounts";
    let before: String = sqlx::query_scalar(rows).fetch_one(&mut connect(&url).await).await.unwrap();

    for (ring, reason) in [
        (String::new(), "sealed with the key `k1`, which ENCRYPTION_KEYS lacks"),
        ("plain".to_owned(), "sealed with the key `k1`, which ENCRYPTION_KEYS lacks"),
        (second.clone(), "sealed with the key `k1`, which ENCRYPTION_KEYS lacks"),
        (impostor.clone(), "the key `k1` of ENCRYPTION_KEYS is not the key of that id"),
        (format!("{second},{impostor}"), "the key `k1` of ENCRYPTION_KEYS is not the key of that id"),
        ("k1:c2hvcnQ=".to_owned(), "key `k1` of ENCRYPTION_KEYS is not the base64 of 32 bytes"),
        (format!("{first},{first}"), "names the key `k1` twice"),
        (",".to_owned(), "ENCRYPTION_KEYS holds no key"),
    ] {
        for said in refused(&url, &[("ENCRYPTION_KEYS", ring.clone())]).await {
            assert!(said.contains(reason), "{said}");
            assert!(!said.contains(&first[3..]) && !said.contains("c2hvcnQ"), "a key is shown: {said}");
        }
        for verb in [&["keys", "seal"][..], &["keys", "rotate"], &import] {
            let said = ctl(&url, &ring, verb).await.ended(1);
            assert!(said.err.contains(reason), "{}", said.err);
        }
    }
    let after: String = sqlx::query_scalar(rows).fetch_one(&mut connect(&url).await).await.unwrap();
    assert!(before == after, "a refused program has written");

    // The same bytes under the right id, wherever they stand, are right.
    let both = format!("{second},{first}");
    ctl(&url, &both, &["keys", "rotate"]).await.ended(0);
    assert_eq!(held(&url, &["k1", "k2"]).await, (0, vec![0, 1]));
    // Of a key that has sealed nothing yet, the first bytes that come are the right ones, wherever it stands in the ring.
    let third = key("k3");
    ctl(&url, &format!("{second},{third}"), &["keys", "seal"]).await.ended(0);
    assert_eq!(held(&url, &["k2", "k3"]).await, (0, vec![1, 0]));
    let wrong = format!("{second},{}", key("k3"));
    for said in refused(&url, &[("ENCRYPTION_KEYS", wrong.clone())]).await {
        assert!(said.contains("the key `k3` of ENCRYPTION_KEYS is not the key of that id"), "{said}");
    }
    ctl(&url, &wrong, &["keys", "seal"]).await.ended(1);
    // Verbs that only read announce nothing.
    let fourth = format!("{second},{}", key("k4"));
    ctl(&url, &fourth, &["acme-account", "show", "--offline"]).await.ended(0);
    ctl(&url, &fourth, &["keys", "seal", "--dry-run"]).await.ended(0);
    let announced = "SELECT count(*) FROM encryption_keys WHERE id = 'k4'";
    let announced: i64 = sqlx::query_scalar(announced).fetch_one(&mut connect(&url).await).await.unwrap();
    assert_eq!(announced, 0, "a verb that reads has written");
    // k1 is not needed any more, and its id never means another key.
    ctl(&url, &second, &["keys", "seal"]).await.ended(0);
    ctl(&url, &format!("{second},{impostor}"), &["keys", "seal"]).await.ended(1);
}

#[tokio::test]
async fn a_row_takes_one_form_of_its_secret() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let sealed = "decode(repeat('01', 40), 'hex')";
    sql(&mut conn, "INSERT INTO accounts (name, email) VALUES ('a', '')").await;
    sql(
        &mut conn,
        "INSERT INTO domains (public_id, name, supplied_name, verification_token)
        VALUES (repeat('a', 32), 'shop.example.com', 'shop.example.com', repeat('b', 64))",
    )
    .await;
    let certificate = |csr: &str, plain: &str, sealed: &str| {
        format!(
            "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, csr, private_key_pem, private_key_sealed)
             SELECT md5(random()::text), id, 'challenge', 'requesting', 'rsa2048', {csr}, {plain}, {sealed} FROM domains"
        )
    };
    let account = |plain: &str, sealed: &str| {
        format!(
            "INSERT INTO acme_accounts (directory, private_key_pem, private_key_sealed)
                 VALUES (md5(random()::text), {plain}, {sealed})"
        )
    };
    let webhook = |plain: &str, sealed: &str| {
        format!(
            "INSERT INTO webhooks (account_id, url, secret, secret_sealed) VALUES (1, 'https://a.example', {plain}, {sealed})"
        )
    };
    let good = [
        certificate("NULL", "NULL", "NULL"),
        certificate("'csr'", "'pem'", "NULL"),
        certificate("'csr'", "NULL", sealed),
        account("'pem'", "NULL"),
        account("NULL", sealed),
        webhook("NULL", "NULL"),
        webhook("NULL", sealed),
    ];
    for statement in good {
        assert_eq!(sql(&mut conn, &statement).await, 1, "{statement}");
    }
    let bad = [
        certificate("NULL", "'pem'", "NULL"),
        certificate("NULL", "NULL", sealed),
        certificate("'csr'", "NULL", "NULL"),
        certificate("'csr'", "'pem'", sealed),
        account("NULL", "NULL"),
        account("'pem'", sealed),
        webhook("'whsec_x'", sealed),
    ];
    for statement in bad {
        let refused = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut conn).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("23514"), "{statement}");
    }
}
