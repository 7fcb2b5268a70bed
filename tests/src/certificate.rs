//! What a person wants to know about an issued certificate, and whether its chain leads to a root.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A leaf certificate, described.
pub struct Description {
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: String,
    pub not_after: String,
    pub key: String,
    pub serial_number: String,
    /// Lower-case hex without colons.
    pub fingerprint_sha256: String,
}

impl Description {
    /// Describes the first certificate of a PEM chain.
    pub fn of_leaf(chain_pem: &str) -> Result<Self> {
        let leaf = parse(chain_pem)?.into_iter().next().context("the chain is empty")?;
        let (_, certificate) = X509Certificate::from_der(&leaf)?;
        let validity = certificate.validity();
        Ok(Self {
            names: names(&certificate),
            issuer: certificate.issuer().to_string(),
            not_before: rfc3339(validity.not_before.to_datetime())?,
            not_after: rfc3339(validity.not_after.to_datetime())?,
            key: match certificate.public_key().parsed()? {
                PublicKey::RSA(key) => format!("RSA {} bits", key.key_size()),
                PublicKey::EC(key) => format!("ECDSA {} bits", key.key_size()),
                _ => "of an unusual kind".to_owned(),
            },
            serial_number: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            fingerprint_sha256: Sha256::digest(&leaf).iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "names        {}", self.names.join(", "))?;
        writeln!(f, "issuer       {}", self.issuer)?;
        writeln!(f, "valid        {} to {}", self.not_before, self.not_after)?;
        writeln!(f, "key          {}", self.key)?;
        writeln!(f, "serial       {}", self.serial_number)?;
        write!(f, "SHA-256      {}", self.fingerprint_sha256)
    }
}

/// The DNS names of a certificate.
pub fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.filter_map(dns_name).collect()
}

/// Fails unless the chain, whose first certificate is a TLS server's, leads to one of the roots; returns its length without the root.
pub fn verify(chain_pem: &str, roots_pem: &str) -> Result<usize> {
    let (chain, roots) = (parse(chain_pem)?, parse(roots_pem)?);
    let (leaf, intermediates) = chain.split_first().context("the chain is empty")?;
    ensure!(!roots.is_empty(), "there is no root");
    let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(std::time::UNIX_EPOCH.elapsed()?.as_secs()));
    let leaf = EndEntityCert::try_from(leaf)?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        intermediates,
        now,
        KeyUsage::server_auth(),
        None,
        None,
    )
    .context("the chain does not lead to the CA's root")?;
    Ok(chain.len())
}

fn parse(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

fn rfc3339(time: time::OffsetDateTime) -> Result<String> {
    Ok(time.format(&time::format_description::well_known::Rfc3339)?)
}
