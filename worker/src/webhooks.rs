//! Events on their way out: one POST to one webhook, signed where there is a secret. Decides nothing and stores nothing.
//!
//! A receiver is a customer's server, or pretends to be one: it may hang, redirect, answer without end, or turn out to be in
//! our own network. What it answers is read a little, so that it can finish, and dropped.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_shared::model::ids::hex;
use countersign_shared::model::webhook::{ATTEMPT_WITHIN, signing_key, target};
use countersign_shared::store::deliveries::Delivery;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::outward::{OutwardHttp, SetupError};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Deliveries of one process to one webhook at once: a slow receiver must not hold every slot of its lane.
const MOST_AT_ONCE: usize = 2;
/// A fast receiver's place is free again by then.
const WAIT_FOR_PLACE: Duration = Duration::from_millis(200);

pub struct Webhooks {
    http: OutwardHttp,
    places: Mutex<HashMap<i64, Arc<Semaphore>>>,
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

/// The right to deliver to a webhook.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Webhooks {
    pub fn new(allows_inward: bool, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let agent = concat!("countersign-webhooks/", env!("CARGO_PKG_VERSION"));
        let http = OutwardHttp::new(agent, allows_inward, ca_file, ATTEMPT_WITHIN)?;
        Ok(Self { http, places: Mutex::default() })
    }

    /// None when the webhook is busy with others.
    pub async fn place(&self, webhook_id: i64) -> Option<Place> {
        let places = {
            // Single insertions and removals: no panic can leave the map half-written.
            let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, places| Arc::strong_count(places) > 1);
            Arc::clone(all.entry(webhook_id).or_insert_with(|| Arc::new(Semaphore::new(MOST_AT_ONCE))))
        };
        let permit = tokio::time::timeout(WAIT_FOR_PLACE, places.acquire_owned()).await.ok()?.ok()?;
        Some(Place { _permit: permit })
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
        request = request
            .header(CONTENT_TYPE, "application/json")
            .header(REQUEST_ID, hex(&rand::random::<[u8; 16]>()));
        if let Some(key) = delivery.secret.as_deref().and_then(signing_key) {
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
    use super::*;

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
            webhook_id: 1,
            url: url.to_owned(),
            secret: None,
            is_wanted: true,
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

    #[tokio::test]
    async fn an_error_does_not_show_the_url() {
        let webhooks = Webhooks::new(true, None).unwrap();
        let sent = webhooks.send(&delivery("https://127.0.0.1:1/s3cret"), OffsetDateTime::UNIX_EPOCH).await;
        let error = sent.error.unwrap();
        assert!(sent.status.is_none() && !error.contains("s3cret"), "{error}");
    }

    #[tokio::test]
    async fn a_webhook_has_two_places_and_no_part_in_those_of_others() {
        let webhooks = Webhooks::new(false, None).unwrap();
        let held = [webhooks.place(1).await, webhooks.place(1).await];
        assert!(held.iter().all(Option::is_some));
        assert!(webhooks.place(1).await.is_none() && webhooks.place(2).await.is_some());
        drop(held);
        assert!(webhooks.place(1).await.is_some());
    }
}
