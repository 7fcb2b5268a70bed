//! The CA is away, or limits our rate, with an order in every phase: callers are told, and everything resumes.

use std::time::{Duration, Instant};

use countersign_tests::acme_front::{Fault, Kind, Reply};
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::{Stack, StackBuilder};

use super::{SHORT, all_resume_unharmed, answered_within};
use crate::facts::{SOON, attempts, names, pending_domains};
use crate::failures::{arrives, fronted, publish_alone};

const LONG: Duration = Duration::from_secs(60);
const PLACE_WAIT: Duration = Duration::from_secs(2);

const KINDS: [Kind; 12] = [
    Kind::Directory,
    Kind::NewNonce,
    Kind::NewAccount,
    Kind::NewOrder,
    Kind::Order,
    Kind::Authorization,
    Kind::Deactivation,
    Kind::Challenge,
    Kind::Finalize,
    Kind::Certificate,
    Kind::RenewalInfo,
    Kind::Other,
];

#[derive(Clone, Copy)]
enum Away {
    /// Connections end without an answer.
    HangsUp,
    /// A proxy says that it is busy.
    Busy,
    /// Requests are taken and not answered until the CA is back, which then does what they ask.
    Silent,
}

impl Away {
    fn begin(self, stack: &Stack) {
        match self {
            Self::HangsUp => fail_everything(stack, &Fault::HangUp),
            Self::Busy => fail_everything(stack, &Fault::html(503)),
            Self::Silent => stack.pause("pebble"),
        }
        stack.front().release();
    }

    fn end(self, stack: &Stack) {
        stack.front().heal();
        if let Self::Silent = self {
            stack.resume("pebble");
        }
    }
}

fn fail_everything(stack: &Stack, fault: &Fault) {
    KINDS.into_iter().for_each(|kind| stack.front().always(kind, fault.clone()));
}

/// Callers of the first API replica wait for as long as they can, those of the second one for [`PLACE_WAIT`].
fn builder() -> StackBuilder {
    let stack = fronted().apis(2).workers(2).setting("POLL_TIMEOUT", "5m").setting("ACME_REQUEST_TIMEOUT", "10s");
    stack.setting_of("api-1", "PLACE_WAIT", "25s").setting_of(
        "api-2",
        "PLACE_WAIT",
        format!("{}s", PLACE_WAIT.as_secs()),
    )
}

/// One whose chain is being fetched, one whose CSR is being sent, one whose order is being read, one whose challenge is being answered:
/// all held in the front. The last one awaits its record.
async fn one_order_in_each_phase(stack: &Stack) -> Vec<(Domain, Order)> {
    let domains = pending_domains(stack, &names(5)).await;
    let phases = [Kind::Certificate, Kind::Finalize, Kind::Order, Kind::Challenge];
    for ((_, order), kind) in domains.iter().zip(phases) {
        stack.front().hold(kind);
        let before = stack.front().arrived(kind);
        publish_alone(stack, order).await;
        arrives(stack, kind, before + 1).await;
    }
    domains
}

/// The domain is as it was, and the caller reads why in time.
async fn is_refused(stack: &Stack, domain: &Domain, told: &str) {
    let asked = Instant::now();
    let refused = stack.api_replica(2).try_issue(&domain.id).await.unwrap();
    answered_within(asked, PLACE_WAIT);
    assert!(refused.error().is_some_and(|error| error.contains(told)), "{refused:?}");
    refused.expect(500);
    assert_eq!(stack.api().fetch(&domain.id).await.status, "verified");
}

async fn is_as_good_as_new(stack: &Stack, mut domains: Vec<(Domain, Order)>, refused: Domain, within: Duration) {
    let order = stack.api().issue(&refused.id).await;
    publish_alone(stack, &order).await;
    domains.push((refused, order));
    all_resume_unharmed(stack, &domains, within).await;
    assert_eq!(stack.ca().accounts().unwrap(), 1);
}

async fn orders_survive(away: Away, length: Duration) {
    let stack = builder().start().await;
    let newcomer = stack.verified_domain("newcomer.example.com").await;
    let domains = one_order_in_each_phase(&stack).await;
    away.begin(&stack);
    let began = Instant::now();
    publish_alone(&stack, &domains[4].1).await;
    while began.elapsed() < length {
        is_refused(&stack, &newcomer, "could not be placed").await;
        for (domain, _) in &domains {
            assert_eq!(stack.api().fetch(&domain.id).await.status, "certificate_pending");
        }
        assert_eq!(attempts(&stack).await.unwrap(), 0);
    }
    away.end(&stack);
    // The backoff has grown with the outage.
    is_as_good_as_new(&stack, domains, newcomer, 3 * length + SOON).await;
}

#[tokio::test]
async fn a_ca_that_hangs_up_costs_no_order_and_no_attempt() {
    orders_survive(Away::HangsUp, SHORT).await;
}

#[tokio::test]
async fn a_ca_that_says_nothing_costs_no_order_and_no_attempt() {
    orders_survive(Away::Silent, SHORT).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_ca_that_hangs_up_for_a_minute_costs_no_order_and_no_attempt() {
    orders_survive(Away::HangsUp, LONG).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_ca_that_is_busy_for_a_minute_costs_no_order_and_no_attempt() {
    orders_survive(Away::Busy, LONG).await;
}

/// Longer than the time for a request, so that it is given up.
#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_ca_that_says_nothing_for_a_minute_costs_no_order_and_no_attempt() {
    orders_survive(Away::Silent, LONG).await;
}

/// Everybody is refused once, and then leaves the CA alone for as long as it asked.
async fn everybody_is_held_back(length: Duration) {
    let stack = builder().start().await;
    let newcomer = stack.verified_domain("newcomer.example.com").await;
    let domains = one_order_in_each_phase(&stack).await;
    let limit = Reply::problem(429, "rateLimited", "too many").header("retry-after", &length.as_secs().to_string());
    fail_everything(&stack, &Fault::Answer(limit));
    stack.front().release();
    publish_alone(&stack, &domains[4].1).await;
    let query = "SELECT coalesce(bool_and(held_until > now()), false) AND NOT EXISTS (SELECT FROM jobs WHERE leased_by IS NOT NULL)
                 FROM acme_accounts";
    let held = async || {
        let held: bool = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        held.then_some(())
    };
    stack.wait_until("everybody is held back", SOON, held).await;
    stack.front().heal();

    let calls = || KINDS.into_iter().map(|kind| stack.front().arrived(kind)).sum::<usize>();
    let (before, mut looks) = (calls(), 0);
    is_refused(&stack, &newcomer, "limits how many certificates").await;
    loop {
        // In this order: what had arrived while the hold was on has arrived in spite of it.
        let arrived = calls();
        let query = "SELECT held_until > now() FROM acme_accounts";
        if !sqlx::query_scalar::<_, bool>(query).fetch_one(stack.pool()).await.unwrap() {
            break;
        }
        assert_eq!(arrived, before, "the CA was called in spite of its limit");
        assert_eq!(attempts(&stack).await.unwrap(), 0);
        assert_eq!(stack.api().fetch(&domains[4].0.id).await.status, "certificate_pending");
        looks += 1;
    }
    assert!(looks > 0, "the hold was over before anybody looked");
    is_as_good_as_new(&stack, domains, newcomer, 2 * SOON).await;
}

#[tokio::test]
async fn a_ca_that_limits_our_rate_is_left_alone_and_no_order_pays_for_it() {
    everybody_is_held_back(SHORT).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_ca_that_limits_our_rate_for_a_minute_is_left_alone_and_no_order_pays_for_it() {
    everybody_is_held_back(LONG).await;
}
