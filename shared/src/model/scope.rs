//! What an API token may do.

use strum::{EnumIter, EnumString, IntoStaticStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, EnumString, IntoStaticStr)]
pub enum Scope {
    /// See certificates, and download their chains.
    #[strum(serialize = "certificates:read")]
    CertificatesRead,
    /// Order and issue certificates.
    #[strum(serialize = "certificates:write")]
    CertificatesWrite,
    /// Read private keys.
    #[strum(serialize = "certificates:key")]
    CertificatesKey,
    /// See, register and delete domains.
    #[strum(serialize = "domains:*")]
    Domains,
    /// See, add and delete webhooks.
    #[strum(serialize = "webhooks:*")]
    Webhooks,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
