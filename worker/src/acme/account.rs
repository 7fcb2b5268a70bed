//! Who we are at the CA: the account's key, its registration, and one cached session per process.
//!
//! The key is stored before it is registered: newAccount with a known key answers with the same KID (RFC 8555 §7.3.1), so that
//! a crash in between, or several processes at once, end with one account. It must not sign or send anything itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use countersign_shared::model::secret::Secret;
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::Pool;
use countersign_shared::store::acme_accounts::{self, AcmeAccount, account_key};
use countersign_shared::store::{StoreError, in_time};
use instant_acme::{Account, ExternalAccountKey, Key, NewAccount};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use super::Settings;
use super::problem::{AcmeError, RequestKind};
use super::transport::{Failure, Transport, Wire};
use crate::keys::pem_block;

/// An RSA key of at least 2048 bits with what the protocol derives from it. No `Debug`: it is a secret.
#[derive(Clone)]
pub struct AccountKey {
    pair: Arc<KeyPair>,
    modulus: String,
    exponent: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyPemError {
    #[error("no unencrypted private key in PEM form (PKCS#8 or PKCS#1)")]
    NotPem(#[source] rustls_pki_types::pem::Error),
    #[error("an EC key; the account key must be RSA")]
    Ec,
    #[error("not an RSA key of at least 2048 bits")]
    Refused(#[source] KeyRejected),
    #[error("the key cannot be made or encoded")]
    Encoding,
}

/// Accepts PKCS#8 and PKCS#1.
pub fn parse_rsa_key_pem(pem: &str) -> Result<AccountKey, KeyPemError> {
    let pair = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(KeyPemError::NotPem)? {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(KeyPemError::Ec),
    };
    AccountKey::new(pair.map_err(KeyPemError::Refused)?)
}

/// The form in which account keys are stored, from any form that is accepted.
pub fn rsa_key_pem_as_pkcs8(pem: &str) -> Result<Secret, KeyPemError> {
    parse_rsa_key_pem(pem)?.pkcs8_pem()
}

/// A fresh key, as account keys are stored. Keeps a core busy for up to 300 ms.
pub fn generate_rsa_key_pem() -> Result<Secret, KeyPemError> {
    AccountKey::generate()?.pkcs8_pem()
}

impl AccountKey {
    /// Keeps a core busy for up to 300 ms.
    pub(super) fn generate() -> Result<Self, KeyPemError> {
        Self::new(KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyPemError::Encoding)?)
    }

    fn new(pair: KeyPair) -> Result<Self, KeyPemError> {
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| KeyPemError::Encoding)?;
        let (_, spki) = SubjectPublicKeyInfo::from_der(spki.as_ref()).map_err(|_| KeyPemError::Encoding)?;
        let Ok(PublicKey::RSA(public)) = spki.parsed() else {
            return Err(KeyPemError::Encoding);
        };
        // Base64urlUInt has no leading zero octets (RFC 7518 §2), DER has one for the sign.
        let encoded = |number: &[u8]| {
            let zeros = number.iter().take_while(|octet| **octet == 0).count();
            BASE64URL.encode(&number[zeros..])
        };
        let (modulus, exponent) = (encoded(public.modulus), encoded(public.exponent));
        Ok(AccountKey { pair: Arc::new(pair), modulus, exponent })
    }

    pub(super) fn pkcs8_pem(&self) -> Result<Secret, KeyPemError> {
        let der = self.pair.as_der().map_err(|_| KeyPemError::Encoding)?;
        Ok(Secret::new(pem_block("PRIVATE KEY", der.as_ref())))
    }

    pub(super) fn jwk(&self) -> Value {
        json!({ "kty": "RSA", "n": self.modulus, "e": self.exponent })
    }

    /// RFC 7638: the required members in lexicographic order, without whitespace.
    pub fn thumbprint(&self) -> String {
        let jwk = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, self.exponent, self.modulus);
        BASE64URL.encode(Sha256::digest(jwk))
    }

    /// RFC 8555 §8.1. Not the crate's: that one uses its own EC key.
    pub(super) fn key_authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint())
    }

    /// What the TXT record must say for dns-01 (RFC 8555 §8.4).
    pub(super) fn txt_value(&self, token: &str) -> String {
        BASE64URL.encode(Sha256::digest(self.key_authorization(token)))
    }

    /// RS256 (RFC 7518 §3.3).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Failure::Unsignable("the RSA operation failed"))?;
        Ok(signature)
    }
}

