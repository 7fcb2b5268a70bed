//! What must never be shown.

use std::convert::Infallible;
use std::str::FromStr;

use zeroize::Zeroizing;

/// A password, key or token: no `Debug`, no `Display`. Its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::new(text.to_owned()))
    }
}

/// A secret as its row holds it: in one of two columns. No `Debug`: it may be plain.
#[derive(Clone)]
pub enum AtRest {
    Plain(Secret),
    /// By a key of the ring, for one column of one row.
    Sealed(Vec<u8>),
}

impl AtRest {
    /// None where neither column has a value. The schema rules out both.
    pub fn of_columns(plain: Option<String>, sealed: Option<Vec<u8>>) -> Option<Self> {
        sealed.map(Self::Sealed).or_else(|| plain.map(|plain| Self::Plain(Secret::new(plain))))
    }

    /// For the column of plain values.
    pub fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(secret) => Some(secret.expose()),
            Self::Sealed(_) => None,
        }
    }

    /// For the column of sealed values.
    pub fn sealed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Sealed(bytes) => Some(bytes),
        }
    }
}
