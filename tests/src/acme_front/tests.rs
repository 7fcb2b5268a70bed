//! The front by itself: one in front of another, which stands for the CA.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::{Certificate, Client};
use serde_json::json;

use super::{AcmeFront, Fault, Kind, Reply};
use crate::stack::pebble::HttpsIdentity;
use crate::stack::waiting;

struct Pair {
    ca: AcmeFront,
    front: AcmeFront,
    client: Client,
}

impl Pair {
    fn start() -> Self {
        let identity = HttpsIdentity::make().unwrap();
        let ca = AcmeFront::start("https://127.0.0.1:1", &identity).unwrap();
        let front = AcmeFront::start(ca.directory().trim_end_matches("/dir"), &identity).unwrap();
        let roots = Certificate::from_pem_bundle(&identity.root).unwrap();
        Self { ca, front, client: Client::builder().no_proxy().tls_certs_only(roots).build().unwrap() }
    }

    async fn post(&self, path: &str, body: String) -> reqwest::Result<(u16, String)> {
        let url = self.front.directory().replace("/dir", path);
        let answer = self.client.post(url).body(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

#[tokio::test]
async fn a_request_is_passed_on_answered_here_changed_lost_or_dropped() {
    let pair = Pair::start();
    pair.ca.always(Kind::Order, Fault::Answer(Reply::new(200, "application/json", r#"{"status":"ready"}"#)));
    pair.front.next(1, Kind::Order, Fault::Answer(Reply::problem(429, "rateLimited", "slowly")));
    pair.front.next(1, Kind::Order, Fault::HangUp);
    pair.front.next(1, Kind::Order, Fault::change(|reply| reply.with_json(|order| order["status"] = "dead".into())));
    pair.front.next(1, Kind::Order, Fault::lose_answer());
    let order = async || pair.post("/my-order/1", String::new()).await;

    let (status, problem) = order().await.unwrap();
    assert!(status == 429 && problem.contains("urn:ietf:params:acme:error:rateLimited"), "{problem}");
    assert!(order().await.is_err());
    assert_eq!((pair.ca.arrived(Kind::Order), pair.front.arrived(Kind::Order)), (0, 2));
    assert_eq!(order().await.unwrap(), (200, r#"{"status":"dead"}"#.to_owned()));
    assert_eq!(pair.front.unused(), [Kind::Order]);
    assert!(order().await.is_err());
    assert!(pair.front.unused().is_empty());
    assert_eq!(order().await.unwrap(), (200, r#"{"status":"ready"}"#.to_owned()));
    assert_eq!((pair.ca.arrived(Kind::Order), pair.front.reached_ca(Kind::Order)), (3, 3));
}

#[tokio::test]
async fn what_is_held_waits_and_a_deactivation_is_no_look() {
    let pair = Pair::start();
    let kinds = [Kind::Authorization, Kind::Deactivation];
    kinds.into_iter().for_each(|kind| pair.ca.always(kind, Fault::Answer(Reply::html(503))));
    pair.front.hold(Kind::Deactivation);
    let jws = json!({"payload": BASE64_URL_SAFE_NO_PAD.encode(r#"{"status":"deactivated"}"#)}).to_string();
    let deactivated = pair.post("/authZ/1", jws);
    let released = async {
        assert_eq!(pair.post("/authZ/1", r#"{"payload":""}"#.to_owned()).await.unwrap().0, 503);
        let held = waiting::poll(std::time::Duration::from_secs(5), async || {
            (pair.front.arrived(Kind::Deactivation) == 1).then_some(())
        });
        held.await.unwrap();
        assert_eq!(kinds.map(|kind| pair.front.reached_ca(kind)), [1, 0]);
        pair.front.release();
    };
    assert_eq!(tokio::join!(deactivated, released).0.unwrap().0, 503);
    assert_eq!(kinds.map(|kind| pair.ca.arrived(kind)), [1, 1]);
}
