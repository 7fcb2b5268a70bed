//! Events on their way out: one POST to one webhook, signed where there is a secret. Decides nothing and stores nothing.
//!
//! A receiver is a customer's server, or pretends to be one: it may hang, redirect, answer without end, or turn out to be in
//! our own network. What it answers is read a little, so that it can finish, and dropped.

use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_shared::model::ids::hex;
use countersign_shared::model::webhook::{ATTEMPT_WITHIN, signing_key, target};
use countersign_shared::store::deliveries::Delivery;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use time::OffsetDateTime;

use crate::outward::{LookUp, OutwardHttp, SetupError, system_lookup};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

pub struct Webhooks {
    http: OutwardHttp,
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// None when there was no answer.
    pub status: Option<u16>,
    /// Why there was none, in our words.
    pub error: Option<String>,
}

impl Sent {
    /// By 200 and nothing else.
    pub fn is_acknowledged(&self) -> bool {
        self.status == Some(200)
    }

    fn failed(why: impl Into<String>) -> Self {
        Self { status: None, error: Some(why.into()) }
    }
}

impl Webhooks {
    pub fn new(allows_inward: bool, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        Self::with_lookup(allows_inward, ca_file, system_lookup())
    }

    fn with_lookup(allows_inward: bool, ca_file: Option<&Path>, lookup: LookUp) -> Result<Self, SetupError> {
        let agent = concat!("countersign-webhooks/", env!("CARGO_PKG_VERSION"));
        Ok(Self { http: OutwardHttp::with_lookup(agent, allows_inward, ca_file, ATTEMPT_WITHIN, lookup)? })
    }

    /// One attempt, at most [`ATTEMPT_WITHIN`].
    pub async fn send(&self, delivery: &Delivery, now: OffsetDateTime) -> Sent {
        let Ok(url) = target(&delivery.url) else {
            return Sent::failed("not an https URL");
        };
        let body = delivery.payload.to_string();
        let mut request = match self.http.post(url) {
            Ok(request) => request,
            Err(error) => return Sent::failed(error.to_string()),
        };
        request = request.header(CONTENT_TYPE, "application/json").header(REQUEST_ID, hex(&rand::random::<[u8; 16]>()));
        if let Some(key) = delivery.secret.as_ref().and_then(|secret| signing_key(secret.expose())) {
            let (id, timestamp) = (&delivery.request_identifier, now.unix_timestamp());
            request = request
                .header(WEBHOOK_ID, id)
                .header(WEBHOOK_TIMESTAMP, timestamp)
                .header(WEBHOOK_SIGNATURE, signature(&key, id, timestamp, &body));
        }
        let status = match self.http.status(request.body(body)).await {
            Ok(status) => status,
            Err(error) => return Sent::failed(error.to_string()),
        };
        Sent {
            status: Some(status.as_u16()),
            error: (status != StatusCode::OK).then(|| "answered otherwise than 200".into()),
        }
    }
}

/// Standard Webhooks, symmetric: HMAC-SHA256 of id, time and body.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outward::outward_only;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the Standard Webhooks libraries.
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    fn delivery(url: &str) -> Delivery {
        Delivery {
            id: 1,
            account_id: 1,
            webhook_id: 1,
            url: url.to_owned(),
            secret: None,
            is_wanted: true,
            is_late: false,
            event_name: "domain.create".to_owned(),
            request_identifier: "0".to_owned(),
            payload: serde_json::json!({}),
        }
    }

    #[tokio::test]
    async fn nothing_is_connected_to_inside() {
        let webhooks = Webhooks::new(false, None).unwrap();
        for url in ["https://127.0.0.1:1/", "https://[::1]/", "https://169.254.169.254/", "https://localhost:1/"] {
            let sent = webhooks.send(&delivery(url), OffsetDateTime::UNIX_EPOCH).await;
            assert_eq!(sent, Sent::failed("not a public address"), "{url}");
        }
    }

    /// Public when it is asked for the first time, inside from then on.
    fn turncoat() -> LookUp {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        Arc::new(move |_| {
            let is_first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            let address = if is_first { "93.184.215.14:0" } else { "127.0.0.1:0" };
            Box::pin(std::future::ready(Ok(vec![address.parse().unwrap()])))
        })
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_by_the_time_of_the_connection_is_not_connected_to() {
        let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://hook.example:{}/", inside.local_addr().unwrap().port());
        let lookup = turncoat();
        let found = lookup("hook.example".to_owned()).await.unwrap();
        assert!(outward_only("hook.example", found).is_ok(), "as it was created");
        let strict = Webhooks::with_lookup(false, None, Arc::clone(&lookup)).unwrap();
        let delivery = delivery(&url);
        tokio::select! {
            biased;
            sent = strict.send(&delivery, OffsetDateTime::UNIX_EPOCH) => {
                assert_eq!(sent, Sent::failed("not a public address"));
            }
            _ = inside.accept() => panic!("it was connected to"),
        }
        // The same look-up leads there where that is allowed.
        let lenient = Webhooks::with_lookup(true, None, lookup).unwrap();
        tokio::select! {
            sent = lenient.send(&delivery, OffsetDateTime::UNIX_EPOCH) => panic!("it was not connected to: {sent:?}"),
            connected = inside.accept() => assert!(connected.is_ok()),
        }
    }

    #[tokio::test]
    async fn an_error_does_not_show_the_url() {
        let webhooks = Webhooks::new(true, None).unwrap();
        let sent = webhooks.send(&delivery("https://127.0.0.1:1/s3cret"), OffsetDateTime::UNIX_EPOCH).await;
        let error = sent.error.unwrap();
        assert!(sent.status.is_none() && !error.contains("s3cret"), "{error}");
    }
}
