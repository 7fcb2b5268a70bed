//! Key pairs, CSRs, and the check of a chain before it is stored.
//!
//! It must not keep keys made ahead (a private key belongs to exactly one order), and it must not know ACME: what a CA
//! answers arrives here as PEM text.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use countersign_shared::model::certificate::{IssuedCertificate, KeyAlgorithm, KeyAndCsr};
use countersign_shared::model::ids::hex;
use countersign_shared::model::secret::Secret;
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use x509_parser::asn1_rs::{Any, FromDer, Integer, OctetString, Sequence};
use x509_parser::prelude::{GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// No CA sends more; every certificate costs a signature check.
const LONGEST_CHAIN: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("`{0}` cannot be written into a CSR")]
    Name(String),
    #[error("the key pair or its CSR could not be made")]
    Rcgen(#[from] rcgen::Error),
    #[error("the key pair could not be made or encoded")]
    Encoding,
    #[error("the CSR is not PEM")]
    CsrPem(#[source] rustls_pki_types::pem::Error),
    #[error("key generation was stopped")]
    Stopped,
}

/// Why a chain is not the one that was ordered. Carries nothing of the private key.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("the chain is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the chain has {0} certificates")]
    Length(usize),
    #[error("certificate {0} of the chain is not X.509")]
    Certificate(usize),
    #[error("the private key cannot be read")]
    PrivateKey,
    #[error("the leaf is for another key")]
    OtherKey,
    #[error("the leaf's names are {found:?}, ordered were {ordered:?}")]
    Names { ordered: BTreeSet<String>, found: BTreeSet<String> },
    #[error("the leaf has a name that is no DNS name")]
    OtherKindOfName,
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    #[error("certificate {0} of the chain is no CA certificate")]
    IssuerIsNoCa(usize),
    #[error("certificate {0} of the chain was not issued by the one after it")]
    Order(usize),
    #[error("the signature of certificate {0} of the chain is wrong")]
    Signature(usize),
    #[error("the leaf's validity ends before it begins")]
    Validity,
}

impl ChainError {
    /// Whether it may be a part of the right one, as when something on the way has cut it.
    pub fn may_be_cut(&self) -> bool {
        matches!(self, Self::Pem(_) | Self::Length(0) | Self::Certificate(_))
    }
}

/// Makes key pairs, no more at a time than there are cores: RSA generation at concurrency 50 pushes the median from 35 ms
/// to two seconds and starves everything else that blocks.
#[derive(Clone)]
pub struct KeyMaker {
    slots: Arc<Semaphore>,
}

impl Default for KeyMaker {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyMaker {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        KeyMaker { slots: Arc::new(Semaphore::new(cores)) }
    }

    /// A fresh key pair and a CSR with an empty subject and `names` as its dNSName SANs.
    pub async fn make(&self, algorithm: KeyAlgorithm, names: &[String]) -> Result<KeyAndCsr, KeyError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| KeyError::Stopped)?;
        let names = names.to_vec();
        tokio::task::spawn_blocking(move || {
            // Moved in: a caller that gives up must not free the slot while the core is still busy.
            let _slot = slot;
            key_and_csr(algorithm, &names)
        })
        .await
        .map_err(|_| KeyError::Stopped)?
    }
}

/// The DER that finalize (RFC 8555 §7.4) sends, from the PEM that was stored.
pub fn csr_der(csr_pem: &str) -> Result<Vec<u8>, KeyError> {
    CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map(|der| der.to_vec()).map_err(KeyError::CsrPem)
}

