//! Free TCP and UDP ports on 127.0.0.1 for one stack.
//!
//! They lie below the ephemeral range, so that no outgoing connection takes one between the choice and its use. Every process takes them
//! from blocks that it holds a lock on, so that parallel test runs and other checkouts never choose the same one.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

const FIRST: u16 = 15_000;
const BLOCKS: u16 = 170;
const BLOCK: u16 = 100;

/// Ports that are ours while the file is locked: as long as this process lives.
struct Block {
    ports: Range<u16>,
    _lock: File,
}

/// A port that nothing listens on, by TCP or UDP. The same port is not handed out twice by this process.
pub fn free() -> Result<u16> {
    static OURS: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    // A list that only grows: no panic can leave it half-written.
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = ours.last_mut().and_then(|block| block.ports.find(|&port| is_free(port))) {
            return Ok(port);
        }
        ours.push(Block::take().context("every port between 15000 and 32000 is taken")?);
    }
}

impl Block {
    /// Begins at a random one, so that ports of a stack that ended a moment ago are rarely met.
    fn take() -> Option<Self> {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let start = (hasher.finish() % u64::from(BLOCKS)) as u16;
        (0..BLOCKS).map(|offset| (start + offset) % BLOCKS).find_map(|number| {
            let path = std::env::temp_dir().join(format!("countersign-ports-{number}.lock"));
            let lock = File::options().create(true).append(true).open(path).ok()?;
            lock.try_lock().ok()?;
            let first = FIRST + number * BLOCK;
            Some(Self { ports: first..first + BLOCK, _lock: lock })
        })
    }
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
        let ports: Vec<u16> = (0..150).map(|_| super::free().unwrap()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 150, "over the end of a block, too");
        assert!(ports.iter().all(|port| (15_000..32_000).contains(port)));
    }
}
