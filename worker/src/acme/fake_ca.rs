//! A CA that misbehaves in the ways Pebble cannot: a TLS server with canned answers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use url::Url;

use super::account::AccountKey;
use super::pebble::MemoryRecord;
use super::problem::{AcmeError, RequestKind};
use super::transport::{Answer, Failure, Transport, Wire};
use super::*;
use crate::outward::RootsError;

const GIGABYTE: u64 = 1 << 30;

struct FakeCa {
    base: String,
    folder: TempDir,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<(String, Value)>>,
    bytes_sent: AtomicU64,
}

/// Between the answers of one path.
const NEXT: &str = "\n=====\n";

impl FakeCa {
    /// `answers`: path -> status line and headers, empty line, body. `{base}` stands for the server's URL. Of several, with
    /// [`NEXT`] between them, each is given once and the last from then on.
    async fn start(answers: &[(&str, &str)]) -> FakeCa {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let mut canned: HashMap<String, String> = HashMap::from([
            ("/nonce".to_owned(), "204 No Content\n\n".to_owned()),
            (
                "/dir".to_owned(),
                "200 OK\n\n".to_owned()
                    + r#"{"newNonce":"{base}/nonce","newAccount":"{base}/account","newOrder":"{base}/new"}"#,
            ),
        ]);
        canned.extend(answers.iter().map(|(path, answer)| ((*path).to_owned(), (*answer).to_owned())));
        for answer in canned.values_mut() {
            *answer = answer.replace("{base}", &base);
        }
        let seen = Arc::new(Seen::default());
        let (acceptor, canned) = (TlsAcceptor::from(Arc::new(config)), Arc::new(canned));
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&seen);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, canned, seen) = (acceptor.clone(), Arc::clone(&canned), Arc::clone(&shared));
                connections.spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        let _ = serve(tls, &canned, &seen).await;
                    }
                });
            }
        });
        FakeCa { base, folder, seen, _serving: serving }
    }

    fn settings(&self) -> Settings {
        Settings {
            directory: Url::parse(&self.url("/dir")).unwrap(),
            contact: None,
            ca_file: Some(self.folder.path().join("ca.pem")),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            new_order_limit: 1,
            external_account: None,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn transport(&self, settings: &Settings) -> Transport {
        let transport = Transport::new(Arc::new(Wire::new(settings).unwrap()), AccountKey::generate().unwrap(), None);
        transport.sign_as(&self.url("/account/1"));
        transport
    }

    async fn post(&self, path: &str) -> Result<Answer, Failure> {
        self.transport(&self.settings()).signed_post(&self.url(path), b"").await
    }

    fn acme(&self) -> Acme {
        let record = Arc::new(MemoryRecord::default());
        self.store_key(&record);
        Acme::with_record(self.settings(), record).unwrap()
    }

    /// A fresh key for the account.
    fn store_key(&self, record: &MemoryRecord) -> AccountKey {
        let key = AccountKey::generate().unwrap();
        let pem = key.pkcs8_pem().unwrap().expose().to_owned();
        *record.row.lock().unwrap() = Some((pem, Some(self.url("/account/1"))));
        key
    }

    /// Protected headers of the requests to `path`.
    fn seen(&self, path: &str) -> Vec<Value> {
        let requests = self.seen.requests.lock().unwrap();
        requests.iter().filter(|(seen, _)| seen == path).map(|(_, header)| header.clone()).collect()
    }
}

/// One request per connection.
async fn serve(
    tls: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    canned: &HashMap<String, String>,
    seen: &Seen,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(tls);
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(' ') {
            Some((_, rest)) if path.is_empty() => path = rest.split(' ').next().unwrap().to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length:") => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let jws: Value = serde_json::from_slice(&body).unwrap_or_default();
    let protected = BASE64URL.decode(jws["protected"].as_str().unwrap_or_default()).unwrap();
    let header = serde_json::from_slice(&protected).unwrap_or_default();
    let (count, before) = {
        let mut requests = seen.requests.lock().unwrap();
        let before = requests.iter().filter(|(other, _)| *other == path).count();
        requests.push((path.clone(), header));
        (requests.len(), before)
    };
    match path.as_str() {
        "/silent" => std::future::pending().await,
        "/huge" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            let block = [b'x'; 1 << 16];
            while seen.bytes_sent.load(Ordering::SeqCst) < GIGABYTE {
                stream.write_all(&block).await?;
                seen.bytes_sent.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
        }
        path => {
            let answer = canned.get(path).map_or("404 Not Found\n\n", String::as_str);
            let answers: Vec<&str> = answer.split(NEXT).collect();
            let (head, body) = answers[before.min(answers.len() - 1)].split_once("\n\n").unwrap();
            let head = head.replace('\n', "\r\n");
            let nonce = format!("Replay-Nonce: nonce-{count}\r\nConnection: close\r\n");
            let answer = format!("HTTP/1.1 {head}\r\n{nonce}Content-Length: {}\r\n\r\n{body}", body.len());
            let answer = if path == "/nonce" { answer.replace("Content-Length: 0\r\n", "") } else { answer };
            stream.write_all(answer.as_bytes()).await?;
        }
    }
    stream.shutdown().await
}

fn class(outcome: Result<Answer, Failure>) -> AcmeError {
    AcmeError::of_failure(RequestKind::Order, outcome.unwrap_err())
}

#[tokio::test]
async fn errors_keep_status_problem_and_retry_after() {
    let ca = FakeCa::start(&[
        ("/html", "503 Service Unavailable\nRetry-After: 120\n\n<html>upstream</html>"),
        (
            "/limited",
            "429 Too Many Requests\nDate: Sat, 21 Nov 2026 10:00:00 GMT\nRetry-After: Sat, 21 Nov 2026 11:00:00 GMT\n\n\
             {\"type\":\"urn:ietf:params:acme:error:rateLimited\",\"detail\":\"too many\"}",
        ),
        ("/forever", "429 Too Many Requests\nRetry-After: 18446744073709551615\n\n"),
        ("/nonsense", "429 Too Many Requests\nRetry-After: soon\n\n"),
        ("/fine", "200 OK\nRetry-After: 3\n\n{}"),
    ])
    .await;
    let error = class(ca.post("/html").await);
    assert_eq!((error.class, error.status), (ErrorClass::RetryLater, Some(503)));
    assert_eq!((error.problem, error.retry_after), (None, Some(Duration::from_secs(120))));
    let error = class(ca.post("/limited").await);
    assert_eq!((error.class, error.retry_after), (ErrorClass::RateLimited, Some(Duration::from_secs(3600))));
    assert_eq!(error.problem.unwrap().detail, "too many");
    assert!(class(ca.post("/forever").await).retry_after.unwrap() <= Duration::from_secs(30 * 86400));
    assert_eq!(class(ca.post("/nonsense").await).retry_after, None);
    assert_eq!(ca.post("/fine").await.unwrap().retry_after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_gigabyte_costs_a_megabyte() {
    let ca = FakeCa::start(&[]).await;
    assert!(matches!(ca.post("/huge").await, Err(Failure::TooLarge)));
    // Socket buffers on both sides come on top of the megabyte that was read.
    assert!(ca.seen.bytes_sent.load(Ordering::SeqCst) < GIGABYTE / 16);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let ca = FakeCa::start(&[]).await;
    let settings = Settings { request_timeout: Duration::from_millis(300), ..ca.settings() };
    let outcome = ca.transport(&settings).signed_post(&ca.url("/silent"), b"").await;
    assert_eq!(class(outcome).class, ErrorClass::RetryLater);

    let refused = Settings { directory: Url::parse("https://127.0.0.1:1/dir").unwrap(), ..ca.settings() };
    let outcome = ca.transport(&refused).signed_post("https://127.0.0.1:1/x", b"").await;
    assert_eq!(class(outcome).class, ErrorClass::RetryLater);
}

#[tokio::test]
async fn redirects_and_plain_http_are_not_followed() {
    let ca = FakeCa::start(&[
        ("/moved", "307 Temporary Redirect\nLocation: {base}/target\n\n"),
        ("/target", "200 OK\n\n{}"),
    ])
    .await;
    let error = class(ca.post("/moved").await);
    assert_eq!((error.class, error.status), (ErrorClass::RetryLater, Some(307)));
    assert!(ca.seen("/target").is_empty());
    let plain = ca.transport(&ca.settings()).signed_post("http://localhost/x", b"").await;
    assert!(matches!(plain, Err(Failure::Url(UrlRefused::NotHttps(_)))));
}

#[tokio::test]
async fn an_untrusted_ca_certificate_is_refused() {
    let ca = FakeCa::start(&[("/fine", "200 OK\n\n{}")]).await;
    let settings = Settings { ca_file: None, ..ca.settings() };
    let outcome = ca.transport(&settings).signed_post(&ca.url("/fine"), b"").await;
    // The first request is the directory's, on the way to a nonce.
    assert!(matches!(outcome, Err(Failure::NoNonce(Some(cause))) if matches!(*cause, Failure::Http(_))));
    assert!(ca.seen("/dir").is_empty());
    let no_pem = Settings { ca_file: Some("/dev/null".into()), ..ca.settings() };
    assert!(matches!(Wire::new(&no_pem), Err(SetupError::CaFile(RootsError::Empty(_)))));
}

#[tokio::test]
async fn each_nonce_is_used_once_and_fetched_only_when_none_is_left() {
    let bad_nonce = "400 Bad Request\n\n{\"type\":\"urn:ietf:params:acme:error:badNonce\"}";
    let ca = FakeCa::start(&[("/fine", "200 OK\n\n{}"), ("/bad", bad_nonce)]).await;
    let transport = ca.transport(&ca.settings());
    for _ in 0..3 {
        transport.signed_post(&ca.url("/fine"), b"{}").await.unwrap();
    }
    assert_eq!((ca.seen("/dir").len(), ca.seen("/nonce").len()), (1, 1));
    let error = class(transport.signed_post(&ca.url("/bad"), b"").await);
    assert_eq!((error.class, error.status), (ErrorClass::RetryLater, Some(400)));
    assert_eq!((ca.seen("/bad").len(), ca.seen("/nonce").len()), (8, 1));

    let headers = [ca.seen("/fine"), ca.seen("/bad")].concat();
    let nonces: HashSet<_> = headers.iter().map(|header| header["nonce"].to_string()).collect();
    assert_eq!(nonces.len(), headers.len());
    assert_eq!(headers[0]["alg"], "RS256");
    assert_eq!(headers[0]["kid"], json!(ca.url("/account/1")));
    assert_eq!(headers[0]["url"], json!(ca.url("/fine")));
}

#[tokio::test]
async fn a_missing_new_nonce_is_not_a_missing_order() {
    let ca = FakeCa::start(&[("/fine", "200 OK\n\n{}"), ("/nonce", "404 Not Found\n\n")]).await;
    let error = class(ca.post("/fine").await);
    assert_eq!((error.class, error.status), (ErrorClass::RetryLater, Some(404)));
}

#[tokio::test]
async fn what_a_ca_must_not_say_is_an_error_and_unknown_challenges_are_not() {
    let order = |authorization: &str| {
        let body = json!({ "status": "pending", "authorizations": [authorization], "finalize": "{base}/finalize" });
        format!("201 Created\nLocation: {{base}}/order\n\n{body}")
    };
    let authorization = |name: &str, token: &str| {
        let challenges = json!([
            { "type": "dns-of-the-future-99", "url": "{base}/c/0", "status": "pending", "novelty": [1] },
            { "type": "dns-01", "url": "{base}/c/1", "status": "pending", "token": token },
        ]);
        let identifier = json!({ "type": "dns", "value": name });
        let body = json!({ "status": "pending", "identifier": identifier, "challenges": challenges });
        format!("200 OK\nRetry-After: 7\n\n{body}")
    };
    let (good, dots) = (authorization("A.example", "abc_-1"), authorization("a.example", "../x"));
    let other = authorization("b.example", "abc");
    let names = ["a.example".to_owned()];
    for (authorization_url, answer, placed) in [
        ("{base}/authz", good.as_str(), true),
        ("{base}/authz", &other, false),
        ("{base}/authz", &dots, false),
        ("{base}/authz", "200 OK\n\n<html>", false),
        ("http://localhost/authz", &good, false),
        ("https://user@localhost/authz", &good, false),
    ] {
        let ca = FakeCa::start(&[("/new", &order(authorization_url)), ("/authz", answer)]).await;
        let outcome = ca.acme().place_now(&names).await;
        assert_eq!(outcome.is_ok(), placed, "{authorization_url} {answer}");
        match outcome {
            Ok(order) => {
                assert_eq!(order.authorizations[0].retry_after, Some(Duration::from_secs(7)));
                assert_eq!(order.authorizations[0].dns01.as_ref().unwrap().token, "abc_-1");
            }
            Err(error) => assert_eq!(error.class, ErrorClass::RetryLater),
        }
    }
}

#[tokio::test]
async fn another_key_is_taken_when_the_ca_accepts_it_and_not_for_its_silence() {
    let challenges = json!([{ "type": "dns-01", "url": "{base}/c/1", "status": "pending", "token": "abc" }]);
    let identifier = json!({ "type": "dns", "value": "a.example" });
    let body = json!({ "status": "pending", "identifier": identifier, "challenges": challenges });
    let good = format!("200 OK\n\n{body}");
    let refused = r#"400 Bad Request
Content-Type: application/problem+json

{"type":"urn:ietf:params:acme:error:malformed","detail":"JWS verification error"}"#;
    let limited = r#"429 Too Many Requests
Content-Type: application/problem+json

{"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down"}"#;
    for unheard in ["503 Service Unavailable\n\n", "500 Internal Server Error\n\n", limited] {
        let answers = [good.as_str(), refused, unheard, &good, refused, &good].join(NEXT);
        let ca = FakeCa::start(&[("/authz", &answers)]).await;
        let record = Arc::new(MemoryRecord::default());
        let old = ca.store_key(&record);
        let acme = Acme::with_record(ca.settings(), Arc::<MemoryRecord>::clone(&record)).unwrap();
        let value = async || Some(acme.authorization(&ca.url("/authz")).await.ok()?.dns01?.txt_value);
        assert_eq!(value().await, Some(old.txt_value("abc")));
        let new = ca.store_key(&record);
        assert_eq!(value().await, None, "{unheard}");
        assert_eq!(
            value().await,
            Some(old.txt_value("abc")),
            "{unheard}: a key was taken that the CA has not accepted"
        );
        for _ in 0..2 {
            assert_eq!(value().await, Some(new.txt_value("abc")), "the value is not of the key that was accepted");
        }
        assert_eq!(ca.seen("/authz").len(), 7);
    }
}

#[tokio::test]
async fn calls_can_run_on_any_thread() {
    fn sendable<T: Send>(_: &T) {}
    let acme = FakeCa::start(&[]).await.acme();
    let names = ["a.example".to_owned()];
    sendable(&acme.place_now(&names));
    sendable(&acme.finalize("", &[]));
    sendable(&acme.download(""));
    sendable(&acme.deactivate_authorization(""));
}
