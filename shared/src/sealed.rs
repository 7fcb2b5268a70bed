//! Secrets at rest: AES-256-GCM with the keys of `ENCRYPTION_KEYS`, each value bound to its column and row.
//!
//! A sealed value is `version (1) | length of the key's id (1) | id | nonce (12) | ciphertext | tag (16)`. It knows no
//! SQL: which columns there are and which keys are in use is `store::encryption_keys`' matter.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

pub use crate::model::secret::{AtRest, Secret};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const LONGEST_ID: usize = 32;
/// In place of a first key: values are written plain, and sealed ones can be read.
const PLAIN: &str = "plain";

/// Why a ring could not be made. Shows nothing of a key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyRingError {
    #[error("entry {0} of ENCRYPTION_KEYS is not id:base64")]
    Shape(usize),
    #[error("entry {0} of ENCRYPTION_KEYS has an id that is not 1 to 32 of a-z 0-9 _ -")]
    Id(usize),
    #[error("key `{0}` of ENCRYPTION_KEYS is not the base64 of 32 bytes")]
    Bytes(String),
    #[error("ENCRYPTION_KEYS names the key `{0}` twice")]
    Twice(String),
    #[error("`plain` may only be the first entry of ENCRYPTION_KEYS")]
    PlainNotFirst,
    #[error("ENCRYPTION_KEYS holds no key: leave it out, or set it to `plain`, to store secrets as they are")]
    Empty,
}

/// Why a value could not be sealed or opened. Shows nothing of it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SealedError {
    /// Whoever has the key can open it: nothing is wrong with the row.
    #[error("{column} of row {row} is sealed with the key `{key}`, which ENCRYPTION_KEYS lacks")]
    UnknownKey { column: &'static str, row: String, key: String },
    #[error(
        "{column} of row {row} cannot be opened: it was altered, cut, moved from another row, or sealed by another key"
    )]
    Broken { column: &'static str, row: String },
    #[error("{column} of row {row} is sealed in the form {version}, which this program does not know")]
    Version { column: &'static str, row: String, version: u8 },
    #[error("{column} is not for this program")]
    Withheld { column: &'static str },
    #[error("the encryption failed")]
    Cipher,
}

/// A column of one row: what a sealed value is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// By `certificates.id`.
    CertificateKey(i64),
    /// By the directory.
    AccountKey(&'a str),
    /// By the directory.
    NextAccountKey(&'a str),
    /// By `presenter_configs.id`.
    PresenterSecret(i64),
    /// By `presenter_proposals.id`.
    ProposalSecret(i64),
    /// By `webhooks.id`.
    WebhookSecret(i64),
    /// By the key's own id.
    Canary(&'a str),
}

impl Place<'_> {
    /// Never changed: it is part of every sealed value.
    fn column(self) -> &'static str {
        match self {
            Self::CertificateKey(_) => "certificates.private_key_sealed",
            Self::AccountKey(_) => "acme_accounts.private_key_sealed",
            Self::NextAccountKey(_) => "acme_accounts.next_private_key_sealed",
            Self::PresenterSecret(_) => "presenter_configs.secret_sealed",
            Self::ProposalSecret(_) => "presenter_proposals.secret_sealed",
            Self::WebhookSecret(_) => "webhooks.secret_sealed",
            Self::Canary(_) => "encryption_keys.canary",
        }
    }

    fn row(self) -> String {
        match self {
            Self::CertificateKey(id)
            | Self::PresenterSecret(id)
            | Self::ProposalSecret(id)
            | Self::WebhookSecret(id) => id.to_string(),
            Self::AccountKey(text) | Self::NextAccountKey(text) | Self::Canary(text) => text.to_owned(),
        }
    }

    fn is_of_acme_account(self) -> bool {
        matches!(self, Self::AccountKey(_) | Self::NextAccountKey(_))
    }
}

struct RingKey {
    id: String,
    key: RandomizedNonceKey,
}

impl RingKey {
    fn parse(number: usize, entry: &str) -> Result<Self, KeyRingError> {
        let (id, encoded) = entry.split_once(':').ok_or(KeyRingError::Shape(number))?;
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if id.is_empty() || id.len() > LONGEST_ID || id == PLAIN || !id.bytes().all(is_word) {
            return Err(KeyRingError::Id(number));
        }
        let wrong = || KeyRingError::Bytes(id.to_owned());
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(encoded).map_err(|_| wrong())?);
        if bytes.len() != KEY_BYTES {
            return Err(wrong());
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong())?;
        Ok(Self { id: id.to_owned(), key })
    }

    fn seal(&self, place: Place<'_>, secret: &Secret) -> Result<AtRest, SealedError> {
        let Self { id, key } = self;
        let id_length = u8::try_from(id.len()).map_err(|_| SealedError::Cipher)?;
        let mut bytes = vec![VERSION, id_length];
        bytes.extend_from_slice(id.as_bytes());
        let aad = associated(&bytes, place);
        // Room for the tag too: growing would leave a copy of the secret behind.
        let mut text = Zeroizing::new(Vec::with_capacity(secret.expose().len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(secret.expose().as_bytes());
        let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut *text).map_err(|_| SealedError::Cipher)?;
        bytes.extend_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&text);
        Ok(AtRest::Sealed(bytes))
    }
}

/// The keys that secrets are sealed with. Without any, values are written plain. No `Debug`; the cipher's memory is
/// overwritten by aws-lc when the last clone is dropped.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Arc<Vec<RingKey>>,
    /// Whether the first one seals what is written.
    seals: bool,
    withholds_account: bool,
}

