//! The front by itself: one in front of another, which stands for the CA.

mod memory;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use reqwest::header::HeaderMap;
use reqwest::{Certificate, Client, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::{AcmeFront, Fault, Kind, Moment, Reply, RetryAfter};
use crate::certificate::Description;
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

    fn url(&self, path: &str) -> String {
        self.front.directory().replace("/dir", path)
    }

    async fn send(&self, path: &str, body: String) -> reqwest::Result<Response> {
        self.client.post(self.url(path)).body(body).send().await
    }

    async fn post(&self, path: &str, body: String) -> reqwest::Result<(u16, String)> {
        let answer = self.send(path, body).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Signed by nobody, as if by an account.
    async fn post_as(&self, account: &str, path: &str, payload: &Value) -> (u16, HeaderMap, Value) {
        let answer = self.send(path, jws(account, payload)).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn is_held(&self, kind: Kind, moment: Moment, count: usize) {
        let held =
            waiting::poll(Duration::from_secs(5), async || (self.front.held(kind, moment) == count).then_some(()));
        held.await.unwrap();
    }
}

fn jws(account: &str, payload: &Value) -> String {
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    json!({"protected": part(&json!({"kid": account})), "payload": part(payload)}).to_string()
}

fn answer(status: u16, body: &Value) -> Fault {
    Fault::Answer(Reply::new(status, "application/json", body.to_string()))
}

#[tokio::test]
async fn a_request_is_passed_on_answered_here_changed_lost_or_dropped() {
    let pair = Pair::start();
    pair.ca.always(Kind::Order, answer(200, &json!({"status": "ready"})));
    pair.front.next(1, Kind::Order, Fault::Answer(Reply::problem(429, "rateLimited", "slowly")));
    pair.front.next(1, Kind::Order, Fault::HangUp);
    pair.front.next(1, Kind::Order, Fault::change_json(|order| order["status"] = "dead".into()));
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
    kinds.into_iter().for_each(|kind| pair.ca.always(kind, Fault::html(503)));
    pair.front.hold(Kind::Deactivation);
    let deactivated = pair.post("/authZ/1", jws("", &json!({"status": "deactivated"})));
    let released = async {
        assert_eq!(pair.post("/authZ/1", r#"{"payload":""}"#.to_owned()).await.unwrap().0, 503);
        pair.is_held(Kind::Deactivation, Moment::Before, 1).await;
        assert_eq!(kinds.map(|kind| pair.front.reached_ca(kind)), [1, 0]);
        pair.front.release();
    };
    assert_eq!(tokio::join!(deactivated, released).0.unwrap().0, 503);
    assert_eq!(kinds.map(|kind| pair.ca.arrived(kind)), [1, 1]);
}

#[tokio::test]
async fn an_answer_that_is_held_comes_after_the_ca_has_acted_or_never() {
    let pair = Pair::start();
    pair.ca.always(Kind::Finalize, answer(200, &json!({"status": "processing"})));
    pair.front.hold_answers(Kind::Finalize);
    for loses in [true, false] {
        let finalized = pair.post("/finalize-order/1", String::new());
        let let_go = async {
            pair.is_held(Kind::Finalize, Moment::After, 1).await;
            if loses { pair.front.lose_held() } else { pair.front.release() }
        };
        assert_eq!(tokio::join!(finalized, let_go).0.is_err(), loses);
    }
    assert_eq!((pair.ca.arrived(Kind::Finalize), pair.front.held(Kind::Finalize, Moment::After)), (2, 0));
}

#[tokio::test]
async fn a_request_whose_client_has_gone_never_reaches_the_ca() {
    let pair = Pair::start();
    pair.ca.always(Kind::Finalize, Fault::html(500));
    pair.front.hold(Kind::Finalize);
    let gone = pair.post("/finalize-order/1", String::new());
    tokio::select! {
        _ = gone => panic!("held requests are not answered"),
        () = pair.is_held(Kind::Finalize, Moment::Before, 1) => {}
    }
    pair.is_held(Kind::Finalize, Moment::Before, 0).await;
    pair.front.release();
    assert_eq!(pair.post("/finalize-order/2", String::new()).await.unwrap().0, 500);
    assert_eq!((pair.ca.arrived(Kind::Finalize), pair.front.arrived(Kind::Finalize)), (1, 2));
}

#[tokio::test]
async fn a_huge_answer_is_sent_as_it_is_read_and_a_late_one_comes_late() {
    const MEBIBYTES: u64 = 16;
    let pair = Pair::start();
    pair.front.next(
        1,
        Kind::Directory,
        Fault::Late(Duration::from_millis(200), Box::new(Fault::huge_answer(MEBIBYTES))),
    );
    let asked = Instant::now();
    let mut answer = pair.client.get(pair.front.directory()).send().await.unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert_eq!(answer.content_length(), Some(MEBIBYTES << 20));
    let mut length = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        length += chunk.len() as u64;
    }
    assert_eq!(length, MEBIBYTES << 20);
    // It is one copy of a MiB, many times over: this one would fit into no memory.
    pair.front.next(1, Kind::Directory, Fault::huge_answer(1 << 30));
    let mut answer = pair.client.get(pair.front.directory()).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
}

#[tokio::test]
async fn an_answer_is_cut_in_the_middle() {
    let pair = Pair::start();
    pair.ca.always(Kind::Order, answer(200, &json!({"status": "ready"})));
    pair.front.next(1, Kind::Order, Fault::cut_answer());
    let answer = pair.send("/my-order/1", String::new()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(18)));
    assert!(answer.text().await.is_err());
}

#[tokio::test]
async fn retry_after_comes_in_both_forms() {
    let pair = Pair::start();
    let forms = [RetryAfter::Seconds(90), RetryAfter::HttpDate(90)];
    for (form, status) in forms.into_iter().flat_map(|form| [(form, 429), (form, 503)]) {
        pair.front.next(1, Kind::NewOrder, if status == 429 { Fault::rate_limited(form) } else { Fault::busy(form) });
        let (answered, headers, _) = pair.post_as("", "/order-plz", &Value::Null).await;
        assert_eq!(answered, status);
        let date = |name: &str| OffsetDateTime::parse(headers[name].to_str().unwrap(), &Rfc2822).unwrap();
        match form {
            RetryAfter::Seconds(_) => assert_eq!(headers["retry-after"], "90"),
            RetryAfter::HttpDate(_) => assert_eq!((date("retry-after") - date("date")).whole_seconds(), 90),
        }
    }
}

#[tokio::test]
async fn objects_of_the_ca_look_dead_or_stuck() {
    let pair = Pair::start();
    let body = json!({"status": "valid", "certificate": "https://ca/certZ/1", "challenges": [{"status": "valid"}]});
    [Kind::Order, Kind::Authorization].into_iter().for_each(|kind| pair.ca.always(kind, answer(200, &body)));
    let look = async |path: &str, kind: Kind, fault: Fault| {
        pair.front.next(1, kind, fault);
        let (status, _, body) = pair.post_as("", path, &Value::Null).await;
        (status, body)
    };
    let order = async |fault: Fault| look("/my-order/1", Kind::Order, fault).await;
    let (_, stuck) = order(Fault::stuck_in_processing()).await;
    assert_eq!((&stuck["status"], &stuck["certificate"]), (&json!("processing"), &Value::Null));
    assert_eq!(order(Fault::invalid_order()).await.1["status"], "invalid");
    assert_eq!(order(Fault::expired()).await.0, 404);
    assert_eq!(order(Fault::bad_nonce()).await.1["type"], "urn:ietf:params:acme:error:badNonce");
    assert_eq!(order(Fault::order_not_ready()).await.1["type"], "urn:ietf:params:acme:error:orderNotReady");
    let (_, dead) = look("/authZ/1", Kind::Authorization, Fault::invalid_authorization("dns", "SERVFAIL")).await;
    assert_eq!((&dead["status"], &dead["challenges"][0]["error"]["detail"]), (&json!("invalid"), &json!("SERVFAIL")));
    assert_eq!(dead["challenges"][0]["error"]["type"], "urn:ietf:params:acme:error:dns");
}

#[tokio::test]
async fn chains_are_for_another_key_or_end_too_soon() {
    let pair = Pair::start();
    let leaf = CertificateParams::new(["shop.example.com".to_owned()]).unwrap();
    let leaf = leaf.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let chain = || Reply::new(200, "application/pem-certificate-chain", leaf.clone() + &leaf);
    pair.ca.always(Kind::Certificate, Fault::Answer(chain()));
    pair.front.next(1, Kind::Certificate, Fault::chain_for_another_key());
    pair.front.next(1, Kind::Certificate, Fault::truncated_chain());
    let (_, other) = pair.post("/certZ/1", String::new()).await.unwrap();
    let [ours, theirs] = [&leaf, &other].map(|pem| Description::of_leaf(pem).unwrap());
    assert_eq!(ours.names, theirs.names);
    assert_ne!(ours.fingerprint_sha256, theirs.fingerprint_sha256);
    let (_, cut) = pair.post("/certZ/1", String::new()).await.unwrap();
    assert_eq!((cut.matches("BEGIN").count(), cut.matches("END").count()), (2, 1));
}