/// Checks that `chain_pem` is what was ordered: leaf for this key and exactly these names, every certificate issued and
/// signed by the next. The last one is not anchored: which roots to trust is the customer's matter.
pub fn check_chain(chain_pem: &str, private_key_pem: &str, names: &[String]) -> Result<IssuedCertificate, ChainError> {
    let chain =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(ChainError::Pem)?;
    if chain.is_empty() || chain.len() > LONGEST_CHAIN {
        return Err(ChainError::Length(chain.len()));
    }
    let certificates = chain
        .iter()
        .enumerate()
        .map(|(at, der)| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            _ => Err(ChainError::Certificate(at)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let leaf = &certificates[0];

    if public_key_der(private_key_pem)? != leaf.public_key().raw {
        return Err(ChainError::OtherKey);
    }
    check_names(leaf, names)?;
    if leaf.is_ca() {
        return Err(ChainError::LeafIsCa);
    }
    for (at, pair) in certificates.windows(2).enumerate() {
        let (issued, issuer) = (&pair[0], &pair[1]);
        if issued.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(ChainError::Order(at));
        }
        if !issuer.is_ca() {
            return Err(ChainError::IssuerIsNoCa(at + 1));
        }
        issued.verify_signature(Some(issuer.public_key())).map_err(|_| ChainError::Signature(at))?;
    }
    let validity = leaf.validity();
    if validity.not_before >= validity.not_after {
        return Err(ChainError::Validity);
    }

    let common_name = leaf.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(IssuedCertificate {
        chain_pem: chain.iter().map(|der| pem_block("CERTIFICATE", der)).collect(),
        not_before: validity.not_before.to_datetime(),
        not_after: validity.not_after.to_datetime(),
        serial_number: hex(without_sign_octet(leaf.raw_serial())),
        fingerprint_sha256: hex(&Sha256::digest(&chain[0])),
        issuer: common_name.map_or_else(|| leaf.issuer().to_string(), str::to_owned),
    })
}

/// One PEM section with a final newline (RFC 7468: 64 columns).
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    // It may be a private key: neither the base64 nor a buffer that was too small is left behind.
    let body = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for at in (0..body.len()).step_by(64) {
        pem.push_str(&body[at..body.len().min(at + 64)]);
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn key_and_csr(algorithm: KeyAlgorithm, names: &[String]) -> Result<KeyAndCsr, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Not `CertificateParams::new`: it turns a name that looks like an address into an iPAddress SAN.
    for name in names {
        let name = name.as_str().try_into().map_err(|_| KeyError::Name(name.clone()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let (key, private_key_pem) = match algorithm {
        KeyAlgorithm::Rsa2048 => {
            let key = rcgen::KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
            let pkcs1 = Zeroizing::new(pkcs8_inner_key(key.serialized_der()).ok_or(KeyError::Encoding)?);
            let pem = pem_block("RSA PRIVATE KEY", &pkcs1);
            (key, pem)
        }
        KeyAlgorithm::EcdsaP256 => {
            let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            // Not the inner octets of the PKCS#8: they leave the curve out, and a SEC1 file without it cannot be read.
            let sec1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der())
                .map_err(|_| KeyError::Encoding)?;
            let sec1 = sec1.private_key().as_der().map_err(|_| KeyError::Encoding)?;
            let pem = pem_block("EC PRIVATE KEY", sec1.as_ref());
            (key, pem)
        }
    };
    let csr_pem = pem_block("CERTIFICATE REQUEST", params.serialize_request(&key)?.der());
    Ok(KeyAndCsr { private_key_pem: Secret::new(private_key_pem), csr_pem })
}

/// `privateKey` of a PrivateKeyInfo (RFC 5208 §5); for RSA that is the PKCS#1 key.
fn pkcs8_inner_key(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (_, info) = Sequence::from_der(pkcs8).ok()?;
    let (rest, _version) = Integer::from_der(&info.content).ok()?;
    let (rest, _algorithm) = Any::from_der(rest).ok()?;
    let (_, key) = OctetString::from_der(rest).ok()?;
    Some(key.into_cow().into_owned())
}

/// The SubjectPublicKeyInfo of a private key in any PEM form (PKCS#1, PKCS#8, SEC1).
fn public_key_der(private_key_pem: &str) -> Result<Vec<u8>, ChainError> {
    let key = PrivateKeyDer::from_pem_slice(private_key_pem.as_bytes()).map_err(|_| ChainError::PrivateKey)?;
    let der = key.secret_der();
    if let Ok(rsa) = rsa::KeyPair::from_der(der).or_else(|_| rsa::KeyPair::from_pkcs8(der)) {
        let spki = rsa.public_key().as_der().map_err(|_| ChainError::PrivateKey)?;
        return Ok(spki.as_ref().to_vec());
    }
    [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING]
        .into_iter()
        .find_map(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok())
        .and_then(|key| Some(key.public_key().as_der().ok()?.as_ref().to_vec()))
        .ok_or(ChainError::PrivateKey)
}

fn check_names(leaf: &X509Certificate<'_>, names: &[String]) -> Result<(), ChainError> {
    let ordered = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let mut found = BTreeSet::new();
    let san = leaf.subject_alternative_name().map_err(|_| ChainError::Certificate(0))?;
    for name in san.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::DNSName(name) => found.insert(name.to_ascii_lowercase()),
            _ => return Err(ChainError::OtherKindOfName),
        };
    }
    if ordered == found { Ok(()) } else { Err(ChainError::Names { ordered, found }) }
}

/// DER puts a zero before a number whose first bit is set; no tool shows it.
fn without_sign_octet(number: &[u8]) -> &[u8] {
    match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, DnType, IsCa, Issuer};
    use x509_parser::prelude::{ParsedExtension, X509CertificationRequest};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    struct Ca {
        root: rcgen::Certificate,
        intermediate: rcgen::Certificate,
        issuer: Issuer<'static, rcgen::KeyPair>,
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    impl Ca {
        fn new() -> Ca {
            let root_key = rcgen::KeyPair::generate().unwrap();
            let root = ca_params("Root").self_signed(&root_key).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let params = ca_params("Intermediate");
            let intermediate = params.signed_by(&key, &Issuer::new(ca_params("Root"), root_key)).unwrap();
            let issuer = Issuer::new(params, key);
            Ca { root, intermediate, issuer }
        }

        fn leaf(&self, algorithm: KeyAlgorithm, made: &KeyAndCsr) -> String {
            let algorithm = match algorithm {
                KeyAlgorithm::Rsa2048 => &PKCS_RSA_SHA256,
                KeyAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            };
            let key = rcgen::KeyPair::from_pem_and_sign_algo(made.private_key_pem.expose(), algorithm).unwrap();
            let params = CertificateParams::new(requested_names(&made.csr_pem)).unwrap();
            params.signed_by(&key, &self.issuer).unwrap().pem()
        }
    }

    fn requested_names(csr_pem: &str) -> Vec<String> {
        let der = csr_der(csr_pem).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        request.verify_signature().unwrap();
        assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        request
            .requested_extensions()
            .unwrap()
            .flat_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(san) => san.general_names.clone(),
                _ => Vec::new(),
            })
            .map(|name| match name {
                GeneralName::DNSName(name) => name.to_owned(),
                other => panic!("{other}"),
            })
            .collect()
    }
    #[tokio::test]
    async fn a_good_chain_is_described_and_normalised() {
        let ca = Ca::new();
        let ordered = names(&["shop.example.com", "*.shop.example.com"]);
        for (algorithm, label) in [
            (KeyAlgorithm::Rsa2048, "-----BEGIN RSA PRIVATE KEY-----\n"),
            (KeyAlgorithm::EcdsaP256, "-----BEGIN EC PRIVATE KEY-----\n"),
        ] {
            let made = KeyMaker::new().make(algorithm, &ordered).await.unwrap();
            assert!(made.private_key_pem.expose().starts_with(label));
            assert_eq!(requested_names(&made.csr_pem), ordered);

            let sent =
                format!("{}\r\n{}{}", ca.leaf(algorithm, &made).trim_end(), ca.intermediate.pem().trim_end(), "\n \n");
            let asked = names(&["*.Shop.example.com", "SHOP.example.com"]);
            let checked = check_chain(&sent, made.private_key_pem.expose(), &asked).unwrap();
            assert_eq!(checked.issuer, "Intermediate");
            assert_eq!(checked.chain_pem.matches("-----END CERTIFICATE-----\n").count(), 2);
            assert!(!checked.chain_pem.contains('\r'));
            assert_eq!(checked.fingerprint_sha256.len(), 64);
            assert!(checked.serial_number.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(checked.not_before < checked.not_after);
            let again = check_chain(&checked.chain_pem, made.private_key_pem.expose(), &ordered).unwrap();
            assert_eq!(again, checked);

            let whole = checked.chain_pem.clone() + &ca.root.pem();
            check_chain(&whole, made.private_key_pem.expose(), &ordered).unwrap();
        }
    }

    #[tokio::test]
    async fn a_chain_that_is_not_the_ordered_one_is_refused() {
        let algorithm = KeyAlgorithm::EcdsaP256;
        let (ca, keys) = (Ca::new(), KeyMaker::new());
        let ordered = names(&["a.example.com", "b.example.com"]);
        let made = keys.make(algorithm, &ordered).await.unwrap();
        let other = keys.make(algorithm, &ordered).await.unwrap();
        let rsa = keys.make(KeyAlgorithm::Rsa2048, &ordered).await.unwrap();
        let (leaf, intermediate, root) = (ca.leaf(algorithm, &made), ca.intermediate.pem(), ca.root.pem());
        let stranger = Ca::new().intermediate.pem();
        let good = format!("{leaf}{intermediate}");
        let self_made_ca = {
            let key =
                rcgen::KeyPair::from_pem_and_sign_algo(made.private_key_pem.expose(), &PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = ca_params("Leaf");
            params.subject_alt_names = vec![SanType::DnsName("a.example.com".try_into().unwrap())];
            params.self_signed(&key).unwrap().pem()
        };

        let key = made.private_key_pem.expose();
        let refused = |chain: &str, key: &str, names: &[String]| check_chain(chain, key, names).unwrap_err();
        assert!(check_chain(&good, key, &ordered).is_ok());
        assert!(matches!(refused(&good, other.private_key_pem.expose(), &ordered), ChainError::OtherKey));
        assert!(matches!(refused(&good, rsa.private_key_pem.expose(), &ordered), ChainError::OtherKey));
        assert!(matches!(refused(&good, "no key", &ordered), ChainError::PrivateKey));
        assert!(matches!(refused(&good, key, &ordered[..1]), ChainError::Names { .. }));
        let more = [&ordered[..], &names(&["c.example.com"])].concat();
        assert!(matches!(refused(&good, key, &more), ChainError::Names { .. }));
        assert!(matches!(refused(&format!("{intermediate}{leaf}"), key, &ordered), ChainError::OtherKey));
        assert!(matches!(refused(&format!("{leaf}{root}"), key, &ordered), ChainError::Order(0)));
        assert!(matches!(refused(&format!("{leaf}{leaf}"), key, &ordered), ChainError::Order(0)));
        assert!(matches!(refused(&format!("{leaf}{stranger}"), key, &ordered), ChainError::Signature(0)));
        assert!(matches!(refused(&self_made_ca, key, &ordered[..1]), ChainError::LeafIsCa));
        assert!(matches!(refused(&good[..good.len() - 40], key, &ordered), ChainError::Pem(_)));
        assert!(matches!(refused("<html>sorry</html>", key, &ordered), ChainError::Length(0)));
        assert!(matches!(refused(&leaf.repeat(11), key, &ordered), ChainError::Length(11)));
        let garbage = pem_block("CERTIFICATE", b"garbage");
        assert!(matches!(refused(&format!("{leaf}{garbage}"), key, &ordered), ChainError::Certificate(1)));
    }

    #[tokio::test]
    async fn a_name_that_is_not_ascii_makes_no_key() {
        let made = KeyMaker::new().make(KeyAlgorithm::EcdsaP256, &names(&["bücher.example"])).await;
        assert!(matches!(made, Err(KeyError::Name(name)) if name == "bücher.example"));
    }
}