/// The row that all processes share.
#[async_trait]
pub(super) trait AccountRecord: Send + Sync {
    async fn load(&self) -> Result<Option<AcmeAccount>, StoreError>;
    async fn insert_key_if_absent(&self, private_key_pem: &Secret) -> Result<AcmeAccount, StoreError>;
    async fn store_kid(&self, kid: &str) -> Result<(), StoreError>;
    /// The key that the account is being given, if any.
    async fn next_key(&self) -> Result<Option<Secret>, StoreError>;
}

pub(super) struct PostgresRecord {
    pub(super) pool: Pool,
    pub(super) ring: KeyRing,
    pub(super) directory: String,
}

#[async_trait]
impl AccountRecord for PostgresRecord {
    async fn load(&self) -> Result<Option<AcmeAccount>, StoreError> {
        in_time(async { acme_accounts::load(&mut *self.pool.acquire().await?, &self.ring, &self.directory).await })
            .await
    }

    async fn insert_key_if_absent(&self, private_key_pem: &Secret) -> Result<AcmeAccount, StoreError> {
        in_time(async {
            let mut conn = self.pool.acquire().await?;
            acme_accounts::insert_key_if_absent(&mut conn, &self.ring, &self.directory, private_key_pem).await
        })
        .await
    }

    async fn next_key(&self) -> Result<Option<Secret>, StoreError> {
        in_time(async { account_key::next(&mut *self.pool.acquire().await?, &self.ring, &self.directory).await }).await
    }

    async fn store_kid(&self, kid: &str) -> Result<(), StoreError> {
        in_time(async { acme_accounts::store_kid(&mut *self.pool.acquire().await?, &self.directory, kid).await }).await
    }
}

/// A registered account, ready to send.
pub(super) struct Session {
    pub(super) transport: Transport,
    pub(super) account: Account,
}

pub(super) struct Accounts {
    settings: Settings,
    pub(super) wire: Arc<Wire>,
    record: Arc<dyn AccountRecord>,
    /// Locked while a session is made, so that concurrent first calls make one newAccount.
    current: Mutex<Option<Arc<Session>>>,
}

impl Accounts {
    pub(super) fn new(settings: Settings, wire: Wire, record: Arc<dyn AccountRecord>) -> Self {
        Accounts { settings, wire: Arc::new(wire), record, current: Mutex::new(None) }
    }

    pub(super) async fn session(&self) -> Result<Arc<Session>, AcmeError> {
        let mut current = self.lock().await?;
        if let Some(session) = &*current {
            return Ok(Arc::clone(session));
        }
        let session = match self.stored().await? {
            (key, Some(kid)) => self.resume(key, kid).await?,
            (key, None) => self.register(key).await?,
        };
        Ok(Arc::clone(current.insert(session)))
    }

    /// After `accountDoesNotExist`: the same key once more to newAccount, unless somebody was quicker. A CA that lost its memory
    /// (Pebble after a restart) then knows us again; any other CA says what is wrong.
    pub(super) async fn session_after(&self, unknown: &Arc<Session>) -> Result<Arc<Session>, AcmeError> {
        let mut current = self.lock().await?;
        if let Some(session) = current.as_ref().filter(|session| !Arc::ptr_eq(session, unknown)) {
            return Ok(Arc::clone(session));
        }
        *current = None;
        let (key, _) = self.stored().await?;
        Ok(Arc::clone(current.insert(self.register(key).await?)))
    }

    /// After a refusal that another key would explain (RFC 8555 §7.3.5): sessions by the key that others use by now, that is
    /// stored now, and that the account is being given; none by that of `refused`. They are nobody else's until [`Self::adopt`].
    pub(super) async fn rekeyed(&self, refused: &Session) -> Result<Vec<Arc<Session>>, AcmeError> {
        let store_failed = |error| AcmeError::of_store(RequestKind::Account, error);
        let mut tried = BTreeSet::from([refused.transport.key().thumbprint()]);
        let current = self.lock().await?.clone();
        let mut others: Vec<_> =
            current.into_iter().filter(|session| tried.insert(session.transport.key().thumbprint())).collect();
        let Some(AcmeAccount { private_key_pem, kid: Some(kid), .. }) =
            self.record.load().await.map_err(store_failed)?
        else {
            return Ok(others);
        };
        let next = self.record.next_key().await.map_err(store_failed)?;
        for pem in std::iter::once(private_key_pem).chain(next) {
            let key = parse_rsa_key_pem(pem.expose()).map_err(AcmeError::unusable_account)?;
            if tried.insert(key.thumbprint()) {
                others.push(self.resume(key, kid.clone()).await?);
            }
        }
        Ok(others)
    }

