//! Receivers that fail, hang, redirect and flood; a worker that dies in the middle of a delivery.

use countersign_tests::receiver::{Manner, Receiver};
use serde_json::json;

use super::{Account, arrive, event, holds, hooked, hurry, sql, until};
use crate::facts::SOON;

#[tokio::test]
async fn what_is_not_acknowledged_by_200_comes_again_as_the_same_event_and_ends_after_ten_attempts() {
    const SAID: &str = "said-by-the-receiver";
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let shop = Account::of(&stack, 1);
    let url = receiver.url("/hook").to_owned() + "?key=s3cret";
    let id = shop.webhook(&url).await;
    event(&stack, &receiver, "/hook", "webhook.create").await;
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) FROM deliveries").await;

    receiver.behave("/hook", Manner::Answer(500, SAID.to_owned()));
    shop.domain("shop.example.com").await;
    let pending = "SELECT EXISTS (SELECT FROM deliveries y JOIN jobs j ON j.delivery_id = y.id
                   WHERE j.leased_by IS NULL AND y.attempts = j.attempts AND";
    until(&stack, &format!("{pending} y.attempts = 1 AND y.last_status = 500)")).await;
    let spacing = "j.due_at BETWEEN now() + interval '5 seconds' AND now() + interval '15 seconds')";
    assert!(holds(&stack, &format!("{pending} {spacing}")).await);
    receiver.behave("/hook", Manner::Answer(201, SAID.to_owned()));
    assert_eq!(hurry(&stack).await, 1);
    until(&stack, &format!("{pending} y.attempts = 2 AND y.last_status = 201)")).await;
    receiver.behave("/hook", Manner::Redirect(receiver.url("/elsewhere")));
    hurry(&stack).await;
    until(&stack, &format!("{pending} y.attempts = 3 AND y.last_status = 307)")).await;
    receiver.behave("/hook", Manner::Flood(200, 1 << 30));
    hurry(&stack).await;
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) AND max(attempts) = 4 FROM deliveries").await;
    assert!(receiver.received("/elsewhere").is_empty(), "the redirect was followed");
    assert!(receiver.flooded() < 64 << 20, "{} bytes were taken", receiver.flooded());
    let attempts = &arrive(&stack, &receiver, "/hook", 5).await[1..];
    assert_eq!(attempts.len(), 4);
    assert!(attempts.iter().all(|attempt| attempt.body == attempts[0].body), "the same event, byte by byte");
    assert!(holds(&stack, "SELECT consecutive_failures = 0 FROM webhooks").await, "a success is a new beginning");

    receiver.behave("/hook", Manner::Answer(500, SAID.to_owned()));
    shop.domain("given-up.example.com").await;
    until(&stack, &format!("{pending} y.attempts = 1)")).await;
    sql(&stack, "UPDATE jobs SET attempts = 9 WHERE kind = 'deliver-event'").await;
    hurry(&stack).await;
    until(&stack, "SELECT EXISTS (SELECT FROM deliveries WHERE failed_at IS NOT NULL AND attempts = 10)").await;
    until(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await;

    // However late the first attempt is, there is one; after two hours it is the last.
    receiver.behave("/hook", Manner::Answer(500, SAID.to_owned()));
    sql(&stack, "ALTER TABLE events ALTER COLUMN created_at SET DEFAULT now() - interval '121 minutes'").await;
    shop.domain("late.example.com").await;
    sql(&stack, "ALTER TABLE events ALTER COLUMN created_at SET DEFAULT now()").await;
    until(&stack, &format!("{pending} y.attempts = 1)")).await;
    hurry(&stack).await;
    until(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await;
    let late = "SELECT attempts = 1 AND failed_at IS NOT NULL AND last_error LIKE '%2 hours'
                FROM deliveries ORDER BY id DESC LIMIT 1";
    assert!(holds(&stack, late).await);

    shop.domain("unwanted.example.com").await;
    until(&stack, &format!("{pending} y.attempts = 1)")).await;
    let came = receiver.received("/hook").len();
    shop.delete(&format!("/webhooks/{id}")).await.expect(204);
    hurry(&stack).await;
    until(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await;
    assert_eq!(receiver.received("/hook").len(), came, "nothing goes to a deleted webhook");
    let logs = stack.log("api-1") + &stack.log("worker-1");
    assert!(!logs.contains(SAID) && !logs.contains("s3cret"), "a log shows what only the receiver should know");
    assert!(holds(&stack, &format!("SELECT bool_and(y::text NOT LIKE '%{SAID}%') FROM deliveries y")).await);
}

#[tokio::test]
async fn after_fifteen_failures_in_a_row_nothing_more_is_sent() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let shop = Account::of(&stack, 1);
    let id = shop.webhook(&receiver.url("/hook")).await;
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) FROM deliveries").await;
    receiver.behave("/hook", Manner::Answer(500, String::new()));
    for name in ["one", "two", "three"] {
        shop.domain(&format!("{name}.example.com")).await;
    }
    let suppressed = async || {
        hurry(&stack).await;
        holds(&stack, "SELECT suppressed_at IS NOT NULL FROM webhooks").await.then_some(())
    };
    stack.wait_until("the webhook is suppressed", super::LATER, suppressed).await;
    let gone = async || {
        hurry(&stack).await;
        holds(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await.then_some(())
    };
    stack.wait_until("no delivery is left", SOON, gone).await;
    // Some may have been under way, or claimed, before the fifteenth failure was stored: one for each delivery.
    let failed = receiver.received("/hook").len() - 1;
    assert!((15..=18).contains(&failed), "{failed} attempts");
    assert!(holds(&stack, "SELECT count(*) = 3 FROM deliveries WHERE failed_at IS NOT NULL").await);
    assert!(shop.show(&format!("/webhooks/{id}")).await["suppressed_at"].as_str().unwrap().ends_with('Z'));
    shop.domain("unheard.example.com").await;
    assert!(holds(&stack, "SELECT count(*) = 4 FROM events").await);
    let again = shop.webhook(&receiver.url("/again")).await;
    assert_eq!(
        event(&stack, &receiver, "/again", "webhook.create").await.json()["data"]["webhook"]["id"],
        json!(again)
    );
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_neither_other_receivers_nor_orders() {
    let receiver = Receiver::start().unwrap();
    receiver.behave("/hangs", Manner::Hang);
    let stack = hooked(&receiver).setting("SHUTDOWN_GRACE", "1s").start().await;
    let shop = Account::of(&stack, 1);
    shop.webhook(&receiver.url("/hangs")).await;
    arrive(&stack, &receiver, "/hangs", 1).await;
    shop.webhook(&receiver.url("/quick")).await;
    for number in 1..=12 {
        shop.domain(&format!("shop-{number}.example.com")).await;
    }
    let all_quick = arrive(&stack, &receiver, "/quick", 13);
    let active = stack.active_domain("order.example.com");
    let _ = tokio::join!(all_quick, active);
    assert!(
        holds(
            &stack,
            "SELECT count(*) = 0 FROM deliveries y JOIN webhooks w ON w.id = y.webhook_id
                           WHERE w.url LIKE '%/hangs' AND y.delivered_at IS NOT NULL"
        )
        .await
    );
    let timed_out =
        "SELECT EXISTS (SELECT FROM deliveries WHERE attempts > 0 AND last_error = 'no answer within 10 s')";
    until(&stack, timed_out).await;
    // Two more hang by now: a worker that stops gives them back.
    stack.terminate("worker-1", SOON).await;
}

#[tokio::test]
async fn receivers_that_hang_hold_up_neither_other_accounts_nor_the_scheduled_jobs() {
    let receiver = Receiver::start().unwrap();
    // Four slots for deliveries, two for those of one account.
    let stack = hooked(&receiver).setting("WORKER_SLOTS", "16").setting("SHUTDOWN_GRACE", "1s").start().await;
    let [slow, other, third] = [1, 2, 3].map(|number| format!("/slow-{number}"));
    for path in [&slow, &other, &third] {
        receiver.behave(path, Manner::Hang);
    }
    let hang = async |count: usize| {
        let hanging = || [&slow, &other, &third].map(|path| receiver.received(path).len()).iter().sum::<usize>();
        stack.wait_until("they hang", SOON, async || (hanging() >= count).then_some(())).await;
    };
    let shop = Account::of(&stack, 1);
    for number in 0..4 {
        sql(&stack, &format!("INSERT INTO webhooks (account_id, url) VALUES (1, '{}?{number}')", receiver.url(&slow)))
            .await;
    }
    shop.domain("slow.example.com").await;
    hang(2).await;
    let quick = Account::new(&stack, "quick").await;
    quick.webhook(&receiver.url("/quick")).await;
    arrive(&stack, &receiver, "/quick", 1).await;

    // Another account takes what is left of the lane.
    let greedy = Account::new(&stack, "greedy").await;
    for path in [&other, &third] {
        sql(
            &stack,
            &format!("INSERT INTO webhooks (account_id, url) VALUES ({}, '{}')", greedy.id, receiver.url(path)),
        )
        .await;
    }
    greedy.domain("greedy.example.com").await;
    hang(4).await;
    sql(&stack, "UPDATE jobs SET due_at = now(), lease = 0 WHERE delivery_id IS NULL AND leased_by IS NULL").await;
    until(&stack, "SELECT count(*) = 3 FROM jobs WHERE delivery_id IS NULL AND lease > 0 AND leased_by IS NULL").await;
    let none_has_ended = "SELECT count(*) = 0 FROM deliveries y JOIN webhooks w ON w.id = y.webhook_id
                          WHERE w.url NOT LIKE '%/quick' AND y.attempts > 0";
    assert!(holds(&stack, none_has_ended).await, "somebody has waited for a receiver that hangs");
    stack.terminate("worker-1", SOON).await;
}

#[tokio::test]
async fn a_delivery_that_its_worker_does_not_survive_is_made_by_another() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("LEASE_FOR", "2s").workers(2).start().await;
    let shop = Account::of(&stack, 1);
    receiver.behave("/hook", Manner::Hang);
    shop.webhook(&receiver.url("/hook")).await;
    let first = arrive(&stack, &receiver, "/hook", 1).await;
    let holder = "SELECT leased_by FROM jobs WHERE kind = 'deliver-event' AND leased_by IS NOT NULL";
    let holder: String = sqlx::query_scalar(holder).fetch_one(stack.pool()).await.unwrap();
    stack.kill(&holder);
    receiver.behave("/hook", Manner::Answer(200, String::new()));
    let both = arrive(&stack, &receiver, "/hook", 2).await;
    assert_eq!((both.len(), &both[1].body), (2, &first[0].body));
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL AND attempts = 2) FROM deliveries").await;
    until(&stack, "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'deliver-event')").await;
}
