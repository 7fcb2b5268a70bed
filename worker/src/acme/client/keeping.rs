//! What an operator does at the CA: revoke a certificate, look at the account, give it another key. And what a worker does
//! that meets the other key.
//!
//! Nothing of it belongs to an order, and all of it may be repeated: whoever was killed in the middle asks again.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use http::header::LOCATION;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;

use super::super::account::{AccountKey, Session, parse_rsa_key_pem};
use super::super::measured::asking;
use super::super::problem::{AcmeError, RequestKind};
use super::super::transport::{Answer, Failure, jws};
use super::Acme;

/// What came of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Now,
    /// The CA had done it before.
    Before,
}

impl Acme {
    /// Revokes the leaf of a chain as our account (RFC 8555 section 7.6). `reason`: a CRLReason of RFC 5280 section 5.3.1.
    pub async fn revoke(&self, chain_pem: &str, reason: i16) -> Result<Revoked, AcmeError> {
        const KIND: RequestKind = RequestKind::Revoke;
        let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes())
            .map_err(|error| AcmeError::broken_protocol(KIND, error))?;
        let url = self.resource("revokeCert").await?;
        let payload: Arc<str> = json!({ "certificate": BASE64URL.encode(&leaf), "reason": reason }).to_string().into();
        let revoked = self
            .call(|session| {
                let (url, payload) = (url.clone(), Arc::clone(&payload));
                async move {
                    let answer = asking(KIND, session.transport.signed_post(&url, payload.as_bytes())).await;
                    answer.map_err(|failure| AcmeError::of_failure(KIND, failure))
                }
            })
            .await;
        match revoked {
            Ok(_) => Ok(Revoked::Now),
            Err(error) if error.problem.as_ref().is_some_and(|problem| problem.name() == "alreadyRevoked") => {
                Ok(Revoked::Before)
            }
            Err(error) => Err(error),
        }
    }

    /// The status of our account as the CA says it: `valid`, `deactivated`, `revoked` (RFC 8555 section 7.1.6). It must be
    /// registered; nothing is changed, and no key is tried but the stored one.
    pub async fn account_status(&self) -> Result<String, AcmeError> {
        const KIND: RequestKind = RequestKind::Account;
        #[derive(Deserialize)]
        struct Account {
            status: String,
        }
        let session = self.0.accounts.session().await?;
        let kid = session.transport.kid().unwrap_or_default().to_owned();
        let answer = asking(KIND, session.transport.signed_post(&kid, b"")).await;
        let answer = answer.map_err(|failure| AcmeError::of_failure(KIND, failure))?;
        let account: Account =
            serde_json::from_slice(&answer.body).map_err(|error| AcmeError::broken_protocol(KIND, error))?;
        Ok(account.status)
    }

    /// keyChange (RFC 8555 section 7.3.5): the account has the key `next` afterwards, whether this run or one before told the CA.
    pub async fn change_key(&self, next_pem: &str, is_resumed: bool) -> Result<(), AcmeError> {
        const KIND: RequestKind = RequestKind::Account;
        let next = parse_rsa_key_pem(next_pem).map_err(AcmeError::unusable_account)?;
        let session = self.0.accounts.session().await?;
        let kid = session.transport.kid().unwrap_or_default().to_owned();
        if is_resumed && self.is_key_of(&next, &kid).await? {
            return Ok(());
        }
        let url = self.resource("keyChange").await?;
        let header = json!({ "alg": "RS256", "jwk": next.jwk(), "url": url });
        let change = json!({ "account": kid, "oldKey": session.transport.key().jwk() }).to_string();
        let inner = jws(&header, change.as_bytes(), |message| next.sign(message));
        let inner = inner.map_err(|failure| AcmeError::of_failure(KIND, failure))?.to_string();
        match asking(KIND, session.transport.signed_post(&url, inner.as_bytes())).await {
            Ok(_) => Ok(()),
            // The answer may have been lost, or somebody was quicker with the same key.
            Err(failure) if self.is_key_of(&next, &kid).await? => {
                tracing::info!(%failure, "the CA had taken the key all the same");
                Ok(())
            }
            Err(failure) => Err(AcmeError::of_failure(KIND, failure)),
        }
    }

    /// Once more after a refusal that another key of the account would explain. The refusal itself when there is no other key, or
    /// when the CA says the same of it.
    pub(super) async fn by_another_key<T, F>(
        &self,
        refused: &Arc<Session>,
        refusal: AcmeError,
        request: impl Fn(Arc<Session>) -> F,
    ) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<T, AcmeError>>,
    {
        let Some(other) = self.0.accounts.rekeyed(refused).await? else {
            return Err(refusal);
        };
        match request(Arc::clone(&other)).await {
            // It was about something else, or the CA has not heard of that key yet.
            Err(again) if again.may_be_of_another_key() => Err(refusal),
            outcome => {
                tracing::info!("our account at the CA has another key");
                self.0.accounts.adopt(refused, other).await?;
                outcome
            }
        }
    }

    /// Whether the CA knows this key as that of the account (RFC 8555 section 7.3.1).
    async fn is_key_of(&self, key: &AccountKey, kid: &str) -> Result<bool, AcmeError> {
        const KIND: RequestKind = RequestKind::Account;
        let url = self.resource("newAccount").await?;
        let asked = self.0.accounts.transport(key.clone());
        let found: Result<Answer, Failure> = asked.post_by_key(&url, br#"{"onlyReturnExisting":true}"#).await;
        match found.map_err(|failure| AcmeError::of_failure(KIND, failure)) {
            Ok(answer) => {
                Ok(answer.headers.get(LOCATION).is_some_and(|location| location.as_bytes() == kid.as_bytes()))
            }
            Err(error) if error.account_is_unknown() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The URL of a resource in the CA's directory.
    async fn resource(&self, name: &'static str) -> Result<String, AcmeError> {
        let directory = self.directory_now().await?;
        let url = directory.and_then(|directory| match name {
            "revokeCert" => directory.revoke_cert,
            "keyChange" => directory.key_change,
            _ => directory.new_account,
        });
        url.ok_or_else(|| AcmeError::broken_protocol(RequestKind::Directory, format!("the directory has no {name}")))
    }
}
