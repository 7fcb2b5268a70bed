//! `countersignctl certificates`: revoked at the CA, once and for good; exported with a row in the audit.

use std::os::unix::fs::PermissionsExt as _;

use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{Said, command, said};
use crate::databases::connect;
use crate::sealed::key;

/// With the settings of the workers.
async fn ctl(stack: &Stack, ring: &str, args: &[&str]) -> Said {
    let mut command = command(&stack.database_url(), args);
    command.env("ENCRYPTION_KEYS", ring).env("ACME_DIRECTORY", stack.ca().directory());
    command.env("ACME_CA_FILE", stack.ca().https_root_file());
    said(command).await
}

async fn show(stack: &Stack, id: &str) -> Value {
    ctl(stack, "", &["certificates", "show", id, "--json"]).await.ended(0).json()
}

async fn trail(stack: &Stack) -> Vec<String> {
    let trail = "SELECT action || ' of ' || subject FROM audit_entries WHERE token_id IS NULL ORDER BY id";
    sqlx::query_scalar(trail).fetch_all(stack.pool()).await.unwrap()
}

#[tokio::test]
async fn a_certificate_is_revoked_at_the_ca_recorded_and_not_renewed_by_itself() {
    let stack = Stack::builder().start().await;
    let domain = stack.active_domain("shop.example.com").await;
    let listed =
        ctl(&stack, "", &["certificates", "list", "--domain", "shop.example.com", "--json"]).await.ended(0).json();
    let line = &listed["certificates"][0];
    let (id, public_id) = (line["id"].to_string(), line["public_id"].as_str().unwrap().to_owned());
    let serial = line["serial_number"].as_str().unwrap().to_owned();
    assert_eq!((&line["auto_renew"], &line["revoked_at"]), (&json!(true), &Value::Null));
    assert_eq!(show(&stack, &public_id).await["id"].to_string(), id);

    let revoke = ["certificates", "revoke", &public_id, "--reason", "key-compromise", "--json"];
    let dry = ctl(&stack, "", &[&revoke[..], &["--dry-run"]].concat()).await.ended(0).json();
    assert_eq!(dry["results"][0]["result"], "selected");
    assert_eq!(stack.ca().revocation_reason(&serial).await.unwrap(), None);
    let done = ctl(&stack, "", &revoke).await.ended(0).json();
    assert_eq!(done["results"][0]["result"], "revoked");
    assert_eq!(stack.ca().revocation_reason(&serial).await.unwrap(), Some(1), "the CA was given the reason");
    let shown = show(&stack, &id).await;
    assert!(shown["revoked_at"].is_string(), "{shown}");
    assert_eq!((&shown["revocation_reason"], &shown["auto_renew"]), (&json!(1), &json!(false)));

    // What customers see: still issued, renewed by nobody.
    let api = stack.api().with_token(Some(&stack.token(DEFAULT, ALL_SCOPES).secret));
    let path = format!("/v2/1/domains/shop.example.com/certificates/{id}");
    let entry = api.send(api.request(Method::GET, &path)).await.unwrap().expect(200)["data"].clone();
    assert_eq!((&entry["state"], &entry["auto_renew"]), (&json!("issued"), &json!(false)));
    let shown = stack.api().try_fetch(&domain.id).await.unwrap().expect(200);
    assert!(shown["certificate"]["renews_at"].is_null(), "{shown}");

    // Again, and as after a crash between the CA's answer and its record.
    let again = ctl(&stack, "", &revoke).await.ended(0).json();
    assert!(again["results"][0]["result"].as_str().unwrap().starts_with("revoked before, at "), "{again}");
    let forget = "UPDATE certificates SET revoked_at = NULL, revocation_reason = NULL";
    sqlx::query(forget).execute(stack.pool()).await.unwrap();
    let recorded = ctl(&stack, "", &revoke).await.ended(0).json();
    assert_eq!(recorded["results"][0]["result"], "the CA had revoked it before; recorded");
    let entry = format!("certificate.revoke of certificate {id} of shop.example.com");
    assert_eq!(trail(&stack).await, [entry.clone(), entry]);

    // What cannot be.
    let new = "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm)
               SELECT repeat('f', 32), id, 'order', 'new', 'rsa2048' FROM domains";
    sqlx::query(new).execute(stack.pool()).await.unwrap();
    ctl(&stack, "", &["certificates", "revoke", &"f".repeat(32)]).await.ended(4);
    ctl(&stack, "", &["certificates", "revoke", "nothing"]).await.ended(3);
    // One that fails ends nothing, is told with the others, and the gravest of them is the exit code.
    let broken = "UPDATE certificates SET revoked_at = NULL, revocation_reason = NULL, certificate_pem = 'broken'
                  WHERE state = 'issued'";
    sqlx::query(broken).execute(stack.pool()).await.unwrap();
    let many = ["certificates", "revoke", &id, "nothing", "--json"];
    let results = ctl(&stack, "", &many).await.ended(4).json()["results"].clone();
    assert!(results[0]["result"].as_str().unwrap().starts_with("failed, run it again: "), "{results}");
    assert_eq!(results[1], json!({ "id": "nothing", "result": "not found" }));
    let mut elsewhere = command(&stack.database_url(), &["certificates", "revoke", &id]);
    elsewhere.env("ACME_DIRECTORY", "https://other.example/directory");
    assert!(said(elsewhere).await.ended(4).err.contains("no account at https://other.example/directory"));
    stack.finish().await;
}

