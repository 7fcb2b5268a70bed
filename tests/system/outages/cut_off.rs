//! One worker loses the database while another goes on: the first one stores nothing, and is of use again later.

use countersign_tests::postgres_front::AtCommit;
use countersign_tests::stack::Stack;

use crate::facts::{
    SOON, all_become_active, attempts, has_one_certificate_each, hold_in_respond, is_cleaned_up, leases_of, names,
    pending_domains, wait_until_order,
};

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Refused,
    /// What it has sent by then arrives later, when all is over.
    Frozen,
}

async fn events_by(stack: &Stack, worker: &str) -> i64 {
    let query = sqlx::query_scalar("SELECT count(*) FROM order_events WHERE actor = $1").bind(worker);
    query.fetch_one(stack.pool()).await.unwrap()
}

async fn worker_1_is_cut_off(cut: Cut) {
    let stack = Stack::builder().workers(2).postgres_front_of("worker-1").setting("LEASE_FOR", "2s");
    let stack = stack.not_yet("worker-2").start().await;
    let front = stack.postgres_front_of("worker-1");
    let domains = pending_domains(&stack, &names(6)).await;
    hold_in_respond(&stack, &domains).await;
    stack.restart("worker-2").await;

    match cut {
        Cut::Refused => {
            front.refuse();
            front.cut();
        }
        Cut::Frozen => front.freeze(),
    }
    let stored = events_by(&stack, "worker-1").await;
    stack.resume("pebble");
    all_become_active(&stack, &domains).await;
    for (domain, _) in &domains {
        is_cleaned_up(&stack, &domain.id).await;
    }
    assert!(attempts(&stack).await.unwrap() <= 1, "the lost run counts once");
    assert_eq!(events_by(&stack, "worker-1").await, stored, "it stored something while it was cut off");
    front.heal();

    // Alone it would serve nobody if it were not back.
    stack.terminate("worker-2", SOON).await;
    let (domain, order) = stack.pending_domain("later.example.com").await;
    assert!(events_by(&stack, "worker-1").await > stored);
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    let domains: Vec<_> = domains.into_iter().chain([(domain, order)]).collect();
    has_one_certificate_each(&stack, &domains).await;
    assert_eq!(leases_of(&stack, "worker-1").await, 0);
}

#[tokio::test]
async fn a_worker_cut_off_from_the_database_stores_nothing_while_another_finishes_its_orders() {
    worker_1_is_cut_off(Cut::Refused).await;
}

#[tokio::test]
async fn what_a_frozen_worker_had_sent_arrives_too_late_to_be_stored() {
    worker_1_is_cut_off(Cut::Frozen).await;
}

/// As when its host is gone: nobody tells Postgres, which keeps the locks of the transaction that was about to end.
#[tokio::test]
async fn a_worker_that_vanishes_in_the_middle_of_a_commit_does_not_hold_its_order_for_ever() {
    let stack =
        Stack::builder().workers(2).postgres_front_of("worker-1").setting("LEASE_FOR", "2s").not_yet("worker-2");
    let stack = stack.start().await;
    let front = stack.postgres_front_of("worker-1");
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    wait_until_order(&stack, &order.order_id, "o.state = 'presented'").await;
    front.at_commit(1, AtCommit::Strand);
    stack.publish_value(&order).await;
    let stranded = async || (front.commits_to_come() == 0).then_some(());
    stack.wait_until("a commit leads nowhere", SOON, stranded).await;
    stack.kill("worker-1");

    stack.restart("worker-2").await;
    stack.becomes(&domain.id, "active", 4 * SOON).await;
    has_one_certificate_each(&stack, &[(domain, order)]).await;
    front.cut();
}