impl KeyRing {
    /// `id:base64` of 32 bytes each, separated by commas or line ends; the first may be `plain`.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let entries = text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        let (mut keys, mut seals) = (Vec::<RingKey>::new(), true);
        for (at, entry) in entries.enumerate() {
            if entry == PLAIN {
                if at > 0 {
                    return Err(KeyRingError::PlainNotFirst);
                }
                seals = false;
                continue;
            }
            let key = RingKey::parse(at + 1, entry)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyRingError::Twice(key.id));
            }
            keys.push(key);
        }
        // `plain` alone is said on purpose; nothing at all is a file that was not filled, or a template without its value.
        if seals && keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self { seals, keys: Arc::new(keys), withholds_account: false })
    }

    /// For programs that must not read the ACME account's key.
    #[must_use]
    pub fn withholding_account_key(self) -> Self {
        Self { withholds_account: true, ..self }
    }

    /// The key that seals what is written; None: it is written plain.
    pub fn sealing_key(&self) -> Option<&str> {
        self.first().map(|key| key.id.as_str())
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    pub fn has(&self, id: &str) -> bool {
        self.ids().any(|key| key == id)
    }

    fn first(&self) -> Option<&RingKey> {
        self.keys.first().filter(|_| self.seals)
    }

    /// For one column of one row: nowhere else can the value be opened.
    pub fn seal(&self, place: Place<'_>, secret: &Secret) -> Result<AtRest, SealedError> {
        self.first().map_or_else(|| Ok(AtRest::Plain(secret.clone())), |key| key.seal(place, secret))
    }

    /// [`KeyRing::seal`] by a key of the ring that need not be the first.
    pub fn seal_by(&self, id: &str, place: Place<'_>, secret: &Secret) -> Result<AtRest, SealedError> {
        self.key(id, place)?.seal(place, secret)
    }

    fn key(&self, id: &str, place: Place<'_>) -> Result<&RingKey, SealedError> {
        self.keys.iter().find(|key| key.id == id).ok_or_else(|| SealedError::UnknownKey {
            column: place.column(),
            row: place.row(),
            key: id.to_owned(),
        })
    }

    /// What [`KeyRing::seal`] was given for the same place, by whichever key of the ring; a plain value as it is.
    pub fn open(&self, place: Place<'_>, value: &AtRest) -> Result<Secret, SealedError> {
        if self.withholds_account && place.is_of_acme_account() {
            return Err(SealedError::Withheld { column: place.column() });
        }
        let bytes = match value {
            AtRest::Plain(secret) => return Ok(secret.clone()),
            AtRest::Sealed(bytes) => bytes,
        };
        let broken = || SealedError::Broken { column: place.column(), row: place.row() };
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(SealedError::Version { column: place.column(), row: place.row(), version }),
            None => return Err(broken()),
        }
        let id_length = usize::from(*bytes.get(1).ok_or_else(broken)?);
        let (header, rest) = bytes.split_at_checked(2 + id_length).ok_or_else(broken)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let id = std::str::from_utf8(&header[2..]).map_err(|_| broken())?;
        let key = self.key(id, place)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let mut opened = Zeroizing::new(ciphertext.to_vec());
        let text =
            (key.key).open_in_place(nonce, Aad::from(associated(header, place)), &mut opened).map_err(|_| broken())?;
        std::str::from_utf8(text).map(|text| Secret::new(text.to_owned())).map_err(|_| broken())
    }
}

