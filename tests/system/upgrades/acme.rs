//! An ACME client with the account key of another installation (RFC 8555): it brings the CA of a test to where that
//! installation's CA was.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use countersign_tests::stack::waiting::poll;
use countersign_tests::stack::{Stack, local_http};
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

const WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Acme {
    http: Client,
    directory: Value,
    key: KeyPair,
    jwk: Value,
    /// The account's URL.
    pub(super) kid: String,
}

/// What an order asks for a name.
pub(super) struct Authorization {
    pub(super) identifier: String,
    pub(super) wildcard: bool,
    pub(super) url: String,
    pub(super) challenge_url: String,
    pub(super) token: String,
    pub(super) txt_value: String,
}

impl Acme {
    /// Registers the key.
    pub(super) async fn register(stack: &Stack, key_pem: &str) -> Self {
        let root = std::fs::read(stack.ca().https_root_file()).unwrap();
        let http = local_http::client(Some(&root)).unwrap();
        let directory = http.get(stack.ca().directory()).send().await.unwrap().json().await.unwrap();
        let key = KeyPair::from_pem(key_pem).unwrap();
        let jwk = jwk(&key);
        let mut acme = Self { http, directory, key, jwk, kid: String::new() };
        let url = text(&acme.directory["newAccount"]);
        acme.kid = acme.post(&url, Some(json!({ "termsOfServiceAgreed": true }))).await.0;
        acme
    }

    /// A new order for these names, with its authorizations.
    pub(super) async fn order(&self, names: &[String]) -> (String, Vec<Authorization>) {
        let identifiers: Vec<Value> = names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
        let url = text(&self.directory["newOrder"]);
        let (url, order) = self.post(&url, Some(json!({ "identifiers": identifiers }))).await;
        let mut authorizations = Vec::new();
        for authorization in order["authorizations"].as_array().unwrap() {
            authorizations.push(self.authorization(&text(authorization)).await);
        }
        (url, authorizations)
    }

    async fn authorization(&self, url: &str) -> Authorization {
        let (_, view) = self.post(url, None).await;
        let challenges = view["challenges"].as_array().unwrap();
        let dns01 = challenges.iter().find(|challenge| challenge["type"] == "dns-01").unwrap();
        let token = text(&dns01["token"]);
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.jwk.to_string()));
        Authorization {
            identifier: text(&view["identifier"]["value"]),
            wildcard: view["wildcard"] == true,
            url: url.to_owned(),
            challenge_url: text(&dns01["url"]),
            txt_value: BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{token}.{thumbprint}"))),
            token,
        }
    }

    /// Answers the challenges, whose records are there, and waits until the order is ready.
    pub(super) async fn respond(&self, order: &str, authorizations: &[Authorization]) {
        for authorization in authorizations {
            self.post(&authorization.challenge_url, Some(json!({}))).await;
        }
        let ready = poll(WITHIN, async || (self.post(order, None).await.1["status"] == "ready").then_some(()));
        assert!(ready.await.is_some(), "{order} is not ready");
    }

    /// Sends a CSR (PEM).
    pub(super) async fn finalize(&self, order: &str, csr_pem: &str) {
        let finalize = text(&self.post(order, None).await.1["finalize"]);
        let lines: String = csr_pem.lines().filter(|line| !line.starts_with('-')).collect();
        let csr = BASE64_URL_SAFE_NO_PAD.encode(BASE64_STANDARD.decode(lines).unwrap());
        self.post(&finalize, Some(json!({ "csr": csr }))).await;
    }

    /// `Location`, which is empty where there is none, and the body. Without a payload: POST-as-GET.
    async fn post(&self, url: &str, payload: Option<Value>) -> (String, Value) {
        let payload = payload.map(|payload| encoded(&payload)).unwrap_or_default();
        let mut refused = Value::Null;
        // Pebble refuses some nonces on purpose.
        for _ in 0..20 {
            let answer = self.http.head(text(&self.directory["newNonce"])).send().await.unwrap();
            let mut protected =
                json!({ "alg": "RS256", "url": url, "nonce": answer.headers()["replay-nonce"].to_str().unwrap() });
            let (name, signer) =
                if self.kid.is_empty() { ("jwk", self.jwk.clone()) } else { ("kid", self.kid.clone().into()) };
            protected[name] = signer;
            let protected = encoded(&protected);
            let signature = self.key.sign(format!("{protected}.{payload}").as_bytes()).unwrap();
            let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
            let jws = json!({ "protected": protected, "payload": payload, "signature": signature });
            let request = self.http.post(url).header("content-type", "application/jose+json").body(jws.to_string());
            let answer = request.send().await.unwrap();
            let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
            let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
            if status.is_success() {
                return (location.unwrap_or_default(), body);
            }
            assert_eq!(body["type"], "urn:ietf:params:acme:error:badNonce", "{url}: {status} {body}");
            refused = body;
        }
        panic!("{url}: {refused}");
    }
}

/// Its members in the order in which the thumbprint wants them (RFC 7638).
fn jwk(key: &KeyPair) -> Value {
    let spki = key.subject_public_key_info();
    let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let PublicKey::RSA(rsa) = spki.parsed().unwrap() else { panic!("the account has no RSA key") };
    let number = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        BASE64_URL_SAFE_NO_PAD.encode(&bytes[zeros..])
    };
    json!({ "e": number(rsa.exponent), "kty": "RSA", "n": number(rsa.modulus) })
}

fn encoded(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, and not {value}")).to_owned()
}
