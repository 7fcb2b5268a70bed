//! HTTP to the CA: signing, nonces, limits. The only place that knows that instant-acme signs with ES256 while we sign as an
//! RSA account with RS256.
//!
//! instant-acme (pinned, unmodified) builds each request with a throw-away EC key. The [`HttpClient`] here takes the JWS
//! apart, puts in our header (RFC 8555 §6.2: `jwk` in newAccount, `kid` elsewhere) and signs again. Answers other than 2xx
//! never reach the crate, which would drop status and Retry-After: they travel through it as [`Failure`]. Whoever bumps the
//! crate has the tests of `client` against Pebble to satisfy.
//!
//! It must not decide anything: what a failure means is `problem`'s, who the account is `account`'s.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use bytes::{Bytes, BytesMut};
use countersign_shared::telemetry::labels::AcmeResource;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use http::{Method, Request};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::account::AccountKey;
use super::measured::measured;
use super::problem::Problem;
use super::url_policy::UrlPolicy;
use super::{ExternalAccount, Settings};
use crate::outward::{JudgingResolver, RootsError, UrlRefused, roots};

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
/// Largest answer that is read, certificates included.
const LARGEST_ANSWER: usize = 1 << 20;
/// Pebble rejects 5 % of all nonces: with 3 tries 12 of 13,000 orders failed, with 8 none.
const TRIES_ON_BAD_NONCE: usize = 8;
const MOST_NONCES: usize = 64;
/// A date cannot overflow by what a CA says.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why no HTTP client could be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the ACME directory's URL is refused")]
    Directory(#[from] UrlRefused),
    #[error("ACME_CA_FILE cannot be used")]
    CaFile(#[from] RootsError),
    #[error("the TLS client cannot be made (is ACME_CA_FILE a PEM file of certificates?)")]
    Tls(#[source] reqwest::Error),
}

/// Why a request has no 2xx answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Url(#[from] UrlRefused),
    #[error("no answer from the CA")]
    Http(#[from] reqwest::Error),
    #[error("no answer from the CA within {0:?}")]
    Deadline(Duration),
    #[error("the CA's answer is larger than {LARGEST_ANSWER} bytes")]
    TooLarge,
    #[error("the CA refused the request")]
    Refused(Box<Answer>),
    #[error("the CA hands out no nonce")]
    NoNonce(#[source] Option<Box<Failure>>),
    #[error("the request cannot be signed: {0}")]
    Unsignable(&'static str),
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) retry_after: Option<Duration>,
}

impl Answer {
    pub(super) fn problem(&self) -> Option<Problem> {
        Problem::from_body(&self.body)
    }
}

/// Without the body: it may be a megabyte, and errors are logged.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {} with {} bytes", self.status, self.body.len())
    }
}

/// What the directory says (RFC 8555 §7.1.1), as far as it is asked for here and not by the crate.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    new_nonce: String,
    #[serde(default)]
    pub(super) new_account: Option<String>,
    #[serde(default)]
    pub(super) new_order: Option<String>,
    #[serde(default)]
    pub(super) revoke_cert: Option<String>,
    #[serde(default)]
    pub(super) key_change: Option<String>,
    /// RFC 9773 §4.
    #[serde(default)]
    pub(super) renewal_info: Option<String>,
}

/// The connections and nonces of one directory, whatever the account.
pub(super) struct Wire {
    http: reqwest::Client,
    policy: Arc<UrlPolicy>,
    directory: Url,
    request_timeout: Duration,
    /// Once it was read, and when.
    known: Mutex<Option<(Instant, Directory)>>,
    nonces: Mutex<VecDeque<String>>,
}

