//! Postgres is away: what is known is answered, of the rest it is said that nobody knows, and all is well when it is back.

use std::time::{Duration, Instant};

use countersign_tests::stack::{Shutdown, Stack};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::{answers, registered, token};
use crate::facts::SOON;

async fn code(stack: &Stack, name: &str, record_type: RecordType) -> Option<ResponseCode> {
    Some(stack.asked(stack.responder(1), name, record_type).await?.metadata.response_code)
}

/// What holds while Postgres does not answer, however that came.
async fn answers_what_it_knows(stack: &Stack, known: (&str, &str), never_asked: &str) {
    let zone = countersign_tests::stack::delegation::ZONE;
    // The first to ask waits until it is clear that there will be no answer.
    let away = async || (code(stack, never_asked, RecordType::TXT).await == Some(ResponseCode::ServFail)).then_some(());
    stack.wait_until("what is not known is answered SERVFAIL", SOON, away).await;
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(stack.txt_at(1, known.0).await.unwrap(), [known.1]);
        assert_eq!(code(stack, never_asked, RecordType::TXT).await, Some(ResponseCode::ServFail));
        assert_eq!(
            code(stack, &format!("{}.{zone}", "0".repeat(32)), RecordType::TXT).await,
            Some(ResponseCode::ServFail)
        );
        assert_eq!(code(stack, zone, RecordType::SOA).await, Some(ResponseCode::NoError));
        assert_eq!(code(stack, &format!("nobody.{zone}"), RecordType::TXT).await, Some(ResponseCode::NXDomain));
        assert!(asked.elapsed() < Duration::from_secs(5), "nobody waits once it is known: {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn without_postgres_what_is_known_is_answered_and_all_is_well_afterwards() {
    let stack = Stack::builder().responders(1).start().await;
    let (known, known_target) = registered(&stack, "known.example.com").await;
    let (unknown, unknown_target) = registered(&stack, "unknown.example.com").await;
    answers(&stack, 1, &known_target, &[token(&known)], SOON).await;

    stack.stop_postgres(Shutdown::Immediate).await;
    answers_what_it_knows(&stack, (&known_target, token(&known)), &unknown_target).await;
    // One that starts now answers too, as much as it can.
    stack.kill("dns-1");
    stack.restart("postgres").await;
    stack.restart("dns-1").await;
    for (target, token) in [(&known_target, token(&known)), (&unknown_target, token(&unknown))] {
        answers(&stack, 1, target, &[token], SOON).await;
    }
    stack.stop_postgres(Shutdown::Fast).await;
    answers_what_it_knows(
        &stack,
        (&known_target, token(&known)),
        &format!("{}.acme.countersign.example", "1".repeat(32)),
    )
    .await;
    stack.restart("postgres").await;
    let (new, new_target) = registered_soon(&stack, "new.example.com").await;
    answers(&stack, 1, &new_target, &[&new], SOON).await;
    assert!(stack.is_running("dns-1"));
}

#[tokio::test]
async fn a_database_that_hangs_is_as_good_as_away() {
    let stack = Stack::builder().responders(1).postgres_front_of("dns-1").start().await;
    let (known, known_target) = registered(&stack, "known.example.com").await;
    let (unknown, unknown_target) = registered(&stack, "unknown.example.com").await;
    answers(&stack, 1, &known_target, &[token(&known)], SOON).await;

    stack.postgres_front_of("dns-1").freeze();
    answers_what_it_knows(&stack, (&known_target, token(&known)), &unknown_target).await;
    stack.postgres_front_of("dns-1").heal();
    answers(&stack, 1, &unknown_target, &[token(&unknown)], SOON).await;
}

/// Its token and its target, once the API is back.
async fn registered_soon(stack: &Stack, name: &str) -> (String, String) {
    let answered = async || stack.api().try_register(name).await.ok().filter(|answer| answer.status == 201);
    let body = stack.wait_until("the API is back", SOON, answered).await.body;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&body["verification_token"]), text(&body["delegation"]["cname_target"]))
}
