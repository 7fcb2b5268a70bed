//! The rows of a release: a real run of its programs, ended at a moment at which orders are in every state and jobs are
//! of every kind.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{CA, RECEIVER};
use crate::api_client::{ApiClient, Domain, Order};
use crate::receiver::{Manner, Receiver};
use crate::stack::accounts::{ALL_SCOPES, ctl};
use crate::stack::pebble::BLOCKED;
use crate::stack::{Stack, postgres};

const WITHIN: Duration = Duration::from_secs(60);

/// Whoever moves the order of `<state>.example.com` out of this state waits, inside of the transaction, until the
/// worker is killed.
const HOLD: &str = "
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(600) FROM domains WHERE id = OLD.domain_id AND split_part(name, '.', 1) = OLD.state;
        RETURN NEW;
    END $$;
    CREATE TRIGGER hold_state BEFORE UPDATE OF state ON orders FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION hold();
    CREATE TRIGGER hold_clean_up BEFORE UPDATE OF cleaned_up_at ON orders FOR EACH ROW
        WHEN (NEW.cleaned_up_at IS NOT NULL) EXECUTE FUNCTION hold();";
/// These; `accepted`, `presented`, `failed` and `cancelled` come about without.
const HELD: [&str; 7] = ["placed", "confirmed", "responded", "authorized", "prepared", "finalizing", "issued"];
const SLEEPERS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";

struct Run {
    stack: Stack,
    receiver: Receiver,
    /// An account of `/v2` whose records a worker publishes.
    account: i64,
    api: ApiClient,
}

/// As SQL, without the schema.
pub(super) async fn of_a_run() -> Result<String> {
    let receiver = Receiver::start()?;
    let stack = Stack::builder()
        .responders(1)
        .setting("WEBHOOK_ALLOW_PRIVATE", "true")
        .setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string())
        .setting("POLL_TIMEOUT", "1h")
        .leftovers_allowed()
        .start()
        .await;
    let account = stack.account("Shop Inc", "test-dns");
    let api = stack.api().with_token(Some(&stack.token(account, ALL_SCOPES).secret));
    let run = Run { stack, receiver, account: account.id, api };
    run.settled().await?;
    let pending = run.held().await?;
    run.stack.kill("worker-1");
    run.sql(&format!("SELECT pg_terminate_backend(pid) FROM ({SLEEPERS}) sleepers")).await?;
    run.sql("DROP FUNCTION hold() CASCADE").await?;
    run.waiting(&pending).await?;
    run.stack.kill("api-1");
    run.dump().await
}

