//! Public ids: 32 lower-case hex characters from 16 random bytes.

use std::fmt;

/// Id of a domain, order or certificate as the `/domains` API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicId(String);

impl PublicId {
    /// Makes an id from 16 random bytes; the caller brings the randomness.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes))
    }

    /// An id of any other shape than 32 lower-case hex characters is no id at all: the caller answers "not found".
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 32 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_lower_case_hex_characters_are_an_id() {
        assert_eq!(PublicId::from_random([0xab; 16]).as_str(), "ab".repeat(16));
        assert!(PublicId::parse(&"0f".repeat(16)).is_some());
        for wrong in ["", "0f", &"0F".repeat(16), &"0g".repeat(16), &"0".repeat(33), "é0000000000000000000000000000000"]
        {
            assert_eq!(PublicId::parse(wrong), None, "{wrong}");
        }
    }
}