#[tokio::test]
async fn chain_and_key_are_exported_to_new_files_of_ours_alone_and_every_export_is_audited() {
    let ring = key("k1");
    let stack = Stack::builder().setting("ENCRYPTION_KEYS", &ring).start().await;
    stack.active_domain("shop.example.com").await;
    let id: i64 = sqlx::query_scalar("SELECT id FROM certificates").fetch_one(stack.pool()).await.unwrap();
    let id = id.to_string();
    let folder = tempfile::tempdir().unwrap();
    let [chain, private] = ["chain.pem", "key.pem"].map(|name| folder.path().join(name));
    let (to_chain, to_private) = (chain.to_str().unwrap(), private.to_str().unwrap());
    let export = ["certificates", "export", &id, "--chain", to_chain, "--key", to_private];
    let done = ctl(&stack, &ring, &export).await.ended(0);
    assert_eq!(done.out, "", "nothing is shown besides");
    for file in [&chain, &private] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let stored: String =
        sqlx::query_scalar("SELECT certificate_pem FROM certificates").fetch_one(stack.pool()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&chain).unwrap(), stored);
    let pem = std::fs::read_to_string(&private).unwrap();
    assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\n") && pem.ends_with("-----END RSA PRIVATE KEY-----\n"));
    let shown = ctl(&stack, &ring, &["certificates", "export", &id, "--key", "-"]).await.ended(0);
    assert!(shown.out == pem, "the standard output has another key");
    ctl(&stack, &ring, &["certificates", "export", &id, "--chain", "-"]).await.ended(0);
    let entry = |action: &str| format!("{action} of certificate {id} of shop.example.com");
    let expected = [entry("private_key.export"), entry("private_key.export"), entry("certificate.export")];
    assert_eq!(trail(&stack).await, expected);
    let listed = ctl(&stack, "", &["audit", "list", "--action", "private_key.export"]).await.ended(0);
    assert_eq!(listed.out.matches("operator").count(), 2, "{}", listed.out);

    // A file that exists may be open to others: it is left alone.
    let refused = ctl(&stack, &ring, &export).await.ended(1);
    assert!(refused.err.contains("cannot make"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(&private).unwrap(), pem);
    let other = folder.path().join("other.pem");
    let to_other = ["certificates", "export", &id, "--chain", other.to_str().unwrap(), "--key", to_private];
    ctl(&stack, &ring, &to_other).await.ended(1);
    assert!(!other.exists(), "half of an export is left");
    // Where the row of the audit cannot be written, nothing comes out.
    let mut conn = connect(&stack.database_url()).await;
    let refuse = "ALTER TABLE audit_entries ADD CONSTRAINT no_more CHECK (action <> 'private_key.export') NOT VALID";
    sqlx::query(AssertSqlSafe(refuse)).execute(&mut conn).await.unwrap();
    let refused = ctl(&stack, &ring, &["certificates", "export", &id, "--key", "-"]).await.ended(1);
    assert_eq!(refused.out, "");
    ctl(&stack, &ring, &[&to_other[..5], &["--key", "-"]].concat()).await.ended(1);
    assert!(!other.exists(), "a file is left");
    ctl(&stack, "", &["certificates", "export", &id, "--key", "-"]).await.ended(1);
    ctl(&stack, &ring, &["certificates", "export", &id]).await.ended(2);
    ctl(&stack, &ring, &["certificates", "export", "nothing", "--chain", "-"]).await.ended(3);
    stack.finish().await;
}
