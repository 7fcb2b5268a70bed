//! The `/v2` surface: certificates of an account, as DNSimple's clients ask for them.
//!
//! Every answer that passes through [`Caller`] is checked for what all answers have in common.

mod bodies;
mod client;
mod client_errors;
mod dynamic_updates;
mod indexes;
mod lists;
mod policies;
mod presenters;
mod proposals;
mod rates;
mod repeats;
mod strangers;
mod surroundings;
mod tenants;

use std::time::Duration;

use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, Account};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::answers::fields;
use crate::facts::SOON;

/// An account, and a token by which it calls one API replica.
struct Caller<'a> {
    stack: &'a Stack,
    account: Account,
    api: ApiClient,
}

impl<'a> Caller<'a> {
    /// A new account with a token that may do everything.
    fn new(stack: &'a Stack, name: &str, presenter: &str) -> Self {
        Self::of(stack, stack.account(name, presenter), ALL_SCOPES)
    }

    /// An account with another token.
    fn of(stack: &'a Stack, account: Account, scopes: &str) -> Self {
        let token = stack.token(account, scopes);
        Self { stack, account, api: stack.api().with_token(Some(&token.secret)) }
    }

    fn with_token(&self, token: Option<&str>) -> Self {
        Self { api: self.api.with_token(token), ..*self }
    }

    /// The path of a call in this account: `domains/…`.
    fn path(&self, of_account: &str) -> String {
        format!("/v2/{}/{of_account}", self.account.id)
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = self.api.send(request).await.unwrap();
        check(answer.status, &answer.headers, &answer.body);
        answer
    }

    /// Any path.
    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.send(self.api.request(method, path)).await
    }

    async fn get(&self, of_account: &str) -> Answer {
        self.ask(Method::GET, &self.path(of_account)).await
    }

    async fn post(&self, of_account: &str, body: &Value) -> Answer {
        self.send(self.api.request(Method::POST, &self.path(of_account)).json(body)).await
    }

    async fn delete(&self, of_account: &str) -> Answer {
        self.ask(Method::DELETE, &self.path(of_account)).await
    }

    /// Registers a domain; its id.
    async fn domain(&self, name: &str) -> i64 {
        let created = self.post("domains", &json!({ "name": name })).await.expect(201);
        created["data"]["id"].as_i64().unwrap()
    }

    /// Orders a certificate; its id.
    async fn order(&self, domain: &str, input: Value) -> i64 {
        let ordered = self.post(&format!("domains/{domain}/certificates/letsencrypt"), &input).await.expect(201);
        assert_eq!(ordered["data"]["id"], ordered["data"]["certificate_id"]);
        ordered["data"]["id"].as_i64().unwrap()
    }

    async fn issue(&self, domain: &str, certificate: i64) -> Answer {
        let path = self.path(&format!("domains/{domain}/certificates/letsencrypt/{certificate}/issue"));
        self.ask(Method::POST, &path).await
    }

    /// Orders and issues; the certificate's id.
    async fn requested(&self, domain: &str, input: Value) -> i64 {
        let certificate = self.order(domain, input).await;
        self.issue(domain, certificate).await.expect(202);
        certificate
    }

    async fn certificate(&self, domain: &str, certificate: i64) -> Value {
        let answer = self.get(&format!("domains/{domain}/certificates/{certificate}")).await;
        answer.expect(200)["data"].clone()
    }

    /// Waits until a certificate is in a state; what is shown then.
    async fn becomes(&self, domain: &str, certificate: i64, state: &str, within: Duration) -> Value {
        let what = format!("certificate {certificate} is {state}");
        let reached = async || {
            let shown = self.certificate(domain, certificate).await;
            (shown["state"] == state).then_some(shown)
        };
        self.stack.wait_until(&what, within, reached).await
    }

    async fn issued(&self, domain: &str, certificate: i64) -> Value {
        self.becomes(domain, certificate, "issued", 2 * SOON).await
    }

    /// Leaf and chain, joined.
    async fn chain(&self, domain: &str, certificate: i64) -> String {
        let answer = self.get(&format!("domains/{domain}/certificates/{certificate}/download")).await.expect(200);
        assert_eq!(answer["data"]["root"], Value::Null);
        let chain = answer["data"]["chain"].as_array().unwrap().iter().map(|pem| pem.as_str().unwrap());
        std::iter::once(answer["data"]["server"].as_str().unwrap()).chain(chain).collect()
    }

    async fn private_key(&self, domain: &str, certificate: i64) -> String {
        let answer = self.get(&format!("domains/{domain}/certificates/{certificate}/private_key")).await.expect(200);
        answer["data"]["private_key"].as_str().unwrap().to_owned()
    }

    /// What is to be published for a certificate, once it is known: owner names and values.
    async fn challenges(&self, domain: &str, certificate: i64) -> Vec<(String, String)> {
        let path = format!("domains/{domain}/certificates/{certificate}/challenges");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let pending = async || {
            let shown = self.get(&path).await.expect(200)["data"].as_array().unwrap().clone();
            let records = shown.iter().map(|entry| (text(&entry["record_name"]), text(&entry["value"])));
            (!shown.is_empty()).then(|| records.collect())
        };
        self.stack.wait_until("the TXT records are told", SOON, pending).await
    }

    async fn publish(&self, records: &[(String, String)]) {
        for (owner, value) in records {
            self.stack.dns().set_txt(owner, value).await.unwrap();
        }
    }
}

