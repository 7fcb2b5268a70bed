//! Events on their way out: one POST to one webhook, signed where there is a secret. Decides nothing and stores nothing.
//!
//! A receiver is a customer's server, or pretends to be one: it may hang, redirect, answer without end, or turn out to be in
//! our own network. What it answers is read a little, so that it can finish, and dropped.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

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

use crate::outward::{LookUp, OutwardHttp, SetupError, system_lookup};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Deliveries of one process to one webhook at once: a slow receiver must not hold every place of its account.
const MOST_OF_WEBHOOK: usize = 2;

pub struct Webhooks {
    http: OutwardHttp,
    places: Places,
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

/// Who is being delivered to, so that neither a webhook nor an account holds every slot of the lane.
struct Places {
    most_of_account: usize,
    taken: Mutex<HashMap<Holder, Arc<Semaphore>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Account(i64),
    Webhook(i64),
}

/// The right to deliver to a webhook.
pub struct Place {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Places {
    /// None when the webhook or its account has as many as it may.
    fn take(&self, account_id: i64, webhook_id: i64) -> Option<Place> {
        // Single insertions and removals: no panic can leave the map half-written.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, places| Arc::strong_count(places) > 1);
        let mut permit = |holder, most| {
            let places = taken.entry(holder).or_insert_with(|| Arc::new(Semaphore::new(most)));
            Arc::clone(places).try_acquire_owned().ok()
        };
        let of_webhook = permit(Holder::Webhook(webhook_id), MOST_OF_WEBHOOK)?;
        let of_account = permit(Holder::Account(account_id), self.most_of_account)?;
        Some(Place { _permits: [of_webhook, of_account] })
    }
}

impl Webhooks {
    /// `most_of_account`: deliveries of one process for one account at once.
    pub fn new(allows_inward: bool, ca_file: Option<&Path>, most_of_account: usize) -> Result<Self, SetupError> {
        Self::with_lookup(allows_inward, ca_file, most_of_account, system_lookup())
    }

    fn with_lookup(
        allows_inward: bool,
        ca_file: Option<&Path>,
        most_of_account: usize,
        lookup: LookUp,
    ) -> Result<Self, SetupError> {
        let agent = concat!("countersign-webhooks/", env!("CARGO_PKG_VERSION"));
        let http = OutwardHttp::with_lookup(agent, allows_inward, ca_file, ATTEMPT_WITHIN, lookup)?;
        let places = Places { most_of_account: most_of_account.max(1), taken: Mutex::default() };
        Ok(Self { http, places })
    }

    /// None when the webhook or its account is busy with others.
    pub fn place(&self, delivery: &Delivery) -> Option<Place> {
        self.places.take(delivery.account_id, delivery.webhook_id)
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
        let webhooks = Webhooks::new(false, None, 1).unwrap();
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
        let strict = Webhooks::with_lookup(false, None, 1, Arc::clone(&lookup)).unwrap();
        let delivery = delivery(&url);
        tokio::select! {
            biased;
            sent = strict.send(&delivery, OffsetDateTime::UNIX_EPOCH) => {
                assert_eq!(sent, Sent::failed("not a public address"));
            }
            _ = inside.accept() => panic!("it was connected to"),
        }
        // The same look-up leads there where that is allowed.
        let lenient = Webhooks::with_lookup(true, None, 1, lookup).unwrap();
        tokio::select! {
            sent = lenient.send(&delivery, OffsetDateTime::UNIX_EPOCH) => panic!("it was not connected to: {sent:?}"),
            connected = inside.accept() => assert!(connected.is_ok()),
        }
    }

    #[tokio::test]
    async fn an_error_does_not_show_the_url() {
        let webhooks = Webhooks::new(true, None, 1).unwrap();
        let sent = webhooks.send(&delivery("https://127.0.0.1:1/s3cret"), OffsetDateTime::UNIX_EPOCH).await;
        let error = sent.error.unwrap();
        assert!(sent.status.is_none() && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_webhook_has_two_places_and_an_account_as_many_as_it_may_and_none_of_others() {
        let places = Places { most_of_account: 3, taken: Mutex::default() };
        let mut held = vec![places.take(1, 1).unwrap(), places.take(1, 1).unwrap()];
        assert!(places.take(1, 1).is_none());
        held.push(places.take(1, 2).unwrap());
        assert!(places.take(1, 3).is_none() && places.take(2, 4).is_some());
        held.truncate(1);
        assert!(places.take(1, 1).is_some() && places.take(1, 3).is_some());
    }
}
