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

/// Why a key is not known to be the account's. The same call again finds out.
#[derive(Debug, thiserror::Error)]
pub enum KeyChangeError {
    #[error("the CA has not taken the new key")]
    Refused(#[from] AcmeError),
    /// What went wrong first; the CA could not be asked afterwards.
    #[error("it is not known whether the CA has taken the new key")]
    Unknown(#[source] AcmeError),
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
    pub async fn change_key(&self, next_pem: &str, is_resumed: bool) -> Result<(), KeyChangeError> {
        const KIND: RequestKind = RequestKind::Account;
        // Before this run has told the CA, only one before may have.
        let early = |error| if is_resumed { KeyChangeError::Unknown(error) } else { KeyChangeError::Refused(error) };
        let next = parse_rsa_key_pem(next_pem).map_err(AcmeError::unusable_account)?;
        let session = self.0.accounts.session().await.map_err(early)?;
        let kid = session.transport.kid().unwrap_or_default().to_owned();
        if is_resumed && self.is_key_of(&next, &kid).await.map_err(early)? {
            return Ok(());
        }
        let url = self.resource("keyChange").await?;
        let header = json!({ "alg": "RS256", "jwk": next.jwk(), "url": url });
        let change = json!({ "account": kid, "oldKey": session.transport.key().jwk() }).to_string();
        let inner = jws(&header, change.as_bytes(), |message| next.sign(message));
        let inner = inner.map_err(|failure| AcmeError::of_failure(KIND, failure))?.to_string();
        let Err(failure) = asking(KIND, session.transport.signed_post(&url, inner.as_bytes())).await else {
            return Ok(());
        };
        // The answer may have been lost, or somebody was quicker with the same key.
        match self.is_key_of(&next, &kid).await {
            Ok(true) => {
                tracing::info!(%failure, "the CA had taken the key all the same");
                Ok(())
            }
            Ok(false) => Err(KeyChangeError::Refused(AcmeError::of_failure(KIND, failure))),
            Err(_) => Err(KeyChangeError::Unknown(AcmeError::of_failure(KIND, failure))),
        }
    }

    /// Once more by each other key of the account, after a refusal that another key would explain. The refusal itself when there
    /// is no other key, or when the CA says the same of each. Only a success makes a key everybody's.
    pub(super) async fn by_another_key<T, F>(
        &self,
        refused: &Arc<Session>,
        refusal: AcmeError,
        request: impl Fn(Arc<Session>) -> F,
    ) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<T, AcmeError>>,
    {
        for other in self.0.accounts.rekeyed(refused).await? {
            match request(Arc::clone(&other)).await {
                Ok(done) => {
                    tracing::info!("our account at the CA has another key");
                    self.0.accounts.adopt(other).await?;
                    return Ok(done);
                }
                // It was about something else, or the CA does not have that key, not any more or not yet.
                Err(again) if again.may_be_of_another_key() => {}
                // Silence, a limit, an outage: says nothing of the key, which the CA may not know.
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
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
