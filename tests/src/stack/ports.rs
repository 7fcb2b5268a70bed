//! Free TCP and UDP ports on 127.0.0.1 for one stack.
//!
//! They lie below the ephemeral range, so that no outgoing connection takes one between the choice and its use, and every process
//! starts at a random point, so that parallel tests and other checkouts rarely meet.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// A port that nothing listens on, by TCP or UDP. The same port is not handed out twice by this process.
pub fn free() -> Result<u16> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let start = hasher.finish() % u64::from(COUNT);
        AtomicU16::new(u16::try_from(start).expect("a remainder of a u16 fits a u16"))
    });
    (0..COUNT)
        .map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|&port| is_free(port))
        .context("every port between 15000 and 32000 is taken")
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_distinct_and_below_the_ephemeral_range() {
        let ports: Vec<u16> = (0..50).map(|_| super::free().unwrap()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50);
        assert!(ports.iter().all(|port| (15_000..32_000).contains(port)));
    }
}
