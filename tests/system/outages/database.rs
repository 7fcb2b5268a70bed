//! The whole database is away: stopped, crashed, refusing, or frozen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_tests::api_client::ApiClient;
use countersign_tests::stack::{Shutdown, Stack, StackBuilder};

use super::{ACQUIRE_TIMEOUT, SHORT, all_resume_unharmed, answers_503_in_time, is_503, workers};
use crate::facts::{SOON, hold_in_respond, names, pending_domains};

#[derive(Clone, Copy)]
enum Outage {
    Stopped(Shutdown),
    /// Connections are reset, and new ones refused.
    Refused,
    /// Connections stay and pass nothing, new ones too.
    Frozen,
}

impl Outage {
    async fn begin(self, stack: &Stack) {
        match self {
            Self::Stopped(how) => stack.stop_postgres(how).await,
            Self::Refused => {
                stack.postgres_front().refuse();
                stack.postgres_front().cut();
            }
            Self::Frozen => stack.postgres_front().freeze(),
        }
    }

    async fn end(self, stack: &Stack) {
        match self {
            Self::Stopped(_) => stack.restart("postgres").await,
            Self::Refused | Self::Frozen => stack.postgres_front().heal(),
        }
    }
}

fn short_leases() -> StackBuilder {
    Stack::builder().setting("LEASE_FOR", "4s").setting("DATABASE_ACQUIRE_TIMEOUT", "1s")
}

/// Leases of 4 s end during a short outage, the default ones of 9 s during a long one.
async fn orders_survive(outage: Outage, length: Duration) {
    let (stack, acquire_timeout) = match length {
        SHORT => (short_leases(), Duration::from_secs(1)),
        _ => (Stack::builder(), ACQUIRE_TIMEOUT),
    };
    let stack = stack.apis(2).workers(2).postgres_front().setting("POLL_TIMEOUT", "5m").start().await;
    let domains = pending_domains(&stack, &names(8)).await;
    // Some are at the CA when the database goes, some wait for their record, whose values appear during the outage.
    let (at_the_ca, waiting) = domains.split_at(4);
    hold_in_respond(&stack, at_the_ca).await;
    let id = &domains[0].0.id;
    let is_over = AtomicBool::new(false);
    let askers = [1, 2].map(|number| ask_on_and_on(stack.api_replica(number), id, &is_over));

    let outage = async {
        // So that statements are under way when it begins.
        stack.postgres_front().delay(Duration::from_millis(50));
        let slow = async || (is_slow(stack.api(), id).await).then_some(());
        stack.wait_until("statements take their time", SOON, slow).await;
        outage.begin(&stack).await;
        let began = Instant::now();
        stack.resume("pebble");
        for (_, order) in waiting {
            stack.publish_value(order).await;
        }
        while began.elapsed() < length {
            for number in [1, 2] {
                answers_503_in_time(stack.api_replica(number), id, acquire_timeout).await;
            }
        }
        assert_eq!(workers(&stack).count(), 2);
        outage.end(&stack).await;
        stack.postgres_front().heal();
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(outage, futures_of(askers));
    all_resume_unharmed(&stack, &domains, 3 * SOON).await;
}

async fn is_slow(api: &ApiClient, id: &str) -> bool {
    let asked = Instant::now();
    api.fetch(id).await;
    asked.elapsed() > Duration::from_millis(100)
}

async fn futures_of(futures: [impl Future<Output = ()>; 2]) {
    let [first, second] = futures;
    tokio::join!(first, second);
}

/// Four callers, so that some of their statements are under way at any moment. Each gets the domain or a 503, and always an answer.
async fn ask_on_and_on(api: &ApiClient, id: &str, is_over: &AtomicBool) {
    let ask = async || {
        while !is_over.load(Ordering::Relaxed) {
            let answer = api.try_fetch(id).await.unwrap();
            if answer.status != 200 {
                is_503(&answer);
            }
        }
    };
    tokio::join!(ask(), ask(), ask(), ask());
}

#[tokio::test]
async fn a_fast_shutdown_of_postgres_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Stopped(Shutdown::Fast), SHORT).await;
}

#[tokio::test]
async fn a_crash_of_postgres_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Stopped(Shutdown::Immediate), SHORT).await;
}

#[tokio::test]
async fn a_database_that_refuses_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Refused, SHORT).await;
}

#[tokio::test]
async fn a_frozen_database_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Frozen, SHORT).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_fast_shutdown_of_postgres_for_20_s_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Stopped(Shutdown::Fast), Duration::from_secs(20)).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_crash_of_postgres_for_20_s_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Stopped(Shutdown::Immediate), Duration::from_secs(20)).await;
}

#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_database_that_refuses_for_30_s_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Refused, Duration::from_secs(30)).await;
}

/// Longer than the limit for an answer, so that requests whose statement is frozen meet it.
#[tokio::test]
#[ignore = "long outages: make test-all"]
async fn a_database_frozen_for_35_s_costs_no_order_and_no_attempt() {
    orders_survive(Outage::Frozen, Duration::from_secs(35)).await;
}
