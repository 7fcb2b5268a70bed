//! ACME renewal information (RFC 9773): when the CA would like a certificate to be renewed, and newOrder for a successor.
//!
//! Not the crate's: it knows neither our time-outs nor that the window is a suggestion, and it refuses the order of a CA that
//! does not repeat `replaces`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use http::Method;
use http::header::LOCATION;
use instant_acme::{Identifier, NewOrder, OrderState};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::super::measured::asking;
use super::super::problem::{AcmeError, RequestKind};
use super::super::transport::Directory;
use super::Acme;

/// How old the directory may be: a CA may begin to offer this, or cease to.
const DIRECTORY_IS_GOOD_FOR: Duration = Duration::from_secs(3600);

/// When a CA would like a certificate to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalWindow {
    /// Start and end as the CA said them, to the microsecond; the end may come first.
    pub window: (OffsetDateTime, OffsetDateTime),
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

/// How a CA names the leaf of a chain (RFC 9773 §4.1). None where the leaf does not say who issued it.
pub fn certificate_id(chain_pem: &str) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    let (_, leaf) = X509Certificate::from_der(&leaf).ok()?;
    let issuer_key = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref(),
        _ => None,
    })?;
    Some(format!("{}.{}", BASE64URL.encode(issuer_key.0), BASE64URL.encode(leaf.raw_serial())))
}

impl Acme {
    /// What the CA suggests for the leaf of a chain, by one unsigned GET. None where it suggests nothing to anybody, or cannot
    /// be asked about this certificate.
    pub async fn renewal_window(&self, chain_pem: &str) -> Result<Option<RenewalWindow>, AcmeError> {
        const KIND: RequestKind = RequestKind::RenewalInfo;
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RenewalInfo {
            suggested_window: SuggestedWindow,
        }
        #[derive(Deserialize)]
        struct SuggestedWindow {
            #[serde(with = "time::serde::rfc3339")]
            start: OffsetDateTime,
            #[serde(with = "time::serde::rfc3339")]
            end: OffsetDateTime,
        }
        let offered = self.directory_now().await?.and_then(|directory| directory.renewal_info);
        let Some((url, id)) = offered.zip(certificate_id(chain_pem)) else {
            return Ok(None);
        };
        let url = format!("{}/{id}", url.trim_end_matches('/'));
        let answer = asking(KIND, self.0.accounts.wire.plain(Method::GET, &url)).await;
        let answer = answer.map_err(|failure| AcmeError::of_failure(KIND, failure))?;
        let info: RenewalInfo =
            serde_json::from_slice(&answer.body).map_err(|error| AcmeError::broken_protocol(KIND, error))?;
        let SuggestedWindow { start, end } = info.suggested_window;
        // As exact as it can be stored, or the same window would look like another one.
        let stored = |at: OffsetDateTime| at - time::Duration::nanoseconds(i64::from(at.nanosecond() % 1000));
        Ok(Some(RenewalWindow { window: (stored(start), stored(end)), retry_after: answer.retry_after }))
    }

    /// One newOrder; a second one without `replaces` where the CA does not take the first.
    pub(super) async fn new_order(
        &self,
        names: &[String],
        replaces: Option<&str>,
    ) -> Result<(String, OrderState), AcmeError> {
        const KIND: RequestKind = RequestKind::NewOrder;
        if let Some(replaced) = replaces
            && let Some(url) = self.takes_replacements().await?
        {
            match self.new_order_replacing(&url, names, replaced).await {
                Err(error) if is_about_replacement(&error) => {
                    tracing::info!(%error, "the CA does not take the order as a replacement: ordering without");
                }
                outcome => return outcome,
            }
        }
        let identifiers: Arc<[Identifier]> = names.iter().cloned().map(Identifier::Dns).collect();
        self.call(|session| {
            let identifiers = Arc::clone(&identifiers);
            async move {
                let order = asking(KIND, session.account.new_order(&NewOrder::new(&identifiers))).await;
                Ok(order.map_err(|error| AcmeError::of_crate(KIND, error))?.into_parts())
            }
        })
        .await
    }

    /// The URL of newOrder, where the CA knows `replaces`.
    async fn takes_replacements(&self) -> Result<Option<String>, AcmeError> {
        let directory = self.directory_now().await?;
        Ok(directory.filter(|directory| directory.renewal_info.is_some()).and_then(|directory| directory.new_order))
    }

    pub(super) async fn directory_now(&self) -> Result<Option<Directory>, AcmeError> {
        let directory = self.0.accounts.wire.directory_within(DIRECTORY_IS_GOOD_FOR).await;
        directory.map_err(|failure| AcmeError::of_failure(RequestKind::Directory, failure))
    }

    async fn new_order_replacing(
        &self,
        url: &str,
        names: &[String],
        replaced: &str,
    ) -> Result<(String, OrderState), AcmeError> {
        const KIND: RequestKind = RequestKind::NewOrder;
        let identifiers: Vec<_> = names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
        let payload: Arc<str> = json!({ "identifiers": identifiers, "replaces": replaced }).to_string().into();
        let answer = self
            .call(|session| {
                let (url, payload) = (url.to_owned(), Arc::clone(&payload));
                async move {
                    let answer = asking(KIND, session.transport.signed_post(&url, payload.as_bytes())).await;
                    answer.map_err(|failure| AcmeError::of_failure(KIND, failure))
                }
            })
            .await?;
        let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| AcmeError::broken_protocol(KIND, "an order without a URL"))?;
        let state = serde_json::from_slice(&answer.body).map_err(|error| AcmeError::broken_protocol(KIND, error))?;
        Ok((location.to_owned(), state))
    }
}

/// RFC 9773 §5: the certificate has a successor already, or the CA does not know it as ours. What is wrong with the order
/// itself is said again when it comes without.
fn is_about_replacement(error: &AcmeError) -> bool {
    let name = error.problem.as_ref().map(|problem| problem.name());
    matches!(name, Some("alreadyReplaced" | "malformed" | "unauthorized")) || matches!(error.status, Some(404 | 409))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_named_as_in_the_appendix_of_the_rfc() {
        const EXAMPLE: &str = "-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----";
        assert_eq!(certificate_id(EXAMPLE).as_deref(), Some("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"));
        assert_eq!(certificate_id("no certificate"), None);
    }
}
