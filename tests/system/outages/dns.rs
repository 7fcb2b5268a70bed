//! DNS is away, or misbehaves: nobody is blamed for it, and it is asked again.

use std::time::{Duration, Instant};

use countersign_tests::api_client::{Answer, Domain};
use countersign_tests::dns_front::{DnsFault, Transport};
use countersign_tests::stack::Stack;

use super::{all_resume_unharmed, answered_within};
use crate::facts::{SOON, all, attempts, order_is, pending_domains, wait_until_order};

/// For the whole of one look-up.
const LOOKUP_WITHIN: Duration = Duration::from_secs(8);

/// Every fault with what `verify` answers although the value is there, and what a look-up for an order shows.
const FAULTS: [(&str, DnsFault, u16, &str); 7] = [
    ("servfail", DnsFault::ServFail, 424, "lookup_failed"),
    ("refused", DnsFault::Refused, 424, "lookup_failed"),
    ("silent", DnsFault::Silence, 424, "lookup_failed"),
    // More than one server gets for its answer.
    ("late", DnsFault::After(Duration::from_secs(4)), 424, "lookup_failed"),
    // A recursive resolver says SERVFAIL to a loop; one that shows it shows no TXT record.
    ("loop", DnsFault::CnameLoop, 400, "absent"),
    ("nobody", DnsFault::NxDomain, 400, "absent"),
    ("truncated", DnsFault::Truncated, 200, ""),
];

fn owner(name: &str) -> String {
    format!("_acme-challenge.{name}.")
}

fn misbehave(stack: &Stack) {
    FAULTS.iter().for_each(|(name, fault, ..)| stack.dns_front().fault(&owner(&format!("{name}.example.com")), *fault));
}

async fn verify_all(stack: &Stack, domains: &[Domain]) -> Vec<Answer> {
    let asked = Instant::now();
    let calls = domains.iter().map(|domain| {
        let (api, id) = (stack.api().clone(), domain.id.clone());
        async move { api.try_verify(&id).await.unwrap() }
    });
    let answers = all(calls.collect::<Vec<_>>()).await;
    answered_within(asked, LOOKUP_WITHIN);
    answers
}

#[tokio::test]
async fn every_way_in_which_dns_misbehaves_is_told_and_forgiven() {
    let stack = Stack::builder().dns_front().setting("POLL_TIMEOUT", "5m").start().await;
    let mut domains = Vec::new();
    for (name, ..) in FAULTS {
        let domain = stack.api().register(&format!("{name}.example.com")).await;
        let token = domain.verification_token.as_deref().unwrap();
        stack.dns().set_txt(&owner(&domain.domain_name), token).await.unwrap();
        domains.push(domain);
    }
    misbehave(&stack);
    for (answer, (name, _, status, _)) in verify_all(&stack, &domains).await.iter().zip(FAULTS) {
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert_eq!(answer.error().is_some(), status != 200, "{name}: {}", answer.body);
    }
    let truncated = owner("truncated.example.com");
    let asked = |by| stack.dns_front().questions(&truncated, by);
    assert!(asked(Transport::Udp) > 0 && asked(Transport::Tcp) > 0, "the whole answer is there by TCP only");
    for domain in &domains[..6] {
        assert_eq!(stack.api().fetch(&domain.id).await.status, "pending", "{}", domain.domain_name);
    }
    stack.dns_front().heal();
    verify_all(&stack, &domains)
        .await
        .into_iter()
        .for_each(|answer| assert_eq!(answer.expect(200)["status"], "verified"));

    let mut ordered = Vec::new();
    for domain in domains {
        let order = stack.api().issue(&domain.id).await;
        ordered.push((domain, order));
    }
    misbehave(&stack);
    for (_, order) in &ordered {
        stack.publish_value(order).await;
    }
    for ((domain, _), (name, _, _, seen)) in ordered.iter().zip(FAULTS) {
        if seen.is_empty() {
            stack.becomes_active(&domain.id).await;
            continue;
        }
        let shown = async || {
            let check = stack.api().fetch(&domain.id).await.more["last_check"].clone();
            (check["result"] == seen).then_some(())
        };
        stack.wait_until(&format!("last_check of {name} shows {seen}"), SOON, shown).await;
    }
    assert_eq!(attempts(&stack).await.unwrap(), 0);
    stack.dns_front().heal();
    all_resume_unharmed(&stack, &ordered, 2 * SOON).await;
}

/// The deadlines of all orders pass meanwhile.
async fn no_name_server_helps(fault: DnsFault, length: Duration) {
    let stack = Stack::builder().workers(2).dns_front().setting("POLL_TIMEOUT", "2s").start().await;
    let newcomer = stack.api().register("newcomer.example.com").await;
    stack.dns().set_txt(&owner(&newcomer.domain_name), newcomer.verification_token.as_deref().unwrap()).await.unwrap();
    let domains = pending_domains(&stack, &crate::facts::names(4)).await;

    stack.dns_front().fault_everywhere(fault);
    let began = Instant::now();
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    while began.elapsed() < length {
        let asked = Instant::now();
        let answer = stack.api().try_verify(&newcomer.id).await.unwrap();
        answered_within(asked, LOOKUP_WITHIN);
        answer.expect(424);
        for (domain, _) in &domains {
            assert_eq!(stack.api().fetch(&domain.id).await.status, "certificate_pending");
        }
        assert_eq!(attempts(&stack).await.unwrap(), 0);
    }
    for (_, order) in &domains {
        wait_until_order(&stack, &order.order_id, "now() > o.deadline_at").await;
        assert!(order_is(&stack, &order.order_id, "o.state = 'presented' AND o.seen_at IS NULL").await);
    }
    stack.dns_front().heal();
    assert_eq!(stack.api().verify(&newcomer.id).await.status, "verified");
    all_resume_unharmed(&stack, &domains, 2 * SOON).await;
}

#[tokio::test]
async fn name_servers_that_say_nothing_cost_no_order_and_no_attempt() {
    no_name_server_helps(DnsFault::Silence, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn name_servers_that_all_fail_cost_no_order_and_no_attempt() {
    no_name_server_helps(DnsFault::ServFail, Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn name_servers_that_say_nothing_for_30_s_cost_no_order_and_no_attempt() {
    no_name_server_helps(DnsFault::Silence, Duration::from_secs(30)).await;
}
