//! The operator's way out by both doors: `countersignctl` run as a process, and the operators' listener asked over HTTP. And the purge.
//!
//! What is only read or refused is tested on rows that no program made; what workers must do about it, on a stack.

mod certificates;
mod changing;
mod dns;
mod dry_runs;
mod issuance;
mod listener;
mod parking;
mod purging;
mod seeing;
mod troubles;

use std::process::{Command, Stdio};

use countersign_tests::checkout;
use countersign_tests::stack::Stack;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::databases::connect;

/// What `countersignctl` came to.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// Nothing but JSON was said.
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.err, "");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// What became of each, with `--json`.
    #[track_caller]
    fn results(&self) -> Vec<Value> {
        self.json()["results"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(checkout::binary("countersignctl").unwrap());
    command.args(args).env_clear().env("DATABASE_URL", url).stdin(Stdio::null());
    command
}

async fn ctl(url: &str, args: &[&str]) -> Said {
    said(command(url, args)).await
}

async fn said(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("it was killed");
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

/// On the database of a stack.
async fn ctl_on(stack: &Stack, args: &[&str]) -> Said {
    ctl(&stack.database_url(), args).await
}

/// Retries one order that has ended; the id of the order that takes its place.
async fn new_order(stack: &Stack, order_id: &str) -> String {
    let retried = ctl_on(stack, &["orders", "retry", order_id, "--json"]).await.ended(0).results();
    assert_eq!((retried.len(), retried[0]["result"].as_str()), (1, Some("new_order")), "{retried:?}");
    retried[0]["new_order_id"].as_str().unwrap().to_owned()
}

async fn sql(conn: &mut PgConnection, text: &str) -> u64 {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(conn).await.unwrap().rows_affected()
}

/// Every row that an operator could change, as text.
async fn everything(url: &str) -> Vec<String> {
    let tables = ["domains", "certificates", "orders", "authorizations", "order_events", "jobs"];
    let rows = tables.map(|table| format!("SELECT '{table}' || t::text FROM {table} t")).join(" UNION ALL ");
    let query = sqlx::query_scalar(AssertSqlSafe(format!("{rows} ORDER BY 1")));
    query.fetch_all(&mut connect(url).await).await.unwrap()
}

/// A domain that no program made; its key.
async fn domain(conn: &mut PgConnection, name: &str, status: &str) -> i64 {
    let insert = "INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
                  VALUES (md5(random()::text), $1, $1, $2, repeat(md5($1), 2), CASE WHEN $2 <> 'pending' THEN now() END)
                  RETURNING id";
    sqlx::query_scalar(insert).bind(name).bind(status).fetch_one(conn).await.unwrap()
}

/// An order with its certificate row, in this state, placed if it can be, and cleaned up if it has ended; its public id.
async fn order(conn: &mut PgConnection, domain: i64, state: &str, code: Option<&str>) -> String {
    let insert = r#"
        WITH place AS (SELECT $2 <> 'accepted' AS placed, $2 IN ('issued', 'failed', 'cancelled') AS ended, $2 = 'issued' AS issued),
        certificate AS (
            INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem,
                issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer)
            SELECT md5(random()::text), $1, 'challenge', CASE WHEN ended THEN $2 ELSE 'requesting' END, 'rsa2048',
                '-----BEGIN CERTIFICATE REQUEST-----', '-----BEGIN RSA PRIVATE KEY-----',
                CASE WHEN issued THEN '-----BEGIN CERTIFICATE-----' END, CASE WHEN issued THEN now() END,
                CASE WHEN issued THEN now() END, CASE WHEN issued THEN now() + interval '90 days' END,
                CASE WHEN issued THEN '1a2b' END, CASE WHEN issued THEN md5(random()::text) || md5(random()::text) END,
                CASE WHEN issued THEN 'Some CA' END
            FROM place RETURNING id),
        placed AS (
            INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, directory, acme_url, placed_at, deadline_at,
                ended_at, cleaned_up_at, problem)
            SELECT md5(random()::text), $1, certificate.id, 'challenge', $2, CASE WHEN placed THEN 'https://ca.example/dir' END,
                CASE WHEN placed THEN 'https://ca.example/order/' || certificate.id END, CASE WHEN placed THEN now() END,
                CASE WHEN placed THEN now() + interval '1 hour' END, CASE WHEN ended THEN now() END,
                CASE WHEN ended THEN now() END,
                CASE WHEN $3::text IS NOT NULL THEN jsonb_build_object('code', $3::text, 'detail', 'what the customer reads',
                    'acme', jsonb_build_object('type', 'urn:ietf:params:acme:error:malformed', 'detail', 'what the CA says')) END
            FROM place, certificate RETURNING id, public_id, state),
        event AS (INSERT INTO order_events (order_id, event, state, actor) SELECT id, 'accepted', state, 'api' FROM placed)
        SELECT public_id FROM placed"#;
    sqlx::query_scalar(insert).bind(domain).bind(state).bind(code).fetch_one(conn).await.unwrap()
}

/// The job of an order, with these columns besides; its key.
async fn job(conn: &mut PgConnection, order_id: &str, columns: &str, values: &str) -> i64 {
    let insert = format!(
        "INSERT INTO jobs (kind, order_id, lane, {columns})
         SELECT 'poll-challenge', id, 1, {values} FROM orders WHERE public_id = $1 RETURNING id"
    );
    sqlx::query_scalar(AssertSqlSafe(insert)).bind(order_id).fetch_one(conn).await.unwrap()
}
