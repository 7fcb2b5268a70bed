//! The `/domains` API as a client sees it.
//!
//! `try_…` return whatever was answered; the others expect success and panic with the whole answer otherwise.

use anyhow::Result;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::stack::local_http;

/// A client of one API replica.
#[derive(Clone)]
pub struct ApiClient {
    url: String,
    token: Option<String>,
    http: Client,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `null` when there is no body; a string when it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The body.
    ///
    /// # Panics
    /// If the status is another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "expected another status; the body is {}", self.body);
        self.body
    }

    /// The text of an error answer.
    pub fn error(&self) -> Option<&str> {
        self.body["error"].as_str()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Domain {
    pub id: String,
    pub domain_name: String,
    pub status: String,
    /// In the answer to registering only.
    pub verification_token: Option<String>,
    /// Everything else that was answered.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Domain {
    pub(crate) fn from_answer(body: &Value) -> Self {
        parsed(body.clone())
    }
}

/// The answer to issuing and retrying.
#[derive(Clone, Debug, Deserialize)]
pub struct Order {
    pub order_id: String,
    pub status: String,
    /// With the trailing dot.
    pub challenge_domain: String,
    pub expected_txt_value: String,
    pub instructions: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Certificate {
    pub id: String,
    pub domain_id: String,
    pub issued_at: String,
    pub expires_at: String,
    pub created_at: String,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl ApiClient {
    /// `url` has no path and no trailing slash.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self> {
        Ok(Self { url: url.to_owned(), token: token.map(ToOwned::to_owned), http: local_http::client(None)? })
    }

    /// The same replica with another token, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(ToOwned::to_owned), ..self.clone() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to be completed by the caller and passed to [`Self::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Fails only when no answer came.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        };
        Ok(Answer { status, headers, body })
    }

    pub async fn try_register(&self, domain_name: &str) -> Result<Answer> {
        self.send(self.request(Method::POST, "/domains").json(&json!({"domain_name": domain_name}))).await
    }

    pub async fn try_fetch(&self, id: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, &format!("/domains/{id}"))).await
    }

    /// `query` is `status=active&limit=2`, or empty.
    pub async fn try_list(&self, query: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, &format!("/domains?{query}"))).await
    }

    pub async fn try_verify(&self, id: &str) -> Result<Answer> {
        self.post(id, "verify").await
    }

    pub async fn try_issue(&self, id: &str) -> Result<Answer> {
        self.post(id, "issue-certificate").await
    }

    pub async fn try_retry(&self, id: &str) -> Result<Answer> {
        self.post(id, "retry").await
    }

    pub async fn try_check(&self, id: &str) -> Result<Answer> {
        self.post(id, "check").await
    }

    pub async fn try_certificate(&self, id: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, &format!("/domains/{id}/certificate"))).await
    }

    pub async fn try_delete(&self, id: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, &format!("/domains/{id}"))).await
    }

    pub async fn register(&self, domain_name: &str) -> Domain {
        parsed(answered(self.try_register(domain_name).await).expect(201))
    }

    pub async fn fetch(&self, id: &str) -> Domain {
        parsed(answered(self.try_fetch(id).await).expect(200))
    }

    pub async fn verify(&self, id: &str) -> Domain {
        parsed(answered(self.try_verify(id).await).expect(200))
    }

    pub async fn issue(&self, id: &str) -> Order {
        parsed(answered(self.try_issue(id).await).expect(202))
    }

    pub async fn retry(&self, id: &str) -> Order {
        parsed(answered(self.try_retry(id).await).expect(202))
    }

    pub async fn check(&self, id: &str) {
        answered(self.try_check(id).await).expect(202);
    }

    pub async fn certificate(&self, id: &str) -> Certificate {
        parsed(answered(self.try_certificate(id).await).expect(200))
    }

    pub async fn delete(&self, id: &str) {
        answered(self.try_delete(id).await).expect(204);
    }

    async fn post(&self, id: &str, verb: &str) -> Result<Answer> {
        self.send(self.request(Method::POST, &format!("/domains/{id}/{verb}"))).await
    }
}

fn answered(answer: Result<Answer>) -> Answer {
    answer.unwrap_or_else(|error| panic!("the API did not answer: {error:#}"))
}

fn parsed<T: serde::de::DeserializeOwned>(body: Value) -> T {
    serde_json::from_value(body.clone()).unwrap_or_else(|error| panic!("{error} in the API's answer {body}"))
}
