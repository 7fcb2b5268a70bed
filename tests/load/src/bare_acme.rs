//! The yardstick of issuance: a program that has nothing but instant-acme. No database, no queue, and no crash that it would survive.
//!
//! Its account key is the crate's, P-256, with which a signature costs a thirtieth of what ours does. It speaks HTTP by the same client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use countersign_tests::stack::Stack;
use countersign_tests::stack::dns::Dns;
use countersign_tests::stack::local_http;
use http::Request;
use http_body_util::BodyExt as _;
use instant_acme::{
    Account, BodyWrapper, BytesResponse, ChallengeType, HttpClient, Identifier, NewAccount, NewOrder, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use tokio::sync::{Mutex, Semaphore};

use crate::rows::Algorithm;

/// Sooner than the crate's own, which would leave the machine idle.
const PATIENCE: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(10)).backoff(2.0);

pub(crate) struct BareAcme {
    account: Account,
    dns: Dns,
    /// Pebble's store locks itself up under concurrent newOrder calls, and seldom also without them.
    new_order: Mutex<()>,
    /// One key for each core is made at a time.
    keys: Arc<Semaphore>,
    requests: Arc<AtomicU64>,
}

impl BareAcme {
    /// Registers an account at the CA of a stack.
    pub(crate) async fn register(stack: &Stack) -> Result<Self> {
        let root = std::fs::read(stack.plan().pebble.https_root_file())?;
        let requests = Arc::new(AtomicU64::new(0));
        let http = Http { client: local_http::client(Some(&root))?, requests: Arc::clone(&requests) };
        let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let (account, _) = Account::builder_with_http(Box::new(http))
            .create(&new, stack.ca().directory(), None)
            .await
            .context("registering at the CA")?;
        let cores = std::thread::available_parallelism()?.get();
        let (new_order, keys) = (Mutex::new(()), Arc::new(Semaphore::new(cores)));
        Ok(Self { account, dns: stack.dns().clone(), new_order, keys, requests })
    }

    /// Requests to the CA so far.
    pub(crate) fn requests(&self) -> f64 {
        self.requests.load(Ordering::Relaxed) as f64
    }

    /// From the order to the chain; the record is published and removed.
    #[expect(clippy::disallowed_methods, reason = "here the account has the crate's own key, and may sleep")]
    pub(crate) async fn certificate(&self, name: &str, algorithm: Algorithm) -> Result<String> {
        let identifiers = [Identifier::Dns(name.to_owned())];
        let turn = self.new_order.lock().await;
        let mut order = self.account.new_order(&NewOrder::new(&identifiers)).await?;
        drop(turn);
        let owner = format!("_acme-challenge.{name}");
        {
            let mut authorizations = order.authorizations();
            let mut authorization = authorizations.next().await.context("an order without authorizations")??;
            let mut challenge = authorization.challenge(ChallengeType::Dns01).context("the CA offers no dns-01")?;
            let value = challenge.key_authorization().dns_value();
            self.dns.set_txt(&owner, &value).await?;
            challenge.set_ready().await?;
        }
        let status = order.poll_ready(&PATIENCE).await?;
        ensure!(status == OrderStatus::Ready, "the order for {name} is {status:?}");
        let csr = self.csr(name, algorithm).await?;
        order.finalize_csr(&csr).await?;
        let chain = order.poll_certificate(&PATIENCE).await?;
        self.dns.clear_txt(&owner).await?;
        Ok(chain)
    }

    /// With a fresh key, as the product makes it.
    async fn csr(&self, name: &str, algorithm: Algorithm) -> Result<Vec<u8>> {
        let slot = Arc::clone(&self.keys).acquire_owned().await?;
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let key = match algorithm {
                Algorithm::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
                Algorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            };
            let mut params = CertificateParams::new([name])?;
            params.distinguished_name = DistinguishedName::new();
            Ok(params.serialize_request(&key)?.der().to_vec())
        })
        .await?
    }
}

struct Http {
    client: reqwest::Client,
    requests: Arc<AtomicU64>,
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let failed = |error: reqwest::Error| instant_acme::Error::Other(Box::new(error));
        self.requests.fetch_add(1, Ordering::Relaxed);
        let client = self.client.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let sent = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send();
            let answer = sent.await.map_err(failed)?;
            let mut response = http::Response::builder().status(answer.status()).body(())?;
            *response.headers_mut() = answer.headers().clone();
            let body = answer.bytes().await.map_err(failed)?;
            Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(body) })
        })
    }
}
