//! DNS look-ups: the only users of hickory-resolver.

mod authoritative;
mod examine;
mod lookup;
mod question;

pub use authoritative::Authoritative;
pub use lookup::{LookupError, SetupError, TxtAnswer, TxtLookup};
