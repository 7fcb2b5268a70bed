//! Webhooks of `/v2`: the calls, what arrives at a receiver and how it is signed, and receivers that misbehave.

mod calls;
mod delivered;
mod faults;
mod rows;

use std::process::Command;
use std::time::Duration;

use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::checkout;
use countersign_tests::receiver::{Received, Receiver};
use countersign_tests::stack::{Stack, StackBuilder};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::facts::SOON;

/// Longer than the pause until a lost lease is taken over, too.
const LATER: Duration = Duration::from_secs(60);

/// Webhooks may lead to the receiver.
pub(crate) fn hooked(receiver: &Receiver) -> StackBuilder {
    let builder = Stack::builder().setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string());
    builder.setting("WEBHOOK_ALLOW_PRIVATE", "true")
}

/// What `countersignctl` prints.
fn ctl(stack: &Stack, args: &[&str]) -> String {
    let mut command = Command::new(checkout::binary("countersignctl").unwrap());
    let output = command.args(args).env_clear().env("DATABASE_URL", stack.database_url()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A client of one account, with a token that has all scopes.
struct Account {
    api: ApiClient,
    id: i64,
}

impl Account {
    fn of(stack: &Stack, id: i64) -> Self {
        let token = ctl(stack, &["tokens", "create", &id.to_string()]);
        Self { api: stack.api().with_token(Some(&token)), id }
    }

    async fn new(stack: &Stack, name: &str) -> Self {
        let query = "INSERT INTO accounts (name, email) VALUES ($1, $1 || '@shop.example') RETURNING id";
        Self::of(stack, sqlx::query_scalar(query).bind(name).fetch_one(stack.pool()).await.unwrap())
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.api.request(method, &format!("/v2/{}{path}", self.id));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        self.api.send(request).await.unwrap()
    }

    async fn show(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.expect(200)["data"].clone()
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// Its id.
    async fn webhook(&self, url: &str) -> i64 {
        self.post("/webhooks", json!({ "url": url })).await.expect(201)["data"]["id"].as_i64().unwrap()
    }

    async fn domain(&self, name: &str) -> Value {
        self.post("/domains", json!({ "name": name })).await.expect(201)["data"].clone()
    }
}

/// Waits until so many requests have come to a path.
async fn arrive(stack: &Stack, receiver: &Receiver, path: &str, count: usize) -> Vec<Received> {
    let come = async || Some(receiver.received(path)).filter(|received| received.len() >= count);
    stack.wait_until(&format!("{count} requests have come to {path}"), SOON, come).await
}

/// The first event of this name that has come to a path.
async fn event(stack: &Stack, receiver: &Receiver, path: &str, name: &str) -> Received {
    let come = async || receiver.received(path).into_iter().find(|received| received.json()["name"] == name);
    stack.wait_until(&format!("{name} has come to {path}"), SOON, come).await
}

async fn sql(stack: &Stack, text: &str) -> u64 {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(stack.pool()).await.unwrap().rows_affected()
}

async fn holds(stack: &Stack, condition: &str) -> bool {
    let query = AssertSqlSafe(format!("SELECT coalesce(({condition}), false)"));
    sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap()
}

pub(crate) async fn until(stack: &Stack, condition: &str) {
    stack.wait_until(condition, LATER, async || holds(stack, condition).await.then_some(())).await;
}

/// The retries are due now.
async fn hurry(stack: &Stack) -> u64 {
    sql(stack, "UPDATE jobs SET due_at = now() WHERE kind = 'deliver-event' AND leased_by IS NULL").await
}