impl Wire {
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let policy = Arc::new(UrlPolicy::new(&settings.directory)?);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            // Both would go round the URL policy.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(JudgingResolver::new(Arc::clone(&policy)))
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.request_timeout);
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_merge(roots(path)?);
        }
        Ok(Wire {
            http: builder.build().map_err(SetupError::Tls)?,
            policy,
            directory: settings.directory.clone(),
            request_timeout: settings.request_timeout,
            known: Mutex::default(),
            nonces: Mutex::new(VecDeque::new()),
        })
    }

    /// Refuses a URL that must not be followed, before it is stored.
    pub(super) fn check_url(&self, url: &str) -> Result<(), UrlRefused> {
        self.policy.check(url).map(drop)
    }

    /// Reads the directory unless it was read before.
    pub(super) async fn reach_directory(&self) -> Result<(), Failure> {
        let known = locked(&self.known).is_some();
        match known {
            true => Ok(()),
            false => self.plain(Method::GET, self.directory.as_str()).await.map(drop),
        }
    }

    /// The directory as it was read less than `age` ago, or is now: what a CA offers may change. None when it makes no sense.
    pub(super) async fn directory_within(&self, age: Duration) -> Result<Option<Directory>, Failure> {
        let fresh = |known: &(Instant, Directory)| (known.0.elapsed() < age).then(|| known.1.clone());
        if let Some(directory) = locked(&self.known).as_ref().and_then(fresh) {
            return Ok(Some(directory));
        }
        self.plain(Method::GET, self.directory.as_str()).await?;
        Ok(locked(&self.known).as_ref().map(|(_, directory)| directory.clone()))
    }

    /// An unsigned request.
    pub(super) async fn plain(&self, method: Method, url: &str) -> Result<Answer, Failure> {
        let url = self.policy.check(url)?;
        let known = match method {
            Method::HEAD => Some(AcmeResource::NewNonce),
            _ => (url == self.directory).then_some(AcmeResource::Directory),
        };
        let sending = self.send(self.http.request(method.clone(), url.clone()));
        let answer = measured(&method, known, sending).await?;
        if method == Method::GET
            && url == self.directory
            && let Ok(directory) = serde_json::from_slice(&answer.body)
        {
            *locked(&self.known) = Some((Instant::now(), directory));
        }
        Ok(answer)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let mut response = request.send().await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let answer =
            Answer { status: status.as_u16(), retry_after: retry_after(&headers), headers, body: body.freeze() };
        match status.is_success() {
            true => Ok(answer),
            false => Err(Failure::Refused(Box::new(answer))),
        }
    }

    /// Newest first: a CA forgets the oldest.
    async fn nonce(&self) -> Result<String, Failure> {
        let kept = locked(&self.nonces).pop_back();
        match kept {
            Some(nonce) => Ok(nonce),
            None => self.new_nonce().await.map_err(|failure| match failure {
                Failure::NoNonce(_) => failure,
                failure => Failure::NoNonce(Some(Box::new(failure))),
            }),
        }
    }

    /// RFC 8555 §7.2.
    async fn new_nonce(&self) -> Result<String, Failure> {
        self.reach_directory().await?;
        let known = locked(&self.known).as_ref().map(|(_, directory)| directory.new_nonce.clone());
        let url = known.ok_or(Failure::NoNonce(None))?;
        match self.plain(Method::HEAD, &url).await {
            Ok(answer) => replay_nonce(&answer.headers).ok_or(Failure::NoNonce(None)),
            Err(failure) => {
                // The CA may have moved it: the next try reads the directory again.
                *locked(&self.known) = None;
                Err(failure)
            }
        }
    }

    fn keep_nonce(&self, headers: &HeaderMap) {
        if let Some(nonce) = replay_nonce(headers) {
            let mut nonces = locked(&self.nonces);
            if nonces.len() == MOST_NONCES {
                nonces.pop_front();
            }
            nonces.push_back(nonce);
        }
    }
}

/// Signs as one account. Cheap to clone.
#[derive(Clone)]
pub(super) struct Transport(Arc<Signing>);

struct Signing {
    wire: Arc<Wire>,
    key: AccountKey,
    kid: OnceLock<String>,
    external_account: Option<ExternalAccount>,
}

/// How the account is named in the protected header (RFC 8555 §6.2).
#[derive(Clone, Copy, PartialEq)]
enum NamedBy {
    Jwk,
    Kid,
}

impl Transport {
    pub(super) fn new(wire: Arc<Wire>, key: AccountKey, external_account: Option<ExternalAccount>) -> Self {
        Transport(Arc::new(Signing { wire, key, kid: OnceLock::new(), external_account }))
    }

    /// From now on requests are signed as this account.
    pub(super) fn sign_as(&self, kid: &str) {
        // A transport serves one account; a second call would bring the same KID.
        let _ = self.0.kid.set(kid.to_owned());
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.0.kid.get().map(String::as_str)
    }

    pub(super) fn key(&self) -> &AccountKey {
        &self.0.key
    }

    /// POST as the account; an empty payload is POST-as-GET (RFC 8555 §6.3). Has one deadline, whatever it takes inside.
    pub(super) async fn signed_post(&self, url: &str, payload: &[u8]) -> Result<Answer, Failure> {
        self.post(url, payload, NamedBy::Kid).await
    }

    /// The same for newAccount, which names the key and no account.
    pub(super) async fn post_by_key(&self, url: &str, payload: &[u8]) -> Result<Answer, Failure> {
        self.post(url, payload, NamedBy::Jwk).await
    }

    async fn post(&self, url: &str, payload: &[u8], named_by: NamedBy) -> Result<Answer, Failure> {
        let timeout = self.0.wire.request_timeout;
        tokio::time::timeout(timeout, self.post_until_nonce_is_good(url, payload, named_by))
            .await
            .unwrap_or(Err(Failure::Deadline(timeout)))
    }

