//! Certificates: what is known of one besides its order.

use strum::{EnumString, IntoStaticStr};
use time::OffsetDateTime;

use super::secret::{AtRest, Secret};

/// Algorithm of a certificate's key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum KeyAlgorithm {
    #[strum(serialize = "rsa2048")]
    Rsa2048,
    EcdsaP256,
}

/// A fresh key pair and the CSR made with it. No `Debug`: the key is a secret.
#[derive(Clone)]
pub struct KeyAndCsr {
    /// PKCS#1 (RSA) or SEC1 (EC) PEM.
    pub private_key_pem: Secret,
    pub csr_pem: String,
}

/// Key and CSR as they are stored, before the CA sees the CSR. No `Debug`: the key may be plain.
#[derive(Clone)]
pub struct StoredKeyAndCsr {
    pub private_key: AtRest,
    pub csr_pem: String,
}

/// A chain that was checked against key and names, with what its leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Leaf first, every certificate with a final newline.
    pub chain_pem: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// Lower-case hex without colons.
    pub serial_number: String,
    /// SHA-256 of the leaf's DER, lower-case hex.
    pub fingerprint_sha256: String,
    /// Common name of the issuer.
    pub issuer: String,
}