impl Run {
    async fn sql(&self, text: &str) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(self.stack.pool()).await?;
        Ok(())
    }

    async fn until(&self, what: &str, condition: &str) {
        let holds = async || {
            let query = AssertSqlSafe(format!("SELECT coalesce(({condition}), false)"));
            sqlx::query_scalar::<_, bool>(query).fetch_one(self.stack.pool()).await.ok()?.then_some(())
        };
        self.stack.wait_until(what, WITHIN, holds).await;
    }

    /// A call of `/v2`; `data` of its answer.
    async fn v2(&self, method: Method, of_account: &str, body: Value) -> Result<Value> {
        let request = self.api.request(method, &format!("/v2/{}/{of_account}", self.account)).json(&body);
        let answer = self.api.send(request).await?;
        ensure!(answer.status < 300, "{of_account}: {} {}", answer.status, answer.body);
        Ok(answer.body["data"].clone())
    }

    /// Asks for a certificate by `/v2`; its id.
    async fn requested(&self, domain: &str, input: Value) -> Result<i64> {
        self.v2(Method::POST, "domains", json!({ "name": domain })).await?;
        let path = format!("domains/{domain}/certificates/letsencrypt");
        let certificate = self.v2(Method::POST, &path, input).await?["id"].as_i64().context("an id")?;
        self.v2(Method::POST, &format!("{path}/{certificate}/issue"), json!({})).await?;
        Ok(certificate)
    }

    /// What has come to its end: issued, failed, refused, renewed; and what is configured.
    async fn settled(&self) -> Result<()> {
        let stack = &self.stack;
        stack.active_domain("active.example.com").await;
        let failed = stack.pending_domain("failed.example.com").await.0;
        self.sql("UPDATE orders SET deadline_at = now() WHERE state = 'presented'").await?;
        self.sql("UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL").await?;
        stack.becomes(&failed.id, "failed", WITHIN).await;
        let blocked = stack.verified_domain(BLOCKED).await;
        stack.api().try_issue(&blocked.id).await?;

        let webhook = json!({ "url": self.receiver.url("/hook"), "secret": format!("whsec_{}", "QUJD".repeat(8)) });
        self.v2(Method::POST, "webhooks", webhook).await?;
        self.receiver.behave("/hook", Manner::Answer(500, String::new()));
        let input = json!({ "name": "", "auto_renew": true });
        for domain in ["renewed.example.com", "renewing.example.com"] {
            let certificate = self.requested(domain, input.clone()).await?;
            self.until("it is issued", &format!("SELECT state = 'issued' FROM certificates WHERE id = {certificate}"))
                .await;
        }
        self.renew("renewed.example.com").await?;
        self.until("it is renewed", "SELECT bool_or(state = 'renewed') FROM renewals").await;
        stack.finish().await;
        Ok(())
    }

    async fn renew(&self, domain: &str) -> Result<()> {
        let query =
            "SELECT c.id FROM certificates c JOIN domains d ON d.id = c.domain_id WHERE d.name = $1 ORDER BY c.id";
        let certificate: i64 = sqlx::query_scalar(query).bind(domain).fetch_one(self.stack.pool()).await?;
        let path = format!("domains/{domain}/certificates/letsencrypt/{certificate}/renewals");
        let renewal =
            self.v2(Method::POST, &path, json!({ "auto_renew": true })).await?["id"].as_i64().context("an id")?;
        self.v2(Method::POST, &format!("{path}/{renewal}/issue"), json!({})).await?;
        Ok(())
    }

    /// An order in each state that a worker has to leave, under its lease; and some that wait for their customers, who
    /// are returned.
    async fn held(&self) -> Result<Vec<(Domain, Order)>> {
        let stack = &self.stack;
        self.sql(HOLD).await?;
        let mut pending = Vec::new();
        for name in ["presented", "parked", "cancelled"] {
            pending.push(stack.pending_domain(&format!("{name}.example.com")).await);
        }
        self.receiver.publish_at(stack.dns(), "/dns");
        for state in HELD {
            let name = format!("{state}.example.com");
            match state {
                "authorized" => {
                    self.requested(&name, json!({ "name": "", "alternate_names": [format!("www.{name}")] })).await?;
                    continue;
                }
                "placed" => {
                    self.requested(&name, json!({ "name": "*", "signature_algorithm": "ECDSA" })).await?;
                    continue;
                }
                "confirmed" => {
                    stack.verified_domain(&name).await;
                    let set = ["dns", "set", "--domain", &name, "--without-trial", "webhook", "--url"];
                    ctl(stack.plan(), &[&set[..], &[&self.receiver.url("/dns")]].concat())?;
                }
                "responded" => drop(stack.delegated_domain(&name).await),
                _ => drop(stack.verified_domain(&name).await),
            }
            let domain = self.id(&name).await?;
            let order = stack.api().issue(&domain).await;
            if state != "confirmed" && state != "responded" {
                stack.publish_value(&order).await;
            }
        }
        let held = format!("SELECT count(*) = {} FROM ({SLEEPERS}) sleepers", HELD.len());
        self.until("every state is held", &held).await;
        Ok(pending)
    }

    async fn id(&self, domain: &str) -> Result<String> {
        let query = sqlx::query_scalar("SELECT public_id FROM domains WHERE name = $1").bind(domain);
        Ok(query.fetch_one(self.stack.pool()).await?)
    }

    /// What is asked for while no worker runs, and so waits for the next one.
    async fn waiting(&self, pending: &[(Domain, Order)]) -> Result<()> {
        let job = "SELECT j.id FROM jobs j JOIN orders o ON o.id = j.order_id WHERE o.public_id = $1";
        let job: i64 = sqlx::query_scalar(job).bind(&pending[1].1.order_id).fetch_one(self.stack.pool()).await?;
        ctl(self.stack.plan(), &["jobs", "park", &job.to_string()])?;
        self.stack.api().delete(&pending[2].0.id).await;
        self.requested("accepted.example.com", json!({ "name": "" })).await?;
        self.renew("renewing.example.com").await?;
        let proposal = json!({ "kind": "webhook", "url": self.receiver.url("/dns"), "secret": "of the old release" });
        let path = "domains/renewed.example.com/presenter";
        self.v2(Method::PUT, path, proposal).await?;
        let request =
            self.stack.api().request(Method::POST, "/domains").header("idempotency-key", "of-the-old-release");
        let answer = self.stack.api().send(request.json(&json!({ "domain_name": "pending.example.com" }))).await?;
        ensure!(answer.status == 201, "{}", answer.body);
        Ok(())
    }

    async fn dump(&self) -> Result<String> {
        let options =
            ["--data-only", "--column-inserts", "--disable-triggers", "--no-owner", "--exclude-table=_sqlx_migrations"];
        let mut command = Command::new(postgres::program("pg_dump")?);
        let output = command.args(options).arg(self.stack.database_url()).output()?;
        ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        let taken_at: String = sqlx::query_scalar("SELECT now()::text").fetch_one(self.stack.pool()).await?;
        let text = String::from_utf8(output.stdout)?;
        // What only psql understands, what says which Postgres this was, and what every dump begins with.
        let noise = ["\\", "-- ", "SET ", "SELECT pg_catalog.set_config"];
        let said = text.lines().filter(|line| !line.is_empty() && *line != "--");
        let said = said.filter(|line| !noise.iter().any(|begin| line.starts_with(begin)));
        let text = said.collect::<Vec<_>>().join("\n");
        let ca = self.stack.ca().directory();
        let ca = ca.strip_suffix("/dir").context("Pebble's directory is at /dir")?;
        let receiver = self.receiver.url("");
        let text = text.replace(ca, CA).replace(receiver.trim_end_matches('/'), RECEIVER);
        Ok(format!(
            "-- Rows of a run of this release; its schema is that of its migrations. By make release-fixture\n\
             -- taken at {taken_at}\n{text}\n"
        ))
    }
}
