//! DNS look-ups: the only users of hickory-resolver.

mod lookup;

pub use lookup::{LookupError, SetupError, TxtAnswer, TxtLookup};