/// A fresh key, as an entry of `ENCRYPTION_KEYS`.
pub fn generate_entry(id: &str) -> Result<Secret, KeyRingError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| KeyRingError::Bytes(id.to_owned()))?;
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(*bytes));
    let entry = Secret::new(format!("{id}:{}", *encoded));
    KeyRing::parse(entry.expose())?;
    Ok(entry)
}

/// Header, column and row, each with its length before it, so that no two of them read the same.
fn associated(header: &[u8], place: Place<'_>) -> Vec<u8> {
    let row = place.row();
    let mut bytes = Vec::new();
    for part in [header, place.column().as_bytes(), row.as_bytes()] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\n";
    const PLACE: Place<'_> = Place::CertificateKey(7);

    fn entry(id: &str, byte: u8) -> String {
        format!("{id}:{}", BASE64_STANDARD.encode([byte; KEY_BYTES]))
    }

    fn ring(entries: &[String]) -> KeyRing {
        KeyRing::parse(&entries.join(",")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn sealed(ring: &KeyRing, place: Place<'_>) -> Vec<u8> {
        let Ok(AtRest::Sealed(bytes)) = ring.seal(place, &Secret::new(PEM.to_owned())) else { panic!("not sealed") };
        bytes
    }

    fn opened(ring: &KeyRing, place: Place<'_>, bytes: &[u8]) -> Result<String, SealedError> {
        ring.open(place, &AtRest::Sealed(bytes.to_vec())).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let (old, new) = (entry("k1", 1), entry("k2", 2));
        let by_old = sealed(&ring(std::slice::from_ref(&old)), PLACE);
        let both = ring(&[new.clone(), old]);
        assert_eq!(opened(&both, PLACE, &by_old).as_deref(), Ok(PEM));
        let by_new = sealed(&both, PLACE);
        assert_eq!(by_new[..4], [1, 2, b'k', b'2'], "version and key id are in the value");
        assert_eq!(opened(&ring(&[new]), PLACE, &by_new).as_deref(), Ok(PEM));
        assert!(!by_new.windows(11).any(|part| part == b"PRIVATE KEY"));
        assert_ne!(by_new, sealed(&both, PLACE), "the nonce is new each time");
    }

    #[test]
    fn a_value_opens_in_its_own_column_and_row_only() {
        let ring = ring(&[entry("k1", 1)]);
        let value = sealed(&ring, PLACE);
        let others = [
            Place::CertificateKey(8),
            Place::CertificateKey(77),
            Place::PresenterSecret(7),
            Place::ProposalSecret(7),
            Place::WebhookSecret(7),
            Place::AccountKey("7"),
            Place::NextAccountKey("7"),
            Place::Canary("7"),
        ];
        for other in others {
            assert!(matches!(opened(&ring, other, &value), Err(SealedError::Broken { .. })), "{other:?}");
            let theirs = sealed(&ring, other);
            assert_eq!(opened(&ring, other, &theirs).as_deref(), Ok(PEM));
            assert!(opened(&ring, PLACE, &theirs).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_wrong_or_missing_key_is_told_from_a_broken_value() {
        let value = sealed(&ring(&[entry("k1", 1)]), PLACE);
        let wrong = opened(&ring(&[entry("k1", 9)]), PLACE, &value);
        assert!(matches!(wrong, Err(SealedError::Broken { .. })));
        for without in [ring(&[entry("k2", 1)]), KeyRing::default()] {
            let Err(SealedError::UnknownKey { key, .. }) = opened(&without, PLACE, &value) else { panic!("opened") };
            assert_eq!(key, "k1");
        }
    }

    #[test]
    fn no_byte_can_be_changed_and_none_left_out() {
        let ring = ring(&[entry("k1", 1), entry("k2", 1)]);
        let value = sealed(&ring, PLACE);
        for at in 0..value.len() {
            let mut altered = value.clone();
            // The ids differ in two bits, so that one alteration names the other key, which has the same bytes.
            altered[at] ^= 3;
            assert!(opened(&ring, PLACE, &altered).is_err(), "byte {at}");
            assert!(opened(&ring, PLACE, &value[..at]).is_err(), "cut at {at}");
        }
        assert!(opened(&ring, PLACE, &[value.as_slice(), b"x"].concat()).is_err());
        let mut newer = value;
        newer[0] = 2;
        assert!(matches!(opened(&ring, PLACE, &newer), Err(SealedError::Version { version: 2, .. })));
    }

    #[test]
    fn without_a_first_key_values_are_written_plain_and_all_can_be_read() {
        let value = sealed(&ring(&[entry("k1", 1)]), PLACE);
        let reading = ring(&["plain".to_owned(), entry("k1", 1)]);
        assert_eq!(opened(&reading, PLACE, &value).as_deref(), Ok(PEM));
        for ring in [reading, KeyRing::default(), ring(&["plain".to_owned()])] {
            assert_eq!(ring.sealing_key(), None);
            let Ok(plain) = ring.seal(PLACE, &Secret::new(PEM.to_owned())) else { panic!("not written") };
            assert_eq!((plain.plain(), plain.sealed()), (Some(PEM), None));
            let opened = ring.open(PLACE, &plain).map(|secret| secret.expose().to_owned());
            assert_eq!(opened.as_deref(), Ok(PEM));
        }
    }

    #[test]
    fn a_program_that_must_not_read_the_account_key_cannot_whether_sealed_or_plain() {
        let ring = ring(&[entry("k1", 1)]);
        let place = Place::AccountKey("https://ca.example/directory");
        let value = sealed(&ring, place);
        assert_eq!(opened(&ring, place, &value).as_deref(), Ok(PEM));
        let withholding = ring.withholding_account_key();
        assert!(matches!(opened(&withholding, place, &value), Err(SealedError::Withheld { .. })));
        let plain = AtRest::Plain(Secret::new(PEM.to_owned()));
        assert!(matches!(withholding.open(place, &plain), Err(SealedError::Withheld { .. })));
        assert!(withholding.open(PLACE, &plain).is_ok());
    }

    #[test]
    fn a_ring_is_refused_with_a_reason_that_shows_no_key() {
        let good = entry("k1", 1);
        let short = format!("k2:{}", BASE64_STANDARD.encode([2; 31]));
        for (text, expected) in [
            ("k1".to_owned(), KeyRingError::Shape(1)),
            (format!("{good},{}", entry("K 2", 2)), KeyRingError::Id(2)),
            (entry("", 1), KeyRingError::Id(1)),
            (entry("plain", 1), KeyRingError::Id(1)),
            (entry(&"k".repeat(33), 1), KeyRingError::Id(1)),
            (format!("{good},{short}"), KeyRingError::Bytes("k2".to_owned())),
            ("k2:no base64!".to_owned(), KeyRingError::Bytes("k2".to_owned())),
            (format!("{good},{good}"), KeyRingError::Twice("k1".to_owned())),
            (format!("{good},plain"), KeyRingError::PlainNotFirst),
            (String::new(), KeyRingError::Empty),
            (" , \n,".to_owned(), KeyRingError::Empty),
        ] {
            assert_eq!(KeyRing::parse(&text).err(), Some(expected), "{text}");
        }
        let lines = KeyRing::parse(&format!("{good}\n{}\n", entry("k2", 2))).unwrap_or_default();
        assert_eq!(lines.ids().collect::<Vec<_>>(), ["k1", "k2"]);
        let made = generate_entry("k3").unwrap_or_else(|error| panic!("{error}"));
        let again = generate_entry("k3").unwrap_or_else(|error| panic!("{error}"));
        assert!(KeyRing::parse(made.expose()).is_ok());
        assert!(!made.expose().contains(again.expose()), "the same key twice");
        assert!(generate_entry("No!").is_err());
    }
}