    async fn post_until_nonce_is_good(&self, url: &str, payload: &[u8], named_by: NamedBy) -> Result<Answer, Failure> {
        let wire = &self.0.wire;
        let url = wire.policy.check(url)?;
        let mut tries = 0;
        loop {
            let mut header = json!({ "alg": "RS256", "nonce": wire.nonce().await?, "url": url.as_str() });
            match named_by {
                NamedBy::Jwk => header["jwk"] = self.0.key.jwk(),
                NamedBy::Kid => {
                    let kid = self.0.kid.get().ok_or(Failure::Unsignable("no account yet"))?;
                    header["kid"] = json!(kid);
                }
            }
            let jws = jws(&header, payload, |message| self.0.key.sign(message))?;
            let request =
                wire.http.post(url.clone()).header(CONTENT_TYPE, "application/jose+json").body(jws.to_string());
            let known = (named_by == NamedBy::Jwk).then_some(AcmeResource::NewAccount);
            let outcome = measured(&Method::POST, known, wire.send(request)).await;
            tries += 1;
            match outcome {
                Ok(answer) => {
                    wire.keep_nonce(&answer.headers);
                    return Ok(answer);
                }
                Err(Failure::Refused(answer)) => {
                    wire.keep_nonce(&answer.headers);
                    let bad_nonce = answer.problem().is_some_and(|problem| problem.name() == "badNonce");
                    if !bad_nonce || tries == TRIES_ON_BAD_NONCE {
                        return Err(Failure::Refused(answer));
                    }
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Signs again what instant-acme signed with its throw-away key.
    async fn resign(&self, url: &str, jws: &[u8]) -> Result<Answer, Failure> {
        let shape = || Failure::Unsignable("instant-acme built a JWS of another shape");
        #[derive(Deserialize)]
        struct Jws {
            protected: String,
            payload: String,
        }
        let jws: Jws = serde_json::from_slice(jws).map_err(|_| shape())?;
        let protected = decoded_json(&jws.protected).ok_or_else(shape)?;
        let mut payload = BASE64URL.decode(&jws.payload).map_err(|_| shape())?;
        if protected.get("jwk").is_none() {
            return self.post(url, &payload, NamedBy::Kid).await;
        }
        let mut account: Value = serde_json::from_slice(&payload).map_err(|_| shape())?;
        if account.get("externalAccountBinding").is_some() {
            account["externalAccountBinding"] = self.external_account_binding(url)?;
            payload = account.to_string().into_bytes();
        }
        self.post(url, &payload, NamedBy::Jwk).await
    }

    /// RFC 8555 §7.3.4: our public key, signed with the MAC key that the CA gave out.
    fn external_account_binding(&self, new_account_url: &str) -> Result<Value, Failure> {
        let external = (self.0.external_account.as_ref()).ok_or(Failure::Unsignable("no external account"))?;
        let header = json!({ "alg": "HS256", "kid": external.key_id, "url": new_account_url });
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &external.hmac_key);
        jws(&header, self.0.key.jwk().to_string().as_bytes(), |message| {
            Ok(hmac::sign(&mac_key, message).as_ref().to_vec())
        })
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let url = parts.uri.to_string();
            let outcome = match parts.method {
                // newNonce: whatever nonce the crate gets is replaced by one of the pool.
                Method::HEAD => Ok(Answer {
                    status: 200,
                    headers: HeaderMap::from_iter([(REPLAY_NONCE, http::HeaderValue::from_static("unused"))]),
                    body: Bytes::new(),
                    retry_after: None,
                }),
                Method::POST => {
                    let body = match body.collect().await {
                        Ok(body) => body.to_bytes(),
                        Err(never) => match never {},
                    };
                    transport.resign(&url, &body).await
                }
                method => transport.0.wire.plain(method, &url).await,
            };
            let answer = outcome.map_err(|failure| instant_acme::Error::Other(Box::new(failure)))?;
            let mut response = http::Response::builder().status(answer.status).body(())?;
            *response.headers_mut() = answer.headers;
            Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(answer.body) })
        })
    }
}

/// Flattened JWS (RFC 7515 §7.2.2), the only form that RFC 8555 §6.2 allows.
pub(super) fn jws(
    header: &Value,
    payload: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, Failure>,
) -> Result<Value, Failure> {
    let protected = BASE64URL.encode(header.to_string());
    let payload = BASE64URL.encode(payload);
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({ "protected": protected, "payload": payload, "signature": BASE64URL.encode(signature) }))
}

/// What these locks hold is whole at any time, so a panic elsewhere does no harm.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decoded_json(base64url: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64URL.decode(base64url).ok()?).ok()
}

/// RFC 8555 §6.5.1: what is not base64url is no nonce.
fn replay_nonce(headers: &HeaderMap) -> Option<String> {
    let nonce = headers.get(REPLAY_NONCE)?.to_str().ok()?;
    super::is_base64url(nonce).then(|| nonce.to_owned())
}

/// Both forms of RFC 9110 §10.2.3. A date is measured against the answer's own `Date`, because the CA's clock is not ours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let answered_at = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(answered_at).unwrap_or(Duration::ZERO).min(LONGEST_RETRY_AFTER))
}
