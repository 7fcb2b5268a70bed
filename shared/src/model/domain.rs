//! The documented life cycle of a registered domain.

use strum::{EnumString, IntoStaticStr};

use super::ids::hex;

/// `status` of the `/domains` API. Illegal moves are refused by the database too (trigger `domains_status_moves`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DomainStatus {
    /// Registered; the token was not seen yet.
    Pending,
    /// The token was seen; a certificate may be asked for.
    Verified,
    /// An order was placed; the TXT value is awaited or being validated.
    CertificatePending,
    /// The certificate is stored.
    Active,
    /// The last order failed; `failure` says why.
    Failed,
}

impl DomainStatus {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether `POST /domains/{id}/verify` looks at DNS from here; on `verified` it answers at once.
    pub fn may_verify(self) -> bool {
        matches!(self, Self::Pending | Self::Failed | Self::Active)
    }
}

/// The ownership token: hex SHA-256 of 32 random bytes.
pub fn verification_token(random: [u8; 32]) -> String {
    use sha2::{Digest as _, Sha256};
    hex(&Sha256::digest(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_digest_of_the_random_bytes() {
        // SHA-256 of 32 zero bytes.
        assert_eq!(verification_token([0; 32]), "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    }

    #[test]
    fn statuses_are_written_as_documented() {
        let words = ["pending", "verified", "certificate_pending", "active", "failed"];
        for word in words {
            assert_eq!(word.parse::<DomainStatus>().unwrap().as_str(), word);
        }
    }
}
