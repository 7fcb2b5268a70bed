//! Postgres, the CA or DNS is away, slow or half there: nothing is lost, no order is blamed, nobody waits for ever, and work resumes by
//! itself.
//!
//! An outage's length is the fault itself, and is spent asking the API. Every long outage has a short sibling of the same function.

mod ca;
mod connections;
mod cut_off;
mod database;
mod dns;
mod lost_answers;

use std::time::{Duration, Instant};

use countersign_tests::api_client::{Answer, ApiClient, Domain, Order};
use countersign_tests::stack::Stack;

use crate::facts::{attempts, has_one_certificate_each};

/// DATABASE_ACQUIRE_TIMEOUT, where a test sets none: whoever finds no connection is told so after that.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Leases of 2 s end meanwhile.
const SHORT: Duration = Duration::from_secs(5);

const OUR_PROCESSES: [&str; 4] = ["api-1", "api-2", "worker-1", "worker-2"];

/// Every order gets its one certificate within this time, and no order was blamed for anything.
async fn all_resume_unharmed(stack: &Stack, domains: &[(Domain, Order)], within: Duration) {
    for (domain, _) in domains {
        stack.becomes(&domain.id, "active", within).await;
    }
    for worker in workers(stack) {
        let log = stack.log(worker);
        assert!(!log.contains(r#""counted":true"#), "{worker} blames an order for the outage");
        let attempts = |which: &str| log.matches(&format!(r#""job.attempt":{which}"#)).count();
        assert!(attempts("0,") == attempts(""), "{worker} took a job for lost");
    }
    assert_eq!(attempts(stack).await.unwrap(), 0);
    has_one_certificate_each(stack, domains).await;
}

/// Those that the stack has, all of them alive.
fn workers(stack: &Stack) -> impl Iterator<Item = &'static str> {
    let replicas = &stack.plan().replicas;
    let present = OUR_PROCESSES.into_iter().filter(|name| replicas.contains_key(*name)).collect::<Vec<_>>();
    present.iter().for_each(|name| assert!(stack.is_running(name), "{name} has ended"));
    present.into_iter().filter(|name| name.starts_with("worker"))
}

/// Three times the limit that rules, on a busy machine. Where that is the API's own limit of 30 s, nothing is to be looked at: a client of
/// the tests gives up after 40 s, and an answer that did not come fails the test.
fn answered_within(asked: Instant, limit: Duration) {
    assert!(asked.elapsed() < 3 * limit, "answered after {:?} only, where {limit:?} is the limit", asked.elapsed());
}

/// One call of each kind at once; none of them finds a connection.
async fn answers_503_in_time(api: &ApiClient, domain_id: &str, acquire_timeout: Duration) {
    let asked = Instant::now();
    let answers = tokio::join!(
        api.try_fetch(domain_id),
        api.try_register("new.example.com"),
        api.try_issue(domain_id),
        api.try_delete(domain_id)
    );
    answered_within(asked, acquire_timeout);
    <[_; 4]>::from(answers).into_iter().for_each(|answer| is_503(&answer.unwrap()));
}

fn is_503(answer: &Answer) {
    assert!(answer.status == 503 && answer.error().is_some(), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}