    /// The CA has accepted a signature of `session` after others were refused: everybody's from now on.
    pub(super) async fn adopt(&self, session: Arc<Session>) -> Result<(), AcmeError> {
        *self.lock().await? = Some(session);
        Ok(())
    }

    /// While the CA is silent, whoever holds the lock waits for two time-outs (directory, newAccount). The others must not add
    /// theirs one after the other.
    async fn lock(&self) -> Result<tokio::sync::MutexGuard<'_, Option<Arc<Session>>>, AcmeError> {
        let patience: Duration = self.settings.request_timeout * 2;
        tokio::time::timeout(patience, self.current.lock())
            .await
            .map_err(|_| AcmeError::of_failure(RequestKind::NewAccount, Failure::Deadline(patience)))
    }

    async fn stored(&self) -> Result<(AccountKey, Option<String>), AcmeError> {
        let store_failed = |error| AcmeError::of_store(RequestKind::NewAccount, error);
        let stored = match self.record.load().await.map_err(store_failed)? {
            Some(stored) => stored,
            None => {
                let pem = tokio::task::spawn_blocking(|| AccountKey::generate()?.pkcs8_pem())
                    .await
                    .map_err(AcmeError::unusable_account)?
                    .map_err(AcmeError::unusable_account)?;
                self.record.insert_key_if_absent(&pem).await.map_err(store_failed)?
            }
        };
        let key = parse_rsa_key_pem(stored.private_key_pem.expose()).map_err(AcmeError::unusable_account)?;
        Ok((key, stored.kid))
    }

    async fn resume(&self, key: AccountKey, kid: String) -> Result<Arc<Session>, AcmeError> {
        let failed = |error| AcmeError::of_crate(RequestKind::Directory, error);
        let transport = self.transport(key);
        transport.sign_as(&kid);
        // The crate needs some EC key to build requests with; nobody sees its signatures.
        let (_, unused_key) = Key::generate_pkcs8().map_err(failed)?;
        let account = Account::builder_with_http(Box::new(transport.clone()))
            .from_parts(kid, unused_key, self.settings.directory.to_string())
            .await
            .map_err(failed)?;
        Ok(Arc::new(Session { transport, account }))
    }

    /// RFC 8555 §7.3.
    async fn register(&self, key: AccountKey) -> Result<Arc<Session>, AcmeError> {
        // On its own first: what the directory answers says nothing about the account.
        self.wire.reach_directory().await.map_err(|failure| AcmeError::of_failure(RequestKind::Directory, failure))?;
        let transport = self.transport(key);
        let contact = self.settings.contact.as_ref().map(|address| format!("mailto:{address}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new_account = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = (self.settings.external_account.as_ref())
            .map(|external| ExternalAccountKey::new(external.key_id.clone(), &external.hmac_key));
        let (account, _) = Account::builder_with_http(Box::new(transport.clone()))
            .create(&new_account, self.settings.directory.to_string(), external.as_ref())
            .await
            .map_err(|error| AcmeError::of_crate(RequestKind::NewAccount, error))?;
        let kid = account.id();
        self.wire.check_url(kid).map_err(|refused| AcmeError::broken_protocol(RequestKind::NewAccount, refused))?;
        transport.sign_as(kid);
        self.record.store_kid(kid).await.map_err(|error| AcmeError::of_store(RequestKind::NewAccount, error))?;
        tracing::info!(acme.kid = kid, "registered at the CA");
        Ok(Arc::new(Session { transport, account }))
    }

    pub(super) fn transport(&self, key: AccountKey) -> Transport {
        Transport::new(Arc::clone(&self.wire), key, self.settings.external_account.clone())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// The key of RFC 7638 §3.1 has no private half in print, so the example is recomputed from its modulus.
    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
                       FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb\
                       9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls\
                       1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let mut key = AccountKey::generate().unwrap();
        (key.modulus, key.exponent) = (modulus.to_owned(), "AQAB".to_owned());
        assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(key.key_authorization("t"), "t.NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(key.txt_value("t").len(), 43);
    }

    #[test]
    fn account_keys_are_rsa_in_either_form() {
        let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072).unwrap();
        let pkcs8 = pem_block("PRIVATE KEY", rsa.serialized_der());
        // In a 3072-bit PKCS#8 the PKCS#1 key is what follows its 26 octets of wrapping.
        let pkcs1 = pem_block("RSA PRIVATE KEY", &rsa.serialized_der()[26..]);
        let stored = rsa_key_pem_as_pkcs8(&pkcs1).unwrap();
        let stored = stored.expose();
        let of_pkcs8 = rsa_key_pem_as_pkcs8(&pkcs8).unwrap();
        assert!(stored.contains(of_pkcs8.expose()));
        assert!(stored.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = parse_rsa_key_pem(stored).unwrap();
        assert_eq!(again.thumbprint(), parse_rsa_key_pem(&pkcs1).unwrap().thumbprint());
    }

    #[test]
    fn other_keys_are_refused_with_a_reason() {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let ec_pkcs8 = pem_block("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref());
        let ec_sec1 = pem_block("EC PRIVATE KEY", ec.private_key().as_der().unwrap().as_ref());
        let good = AccountKey::generate().unwrap().pkcs8_pem().unwrap();
        let good = good.expose();
        assert!(matches!(parse_rsa_key_pem(&ec_pkcs8), Err(KeyPemError::Refused(_))));
        assert!(matches!(parse_rsa_key_pem(&ec_sec1), Err(KeyPemError::Ec)));
        let small = pem_block("RSA PRIVATE KEY", &BASE64_STANDARD.decode(SMALL).unwrap());
        assert!(matches!(parse_rsa_key_pem(&small), Err(KeyPemError::Refused(_))));
        assert!(matches!(parse_rsa_key_pem(&good[..400]), Err(KeyPemError::NotPem(_))));
        assert!(matches!(parse_rsa_key_pem(""), Err(KeyPemError::NotPem(_))));
        let locked = good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(matches!(parse_rsa_key_pem(&locked), Err(KeyPemError::NotPem(_))));
    }

    /// PKCS#1 of 1024 bits, made for this test.
    const SMALL: &str = "MIICXAIBAAKBgQChj8A3FUDSTEvzKQ8FURi6BnndcCcJ3iYGKy5CfGx0N5C89I68sZ+92m9l9O2nxGAORGOr3IEpKgb71xia+W9BtEmkUVIq\
        W6o8FCEgbhUMNeddZTAK5kbqd3MwWaDdpxcjGIH0tf2tW6QCngX768jkN1aK8fWBhuoJUgKCdFd0JQIDAQABAoGAGn+WWjJ9MEDdUCOS2B9l\
        +9TmFgC4FnE+MVLRwovfyev3LFa8Noy3k48JKGLUu+iEjLKA2oZPFO5UuOednIV+zrguNF6gQ0c6M6vgUTX3MCaF4m0i2088d8HG1XxW0ObI\
        4A28Gt2WBfzk3vcLKt+1z3d9t512n4P6ROLgQiud0b0CQQDXRwlgng42xauwb4sacAAhdYdFnbMfU4feeVZXDhNSHTo3YZP3Tr0DZOgANk1U\
        1LBzIApu/xr1vimTxdBs3v2DAkEAwB97LGtgrOVB0WpAdoahlLGkIfhoiqEyGh3zXsIz3vLXEv5m2WJI5SuN44SdikqOMHP4EH8O7t6Lz70Q\
        P7l/NwJAJAFEhz1IIU8EPRkaycwrqWzvt+v9NmMRGVtv3lWDU7uBrhuK1NT9deDdkJOEcYi1DjwwoonWJ32rlISELIFLIwJAGFfk04wHg+DI\
        pjBAWsRUVPLtSSCgnnAuWQDShX8181nxxoZVodXCRsduAxYaoBsySRForS5sRfgM3xWlqW1noQJBAKuIojz/iwJQIGQF1VakOsIPOQgJdjjv\
        2vOAGBpaHj2csB6BXoZxRmoiaOCpI/OoN58J0VATEi2fBghIIIjPyCI=";
}
