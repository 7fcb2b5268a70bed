//! `countersign-dns`: what it answers, when it answers it, and that domains whose challenges are delegated to it need nobody.

mod answers;
mod delegated;
mod hostile;
mod load;
mod outages;
mod undelegated;
mod visibility;

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_tests::api_client::Domain;
use countersign_tests::dns_wire::{Transport, ask};
use countersign_tests::stack::Stack;
use countersign_tests::stack::delegation::target;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};

/// A question, without EDNS.
fn question(name: &str, record_type: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    question.add_query(Query::query(name, record_type));
    question
}

fn with_edns(mut question: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    question.set_edns(edns);
    question
}

/// What `dns-1` sends back, with its length; None when it sends nothing in 5 s.
async fn sent_back(stack: &Stack, packet: &[u8], by: Transport) -> Option<(Message, usize)> {
    let answer = tokio::time::timeout(Duration::from_secs(5), ask(stack.responder(1), packet, by)).await;
    let answer = answer.ok()?.ok()?;
    Some((Message::from_vec(&answer).unwrap(), answer.len()))
}

async fn answer_to(stack: &Stack, question: &Message, by: Transport) -> (Message, usize) {
    let (answer, length) = sent_back(stack, &question.to_vec().unwrap(), by).await.expect("there is an answer");
    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    assert!(!answer.metadata.recursion_available, "{answer}");
    (answer, length)
}

/// Waits until `dns-<number>` answers exactly these values.
async fn answers(stack: &Stack, number: usize, name: &str, values: &[&str], within: Duration) {
    let wanted: BTreeSet<String> = values.iter().map(|&value| value.to_owned()).collect();
    let what = format!("dns-{number} answers {wanted:?} at {name}");
    let seen =
        async || (stack.txt_at(number, name).await?.into_iter().collect::<BTreeSet<_>>() == wanted).then_some(());
    stack.wait_until(&what, within, seen).await;
}

fn token(domain: &Domain) -> &str {
    domain.verification_token.as_deref().expect("a new domain has a token")
}

async fn registered(stack: &Stack, name: &str) -> (Domain, String) {
    let domain = stack.api().register(name).await;
    let target = target(&domain).to_owned();
    (domain, target)
}
