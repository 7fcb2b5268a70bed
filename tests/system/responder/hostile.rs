//! Askers who mean no good: packets that are none, more questions than can be answered, and connections that say nothing.

use std::time::{Duration, Instant};

use countersign_tests::dns_wire::{Transport, ask};
use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::ZONE;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{OPT, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::{answer_to, answers, question, registered, token, with_edns};
use crate::facts::SOON;

const PACKETS: usize = 20_000;
/// So few between two real questions that the socket's buffer holds them all.
const BATCH: usize = 100;
/// What bytes are likely to mean something to a parser of DNS.
const TELLING: [u8; 12] = [0x00, 0x01, 0x0c, 0x10, 0x29, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xfa, 0xff];

/// Well-formed messages of many kinds, to be spoilt.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let types =
        [RecordType::TXT, RecordType::ANY, RecordType::SOA, RecordType::AXFR, RecordType::OPT, RecordType::TSIG];
    let mut messages: Vec<Message> = [target, ZONE, "shop.example.com", "."]
        .iter()
        .flat_map(|name| types.map(|record_type| question(name, record_type)))
        .flat_map(|question| [question.clone(), with_edns(question, 1232)])
        .collect();
    let mut update = question(ZONE, RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let mut with_records = with_edns(question(target, RecordType::TXT), 512);
    let owner = with_records.queries[0].name().clone();
    let txt = Record::from_rdata(owner.clone(), 1, RData::TXT(TXT::new(vec!["a value".to_owned(); 3])));
    with_records.add_answer(txt.clone()).add_authority(txt.clone()).add_additional(txt);
    let mut two_opts = with_edns(question(target, RecordType::TXT), 512);
    two_opts.add_additional(Record::from_rdata(owner, 0, RData::OPT(OPT::new(Vec::new()))));
    messages.extend([update, with_records, two_opts]);
    messages.iter().map(|message| message.to_vec().unwrap()).collect()
}

fn spoilt(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut packet = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=packet.len());
        match random.random_range(0..8) {
            0 => packet.truncate(at),
            1 => packet.insert(at, random.random()),
            2 => packet.insert(at, TELLING[random.random_range(0..TELLING.len())]),
            3 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                packet.truncate(at);
                packet.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
            4 if at < 12 && packet.len() > 12 => packet[at] = random.random(),
            5 if at < packet.len() => packet[at] = TELLING[random.random_range(0..TELLING.len())],
            6 if at < packet.len() => packet[at] ^= 1 << random.random_range(0..8),
            7 if packet.len() < 2000 => {
                let mut noise = vec![0; random.random_range(1..200)];
                random.fill_bytes(&mut noise);
                packet.splice(at..at, noise);
            }
            _ => {}
        }
    }
    packet
}

#[tokio::test]
async fn twenty_thousand_spoilt_packets_neither_end_it_nor_change_an_answer() {
    let stack = Stack::builder().responders(1).start().await;
    let (domain, target) = registered(&stack, "shop.example.com").await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let seeds = seeds(&target);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(stack.responder(1)).await.unwrap();
    for _ in 0..PACKETS / BATCH {
        for _ in 0..BATCH {
            socket.send(&spoilt(&seeds, &mut random)).await.unwrap();
        }
        // By another socket, whose answer is not among theirs. It comes after they were read.
        let values = async || stack.txt_at(1, &target).await.filter(|values| values == &[token(&domain)]);
        stack.wait_until(&format!("it still answers, seed {seed}"), SOON, values).await;
    }
    for _ in 0..PACKETS / 20 {
        let packet = spoilt(&seeds, &mut random);
        let answered = ask(stack.responder(1), &packet, Transport::Tcp);
        // Whether there is an answer depends on the packet; that the connection is not left hanging does not.
        let ended = tokio::time::timeout(Duration::from_secs(30), answered).await;
        assert!(ended.is_ok(), "seed {seed}: no end of {packet:02x?}");
    }
    let mut answered = 0;
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.try_recv(&mut buffer) {
        assert!(length >= 12 && buffer[2] & 0x80 != 0, "seed {seed}: {:02x?}", &buffer[..length]);
        answered += 1;
    }
    assert!(answered > 0, "some of them are still questions");
    answers(&stack, 1, &target, &[token(&domain)], SOON).await;
    let log = stack.log("dns-1");
    assert!(!log.contains("panicked") && !log.contains("bug"), "seed {seed}: {log}");
}

#[tokio::test]
async fn questions_about_nobody_do_not_hold_up_those_about_somebody() {
    let stack = Stack::builder().responders(1).setting_of("dns-1", "DATABASE_MAX_CONNECTIONS", "4").start().await;
    let (domain, target) = registered(&stack, "shop.example.com").await;
    answers(&stack, 1, &target, &[token(&domain)], SOON).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(stack.responder(1)).await.unwrap();
    let (mut slowest, mut rounds, began) = (Duration::ZERO, 0, Instant::now());
    // Long enough for its answer to be read anew several times.
    while began.elapsed() < Duration::from_secs(4) {
        for _ in 0..BATCH {
            let nobody = format!("{:032x}.{ZONE}", rand::random::<u128>());
            socket.send(&question(&nobody, RecordType::TXT).to_vec().unwrap()).await.unwrap();
        }
        let asked = Instant::now();
        let (answer, _) = answer_to(&stack, &question(&target, RecordType::TXT), Transport::Udp).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "round {rounds}");
        slowest = slowest.max(asked.elapsed());
        rounds += 1;
    }
    println!("the slowest answer in a flood of {} questions took {slowest:?}", rounds * BATCH);
    // The API's pool is another one, and the server itself has connections left.
    let free: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        .fetch_one(stack.pool())
        .await
        .unwrap();
    assert!(free < 40, "{free} connections");
    answers(&stack, 1, &target, &[token(&domain)], SOON).await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_keep_nobody_out() {
    let stack = Stack::builder().responders(1).start().await;
    let (domain, target) = registered(&stack, "shop.example.com").await;
    // More than it serves at once: those that are too many are closed at the door.
    let mut silent = Vec::new();
    for number in 0..600_usize {
        let mut stream = TcpStream::connect(stack.responder(1)).await.unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(&[0, 40, 1]).await;
        }
        silent.push(stream);
    }
    answers(&stack, 1, &target, &[token(&domain)], SOON).await;
    for mut stream in silent {
        let closed = tokio::time::timeout(SOON, stream.read(&mut [0; 16])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "it was closed by the other side");
    }
    let (answer, _) = answer_to(&stack, &question(&target, RecordType::TXT), Transport::Tcp).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn it_stops_when_asked_to_and_answers_what_it_has_begun() {
    let stack = Stack::builder().responders(1).start().await;
    let (domain, target) = registered(&stack, "shop.example.com").await;
    answers(&stack, 1, &target, &[token(&domain)], SOON).await;
    let mut idle = TcpStream::connect(stack.responder(1)).await.unwrap();
    let status = stack.terminate("dns-1", Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    assert!(matches!(idle.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    assert!(stack.log("dns-1").contains("stopped"));
}
