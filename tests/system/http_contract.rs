//! The documented `/domains` calls, word for word: statuses, fields, error bodies, headers.
//!
//! One stack for all of these tests. `api-1` is as documented; `api-2` needs a token, refuses special-use names, and hardly waits
//! for workers.
//! Every answer that passes through [`Client::answer`] is checked for what all answers have in common.

mod every_call;
mod life_cycle;
mod registering;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use countersign_tests::api_client::{Answer, ApiClient, Domain, Order};
use countersign_tests::certificate::Description;
use countersign_tests::stack::Stack;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::answers::{TOKEN, check, exchange, fields, refused};

const SOON: Duration = Duration::from_secs(10);

/// Runs a test on the stack that all of these tests share; it ends with this process.
fn on_stack(test: impl AsyncFnOnce(&Client)) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let start = async || {
        Stack::builder()
            .apis(2)
            .setting("POLL_TIMEOUT", "10m")
            .setting_of("api-2", "AUTH_TOKEN", TOKEN)
            .setting_of("api-2", "ALLOW_SPECIAL_USE_NAMES", "false")
            .setting_of("api-2", "PLACE_WAIT", "100ms")
            .start()
            .await
    };
    let stack = RUNTIME.block_on(STACK.get_or_init(start));
    let run = || RUNTIME.block_on(test(&Client { stack, api: stack.api().clone() }));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("{}", stack.abandon());
        resume_unwind(panic);
    }
}

struct Client {
    stack: &'static Stack,
    api: ApiClient,
}

impl Client {
    /// Asks `api-2` instead.
    fn guarded(&self, token: Option<&str>) -> Self {
        Self { stack: self.stack, api: self.stack.api_replica(2).with_token(token) }
    }

    /// A name that no other test uses.
    fn name(&self) -> String {
        static USED: AtomicU32 = AtomicU32::new(0);
        format!("shop-{}.example.com", USED.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends it and checks what every answer must be: it has an id, its body is JSON, and it shows nothing of our insides.
    async fn answer(&self, request: RequestBuilder) -> Answer {
        let answer = self.api.send(request).await.unwrap();
        check(answer.status, &answer.headers, &answer.body);
        answer
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.answer(self.api.request(method, path)).await
    }

    async fn post(&self, id: &str, verb: &str) -> Answer {
        self.ask(Method::POST, &format!("/domains/{id}/{verb}")).await
    }

    async fn get(&self, id: &str) -> Answer {
        self.ask(Method::GET, &format!("/domains/{id}")).await
    }

    /// `POST /domains` with this body.
    async fn register(&self, content_type: Option<&str>, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.api.request(Method::POST, "/domains").body(body);
        self.answer(match content_type {
            Some(content_type) => request.header(CONTENT_TYPE, content_type),
            None => request,
        })
        .await
    }

    async fn register_name(&self, name: &str) -> Answer {
        self.register(Some("application/json"), json!({"domain_name": name}).to_string()).await
    }

    /// A request that no proper client would send, as its bytes.
    fn raw(&self, request: &str) -> (u16, Value) {
        let answer = exchange(self.api.url(), request).unwrap_or_else(|| panic!("no answer to {request:.80}"));
        check(answer.status, &answer.headers, &answer.body);
        (answer.status, answer.body)
    }

    async fn pending(&self) -> (Domain, Order) {
        self.stack.pending_domain(&self.name()).await
    }

    /// A domain whose time for the record is over.
    async fn failed(&self) -> Domain {
        let (domain, order) = self.pending().await;
        // Whoever changes an order grows its revision; otherwise a step under way would write the old deadline again.
        let over =
            "UPDATE orders SET deadline_at = now() - interval '1 second', revision = revision + 1 WHERE public_id = $1";
        sqlx::query(over).bind(&order.order_id).execute(self.stack.pool()).await.unwrap();
        self.stack.becomes(&domain.id, "failed", SOON).await
    }

    /// Waits until a failed domain may be retried; what `GET` shows of it then.
    async fn retryable(&self, id: &str) -> Value {
        let cleaned_up = async || {
            let seen = self.get(id).await.expect(200);
            (seen["failure"]["retryable"] == true).then_some(seen)
        };
        self.stack.wait_until("the failed order is cleaned up", SOON, cleaned_up).await
    }

    async fn in_status(&self, status: &str) -> Domain {
        match status {
            "pending" => self.api.register(&self.name()).await,
            "verified" => self.stack.verified_domain(&self.name()).await,
            "certificate_pending" => self.pending().await.0,
            "active" => self.stack.active_domain(&self.name()).await,
            "failed" => self.failed().await,
            other => panic!("{other} is no status"),
        }
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

/// RFC 3339, UTC, whole seconds, `Z`.
#[track_caller]
fn at(time: &Value) -> OffsetDateTime {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    assert!(text.len() == 20 && text.ends_with('Z'), "{text}");
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

fn owner(name: &str) -> String {
    format!("_acme-challenge.{name}.")
}
