//! Any process of ours may be killed, paused or told to stop at any moment: nothing is lost, nothing happens twice.

use std::time::{Duration, Instant};

use countersign_tests::chaos::takeovers::{ROWS, Row, Watch};
use countersign_tests::stack::processes::Signal;
use countersign_tests::stack::{Stack, StackBuilder};

use crate::facts::{
    SOON, all_become_active, attempts, events, has_one_certificate_each, hold_in_respond, leases_of, names, order_is,
    pending_domains,
};

const OUR_PROCESSES: [&str; 4] = ["api-1", "api-2", "worker-1", "worker-2"];

#[tokio::test]
async fn after_kill_9_of_every_process_twenty_waiting_orders_become_active_with_one_certificate_each() {
    let stack =
        Stack::builder().apis(2).workers(2).setting("POLL_TIMEOUT", "5m").setting("LEASE_FOR", "3s").start().await;
    let domains = pending_domains(&stack, &names(20)).await;

    OUR_PROCESSES.iter().for_each(|name| stack.signal(name, Signal::KILL));
    OUR_PROCESSES.iter().for_each(|name| stack.kill(name));
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    for name in OUR_PROCESSES {
        stack.restart(name).await;
    }
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn when_a_worker_is_killed_during_issuance_another_goes_on_within_seconds() {
    // Pebble's validation takes the longest of three random times below 6 s, so that some order is `responded` for a while.
    let stack = Stack::builder().workers(2).pebble("PEBBLE_VA_NOSLEEP", "0").pebble("PEBBLE_VA_SLEEPTIME", "6");
    let stack = stack.start().await;
    let domains = pending_domains(&stack, &names(3)).await;
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    let responded = async || {
        for (_, order) in &domains {
            if order_is(&stack, &order.order_id, "o.state = 'responded'").await {
                return Some(());
            }
        }
        None
    };
    stack.wait_until("an order is responded", SOON, responded).await;
    // From here on the CA says nothing, and whoever asks it keeps the lease.
    stack.pause("pebble");
    let query = "SELECT j.id, j.lease, j.leased_by FROM jobs j JOIN orders o ON o.id = j.order_id
                 WHERE o.state = 'responded' AND j.leased_by IS NOT NULL LIMIT 1";
    let leased = async || sqlx::query_as(query).fetch_optional(stack.pool()).await.unwrap();
    let (job, lease, worker): (i64, i64, String) = stack.wait_until("a worker asks the CA", SOON, leased).await;

    stack.kill(&worker);
    let killed = Instant::now();
    stack.resume("pebble");
    let mut watch = Watch::default();
    let taken_over = async || {
        let rows: Vec<Row> = sqlx::query_as(ROWS).fetch_all(stack.pool()).await.unwrap();
        watch.look(Instant::now(), &rows);
        rows.iter().all(|row| (row.id, row.lease) != (job, lease)).then_some(())
    };
    stack.wait_until("another worker has the job", SOON, taken_over).await;
    // The lease of 9 s and a second; three times the latter on a busy machine. A row taken between two looks was never seen to be lost.
    assert!(killed.elapsed() < Duration::from_secs(12), "taken over after {:?} only", killed.elapsed());
    watch.takeovers.iter().for_each(|takeover| assert!(takeover.late < Duration::from_secs(3), "{takeover:?}"));
    let other = if worker == "worker-1" { "worker-2" } else { "worker-1" };
    // Not given back: lost.
    let told = async || stack.log(other).contains("taken over from a worker that was lost").then_some(());
    stack.wait_until("the other one tells of the lost one", SOON, told).await;
    assert!(attempts(&stack).await.unwrap() <= 1, "the lost run counts once");
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn a_worker_told_to_stop_finishes_its_steps_and_leaves_no_lease() {
    let stack = Stack::builder().workers(2).start().await;
    let domains = pending_domains(&stack, &names(6)).await;
    let holders = hold_in_respond(&stack, &domains).await;
    let stopping = &holders[0];

    let ca_answers_again = async {
        let told = async || stack.log(stopping).contains("signal received").then_some(());
        stack.wait_until("the worker has read the signal", SOON, told).await;
        stack.resume("pebble");
    };
    // Within SHUTDOWN_GRACE, 20 s by default.
    let (status, ()) = tokio::join!(stack.terminate(stopping, Duration::from_secs(20)), ca_answers_again);
    assert!(status.success(), "{status}");
    assert_eq!(leases_of(&stack, stopping).await, 0);
    assert_eq!(attempts(&stack).await.unwrap(), 0);
    assert!(!stack.log(stopping).contains("SHUTDOWN_GRACE is over"), "it gave up its steps");
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn a_worker_whose_grace_ends_before_its_steps_gives_them_to_another() {
    let stack = Stack::builder().workers(2).setting("SHUTDOWN_GRACE", "2s").start().await;
    let domains = pending_domains(&stack, &names(6)).await;
    let holders = hold_in_respond(&stack, &domains).await;
    let stopping = &holders[0];

    // The grace of 2 s and a moment; three times that on a busy machine.
    let status = stack.terminate(stopping, Duration::from_secs(6)).await;
    assert!(status.success(), "{status}");
    assert_eq!(leases_of(&stack, stopping).await, 0);
    assert_eq!(attempts(&stack).await.unwrap(), 0);
    stack.resume("pebble");
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn a_worker_that_slept_through_its_lease_is_refused_when_it_wakes_up() {
    sleeps(Stack::builder().setting("LEASE_FOR", "3s"), Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "takes half a minute: make test-all"]
async fn a_worker_that_slept_for_30_s_is_refused_when_it_wakes_up() {
    sleeps(Stack::builder(), Duration::from_secs(30)).await;
}

/// A worker sleeps until another has finished its order, and for this long at least.
async fn sleeps(stack: StackBuilder, at_least: Duration) {
    let stack = stack.workers(2).start().await;
    let domains = pending_domains(&stack, &names(1)).await;
    let (domain, order) = &domains[0];
    let sleeper = &hold_in_respond(&stack, &domains).await[0];
    stack.pause(sleeper);
    let paused = Instant::now();
    stack.resume("pebble");

    stack.becomes(&domain.id, "active", 2 * SOON).await;
    let story = events(&stack, &order.order_id).await;
    let slept = async || (paused.elapsed() >= at_least).then_some(());
    stack.wait_until("it has slept long enough", at_least + SOON, slept).await;
    stack.resume(sleeper);
    let refused = async || stack.log(sleeper).contains(r#""refused_so_far":1"#).then_some(());
    stack.wait_until("the sleeper's outcome is refused and counted", SOON, refused).await;

    stack.finish().await;
    assert_eq!(stack.api().fetch(&domain.id).await.status, "active");
    let story_after = events(&stack, &order.order_id).await;
    let news: Vec<&String> = story_after[story.len()..].iter().filter(|event| *event != "cleaned_up").collect();
    assert!(news.is_empty(), "{news:?}");
    let query = "SELECT count(*) FROM order_events WHERE event IN ('responded', 'issued') AND actor = $1";
    let by_sleeper: i64 = sqlx::query_scalar(query).bind(sleeper).fetch_one(stack.pool()).await.unwrap();
    assert_eq!(by_sleeper, 0);
    has_one_certificate_each(&stack, &domains).await;
}
