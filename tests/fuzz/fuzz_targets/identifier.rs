//! Whatever bytes come in: the parser of names neither panics nor hangs, and what it accepts is normal.
//!
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none identifier` (stable toolchains have no sanitizers).

#![no_main]

use countersign_shared::model::identifier::DnsName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|supplied: &str| {
    if let Ok(name) = DnsName::parse(supplied, true) {
        assert!(name.as_str().len() <= DnsName::MAX_OCTETS);
        let again = DnsName::parse(name.as_str(), true);
        assert_eq!(again.as_ref().map(DnsName::as_str), Ok(name.as_str()));
    }
});
