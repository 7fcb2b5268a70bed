//! Whatever packets come in: the name server neither panics nor answers more than fits, nor what is itself an answer.
//!
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none packet` (stable toolchains have no sanitizers).

#![no_main]

use std::sync::LazyLock;

use countersign_worker::responder::packet::{Found, Heard, Transport};
use countersign_worker::responder::zone::Zone;
use libfuzzer_sys::fuzz_target;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let apex = "acme.example.net".parse().expect("this is a name");
    let address = ("ns1.acme.example.net".to_owned(), "192.0.2.53".parse().expect("this is an address"));
    Zone::new(&apex, &[], None, &[address]).expect("these are the settings of a zone")
});

fuzz_target!(|packet: &[u8]| {
    let from = "192.0.2.1:5353".parse().expect("this is an address");
    for by in [Transport::Udp, Transport::Tcp] {
        let answers = match ZONE.hear(packet, from, by) {
            Heard::Nothing => Vec::new(),
            Heard::Answer(answer) => vec![answer],
            Heard::Asks(question) => {
                let some = |count: usize| Found::Values(vec!["x".repeat(43); count].into());
                [Found::Nothing, Found::Away, some(1), some(30), some(2000)]
                    .iter()
                    .map(|found| question.answer(&ZONE, found))
                    .collect()
            }
        };
        for answer in answers {
            assert!(packet[2] & 0x80 == 0 && answer[2] & 0x80 != 0 && answer[..2] == packet[..2]);
            assert!(answer[3] & 0x80 == 0, "recursion is not available");
            assert!(by == Transport::Tcp || answer.len() <= 1232);
        }
    }
});