/// Every answer has an id, says how much of the hour is left, and is JSON; an error is a message, perhaps with what is wrong
/// about each field.
#[track_caller]
fn check(status: u16, headers: &HeaderMap, body: &Value) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let number = |name: &str| {
        header(name).parse::<u64>().unwrap_or_else(|_| panic!("{status} has {name}: {:?}; {body}", header(name)))
    };
    let (limit, remaining) = (number("x-ratelimit-limit"), number("x-ratelimit-remaining"));
    assert!(limit > 0 && remaining <= limit && number("x-ratelimit-reset") > 1_700_000_000, "{headers:?}");
    assert!(!header("x-request-id").is_empty(), "{headers:?}");
    let (seconds, fraction) = header("x-runtime").split_once('.').unwrap_or_default();
    assert!(seconds.parse::<u64>().is_ok() && fraction.len() == 6, "{headers:?}");
    assert!(![301, 302, 307, 308, 415, 504].contains(&status), "{status} {body}");
    if status == 204 || status == 405 {
        assert!(body.is_null(), "{body}");
        assert_eq!(headers.contains_key("allow"), status == 405, "{headers:?}");
        return;
    }
    assert_eq!(header(CONTENT_TYPE.as_str()), "application/json; charset=utf-8", "{status} {body}");
    if status < 400 {
        assert!(fields(body) == ["data"] || fields(body) == ["data", "pagination"], "{body}");
        return;
    }
    assert!(body["message"].as_str().is_some_and(|text| text.len() > 5), "{status} {body}");
    match fields(body).as_slice() {
        ["message"] => {}
        ["errors", "message"] => {
            assert_eq!((status, body["message"].as_str()), (400, Some("Validation failed")));
            for (field, texts) in body["errors"].as_object().unwrap() {
                let texts = texts.as_array().unwrap();
                assert!(!texts.is_empty() && texts.iter().all(Value::is_string), "{field}: {texts:?}");
            }
        }
        other => panic!("{status} has the fields {other:?}: {body}"),
    }
    if status == 503 || status == 429 {
        assert!(number("retry-after") > 0, "{headers:?}");
    }
}

/// The message of a refusal.
#[track_caller]
fn message(answer: Answer, status: u16) -> String {
    answer.expect(status)["message"].as_str().unwrap().to_owned()
}
