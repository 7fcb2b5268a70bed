//! Back-up and restore, by the very commands of `deploy/runbooks/backup-and-restore.md`: everything that was open at
//! the dump goes on, and what the CA did since is found again or repeated.

use std::env::join_paths;
use std::process::Command;

use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::api_client::Domain;
use countersign_tests::checkout;
use countersign_tests::stack::postgres::{self, PrivatePostgres, Shutdown};
use countersign_tests::stack::{Stack, environment};
use serde_json::Value;
use sqlx::PgConnection;

use crate::databases::connect;
use crate::facts::SOON;
use crate::failures::fronted;

const PAGE: &str = "deploy/runbooks/backup-and-restore.md";

/// The `sh` blocks of the page, in order, wherever they are indented to.
fn blocks() -> Vec<String> {
    let page = std::fs::read_to_string(checkout::root().unwrap().join(PAGE)).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (line.trim(), &mut open) {
            ("```sh", None) => open = Some(String::new()),
            ("```", Some(_)) => blocks.extend(open.take()),
            (command, Some(block)) => block.push_str(&format!("{command}\n")),
            _ => {}
        }
    }
    blocks
}

/// Runs a block as an operator does; what it printed.
fn run(block: &str, variables: &[(&str, &str)]) -> String {
    let ours = checkout::binary("countersignctl").unwrap();
    let servers = postgres::program("psql").unwrap();
    let folders = [&servers, &ours].map(|program| program.parent().unwrap().to_owned());
    let path = join_paths(folders.into_iter().chain(environment::program_folders())).unwrap();
    let mut command = Command::new("sh");
    let output = command.args(["-euc", block]).env_clear().env("PATH", path).envs(variables.iter().copied()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{block}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The state of a domain's newest order.
async fn state(connection: &mut PgConnection, domain: &Domain) -> String {
    let query = "SELECT o.state FROM orders o JOIN domains d ON d.id = o.domain_id
                 WHERE d.public_id = $1 ORDER BY o.id DESC LIMIT 1";
    sqlx::query_scalar(query).bind(&domain.id).fetch_one(connection).await.unwrap()
}

async fn reaches(stack: &Stack, connection: &mut PgConnection, domain: &Domain, wanted: &str) {
    let what = format!("the order of {} is {wanted}", domain.domain_name);
    stack.wait_until(&what, SOON, async || (state(connection, domain).await == wanted).then_some(())).await;
}

/// Of the certificate that a domain has.
async fn fingerprint(connection: &mut PgConnection, domain: &Domain) -> String {
    let query = "SELECT c.fingerprint_sha256 FROM certificates c JOIN domains d ON d.id = c.domain_id
                 WHERE d.public_id = $1 AND c.state = 'issued'";
    sqlx::query_scalar(query).bind(&domain.id).fetch_one(connection).await.unwrap()
}

async fn certificates(stack: &Stack, domain: &Domain) -> usize {
    stack.ca().certificates_issued_for(&domain.domain_name).await.unwrap()
}

#[tokio::test]
async fn an_installation_that_is_restored_elsewhere_carries_on_with_every_open_order() {
    let [back_up, restore, look, repeat] = <[String; 4]>::try_from(blocks()).expect("the blocks of the page");
    let mut stack = fronted().workers(2).setting("LEASE_FOR", "2s").setting("POLL_TIMEOUT", "1h").start().await;
    let mut old = connect(&stack.database_url()).await;
    let active = stack.active_domain("active.example.com").await;
    let issued = stack.api().certificate(&active.id).await.id;
    let (waiting, waited_for) = stack.pending_domain("waiting.example.com").await;
    let (keyless, of_keyless) = stack.pending_domain("keyless.example.com").await;
    // One that has its key, and one that a worker works on, when the dump is made.
    let (keyed, of_keyed) = stack.pending_domain("keyed.example.com").await;
    let (answering, of_answering) = stack.pending_domain("answering.example.com").await;
    stack.front().hold_at(Kind::Finalize, Moment::Before);
    stack.publish_value(&of_keyed).await;
    reaches(&stack, &mut old, &keyed, "prepared").await;
    stack.front().hold_at(Kind::Challenge, Moment::Before);
    stack.publish_value(&of_answering).await;
    reaches(&stack, &mut old, &answering, "confirmed").await;

    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("countersign.dump").display().to_string();
    run(&back_up, &[("DATABASE_URL", &stack.database_url()), ("dump", &dump)]);

    // The old installation goes on until it is lost.
    stack.front().release();
    stack.publish_value(&of_keyless).await;
    for domain in [&keyed, &answering, &keyless] {
        stack.becomes_active(&domain.id).await;
    }
    let late = stack.api().register("late.example.com").await;
    let found_again = fingerprint(&mut old, &keyed).await;
    for replica in ["api-1", "worker-1", "worker-2"] {
        stack.kill(replica);
    }
    stack.stop_postgres(Shutdown::Immediate).await;

    let elsewhere = PrivatePostgres::start().await.unwrap();
    let (server, restored) = (elsewhere.url(""), elsewhere.url("countersign"));
    let variables = [("server", server.trim_end_matches('/')), ("dump", &*dump)];
    run(&restore, &variables);
    let seen = run(&look, &variables);
    assert!(seen.contains("waiting.example.com") && seen.contains("the schema is at version"), "{seen}");
    for replica in ["api-1", "worker-1", "worker-2"] {
        stack.restart_with(replica, "DATABASE_URL", &restored).await;
    }

    assert_eq!(stack.api().certificate(&active.id).await.id, issued);
    stack.publish_value(&waited_for).await;
    stack.becomes_active(&waiting.id).await;
    // The key was in the dump: the same certificate, and no other.
    stack.becomes_active(&keyed.id).await;
    let mut new = connect(&restored).await;
    assert_eq!(fingerprint(&mut new, &keyed).await, found_again);
    assert_eq!(certificates(&stack, &keyed).await, 1);
    assert_eq!(stack.api().try_fetch(&late.id).await.unwrap().status, 404);
    assert_eq!(stack.api().register("late.example.com").await.status, "pending");

    // Their keys were made after the dump, and are lost.
    for domain in [&keyless, &answering] {
        let failed = stack.becomes(&domain.id, "failed", SOON).await;
        assert_eq!(failed.more["failure"]["code"], "chain_refused", "{:?}", failed.more);
    }
    run(&repeat, &variables);
    for domain in [&keyless, &answering] {
        let told = async || {
            let now = stack.api().fetch(&domain.id).await.more;
            let text = |field: &str| now.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
            Some((text("challenge_domain")?, text("expected_txt_value")?))
        };
        let (owner, value) = stack.wait_until("another record is asked for", SOON, told).await;
        stack.dns().clear_txt(&owner).await.unwrap();
        stack.dns().set_txt(&owner, &value).await.unwrap();
        stack.becomes_active(&domain.id).await;
        assert_eq!(certificates(&stack, domain).await, 2);
    }
    let done = async || {
        let query = "SELECT count(*) FROM jobs WHERE order_id IS NOT NULL OR leased_by IS NOT NULL";
        let left: i64 = sqlx::query_scalar(query).fetch_one(&mut new).await.unwrap();
        (left == 0).then_some(())
    };
    stack.wait_until("nothing is left to do", SOON, done).await;
    // Asked once more, there is nothing to repeat.
    run(&repeat, &variables);
}
